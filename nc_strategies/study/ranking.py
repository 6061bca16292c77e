"""The best of a growing number of trials, without reading all of them for each new one."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from nc_strategies.problem import Evaluation, Goal, Trial


class Ranking:
    """The result of `Goal.best` for a list of trials that grows; each trial is judged once.

    Of the trials that meet the goal alike, it keeps those that no other beats in cost and in loss. As the lowest cost
    falls, the limit on the cost of its ties falls too, so that a trial which another one beats never returns.

    Args:
        goal: Ranks the trials.
    """

    def __init__(self, goal: Goal) -> None:
        self._goal = goal
        self._trials: Sequence[Trial] = ()
        self._latest: dict[str, Evaluation] = {}
        self._clear()

    def _clear(self) -> None:
        self._count = 0
        self._last: Trial | None = None
        self._met: list[Trial] = []
        self._level: tuple[bool, bool, float] = (True, True, math.inf)
        self._stairs: list[tuple[float, float, int]] = []
        """Cost, loss and position of the trials that no other beats: cost rises, loss falls."""
        self._unordered = False

    def best(self, trials: Sequence[Trial], latest: Mapping[str, Evaluation]) -> Trial | None:
        """The best trial, see `Goal.best`.

        Args:
            trials: The list of trials. If it is another one than before, or is not the same with more trials at its
                end, everything is judged again.
            latest: Measurements by fingerprint of the executed graph that replace those of the trials.
        """
        self._follow(trials, latest)
        if self._unordered:
            return best_of(self._goal, trials, latest)
        if not self._stairs:
            return None
        limit = self._stairs[0][0] * (1 + self._goal.tie)
        return trials[self._stairs[bisect.bisect_right(self._stairs, (limit, math.inf, 0)) - 1][2]]

    def met(self, trials: Sequence[Trial], latest: Mapping[str, Evaluation]) -> Sequence[Trial]:
        """The completely measured trials that meet the goal by their own measurement; the arguments are `best`'s."""
        self._follow(trials, latest)
        return self._met

    def _follow(self, trials: Sequence[Trial], latest: Mapping[str, Evaluation]) -> None:
        same = trials is self._trials and len(trials) >= self._count and self._latest == latest
        if not same or (self._count and trials[self._count - 1] is not self._last):
            self._clear()
            self._trials, self._latest = trials, dict(latest)
        for position in range(self._count, len(trials)):
            self._add(position, trials[position])
        self._count = len(trials)
        self._last = trials[-1] if trials else None

    def _add(self, position: int, trial: Trial) -> None:
        own = trial.evaluation
        if own is None:
            return
        if trial.ok and self._goal.met(own):
            self._met.append(trial)
        done = self._latest.get(own.graph, own)
        goal = self._goal
        level = (not trial.ok, not goal.met(done), goal.violation(done))
        cost, loss = goal.cost(done), goal.loss(done)
        if math.isnan(cost) or math.isnan(loss):
            self._unordered = True  # comparisons with it depend on the order
            return
        if self._stairs and level > self._level:
            return
        if not self._stairs or level < self._level:
            self._level, self._stairs = level, []
        self._insert((cost, loss, position))

    def _insert(self, step: tuple[float, float, int]) -> None:
        """Add a trial unless an earlier step beats it, and remove the steps that it beats."""
        stairs, (_, loss, _) = self._stairs, step
        at = bisect.bisect_right(stairs, step)
        if at and stairs[at - 1][1] <= loss:
            return
        end = at
        while end < len(stairs) and stairs[end][1] >= loss:
            end += 1
        stairs[at:end] = [step]


def best_of(goal: Goal, trials: Sequence[Trial], latest: Mapping[str, Evaluation]) -> Trial | None:
    """`Goal.best` of some trials by their latest measurements, as one of the given trials."""
    judged = [
        t if t.evaluation is None else replace(t, evaluation=latest.get(t.evaluation.graph, t.evaluation))
        for t in trials
    ]
    found = goal.best(judged)
    return None if found is None else trials[next(i for i, t in enumerate(judged) if t is found)]
