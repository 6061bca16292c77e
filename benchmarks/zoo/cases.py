"""The cases: a published model, inputs made for it, the metric, and how much of it may be lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Case:
    """One model.

    Args:
        name: Name of the case.
        model: Its file or folder, below the folder of models.
        arrays: Input name of the model to the array of the data file; samples on axis 0.
        metric: Function of `zoo.metrics`.
        tolerable_loss: Absolute loss of the metric.
        output: Output that the metric judges; None for the only one.
        backend: Backend of this project.
        constants: Inputs that are the same for all samples.
        axes: Axis that counts samples, of the inputs and outputs where it is not the first.
        reference: Output of the ONNX file beside the data whose fp32 values are the labels; empty if the data has some.
        samples: Evaluation samples that are used at most.
        batch: Samples a run when accuracy is judged.
        lengths: Lengths of a sample at which latency is judged, and tuned for; without any, that of the arrays.
        arguments: Further arguments of the command line.
    """

    name: str
    model: str
    arrays: Mapping[str, str]
    metric: str
    tolerable_loss: float
    output: str | None = None
    backend: str = "onnxruntime"
    constants: Mapping[str, int] = field(default_factory=dict)
    axes: Mapping[str, int] = field(default_factory=dict)
    reference: str = ""
    samples: int = 1000
    batch: int = 20
    lengths: tuple[int, ...] = ()
    arguments: tuple[str, ...] = ()

    def feed(self, data: Arrays, part: slice) -> Arrays:
        """Engine inputs of some samples."""
        found = {n: np.moveaxis(data[n][part], 0, self.axes.get(n, 0)) for n in self.arrays}
        return found | {n: np.array(v, np.int64) for n, v in self.constants.items()}

    def timed(self, data: Arrays, length: int | None) -> Arrays:
        """Engine inputs of the longest sample, cut to a length: every place of it counts."""
        longest = int(np.argmax(data["attention_mask"].sum(1))) if self.lengths else 0
        one = self.feed(data, slice(longest, longest + 1))
        if length is None:
            return one
        return {n: np.ones_like(a[:, :length]) if n == "attention_mask" else a[:, :length] for n, a in one.items()}

    def command(self, model: Path, folder: Path, metrics: Path, timeout: float) -> list[str]:
        """Arguments of ``python -m nc_strategies``; the data are ``calib.npz`` and ``eval.npz`` in `folder`."""
        kind = "onnx" if self.backend == "onnxruntime" else ("keras" if model.suffix else "saved_model")
        arguments = [
            f"backend={self.backend}",
            f"model={kind}",
            f"model.path={model}",
            "data=npz",
            f"data.path={folder / 'eval.npz'}",
            f"data.calibration_path={folder / 'calib.npz'}",
            "metrics.accuracy.name=python",
            f"metrics.accuracy.target={metrics}:{self.metric}",
            "tuning.criterion=absolute",
            f"tuning.tolerable_loss={self.tolerable_loss}",
            f"tuning.timeout={timeout:g}",
            f"measure.evaluation_batch_size={self.batch}",
        ]
        if self.output is not None:
            arguments.append(f"metrics.accuracy.output='{self.output}'")
        if self.constants:
            arguments.append("data.constants={" + ",".join(f"{k}: {v}" for k, v in self.constants.items()) + "}")
        if self.axes:
            arguments.append("data.axes={" + ",".join(f"{k}: {v}" for k, v in self.axes.items()) + "}")
        if self.lengths:
            arguments.append(f"measure.lengths=[{','.join(map(str, self.lengths))}]")
        return [*arguments, *self.arguments]


CASES = (
    Case(
        "minilm",
        "minilm/model.onnx",
        {"input_ids": "input_ids", "attention_mask": "attention_mask"},
        "cosine",
        0.02,
        output="461",
        lengths=(16, 64),
    ),
    Case("magika", "magika/model.onnx", {"bytes": "x"}, "top1", 0.01),
    Case(
        "silero",
        "silero/model.onnx",
        {"input": "input", "state": "state"},
        "closeness",
        0.01,
        output="output",
        constants={"sr": 16000},
        axes={"state": 1, "stateN": 1},
    ),
    Case("chars2vec", "chars2vec/model.onnx", {"lstm_input": "x"}, "cosine", 0.02),
    Case("ocr_rec", "ocr_rec/model.onnx", {"x": "x"}, "characters", 0.01, batch=4),
    Case(
        "basicpitch",
        "basicpitch/model.onnx",
        {"serving_default_input_2:0": "x"},
        "closeness",
        0.01,
        output="StatefulPartitionedCall:2",
        reference="StatefulPartitionedCall:2",
        batch=4,
    ),
    Case(
        "basicpitch_tf",
        "basicpitch/saved_model",
        {"input_2": "x"},
        "closeness",
        0.01,
        output="onset",
        backend="tensorflow",
        reference="StatefulPartitionedCall:2",
        batch=4,
    ),
)
