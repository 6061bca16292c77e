"""What the drivers of all peers share; needs numpy, onnx and onnxruntime only and runs in a peer's own environment.

A driver is given a task as a JSON file and leaves a model and a log of events, one JSON object a line, each with the
time it happened at, so that what a killed driver had done is known too.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray


class Task:
    """What to quantize, with what data, to what goal.

    Args:
        path: JSON file with ``model``, ``evaluation``, ``calibration``, ``events``, ``output`` (paths),
            ``granularity`` (``free`` or ``per_tensor``), ``variant``, ``tolerable_loss`` (relative), ``batch_size``.
    """

    def __init__(self, path: str) -> None:
        given: dict[str, Any] = json.loads(Path(path).read_text())
        self.model = str(given["model"])
        self.output = Path(given["output"])
        self.per_tensor = given["granularity"] == "per_tensor"
        self.variant = str(given["variant"])
        self.tolerable_loss = float(given["tolerable_loss"])
        self.batch_size = int(given["batch_size"])
        self._events = Path(given["events"])
        with np.load(given["evaluation"]) as data:
            self.x: NDArray[np.float32] = data["x"]
            self.y: NDArray[np.int64] = data["y"]
        with np.load(given["calibration"]) as data:
            self.calibration: NDArray[np.float32] = data["x"]
        self.input_name = onnx.load(self.model, load_external_data=False).graph.input[0].name

    @staticmethod
    def from_command_line() -> Task:
        """The task named by the only argument."""
        return Task(sys.argv[1])

    def event(self, name: str, **facts: Any) -> None:
        """Log that something happened now."""
        with self._events.open("a") as stream:
            stream.write(json.dumps({"event": name, "time": time.time(), **facts}) + "\n")

    def correct(self, model: onnx.ModelProto | bytes | str, indices: Sequence[int] | None = None) -> NDArray[np.bool_]:
        """Which pictures a model gets right, one thread, in batches; logged as an evaluation.

        Args:
            model: The model or its file.
            indices: Evaluation samples to take; all when None.
        """
        if isinstance(model, onnx.ModelProto):
            model = model.SerializeToString()
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        chosen = np.arange(len(self.x)) if indices is None else np.asarray(indices)
        right = [
            session.run(None, {self.input_name: self.x[part]})[0].argmax(-1) == self.y[part]
            for part in np.array_split(chosen, max(1, -(-len(chosen) // self.batch_size)))
        ]
        found = np.concatenate(right)
        self.event("evaluation", samples=len(chosen), accuracy=float(found.mean()))
        return found

    def save(self, model: onnx.ModelProto) -> None:
        """Write the model that the tool handed over."""
        onnx.save(model, str(self.output))
        self.event("saved")
