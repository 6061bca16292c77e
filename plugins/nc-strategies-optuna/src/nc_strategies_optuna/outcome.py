"""What came of a trial, in Optuna's terms: state, values to minimize, constraints."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial, TrialState, create_trial

from nc_strategies.api import Evaluation, Problem, Trial
from nc_strategies.api import TrialState as OurState
from nc_strategies_optuna.samplers import Traits

LOSS, COST = "accuracy loss", "cost"


@dataclass(frozen=True)
class Outcome:
    """What a sampler is told.

    Args:
        state: Complete, pruned or failed.
        values: What is minimized; empty of a failed trial. Estimates of a pruned one.
        constraints: How far each metric misses its threshold, by name; 0 or below is met.
    """

    state: TrialState
    values: tuple[float, ...] = ()
    constraints: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def of(problem: Problem, trial: Trial, traits: Traits) -> Outcome:
        """The outcome of a trial; of one whose values are not finite a failure."""
        done = trial.evaluation
        if done is None:
            return Outcome(TrialState.FAIL)
        missed = constraints(problem, done)
        loss, cost = problem.goal.loss(done), problem.goal.cost(done)
        if not traits.constrained:
            cost += _penalty(problem, missed)
        values = (loss, cost) if traits.two_objectives else (cost,)
        if not all(math.isfinite(v) for v in (*values, *missed.values())):
            return Outcome(TrialState.FAIL)
        state = TrialState.PRUNED if trial.state is OurState.PRUNED else TrialState.COMPLETE
        return Outcome(state, values, missed if traits.constrained else {})

    def frozen(self, running: FrozenTrial) -> FrozenTrial:
        """A running trial with this outcome.

        Optuna lets a pruned trial have one value, hence none where there are two objectives.
        """
        pruned = self.state is TrialState.PRUNED
        values = None if self.state is TrialState.FAIL or (pruned and len(self.values) > 1) else list(self.values)
        made = create_trial(
            state=self.state,
            values=values,
            params=running.params,
            distributions=running.distributions,
            user_attrs=dict(running.user_attrs),
            system_attrs=dict(running.system_attrs),
            intermediate_values={0: self.values[0]} if pruned and values else None,
        )
        for name, value in self.constraints.items():
            made.set_constraint(name, value)
        return made

    def learnt(self, running: FrozenTrial) -> FrozenTrial:
        """The same for a sampler, which learns from a pruned trial's estimates as from measured values.

        Most samplers leave pruned trials out. That this one misses the goal is known, and about by how much.
        """
        whole = self.state is TrialState.PRUNED
        return (Outcome(TrialState.COMPLETE, self.values, self.constraints) if whole else self).frozen(running)


def constraints(problem: Problem, evaluation: Evaluation) -> dict[str, float]:
    """How far each metric misses its threshold, negative where it is better, in the metric's unit.

    A difference that `Goal` takes for a rounding error is none.
    """
    found = {}
    for one in problem.goal.constraints:
        value = evaluation.metric(one.metric)
        missed = one.loss(value) - one.loss(one.threshold)
        found[one.metric] = missed if one.violation(value) > 0 else min(missed, 0.0)
    return found


def _penalty(problem: Problem, missed: dict[str, float]) -> float:
    """What is added to the cost, which is about 1, for samplers that know no constraints."""
    total = 0.0
    for one in problem.goal.constraints:
        scale = abs(one.loss(one.threshold)) or abs(one.baseline) or 1.0
        total += max(missed[one.metric], 0.0) / scale
    return total
