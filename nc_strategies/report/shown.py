"""Which trials and operators of a large run a page shows: a browser has to hold and to draw them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nc_strategies.problem import Trial, TrialState

if TYPE_CHECKING:
    from nc_strategies.report.run_files import RunFiles


@dataclass(frozen=True)
class PageLimits:
    """What a page holds at most; all is in the run's folder."""

    trials: int = 1000
    """Rows of the table of trials and marks of each chart: 0.6 kB and 0.5 kB each, and a browser draws thousands of
    marks slowly."""
    operators: int = 2500
    """Operators of the map and rows of the table of operators: 1 kB each."""


LIMITS = PageLimits()


def by_interest(run: RunFiles) -> list[Trial]:
    """The trials that a page shows, the most interesting first.

    They are the chosen trial, those of the measured front, the best and the latest of all trials, and others spread
    evenly over the run, a quarter at least.
    """
    if len(run.trials) <= LIMITS.trials:
        return [*([run.chosen] if run.chosen else []), *run.trials]
    quarter = LIMITS.trials // 4
    numbers = {point.get("trial") for point in (run.result.get("front") or {}).get("points") or []}
    picked: dict[int, Trial] = {}

    def take(trials: Sequence[Trial], most: int) -> None:
        for trial in trials:
            if len(picked) >= most:
                return
            picked.setdefault(trial.number, trial)

    take([run.chosen] if run.chosen else [], 1)
    take([trial for trial in run.trials if trial.number in numbers], quarter)
    # In turn, as not all of their configurations may fit.
    best = _best_first(run)
    take([trial for pair in itertools.zip_longest(best, run.trials[::-1]) for trial in pair if trial], 3 * quarter)
    rest = [trial for trial in run.trials if trial.number not in picked]
    left = LIMITS.trials - len(picked)
    take([rest[at * len(rest) // left] for at in range(left)], LIMITS.trials)
    return list(picked.values())


def _best_first(run: RunFiles) -> list[Trial]:
    """The completely measured trials: those that keep the accuracy by cost, then the others by their miss."""
    goal = run.goal
    if goal is None:
        return []
    measured = [(t, t.evaluation) for t in run.trials if t.state is TrialState.OK and t.evaluation is not None]
    names = [objective.name for objective in goal.objectives]
    timed = [(t, e) for t, e in measured if all(name in dict(e.ratios) for name in names)]
    return [t for t, e in sorted(timed, key=lambda pair: (goal.violation(pair[1]), goal.cost(pair[1])))]


def trials_left_out(run: RunFiles) -> str:
    """A sentence on the trials that the page does not show; empty where it shows all."""
    if len(run.trials) <= LIMITS.trials:
        return ""
    return (
        f"This page shows {len(run.shown):,} of {len(run.trials):,} trials: the chosen one, the best, the latest, and "
        "others spread evenly over the run. trials.jsonl has all of them, and figures are computed from all."
    )


def operators_left_out(count: int) -> str:
    """A sentence on the operators that the page does not show; empty where it shows all."""
    if count <= LIMITS.operators:
        return ""
    return f"This page shows the first {LIMITS.operators:,} of {count:,} operators in the order of execution."
