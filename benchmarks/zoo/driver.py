"""What the drivers of all peers share; needs numpy, onnx and onnxruntime only and runs in a peer's own environment.

A driver is given a task as a JSON file and leaves a model and a log of events, one JSON object a line, each with the
time it happened at, so that what a killed driver had done is known too.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from zoo import metrics
from zoo.cases import Arrays, Case, case_of

QUANTIZED = ("QuantizeLinear", "DynamicQuantizeLinear", "MatMulNBits", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM")
"""Operators that show that a model is not fp32 any more."""
TIMED_RUNS, UNTIMED_RUNS = 60, 5
"""Runs of a candidate, each beside one of fp32, and those before them."""
Model = onnx.ModelProto | bytes | str


class Task:
    """What to quantize, with what data, to what goal.

    Args:
        path: JSON file with ``case``, ``model``, ``data`` (folder), ``events``, ``output`` (paths), ``method`` and
            ``limit`` (seconds).
    """

    def __init__(self, path: str) -> None:
        given: dict[str, Any] = json.loads(Path(path).read_text())
        self.case: Case = case_of(given["case"])
        self.model, self.output = str(given["model"]), Path(given["output"])
        self.method, self.limit = str(given["method"]), float(given["limit"])
        self._events = Path(given["events"])
        self.data = loaded(Path(given["data"]) / "eval.npz")
        self.calibration = loaded(Path(given["data"]) / "calib.npz")
        self.judge = Judge(self.case, self.data, self.model)
        self.fp32 = self.judge.value(self.model)
        self.threshold = self.fp32 - self.case.tolerable_loss
        self.event("baseline", accuracy=self.fp32)

    @staticmethod
    def from_command_line() -> Task:
        """The task named by the only argument."""
        return Task(sys.argv[1])

    def event(self, name: str, **facts: Any) -> None:
        """Log that something happened now."""
        with self._events.open("a") as stream:
            stream.write(json.dumps({"event": name, "time": time.time(), **facts}) + "\n")

    def feeds(self) -> Iterator[Arrays]:
        """Calibration samples one by one, as the engine's inputs."""
        for places in self.case.batches(self.calibration, 1):
            yield self.case.feed(self.calibration, places)

    def evaluate(self, model: Model) -> float:
        """Metric of a model, one thread, in the case's batches; logged, with whether it is quantized."""
        found = self.judge.value(model)
        self._log(model, found, len(self.data[self.case.inputs[0]]))
        return found

    def evaluate_each(self, model: onnx.ModelProto, chosen: Sequence[int]) -> tuple[float, list[float]]:
        """Metric on some samples, and of each of them; logged too."""
        found, single = self.judge.both(model, [int(i) for i in chosen])
        self._log(model, found, len(chosen))
        return found, single

    @cached_property
    def _timed(self) -> Arrays:
        return self.case.timed(self.data, self.case.lengths[-1] if self.case.lengths else None)

    def latency_ratio(self, model: Model) -> float:
        """Median latency of a model on one sample over that of fp32, run by run in turn."""
        sessions, feed = [opened(self.model), opened(model)], self._timed
        times = np.zeros((UNTIMED_RUNS + TIMED_RUNS, len(sessions)))
        for row in times:
            for place, session in enumerate(sessions):
                begun = time.perf_counter()
                session.run(None, feed)
                row[place] = time.perf_counter() - begun
        fp32, found = np.median(times[UNTIMED_RUNS:], 0)
        return float(found / fp32)

    def _log(self, model: Model, accuracy: float, samples: int) -> None:
        changed = is_quantized(model)
        every = samples == len(self.data[self.case.inputs[0]])
        self.event("evaluation", accuracy=accuracy, quantized=changed, samples=samples, all=every)

    def save(self, model: onnx.ModelProto) -> None:
        """Write the model that the tool handed over."""
        onnx.save(model, str(self.output))
        self.event("saved")


def is_quantized(model: Model) -> bool:
    """Whether a model has an operator that shows that it is not fp32 any more."""
    if not isinstance(model, onnx.ModelProto):
        model = onnx.load(model) if isinstance(model, str) else onnx.load_from_string(model)
    return any(n.op_type in QUANTIZED for n in model.graph.node)


def loaded(path: Path) -> Arrays:
    """The arrays of a data file."""
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def opened(model: Model) -> ort.InferenceSession:
    """A session with one thread and the engine's defaults."""
    if isinstance(model, onnx.ModelProto):
        model = model.SerializeToString()
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Judge:
    """The metric of a case for any model.

    Args:
        case: The case.
        data: Its evaluation data.
        fp32: fp32's file, the reference where there are no labels.
    """

    def __init__(self, case: Case, data: Arrays, fp32: str) -> None:
        self._case, self._data = case, data
        every = list(range(len(data[case.inputs[0]])))
        self._reference = self._outputs(fp32, every) if case.fidelity else None

    def _names(self, session: ort.InferenceSession) -> list[str]:
        every = [o.name for o in session.get_outputs()]
        if self._case.positions:
            return [every[p] for p in self._case.positions]
        if self._case.output:
            return [self._case.output]
        return every if self._case.fidelity else every[:1]

    def _outputs(self, model: Model, chosen: list[int]) -> list[list[Any]]:
        """Of each output that is read, one array a sample, in the order that is asked for."""
        session = opened(model)
        names = self._names(session)
        found: list[dict[int, Any]] = [{} for _ in names]
        for places in self._case.batches(self._data, chosen=chosen):
            values = session.run(names, self._case.feed(self._data, places))
            for kept, name, value in zip(found, names, values, strict=True):
                kept.update(zip(places, self._case.split(value, name), strict=True))
        return [[kept[place] for place in chosen] for kept in found]

    def value(self, model: Model, chosen: list[int] | None = None) -> float:
        """The metric on some samples, or on all."""
        places = list(range(len(self._data[self._case.inputs[0]]))) if chosen is None else chosen
        return self._score(self._outputs(model, places), places)

    def both(self, model: Model, chosen: list[int]) -> tuple[float, list[float]]:
        """The metric on some samples together, and of each."""
        outputs = self._outputs(model, chosen)
        if self._case.metric == "determination":  # R2 of one sample means nothing, and is not needed for what it adds.
            read = [np.stack(kept) for kept in outputs]
            return self._score(outputs, chosen), metrics.determination_each(read, self._data["y"][chosen]).tolist()
        single = [self._score([[kept[i]] for kept in outputs], [place]) for i, place in enumerate(chosen)]
        return self._score(outputs, chosen), single

    def _score(self, outputs: list[list[Any]], places: list[int]) -> float:
        if self._reference is not None:
            reference = [[kept[place] for place in places] for kept in self._reference]
            return metrics.fidelity(self._case.metric, outputs, reference)
        read: Any = [kept if self._case.widths else np.stack(kept) for kept in outputs]
        function = getattr(metrics, self._case.metric)
        return float(function(read if self._case.positions else read[0], self._data["y"][places]))
