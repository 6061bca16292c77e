"""Fallback in the order of an estimate: the part that `mse` and `hawq_v2` share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from nc_strategies.space import Config
from nc_strategies.strategies.base import Steps
from nc_strategies.strategies.choices import Group, Scores, quantized_groups, step_size
from nc_strategies.strategies.staged import Proposals, StagedStrategy


class RankedFallbackStrategy(StagedStrategy):
    """Tries the whole model first, then returns operators to fp32 in one order until the goal is met.

    1. int8 everywhere; graph options, quantization modes and schemes for all operators together.
    2. If these miss the goal: operators of the best configuration in fp32, the most sensitive first, one more per
       trial until the goal is met. With a budget, as many more per trial as let half of the trials left reach all.
    """

    estimate: str = ""
    """Name of the estimate that orders the operators, for notes and notices."""

    @abstractmethod
    def scores(self, groups: Sequence[Group]) -> Scores:
        """The sensitivity of groups of operators, larger is more sensitive. Called at most once, after stage 1."""

    def steps(self) -> Steps:
        """See `StepwiseStrategy.steps`."""
        yield from self._whole_model()
        if self._met():
            self.ended = "a choice for the whole model meets the goal, and only a miss calls for fp32 by operator"
            return
        base = self._base
        groups = quantized_groups(self.problem.space, base)
        scores = self.scores(groups)
        groups.sort(key=lambda g: -scores[g])
        yield from self._try_several(self._fallback(base, groups))
        if self._met():
            self.ended = "operators fell back until the goal was met"

    def _fallback(self, config: Config, groups: Sequence[Group]) -> Proposals:
        """Groups in fp32, the first ones first, each proposal with more of them, until the goal is met."""
        done, step = 0, step_size(len(groups), self._left())
        while done < len(groups) and not self._met():
            part = groups[done : done + step]
            done += len(part)
            config = self.problem.space.fall_back(config, *(name for group in part for name in group))
            if config.int8_ops:
                note = f"{done} operators in fp32, by {self.estimate}: up to {part[-1][0]}"
                yield from self._new(config, "fallback", note)
