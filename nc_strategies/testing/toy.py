"""A backend without an engine, whose operators have a known cost in accuracy and time."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.base import Backend, Executable, ExecutedOps
from nc_strategies.backends.ceiling import Ceiling, cache_name, form, kept_or_measured
from nc_strategies.defaults import TOLERABLE_LOSS
from nc_strategies.errors import EngineError, InputError, first_line
from nc_strategies.models import ModelSource
from nc_strategies.models.info import Batch, ModelInfo, TensorSpec
from nc_strategies.problem import Constraint, Evaluation, Goal, Objective, Problem
from nc_strategies.space import FLOAT, Capabilities, Config, OpCapability, OpScheme, Overrides, Space, TensorScheme

CLASSES = 2
SAMPLES = 1000
"""Evaluation samples of a toy problem; see `toy_problem`."""
SCHEMES = tuple(
    OpScheme(TensorScheme("uint8", "asym", "per_tensor", algorithm), TensorScheme("int8", "sym", granularity))
    for algorithm in ("minmax", "percentile")
    for granularity in ("per_channel", "per_tensor")
)


@dataclass(frozen=True)
class ToyOp:
    """An operator of a toy model.

    Args:
        name: Its name.
        type: Its type.
        loss: Share of samples that are classified wrongly because of int8.
        time_us: Latency in fp32, in microseconds.
        int8_time_us: Latency in int8, in microseconds.
        fails: Whether the engine fails to build a graph with this operator in int8.
    """

    name: str
    type: str = "Conv"
    loss: float = 0.0
    time_us: float = 40.0
    int8_time_us: float = 15.0
    fails: bool = False


@dataclass
class ToySettings:
    """Settings of `ToyBackend`.

    Args:
        name: Its name.
        simulated: Runs take no time, and latency is measured with a clock that each run moves on by just the seconds
            it should take: latencies are exact on any machine, however busy.
    """

    name: str = "toy"
    simulated: bool = False


class SimulatedClock:
    """Seconds that pass only when told to, in each thread apart: models timed in two threads do not meet."""

    def __init__(self) -> None:
        self._local = threading.local()

    def __call__(self) -> float:
        """The seconds that have passed in this thread."""
        return float(getattr(self._local, "seconds", 0.0))

    def advance(self, seconds: float) -> None:
        """Move on."""
        self._local.seconds = self() + seconds


SIMULATED = SimulatedClock()
"""Moved on by every run of a toy model."""


def toy_space(ops: Sequence[ToyOp], overrides: Overrides | None = None) -> Space:
    """The space of a toy model."""
    capabilities = Capabilities(
        tuple(OpCapability(op.name, op.type, (*SCHEMES, FLOAT), parameters=10) for op in ops),
        tuple((a.name, b.name) for a, b in pairwise(ops)),
    )
    return Space(capabilities, overrides)


def toy_loss(ops: Sequence[ToyOp], config: Config) -> float:
    """Share of samples that a configuration classifies wrongly; per_tensor weights have 1.5 times the loss."""
    total, schemes = 0.0, config.schemes
    for op in ops:
        scheme = schemes[op.name]
        if scheme.weight is not None and not scheme.is_float:
            total += op.loss * (1.5 if scheme.weight.granularity == "per_tensor" else 1.0)
    return total


def toy_time(ops: Sequence[ToyOp], config: Config) -> float:
    """Latency of a configuration in seconds."""
    schemes = config.schemes
    return sum(op.time_us if schemes[op.name].is_float else op.int8_time_us for op in ops) * 1e-6


def toy_problem(
    ops: Sequence[ToyOp], tolerable_loss: float = TOLERABLE_LOSS, budget: int = 100, seed: int = 0, **kwargs: Any
) -> Problem:
    """A tuning problem on a toy model; `toy_evaluation` gives the exact values of its configurations."""
    space = toy_space(ops)
    constraint = Constraint.from_baseline("accuracy", 0.9, True, "absolute", tolerable_loss)
    goal = Goal((constraint,), (Objective("latency"),), SAMPLES)
    baseline = toy_evaluation(ops, space.all_float())
    return Problem(space, goal, baseline, np.random.default_rng(seed), budget, **kwargs)


def toy_evaluation(ops: Sequence[ToyOp], config: Config) -> Evaluation:
    """The evaluation of a configuration without measurement noise."""
    seconds, full = toy_time(ops, config), sum(op.time_us for op in ops) * 1e-6
    return Evaluation(
        (("accuracy", 0.9 - toy_loss(ops, config)),),
        (("latency_ms", seconds * 1e3),),
        (("latency", seconds / full),),
        (("latency", 0.0),),
        SAMPLES,
        len(config.int8_ops),
        len(config.float_ops),
        (("build", 0.0), ("accuracy", 0.0), ("latency", 0.0)),
        config.fingerprint,
    )


class ToyExecutable(Executable):
    """Answers right except for a known share of samples, in a known time.

    Args:
        ops: The model.
        config: What runs in int8.
        simulated: Take no time; see `ToySettings`.
    """

    def __init__(self, ops: Sequence[ToyOp], config: Config, simulated: bool = False) -> None:
        self._ops, self._config, self._simulated = ops, config, simulated
        self._seconds, self._loss = toy_time(ops, config), toy_loss(ops, config)
        self.fingerprint = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()[:16]
        self.size_bytes = sum(100 if scheme.is_float else 25 for _, scheme in config.ops)

    def predict(self, batch: Batch) -> Sequence[NDArray[Any]]:
        """Scores of two classes, shape (N, 2). The input is the right class plus a fraction that varies per sample."""
        end = time.perf_counter() + self._seconds
        SIMULATED.advance(self._seconds)
        x = batch["x"].astype(np.float64).reshape(-1)
        right = np.floor(x).astype(int)
        wrong = (x - right) < 0.1 + self._loss
        scores = np.zeros((len(x), CLASSES), np.float32)
        scores[np.arange(len(x)), np.where(wrong, 1 - right, right)] = 1.0
        while not self._simulated and time.perf_counter() < end:
            pass
        return [scores]

    def executed(self) -> ExecutedOps:
        """The operators as configured."""
        types = {op.name: op.type for op in self._ops}
        return ExecutedOps(
            Counter(types[n] for n in self._config.int8_ops),
            Counter(types[n] for n in self._config.float_ops),
            frozenset(self._config.int8_ops),
        )


class ToyBackend(Backend):
    """A backend for ``.toy`` files: JSON lists of `ToyOp` fields. It serves to test strategies, loops and trackers."""

    accepts = ("toy",)

    def __init__(self, settings: ToySettings, threads: int = 1) -> None:
        super().__init__(settings, threads)
        # A third party's settings for the toy backend under its own name may know nothing of it.
        self._simulated: bool = getattr(settings, "simulated", False)
        if self._simulated:
            self.clock = SIMULATED

    def load(self, model: ModelSource) -> ModelInfo:
        """See `Backend.load`."""
        _, path = model.pick(self.accepts, "toy")
        try:
            self.ops = [ToyOp(**op) for op in json.loads(path.read_text())]
        except (ValueError, TypeError) as error:
            raise InputError("model.path", f"{path} is not a toy model ({first_line(error)})") from None
        x = TensorSpec("x", (None,), np.dtype(np.float64))
        return ModelInfo((x,), (TensorSpec("scores", (None, CLASSES), np.dtype(np.float32)),))

    def capabilities(self) -> Capabilities:
        """See `Backend.capabilities`."""
        return toy_space(self.ops).capabilities

    def calibrate(self, batches: Sequence[Batch]) -> None:
        """See `Backend.calibrate`: the toy backend needs no calibration."""

    def reference(self) -> ToyExecutable:
        """See `Backend.reference`."""
        return ToyExecutable(self.ops, toy_space(self.ops).all_float(), self._simulated)

    def build(self, config: Config) -> ToyExecutable:
        """See `Backend.build`."""
        schemes = config.schemes
        broken = [op.name for op in self.ops if op.fails and not schemes[op.name].is_float]
        if broken:
            raise EngineError(f"{broken[0]} cannot run in int8")
        return ToyExecutable(self.ops, config, self._simulated)

    def ceiling(self, again: bool = False) -> Ceiling | None:
        """See `Backend.ceiling`: what the default prices of a `ToyOp` give, unless the cache holds another."""
        price = ToyOp("any")
        ratio = price.time_us / price.int8_time_us
        known = Ceiling({price.type: {form(scheme): ratio for scheme in SCHEMES}}, False, self.threads)
        return kept_or_measured(cache_name("toy", [], self.threads), lambda: known, again)

    def save(self, config: Config, folder: Path) -> Path:
        """See `Backend.save`."""
        return self._write(config, folder)

    def save_reference(self, folder: Path) -> Path:
        """See `Backend.save_reference`."""
        return self._write(toy_space(self.ops).all_float(), folder)

    def _write(self, config: Config, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "model.toy"
        path.write_text(json.dumps({"ops": [asdict(op) for op in self.ops], "config": config.to_dict()}))
        return path

    def open(self, path: Path) -> ToyExecutable:
        """See `Backend.open`."""
        saved: Mapping[str, Any] = json.loads(path.read_text())
        return ToyExecutable([ToyOp(**op) for op in saved["ops"]], Config.from_dict(saved["config"]), self._simulated)
