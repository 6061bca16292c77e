"""ONNX Runtime's own `quantize_static` and `quantize_dynamic`, with the pre-processing that its documentation asks for.

Methods: ``static`` (the defaults: QDQ, S8S8), ``static_u8s8`` (unsigned activations, which x86 kernels want),
``dynamic`` (8-bit weights), ``dynamic7`` (7-bit weights).
"""

from __future__ import annotations

from collections.abc import Iterator

from driver import Arrays, Task
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class Samples(CalibrationDataReader):  # type: ignore[misc]
    """Calibration samples one by one."""

    def __init__(self, feeds: Iterator[Arrays]) -> None:
        self._feeds = feeds

    def get_next(self) -> Arrays | None:
        """The next sample, None at the end."""
        return next(self._feeds, None)


def prepared(model: str, target: str) -> str:
    """The model after the pre-processing that the tools' documentation asks for."""
    try:
        quant_pre_process(model, target)
    except Exception:  # noqa: BLE001  symbolic shape inference knows few operators; the documentation says to skip it
        quant_pre_process(model, target, skip_symbolic_shape=True)
    return target


def main() -> None:
    """Quantize once: there is no search."""
    task = Task.from_command_line()
    task.event("prepared")
    source, target = prepared(task.model, str(task.output.with_name("prepared.onnx"))), str(task.output)
    if task.method.startswith("dynamic"):
        quantize_dynamic(source, target, weight_type=QuantType.QInt8, reduce_range=task.method == "dynamic7")
    else:
        quantize_static(
            source,
            target,
            Samples(task.feeds()),
            per_channel=True,
            activation_type=QuantType.QUInt8 if task.method == "static_u8s8" else QuantType.QInt8,
        )
    task.event("saved")
    task.evaluate(target)


if __name__ == "__main__":
    main()
