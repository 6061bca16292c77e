"""The model that a run returns, with its final measurement."""

from __future__ import annotations

from dataclasses import dataclass

from nc_strategies.backends.base import ExecutedOps
from nc_strategies.problem import Evaluation, Trial
from nc_strategies.problem.evaluation import Pairs


@dataclass(frozen=True)
class Final:
    """The returned model, with its final measurement on all samples.

    Args:
        trial: The trial that the model comes from.
        evaluation: Final measurement of the model.
        executed: Operators that the engine executes, by precision.
        speedup: fp32's latency divided by the model's latency.
        speedup_ci95: 95 % interval of `speedup`.
        accuracy_loss_ci95: 95 % interval of the paired loss against fp32, in the metric's unit.
        latency_ci95: 95 % interval of the model's latency in milliseconds.
        baseline: fp32 as timed side by side with the model; its latency divided by the model's latency is `speedup`.
        baseline_ci95: 95 % interval of fp32's latency in milliseconds.
        seconds: Seconds of measuring the finalists, by stage.
        finalists: Pairs (fingerprint of the executed graph, final measurement) of all finalists, including the model;
            empty for a trial that was not measured again.
    """

    trial: Trial
    evaluation: Evaluation
    executed: ExecutedOps
    speedup: float
    speedup_ci95: tuple[float, float]
    accuracy_loss_ci95: tuple[float, float] | None
    latency_ci95: tuple[float, float]
    baseline: Evaluation
    baseline_ci95: tuple[float, float]
    seconds: Pairs = ()
    finalists: tuple[tuple[str, Evaluation], ...] = ()
