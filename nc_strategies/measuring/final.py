"""The model that a run returns, as it was measured at the end."""

from __future__ import annotations

from dataclasses import dataclass

from nc_strategies.backends.base import ExecutedOps
from nc_strategies.problem import Evaluation, Trial
from nc_strategies.problem.evaluation import Pairs


@dataclass(frozen=True)
class Final:
    """The model that is returned, measured once more on everything.

    Args:
        trial: The trial it comes from.
        evaluation: Its final measurement.
        executed: What the engine executes of it.
        speedup: fp32's latency over its latency.
        speedup_ci95: 95 % interval of `speedup`.
        accuracy_loss_ci95: 95 % interval of the paired loss against fp32, in the metric's unit.
        latency_ci95: 95 % interval of its latency in milliseconds.
        baseline: fp32 as it was timed side by side with it: its latency over the model's is `speedup`.
        baseline_ci95: 95 % interval of fp32's latency in milliseconds.
        seconds: What measuring it and the other finalists took, by stage.
        finalists: Pairs (fingerprint of the executed graph, final measurement) of all finalists, its own among them;
            none for a trial taken as it was measured.
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
