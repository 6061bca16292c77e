"""The goal: constraints on metrics, and objectives that must improve on fp32."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from nc_strategies.defaults import TOLERABLE_LOSS
from nc_strategies.problem.evaluation import Evaluation, Trial

LATENCY_TIE = 0.04
"""Relative difference up to which two latencies are ties, because the timing of one trial cannot distinguish them."""
COST_DECIMALS = 6
"""Decimals to which a relative cost is rounded, so that rounding errors decide nothing."""
VIOLATION_TOLERANCE = 1e-12
"""Difference from a threshold that counts as met, because it is a rounding error."""


@dataclass(frozen=True)
class Constraint:
    """A metric that must reach a threshold.

    Args:
        metric: Name of the metric.
        threshold: Worst value that is accepted.
        baseline: The value of fp32.
        higher_is_better: Direction of the metric.
        criterion: How the tolerable loss is stated: ``relative`` or ``absolute``.
        tolerable_loss: The tolerable loss from which the threshold follows.
    """

    metric: str
    threshold: float
    baseline: float
    higher_is_better: bool = True
    criterion: str = "relative"
    tolerable_loss: float = TOLERABLE_LOSS

    @staticmethod
    def from_baseline(
        metric: str, baseline: float, higher_is_better: bool, criterion: str, tolerable_loss: float
    ) -> Constraint:
        """The constraint for a tolerable loss from fp32's value.

        A negative loss requires a gain. A ``relative`` loss is a fraction of the absolute value of `baseline`.
        """
        loss = tolerable_loss * abs(baseline) if criterion == "relative" else tolerable_loss
        threshold = baseline - loss if higher_is_better else baseline + loss
        return Constraint(metric, threshold, baseline, higher_is_better, criterion, tolerable_loss)

    def violation(self, value: float) -> float:
        """How far a value misses the threshold, in the metric's unit; 0 if the threshold is met."""
        if math.isnan(value):
            return math.inf
        miss = self.threshold - value if self.higher_is_better else value - self.threshold
        return max(0.0, miss) if miss > VIOLATION_TOLERANCE else 0.0

    def loss(self, value: float) -> float:
        """How much worse a value is than fp32's, in the metric's unit; negative for a gain."""
        return self.baseline - value if self.higher_is_better else value - self.baseline


@dataclass(frozen=True)
class Objective:
    """A quantity to improve: ``latency``, ``throughput``, ``size`` or ``memory``.

    Args:
        name: The name of its ratio in `Evaluation.ratios`.
        weight: Its weight among several objectives.
        tie: Relative difference up to which two measurements are ties.
    """

    name: str
    weight: float = 1.0
    tie: float = LATENCY_TIE


class Shortfall(StrEnum):
    """Why an evaluation does not meet a goal."""

    SAMPLES = "samples"
    """Not all evaluation samples were read: its metrics are estimates."""
    ACCURACY = "accuracy"
    """A constraint is missed."""
    OBJECTIVE = "objective"
    """The objective does not beat fp32's with its whole 95 % interval."""


