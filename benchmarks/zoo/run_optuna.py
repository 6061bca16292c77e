"""Optuna by hand: its default sampler over which operators ONNX Runtime's quantizer makes int8, with measured latency.

What somebody writes who has no tool for it: ranges are calibrated once, a trial quantizes with them, evaluates, and
times the model beside fp32. The goal is a constraint, latency the objective. The budget is the limit.
"""

from __future__ import annotations

import copy
import time

import onnx
import optuna
from driver import Task, is_quantized
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.registry import QDQRegistry
from run_onnxruntime import Samples, prepared

WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
"""Each operator of these types is a choice of its own; those of another type go together."""
LEFT_OUT = ("Softmax",)
"""As ours by default: int8 probabilities are too coarse."""
RESERVE = 0.1
"""Share of the limit that is left for saving."""


class Search:
    """The problem as Optuna sees it."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.source = prepared(task.model, str(task.output.with_name("prepared.onnx")))
        self.proto = onnx.load(self.source)
        known = set(QDQRegistry) - set(LEFT_OUT)
        self.single = [n.name for n in self.proto.graph.node if n.op_type in WEIGHTED]
        self.types = sorted({n.op_type for n in self.proto.graph.node if n.op_type in known} - set(WEIGHTED))
        self.ranges = None
        self.best: tuple[float, bytes] | None = None

    def calibrate(self) -> None:
        """Ranges of all tensors, once."""
        calibrator = create_calibrator(
            self.source,
            augmented_model_path=str(self.task.output.with_name("augmented.onnx")),
            calibrate_method=CalibrationMethod.MinMax,
        )
        calibrator.collect_data(Samples(self.task.feeds()))
        self.ranges = calibrator.compute_data()

    def static(self, trial: optuna.Trial) -> bytes:
        """A model with int8 operators as the trial says."""
        if self.ranges is None:
            self.calibrate()
        kept = [name for name in self.single if trial.suggest_categorical(name, ["int8", "float"]) == "float"]
        types = [t for t in self.types if trial.suggest_categorical(f"all {t}", ["int8", "float"]) == "int8"]
        unsigned = trial.suggest_categorical("activations", ["unsigned", "signed"]) == "unsigned"
        quantizer = QDQQuantizer(
            copy.deepcopy(self.proto),
            per_channel=trial.suggest_categorical("weights", ["per channel", "per tensor"]) == "per channel",
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8 if unsigned else QuantType.QInt8,
            tensors_range=self.ranges,
            nodes_to_quantize=[],
            nodes_to_exclude=kept,
            op_types_to_quantize=[*WEIGHTED, *types],
            extra_options={},
        )
        quantizer.quantize_model()
        return bytes(quantizer.model.model.SerializeToString())

    def dynamic(self, trial: optuna.Trial) -> bytes:
        """A model with ranges that are found at each run."""
        kept = [name for name in self.single if trial.suggest_categorical(name, ["int8", "float"]) == "float"]
        target = self.task.output.with_name("trial.onnx")
        quantize_dynamic(
            self.source,
            str(target),
            weight_type=QuantType.QInt8,
            per_channel=trial.suggest_categorical("weights", ["per channel", "per tensor"]) == "per channel",
            reduce_range=trial.suggest_categorical("weight bits", [8, 7]) == 7,
            nodes_to_exclude=kept,
        )
        return target.read_bytes()

    def __call__(self, trial: optuna.Trial) -> float:
        """Latency relative to fp32; the constraint is above 0 where the goal is missed."""
        mode = trial.suggest_categorical("mode", ["static", "dynamic"])
        model = self.static(trial) if mode == "static" else self.dynamic(trial)
        accuracy = self.task.evaluate(model)
        trial.set_constraint("loss", self.task.threshold - accuracy)
        found = self.task.latency_ratio(model)
        better = found < (1.0 if self.best is None else self.best[0])
        if accuracy >= self.task.threshold and better and is_quantized(model):
            self.best = found, model
        return found


def main() -> None:
    """Search until the budget is spent; nothing is saved when no trial keeps the goal and beats fp32."""
    begun = time.monotonic()
    task = Task.from_command_line()
    search = Search(task)
    task.event("prepared")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    every = dict.fromkeys((*search.single, *(f"all {t}" for t in search.types)), "int8")
    # What anybody tries first: all int8, static and dynamic.
    study.enqueue_trial({"mode": "static", **every, "activations": "unsigned", "weights": "per channel"})
    study.enqueue_trial({"mode": "dynamic", **every, "weights": "per channel", "weight bits": 8})
    left = task.limit * (1 - RESERVE) - (time.monotonic() - begun)
    # A trial that the quantizer or the engine refuses is a failed one; the search goes on.
    study.optimize(search, timeout=max(left, 1.0), catch=(Exception,))
    task.event("returned", trials=len(study.trials))
    if search.best is not None:
        task.save(onnx.load_from_string(search.best[1]))


if __name__ == "__main__":
    main()
