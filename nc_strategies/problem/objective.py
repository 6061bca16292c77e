"""The goal: constraints on metrics, objectives to be better in than fp32."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from nc_strategies.defaults import TOLERABLE_LOSS
from nc_strategies.problem.evaluation import Evaluation, Trial

LATENCY_TIE = 0.04
"""Latencies closer than this, relative, are ties: one trial's timing cannot tell them apart."""

ALIKE = 6
"""Decimals of a relative cost beyond which nothing is told: a difference there is rounding, and must decide nothing."""


@dataclass(frozen=True)
class Constraint:
    """A metric that must reach a threshold.

    Args:
        metric: Name of the metric.
        threshold: Worst value that is accepted.
        baseline: fp32's value.
        higher_is_better: Direction of the metric.
        criterion: How the threshold was stated: ``relative`` or ``absolute``.
        tolerable_loss: The loss it was made of.
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
        """The threshold for a tolerable loss from fp32's value.

        A negative loss asks for a gain. ``relative`` counts in fractions of the absolute value of `baseline`.
        """
        loss = tolerable_loss * abs(baseline) if criterion == "relative" else tolerable_loss
        threshold = baseline - loss if higher_is_better else baseline + loss
        return Constraint(metric, threshold, baseline, higher_is_better, criterion, tolerable_loss)

    def violation(self, value: float) -> float:
        """How far a value misses the threshold, in the metric's unit; 0 when it is met."""
        if math.isnan(value):
            return math.inf
        miss = self.threshold - value if self.higher_is_better else value - self.threshold
        return max(0.0, miss) if miss > 1e-12 else 0.0

    def loss(self, value: float) -> float:
        """How much worse than fp32 a value is; negative for a gain."""
        return self.baseline - value if self.higher_is_better else value - self.baseline


@dataclass(frozen=True)
class Objective:
    """A quantity to improve: ``latency``, ``throughput``, ``size`` or ``memory``.

    Args:
        name: The name of its ratio in `Evaluation.ratios`.
        weight: Its share when there are several.
        tie: Relative difference below which two measurements are equal.
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
    """Constraints and objectives, the verdict on an evaluation, and the order of evaluations that follows from them.

    Whether a goal is met is decided by `met` and nowhere else: for a trial, for the rule that stops a run, for a run's
    result, and for a replay.

    Args:
        constraints: What must hold.
        objectives: What is to be better than fp32.
        samples: Evaluation samples there are; 0 where they are not counted. An evaluation of fewer is an estimate.
    """

    constraints: tuple[Constraint, ...]
    objectives: tuple[Objective, ...]
    samples: int = 0

    @property
    def tie(self) -> float:
        """Relative difference in `cost` that counts as none."""
        return max(o.tie for o in self.objectives)

    def violation(self, evaluation: Evaluation) -> float:
        """How far the constraints are missed in all; 0 when all are met.

        In the metric's unit when there is one; several add up in shares of fp32's values, whatever their units.
        """
        missed = [c.violation(evaluation.metric(c.metric)) for c in self.constraints]
        if len(missed) == 1:
            return missed[0]
        return sum(miss / (abs(c.baseline) or 1.0) for miss, c in zip(missed, self.constraints, strict=True))

    def loss(self, evaluation: Evaluation) -> float:
        """Loss of the first constraint's metric against fp32, in its unit; negative for a gain."""
        first = self.constraints[0]
        return first.loss(evaluation.metric(first.metric))

    def feasible(self, evaluation: Evaluation) -> bool:
        """Whether all constraints are met."""
        return self.violation(evaluation) == 0.0

    def cost(self, evaluation: Evaluation) -> float:
        """Weighted mean of the objectives relative to fp32, to six decimals: 1 is fp32, lower is better."""
        total = sum(o.weight for o in self.objectives)
        return round(sum(o.weight * evaluation.ratio(o.name) for o in self.objectives) / total, ALIKE)

    def worst_cost(self, evaluation: Evaluation) -> float:
        """`cost` at the worse end of the 95 % intervals: of each ratio times (1 + its relative half-width)."""
        spread = dict(evaluation.spread)
        ratios = tuple((name, ratio * (1 + spread.get(name, 0.0))) for name, ratio in evaluation.ratios)
        return self.cost(replace(evaluation, ratios=ratios))

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
        """Whether `a` is to be preferred to `b`.

        One that meets the goal beats one that does not, a feasible one beats an infeasible one; of two infeasible ones
        the smaller violation wins; of two feasible ones the smaller cost, and where the costs are ties the smaller
        loss.
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
        """The trial to be preferred to all others, the earlier one where nothing tells them apart.

        A trial that meets the goal comes before one that does not. Among feasible trials only those whose cost is a tie
        with the lowest compete on loss, so that the answer does not depend on the order in which the trials came. A
        pruned trial, of which only an estimate is known, is the best only where no trial was measured completely.
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
