"""The measured values of one configuration, and its trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from nc_strategies.space import Config

Pairs = tuple[tuple[str, float], ...]
RUN_MS = "run_ms"
"""Value of an evaluation whose latency is given per token: mean milliseconds of a timed run."""
LOSS_LOW, LOSS_HIGH = "loss_low", "loss_high"
"""Values of an evaluation: ends of the interval of its loss, in the first metric's unit."""


@dataclass(frozen=True)
class LengthLatency:
    """Latency at one length of the samples, or of one phase of a decoder at one context length.

    Args:
        length: The length.
        weight: Its weight in the objective.
        fp32_ms: Latency of fp32 in milliseconds.
        ms: Latency of the model in milliseconds.
        phase: ``prefill`` or ``decode``: latencies are per token; empty for other models.
    """

    length: int
    weight: float
    fp32_ms: float
    ms: float
    phase: str = ""

    @property
    def ratio(self) -> float:
        """Latency relative to fp32's, below 1 is faster."""
        return self.ms / self.fp32_ms

    def to_dict(self) -> dict[str, float | str]:
        """A JSON-serializable dictionary; the inverse of `from_dict`."""
        return {
            **({"phase": self.phase} if self.phase else {}),
            "length": self.length,
            "weight": self.weight,
            "fp32_ms": self.fp32_ms,
            "ms": self.ms,
            "ratio": self.ratio,
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> LengthLatency:
        """Read what `to_dict` wrote."""
        weight, fp32_ms, ms = (float(data[key]) for key in ("weight", "fp32_ms", "ms"))
        return LengthLatency(int(data["length"]), weight, fp32_ms, ms, str(data.get("phase", "")))


@dataclass(frozen=True)
class Evaluation:
    """Measured values of one model.

    Args:
        metrics: Pairs (metric name, value) over `samples` evaluation samples; an estimate if these are not all.
        values: Pairs (name, value in the unit that the name ends in): ``latency_ms``, ``size_bytes``, ``duration_s``.
        ratios: Pairs (objective name, value relative to fp32 measured side by side); below 1 is better than fp32.
        spread: Pairs (objective name, relative half-width of the 95 % interval), for the names in `ratios`.
        samples: Number of evaluation samples that were read.
        int8_ops: Number of operators that executed in int8.
        fp32_ops: Number of operators that executed in floating point.
        seconds: Pairs (stage, seconds): ``build``, ``accuracy``, ``latency``.
        graph: Fingerprint of the executed graph.
        partial: The run's time ended during the measurement: it is no verdict on the configuration.
        latency_by_length: Latency at each length of the samples, or of each phase of a decoder; empty where all samples
            have one shape.
    """

    metrics: Pairs
    values: Pairs = ()
    ratios: Pairs = ()
    spread: Pairs = ()
    samples: int = 0
    int8_ops: int = 0
    fp32_ops: int = 0
    seconds: Pairs = ()
    graph: str = ""
    partial: bool = False
    latency_by_length: tuple[LengthLatency, ...] = ()

    @property
    def run_ms(self) -> float:
        """Mean milliseconds of a timed run: the latency, if that is not given per token."""
        values = dict(self.values)
        return values.get(RUN_MS, values["latency_ms"])

    @property
    def loss_ci95(self) -> tuple[float, float] | None:
        """95 % interval of the first metric's loss against fp32 on the same samples; None if it was not computed."""
        values = dict(self.values)
        return (values[LOSS_LOW], values[LOSS_HIGH]) if LOSS_LOW in values and LOSS_HIGH in values else None

    def with_loss_ci95(self, interval: tuple[float, float]) -> Evaluation:
        """The same evaluation with the interval of `loss_ci95`."""
        low, high = interval
        return replace(self, values=tuple({**dict(self.values), LOSS_LOW: low, LOSS_HIGH: high}.items()))

    def metric(self, name: str) -> float:
        """A metric's value; KeyError if it was not measured."""
        return dict(self.metrics)[name]

    def value(self, name: str) -> float:
        """A measured value; KeyError if it was not measured."""
        return dict(self.values)[name]

    def ratio(self, name: str) -> float:
        """An objective relative to fp32, below 1 is better; KeyError if it was not measured."""
        return dict(self.ratios)[name]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-serializable dictionary; the inverse of `from_dict`."""
        pairs = {key: dict(getattr(self, key)) for key in _PAIRS}
        return {
            **pairs,
            "samples": self.samples,
            "int8_ops": self.int8_ops,
            "fp32_ops": self.fp32_ops,
            "graph": self.graph,
            **({"partial": True} if self.partial else {}),
            **lengths_dict(self.latency_by_length),
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Evaluation:
        """Read what `to_dict` wrote."""
        pairs: dict[str, Any] = {key: tuple(data[key].items()) for key in _PAIRS}
        counts = {key: data[key] for key in ("samples", "int8_ops", "fp32_ops", "graph")}
        lengths = tuple(LengthLatency.from_dict(one) for key in (BY_LENGTH, BY_PHASE) for one in data.get(key, ()))
        return Evaluation(**pairs, **counts, partial=bool(data.get("partial", False)), latency_by_length=lengths)


BY_LENGTH, BY_PHASE = "latency_by_length", "latency_by_phase"
"""Fields of the latencies at several lengths, and of those of a decoder's phases."""


def lengths_dict(found: tuple[LengthLatency, ...]) -> dict[str, list[dict[str, float | str]]]:
    """Latency by length or by phase as a JSON-serializable field; no field where all samples have one shape."""
    return {BY_PHASE if found[0].phase else BY_LENGTH: [one.to_dict() for one in found]} if found else {}


_PAIRS = ("metrics", "values", "ratios", "spread", "seconds")


class TrialState(StrEnum):
    """How a trial ended: measured, failed, or pruned.

    A pruned trial was stopped early because the goal was out of its reach; its values are estimates.
    """

    OK = "ok"
    FAILED = "failed"
    PRUNED = "pruned"


@dataclass(frozen=True)
class Prediction:
    """What a strategy expected a trial to measure.

    Args:
        cost: Expected `Goal.cost`, relative to fp32.
        cost_sd: Standard deviation of the measured cost around it: that of the model and of the timing together.
        loss: Expected loss of the first constraint's metric, in its unit; None where it is not predicted.
        loss_sd: Standard deviation of the measured loss around it, the sampling of the data included.
    """

    cost: float
    cost_sd: float
    loss: float | None = None
    loss_sd: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """A JSON-ready form; the inverse of `from_dict`."""
        return {"cost": self.cost, "cost_sd": self.cost_sd, "loss": self.loss, "loss_sd": self.loss_sd}

    @staticmethod
    def from_dict(data: Mapping[str, Any] | None) -> Prediction | None:
        """Read what `to_dict` wrote; None of a trial without a prediction.

        Raises:
            KeyError: a field is missing.
            TypeError, ValueError: a field is no number.
        """
        if not data:
            return None
        loss, loss_sd = (None if data[key] is None else float(data[key]) for key in ("loss", "loss_sd"))
        return Prediction(float(data["cost"]), float(data["cost_sd"]), loss, loss_sd)


@dataclass(frozen=True)
class Trial:
    """One configuration and its evaluation.

    Args:
        number: Position in the run, from 1.
        config: The configuration.
        state: How the trial ended.
        evaluation: The measured values; None if the trial failed.
        error: The reason of the failure in one line.
        resumed: Whether an earlier run in the same folder measured it.
        note: Why the strategy proposed it, in a few words.
        predicted: What the strategy predicted for it; None if it predicts nothing.
        proposed: Number of the latest proposal when it ended: its own number if one trial runs at a time, larger if
            others are open; 0 where it is not known.
    """

    number: int
    config: Config
    state: TrialState
    evaluation: Evaluation | None = None
    error: str | None = None
    resumed: bool = False
    note: str = ""
    predicted: Prediction | None = None
    proposed: int = 0

    @property
    def ok(self) -> bool:
        """Whether the trial was measured completely."""
        return self.state is TrialState.OK and self.evaluation is not None
