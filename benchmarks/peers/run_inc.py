"""Intel Neural Compressor 2.6: `quantization.fit` with the strategy `basic`, all else as it comes."""

from __future__ import annotations

import numpy as np
import onnx
from driver import Task
from neural_compressor import quantization
from neural_compressor.config import AccuracyCriterion, PostTrainingQuantConfig, TuningCriterion
from neural_compressor.data import DataLoader
from numpy.typing import NDArray


class Pictures:
    """Calibration samples with a label that nobody reads, as the tool's loader wants them."""

    def __init__(self, samples: NDArray[np.float32]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], int]:
        return self._samples[index], 0


def main() -> None:
    """Tune until the goal is met or the tool gives up; it hands over nothing when it is not."""
    task = Task.from_command_line()
    # quant_level=1 is how the tool is told to use the strategy that is named.
    config = PostTrainingQuantConfig(
        approach="static",
        quant_level=1,
        calibration_sampling_size=[len(task.calibration)],
        tuning_criterion=TuningCriterion(strategy="basic"),
        accuracy_criterion=AccuracyCriterion(criterion="relative", tolerable_loss=task.tolerable_loss),
        op_type_dict={".*": {"weight": {"granularity": ["per_tensor"]}}} if task.per_tensor else None,
    )
    loader = DataLoader(framework="onnxruntime", dataset=Pictures(task.calibration))
    task.event("prepared")

    def evaluate(model: onnx.ModelProto) -> float:
        return float(task.correct(model).mean())

    found = quantization.fit(onnx.load(task.model), config, calib_dataloader=loader, eval_func=evaluate)
    task.event("returned")
    if found is not None:
        task.save(found.model)


if __name__ == "__main__":
    main()
