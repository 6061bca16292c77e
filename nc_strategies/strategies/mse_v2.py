"""The strategy `mse_v2`: the most sensitive operators fall back, then the least sensitive are requantized."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from nc_strategies.errors import EngineError
from nc_strategies.problem import Problem
from nc_strategies.space import Config
from nc_strategies.strategies.base import Steps
from nc_strategies.strategies.choices import Group, Scores, quantized_groups, score, step_size
from nc_strategies.strategies.settings import MseV2Settings
from nc_strategies.strategies.staged import Proposals, StagedStrategy

log = logging.getLogger(__name__)
SHORTLIST = 4
"""Operators of a step whose effect on the current configuration is compared. Each comparison builds a graph: all
operators would cost more than the trial."""


class MseV2Strategy(StagedStrategy):
    """Falls back by sensitivity until the goal is met, then requantizes what turns out not to matter.

    1. int8 everywhere; graph options, quantization modes and schemes for all operators together.
    2. If these miss the goal: the most sensitive operator in fp32, then the next, until the goal is met. With a budget,
       as many per trial as let half of the trials left reach all operators.
    3. Back to int8, the least sensitive first: each that keeps the goal and is not slower stays.

    Operators are ordered by the output error of each one alone in int8. At every step, the first few of this order are
    compared in the current configuration: that one goes first whose change leaves the least output error.

    Source: Intel Neural Compressor's documentation, "Tuning Strategies", MSE_V2
    (https://intel.github.io/neural-compressor/latest/docs/source/tuning_strategies.html), which compares all operators
    at every step and ends the third stage at the first miss.
    """

    settings: MseV2Settings

    def __init__(self, settings: MseV2Settings, problem: Problem) -> None:
        super().__init__(settings, problem)
        self._compares = problem.divergence is not None and settings.confidence_batches > 0

    def steps(self) -> Steps:
        """See `StepwiseStrategy.steps`."""
        yield from self._whole_model()
        if self._met():
            self.ended = "a choice for the whole model meets the goal, and only a miss calls for fp32 by operator"
            return
        space, base = self.problem.space, self._base
        left = quantized_groups(space, base)
        scores = score(self.problem, left, self.problem.sensitivity, "the output error by operator")
        left.sort(key=lambda g: -scores[g])
        fallen: list[Group] = []
        yield from self._try_several(self._fallback(base, left, fallen))
        if self._met():
            yield from self._requantize(base, fallen, scores)

    def _fallback(self, config: Config, left: list[Group], fallen: list[Group]) -> Proposals:
        """More and more groups in fp32, the most sensitive first, until the goal is met.

        Args:
            config: Where to start.
            left: Groups in the order of their sensitivity.
            fallen: Receives the groups that are in fp32.
        """
        space, step = self.problem.space, step_size(len(left), self._left())
        while left and not self._met():
            first = self._least_error(left, lambda g: space.fall_back(config, *g))  # noqa: B023 - called at once
            part = [first, *[g for g in left if g != first][: step - 1]]
            left = [g for g in left if g not in part]
            fallen += part
            config = space.fall_back(config, *(name for group in part for name in group))
            if config.int8_ops:
                note = f"{len(fallen)} operators in fp32, the most sensitive first: now {first[0]}"
                yield from self._new(config, "fallback", note)

    def _requantize(self, base: Config, fallen: list[Group], scores: Scores) -> Steps:
        """Try each operator back in its scheme of `base`, and keep those that keep the goal and are not slower."""
        goal = self.problem.goal
        left = sorted(fallen, key=lambda g: scores[g])
        while left:
            now = self._base

            def back(group: Group, now: Config = now) -> Config:
                return now.with_ops({name: base.schemes[name] for name in group})

            group = self._least_error(left, back)
            left.remove(group)
            trial = yield from self._try(back(group), "requantize", f"{group[0]} back to int8, the least sensitive")
            best = self._best.evaluation if self._best is not None else None
            done = trial.evaluation
            # One operator may gain less than the timing noise: it stays quantized if the cost is not higher.
            if done is not None and best is not None and self._feasible(trial) and goal.cost(done) <= goal.cost(best):
                self._best = trial
        self.ended = "every operator that fell back was tried in int8 again"

    def _least_error(self, ordered: Sequence[Group], change: Callable[[Group], Config]) -> Group:
        """Of the first few groups, the one whose change leaves the least output error; the first where none is known.

        Args:
            ordered: Groups, the preferred one first.
            change: Returns the configuration with the group changed.
        """
        divergence, some = self.problem.divergence, ordered[:SHORTLIST]
        if divergence is None or not self._compares or len(some) < 2:
            return ordered[0]
        try:
            batches = self.settings.confidence_batches
            errors = {group: divergence(change(group), batches) for group in some if change(group).int8_ops}
        except EngineError as error:
            log.warning("operators are no longer compared in the current configuration: %s", error)
            self._compares = False
            return ordered[0]
        return min(errors, key=lambda group: errors[group], default=ordered[0])
