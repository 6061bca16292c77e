"""NNCF: `quantize_with_accuracy_control` on its ONNX backend, all as it comes."""

from __future__ import annotations

from collections.abc import Iterable

import nncf
import onnx
from driver import Task


def main() -> None:
    """Quantize, then give operators back to fp32 until the goal is met."""
    task = Task.from_command_line()
    feeds = list(task.feeds())
    calibration = nncf.Dataset(feeds)
    validation = nncf.Dataset(
        list(range(len(task.data[task.case.inputs[0]]))), lambda place: task.case.feed(task.data, [place])
    )
    task.event("prepared")

    def evaluate(model: onnx.ModelProto, items: Iterable[int]) -> tuple[float, list[float]]:
        # Items are positions, so that samples run in batches here, and only once.
        # The values of single samples choose the subset that it ranks operators by.
        return task.evaluate_each(model, list(items))

    found = nncf.quantize_with_accuracy_control(
        onnx.load(task.model),
        calibration,
        validation,
        evaluate,
        max_drop=task.case.tolerable_loss,
        drop_type=nncf.DropType.ABSOLUTE,
        subset_size=len(feeds),
    )
    task.event("returned")
    task.save(found)


if __name__ == "__main__":
    main()
