"""NNCF: `quantize_with_accuracy_control` on its ONNX backend, all as it comes."""

from __future__ import annotations

from collections.abc import Iterable

import nncf
import numpy as np
import onnx
from driver import Task
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters


def main() -> None:
    """Quantize, then give operators back to fp32 until the goal is met."""
    task = Task.from_command_line()
    calibration = nncf.Dataset(list(task.calibration), lambda x: {task.input_name: x[None]})
    validation = nncf.Dataset(list(range(len(task.x))), lambda index: {task.input_name: task.x[index : index + 1]})
    weights = QuantizationParameters(per_channel=False)
    advanced = AdvancedQuantizationParameters(weights_quantization_params=weights) if task.per_tensor else None
    task.event("prepared")

    def evaluate(model: onnx.ModelProto, items: Iterable[int]) -> tuple[float, list[float]]:
        # Items are positions, so that pictures run in batches here; the values of single items are what the tool
        # chooses its ranking subset by.
        values = task.correct(model, list(items)).astype(np.float32)
        return float(values.mean()), values.tolist()

    found = nncf.quantize_with_accuracy_control(
        onnx.load(task.model),
        calibration,
        validation,
        evaluate,
        max_drop=task.tolerable_loss,
        drop_type=nncf.DropType.RELATIVE,
        subset_size=len(task.calibration),
        advanced_quantization_parameters=advanced,
    )
    task.event("returned")
    task.save(found)


if __name__ == "__main__":
    main()
