"""ONNX Runtime's own `quantize_static` and `quantize_dynamic`, with the pre-processing that its documentation asks for.

Methods: ``static`` (the defaults: QDQ, S8S8; per channel), ``static_u8s8`` (unsigned activations for x86 kernels),
``dynamic`` (8-bit weights), ``dynamic7`` (7-bit weights).
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator

from driver import Arrays, Task, opened
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
        activations = QuantType.QUInt8 if task.method == "static_u8s8" else QuantType.QInt8
        for per_channel in (True, False):
            # With a scale per channel, the quantizer fails on some models, and writes others that the engine
            # refuses (a bias was fused behind a Reshape); its user would try again without.
            try:
                quantize_static(
                    source, target, Samples(task.feeds()), per_channel=per_channel, activation_type=activations
                )
            except Exception:
                if not per_channel:
                    raise
                traceback.print_exc()
                continue
            if not per_channel or opens(target):
                break
    task.event("saved")
    task.evaluate(target)


def opens(path: str) -> bool:
    """Whether the engine takes a model."""
    try:
        opened(path)
    except Exception:  # noqa: BLE001  the engine raises a class of its own for every status code
        return False
    return True


if __name__ == "__main__":
    main()
