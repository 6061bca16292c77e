"""ONNX Runtime's own `quantize_static`, after the pre-processing its documentation asks for.

With its defaults, which are S8S8; or, as the variant ``u8s8``, with the unsigned activations that x86 kernels want.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from driver import Task
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class Pictures(CalibrationDataReader):  # type: ignore[misc]
    """Calibration samples one by one."""

    def __init__(self, name: str, samples: NDArray[np.float32]) -> None:
        self._items: Iterator[dict[str, NDArray[np.float32]]] = iter([{name: x[None]} for x in samples])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next sample, None at the end."""
        return next(self._items, None)


def main() -> None:
    """Quantize once and evaluate beside fp32: there is no search."""
    task = Task.from_command_line()
    task.event("prepared")
    task.correct(task.model)
    prepared = task.output.with_name("preprocessed.onnx")
    quant_pre_process(task.model, str(prepared), skip_symbolic_shape=True)
    # Formats and methods are the function's defaults; granularity is the one thing a case decides.
    activations = QuantType.QUInt8 if task.variant == "u8s8" else QuantType.QInt8
    quantize_static(
        str(prepared),
        str(task.output),
        Pictures(task.input_name, task.calibration),
        per_channel=not task.per_tensor,
        activation_type=activations,
    )
    task.correct(str(task.output))
    task.save(onnx.load(str(task.output)))


if __name__ == "__main__":
    main()
