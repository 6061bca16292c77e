"""Halves of the int8 operators of a trial: a search that needs no estimate to be right."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

from nc_strategies.problem import Goal, Trial
from nc_strategies.space import FLOAT, Config, Space

Group = tuple[str, ...]


def half(
    space: Space, goal: Goal, trials: Sequence[Trial], known: Container[str], loss: Callable[[Group], float]
) -> Config | None:
    """Half of the int8 operators of a trial close to the goal, while no trial keeps it; None once one does.

    A single operator may lose more than the goal allows, however few others run in int8. Estimates that rank it low put
    it into every configuration; halves without it find one that keeps the goal. Source: Zeller and Hildebrandt,
    "Simplifying and isolating failure-inducing input", IEEE Transactions on Software Engineering 28 (2002).

    Args:
        space: Search space.
        goal: Orders the trials.
        trials: Finished trials.
        known: Fingerprints of what was tried.
        loss: Returns the estimated loss of a group of operators; one half has the groups of less loss.
    """
    done = [(t, t.evaluation) for t in trials if t.evaluation is not None]
    if any(t.ok and goal.feasible(e) for t, e in done):
        return None
    first: Config | None = None
    for trial, _ in sorted(done, key=lambda pair: goal.violation(pair[1])):
        untried = [config for config in _halves(space, trial.config, loss) if config.fingerprint not in known]
        if len(untried) == 1:
            return untried[0]  # the other half has missed the goal
        first = first or next(iter(untried), None)
    return first


def _halves(space: Space, config: Config, loss: Callable[[Group], float]) -> list[Config]:
    """The two halves of a configuration's int8 operators; empty if fewer than two of them can run in fp32."""
    schemes = config.schemes
    chosen = [g for g in space.groups if not schemes[g[0]].is_float and FLOAT in space.schemes(g)]
    chosen.sort(key=loss)
    middle = len(chosen) // 2
    halves = [
        config.with_op(*(name for group in left_out for name in group), scheme=FLOAT)
        for left_out in ((chosen[middle:], chosen[:middle]) if middle else ())
    ]
    return [half for half in halves if half.int8_ops]
