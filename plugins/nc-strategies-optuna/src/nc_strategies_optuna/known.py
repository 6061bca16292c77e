"""Configurations that are worth a trial before any sampler proposes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nc_strategies.api import Config, Problem, Trial
from nc_strategies_optuna.estimate import fastest
from nc_strategies_optuna.parameters import Assignments, Parameters
from nc_strategies_optuna.refine import expected_tied_ops


@dataclass(frozen=True)
class KnownPoint:
    """A configuration to try first.

    Args:
        mark: What tells it apart: ``known int8``.
        config: What to try.
        note: Why, in a few words.
        assignments: The same in the sampler's parameters; None where these cannot express it.
    """

    mark: str
    config: Config
    note: str
    assignments: Assignments | None = None


LADDER = (0.75, 1.25, 0.5, 1.5)
"""How many operators the steps of `ladder` have in int8, relative to what the estimates say the goal allows: a rough
estimate of the loss is wrong by half, and each step that keeps the goal or misses it bounds where the limit is."""


def ladder(
    parameters: Parameters, problem: Problem, trials: Mapping[str, Trial], skip: str = ""
) -> Iterator[KnownPoint]:
    """Less and more int8 than the estimates say the goal allows, where int8 everywhere misses it.

    Args:
        parameters: The sampler's parameters.
        problem: What is to be solved.
        trials: Finished trials by fingerprint; read when the first point is asked for.
        skip: Mark of the point that was proposed last, by an earlier process.
    """
    trial = trials.get(parameters.config(parameters.all_int8()).fingerprint)
    if trial is None or trial.evaluation is None or problem.goal.feasible(trial.evaluation):
        return
    first = problem.goal.constraints[0]
    wanted = expected_tied_ops(parameters.estimate, problem.goal.loss(trial.evaluation), first.loss(first.threshold))
    marks = [f"known ladder {share:g}" for share in LADDER]
    for mark, share in list(zip(marks, LADDER, strict=True))[marks.index(skip) + 1 if skip in marks else 0 :]:
        chosen = parameters.first(round(wanted * share))
        yield KnownPoint(mark, parameters.config(chosen), f"{share:.0%} of what the estimates expect", chosen)


def known_points(
    parameters: Parameters, problem: Problem, trials: Mapping[str, Trial], skip: str = ""
) -> Iterator[KnownPoint]:
    """Int8 everywhere; every other mode everywhere; then, once int8 is measured, what the estimates make of it.

    Where it keeps the goal: without the operators that the latency model expects to be faster in fp32. Else as much
    int8 as the estimates of the loss say the goal allows.

    Args:
        parameters: The sampler's parameters.
        problem: What is to be solved.
        trials: Finished trials by fingerprint; read when the next point is asked for.
        skip: Mark of the point that was proposed last, by an earlier process.
    """
    goal, chosen = problem.goal, parameters.all_int8()
    config = parameters.config(chosen)
    first_points = [("known int8", "int8 everywhere", chosen)]
    for mode in parameters.other_modes:
        first_points.append((f"known {mode}", f"{mode} where operators have it", parameters.whole_mode(mode)))
    marks = [mark for mark, _, _ in first_points]
    for mark, note, assigned in first_points[marks.index(skip) + 1 if skip in marks else 0 :]:
        if skip in ("", *marks):
            yield KnownPoint(mark, parameters.config(assigned), note, assigned)
    trial = trials.get(config.fingerprint)
    if skip not in ("", *marks) or trial is None or trial.evaluation is None:
        return
    if trial.ok and goal.feasible(trial.evaluation):
        faster = fastest(problem, config, parameters.estimate.tied_ops)
        if faster != config:
            yield KnownPoint("known fastest", faster, "int8 where the latency model expects it to be faster")
        return
    first = goal.constraints[0]
    wanted = expected_tied_ops(parameters.estimate, goal.loss(trial.evaluation), first.loss(first.threshold))
    chosen = parameters.first(wanted)
    yield KnownPoint("known estimate", parameters.config(chosen), "what the estimates expect", chosen)


def opening(
    parameters: Parameters, problem: Problem, trials: Mapping[str, Trial], skip: str = ""
) -> Iterator[KnownPoint | None]:
    """The points of `known_points`; None while int8 everywhere is open, on which the last one depends.

    Args:
        parameters: The sampler's parameters.
        problem: What is to be solved.
        trials: Finished trials by fingerprint; read when the next point is asked for.
        skip: Mark of the point that was proposed last, by an earlier process.
    """
    default, last = parameters.config(parameters.all_int8()).fingerprint, skip
    for point in known_points(parameters, problem, trials, skip):
        last = point.mark
        yield point
    if default not in trials:
        while default not in trials:
            yield None
        yield from known_points(parameters, problem, trials, last)