@dataclass(frozen=True)
class Goal:
    """Constraints and objectives, the verdict on an evaluation, and the ranking of evaluations that follows from them.

    Only `met` decides whether a goal is met: for a trial, for the rule that stops a run, for a run's result, and for a
    replay.

    Args:
        constraints: The constraints on metrics, the first of which is the goal's own.
        objectives: What must be better than fp32's.
        samples: Number of evaluation samples; 0 if they are not counted. An evaluation of fewer is an estimate.
    """

    constraints: tuple[Constraint, ...]
    objectives: tuple[Objective, ...]
    samples: int = 0

    @property
    def tie(self) -> float:
        """Relative difference in `cost` up to which two evaluations are ties."""
        return max(o.tie for o in self.objectives)

    def violation(self, evaluation: Evaluation) -> float:
        """Total violation of the constraints; 0 if all are met.

        The violation of a single constraint is in its metric's unit. Violations of several constraints are divided by
        fp32's values and added.
        """
        missed = [c.violation(evaluation.metric(c.metric)) for c in self.constraints]
        if len(missed) == 1:
            return missed[0]
        return sum(miss / (abs(c.baseline) or 1.0) for miss, c in zip(missed, self.constraints, strict=True))

    def loss(self, evaluation: Evaluation) -> float:
        """Loss of the first constraint's metric from fp32's value, in its unit; negative for a gain."""
        first = self.constraints[0]
        return first.loss(evaluation.metric(first.metric))

    def feasible(self, evaluation: Evaluation) -> bool:
        """Whether all constraints are met."""
        return self.violation(evaluation) == 0.0

    def kept_by(self, trial: Trial) -> bool:
        """Whether a trial was measured completely and meets all constraints."""
        return trial.ok and trial.evaluation is not None and self.feasible(trial.evaluation)

    def slower(self, trial: Trial) -> bool:
        """Whether a trial was measured and costs more than fp32."""
        return trial.evaluation is not None and self.cost(trial.evaluation) > 1.0

    def cost(self, evaluation: Evaluation) -> float:
        """Weighted mean of the objectives relative to fp32, rounded to `COST_DECIMALS`; fp32 has 1, lower is better."""
        total = sum(o.weight for o in self.objectives)
        return round(sum(o.weight * evaluation.ratio(o.name) for o in self.objectives) / total, COST_DECIMALS)

    def worst_cost(self, evaluation: Evaluation) -> float:
        """`cost` at the worse end of the 95 % intervals: of each ratio times (1 + its relative half-width)."""
        spread = dict(evaluation.spread)
        ratios = tuple((name, ratio * (1 + spread.get(name, 0.0))) for name, ratio in evaluation.ratios)
        return self.cost(replace(evaluation, ratios=ratios))

    def spread(self, evaluation: Evaluation) -> float:
        """Half-width of the 95 % interval of `cost`, relative to it; 0 where its objectives are exact, as a size is."""
        cost = self.cost(evaluation)
        return self.worst_cost(evaluation) / cost - 1 if cost > 0 else 0.0

    def shortfall(self, evaluation: Evaluation) -> Shortfall | None:
        """Why an evaluation does not meet the goal, the first reason in the order of `Shortfall`; None when it does."""
        if evaluation.samples < self.samples:
            return Shortfall.SAMPLES
        if not self.feasible(evaluation):
            return Shortfall.ACCURACY
        return None if self.worst_cost(evaluation) < 1.0 else Shortfall.OBJECTIVE

    def met(self, evaluation: Evaluation) -> bool:
        """The verdict: every constraint is met, and the objective beats fp32's with its whole 95 % interval.

        An evaluation that did not read all samples never meets the goal.
        """
        return self.shortfall(evaluation) is None

    def better(self, a: Evaluation, b: Evaluation) -> bool:
        """Whether `a` is preferred to `b`.

        An evaluation that meets the goal is preferred to one that does not, then a feasible one to an infeasible one.
        Of two infeasible ones, the smaller violation is preferred; of two feasible ones, the smaller cost, and if the
        costs are ties, the smaller loss.
        """
        met = self.met(a)
        if met != self.met(b):
            return met
        va, vb = self.violation(a), self.violation(b)
        if va != vb and (va > 0 or vb > 0):
            return va < vb
        ca, cb = self.cost(a), self.cost(b)
        if abs(ca - cb) > self.tie * min(ca, cb):
            return ca < cb
        la, lb = self.loss(a), self.loss(b)
        return la < lb if la != lb else ca < cb

    def best(self, trials: list[Trial] | tuple[Trial, ...]) -> Trial | None:
        """The best trial; among equals the earliest; None if no trial has an evaluation.

        A trial that meets the goal comes before one that does not. Among feasible trials, only those whose cost is a
        tie with the lowest cost are compared by loss, so that the result does not depend on the order of the trials. A
        pruned trial, whose values are estimates, is best only if no trial was measured completely.
        """
        measured = [(t, t.evaluation) for t in trials if t.evaluation is not None]
        if not measured:
            return None
        done = [pair for pair in measured if pair[0].ok] or measured
        return self._first([pair for pair in done if self.met(pair[1])] or done)

    def _first(self, done: list[tuple[Trial, Evaluation]]) -> Trial:
        """Of the closest to the constraints, and of these the ties with the lowest cost, the one of the least loss."""
        least = min(self.violation(e) for _, e in done)
        level = [(t, e) for t, e in done if self.violation(e) == least]
        lowest = min(self.cost(e) for _, e in level)
        ties = [(t, e) for t, e in level if self.cost(e) <= lowest * (1 + self.tie)]
        return min(ties, key=lambda pair: (self.loss(pair[1]), self.cost(pair[1])))[0]
