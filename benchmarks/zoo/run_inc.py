"""Intel Neural Compressor 2.6: `quantization.fit` with the strategy `basic`, all else as it comes.

Static quantization is its default; it stops at the first model that keeps the goal.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from driver import Arrays, Task
from neural_compressor import quantization
from neural_compressor.config import AccuracyCriterion, PostTrainingQuantConfig, TuningCriterion


class Loader:
    """Calibration samples with a label that nobody reads, as the tool wants them."""

    batch_size = 1

    def __init__(self, feeds: list[Arrays]) -> None:
        self._feeds = feeds

    def __len__(self) -> int:
        return len(self._feeds)

    def __iter__(self) -> Iterator[tuple[Arrays, int]]:
        for feed in self._feeds:
            yield feed, 0


def main() -> None:
    """Tune until the goal is met or the tool gives up; it hands over nothing when it is not."""
    task = Task.from_command_line()
    feeds = list(task.feeds())
    # quant_level=1 is how the tool is told to use the strategy that is named.
    config = PostTrainingQuantConfig(
        approach="static",
        quant_level=1,
        calibration_sampling_size=[len(feeds)],
        tuning_criterion=TuningCriterion(strategy="basic"),
        accuracy_criterion=AccuracyCriterion(criterion="absolute", tolerable_loss=task.case.tolerable_loss),
    )
    task.event("prepared")

    def evaluate(model: onnx.ModelProto) -> float:
        return task.evaluate(model)

    found = quantization.fit(onnx.load(task.model), config, calib_dataloader=Loader(feeds), eval_func=evaluate)
    task.event("returned")
    if found is not None:
        task.save(found.model)


if __name__ == "__main__":
    main()
