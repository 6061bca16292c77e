"""Suggestions: a Latin hypercube first, then Optuna's tree-structured Parzen estimator under constraints."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from nc_strategies_optuna.ask import ask, seed_of, shared
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from nc_strategies_sigopt.opening import opening

Json = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """What the estimator reads where suggestions are made in parallel: its time grows with the number of trials."""

    best: int = 200
    """Observations that are closest to the goal, of which the estimator models the best."""
    latest: int = 200
    """Latest observations beside these."""
    open: int = 400
    """Latest open suggestions, whose neighbourhood it avoids."""


LIMITS = Limits()


@dataclass(frozen=True)
class Held:
    """An observation or an open suggestion in Optuna's form.

    Args:
        trial: As the estimator reads it.
        merit: Sort key of observations: the lowest is the best.
    """

    trial: FrozenTrial
    merit: tuple[float, ...] = ()


def suggest(
    experiment: Json,
    observations: Sequence[Json],
    pending: Sequence[Json],
    seed: int,
    count: int,
    held: dict[str, Held] | None = None,
) -> Json:
    """Assignments to try next.

    A function of its arguments alone, so that a restarted process goes on where the killed one was. The opening is as
    long as a server's, see `opening`.

    Source: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NIPS 2011; constraints and parallel
    trials (the constant liar) as in Optuna's `TPESampler`. Opening: McKay et al., "A Comparison of Three Methods for
    Selecting Values of Input Variables", Technometrics 1979.

    Args:
        experiment: The experiment as the API gives it.
        observations: Its observations.
        pending: Suggestions that are being tried.
        seed: The experiment's seed.
        count: How many suggestions were made before.
        held: What was read, by the ids of suggestions and observations, kept from one call to the next.
    """
    space = {p["name"]: _distribution(p) for p in experiment["parameters"]}
    optimized = [m for m in experiment["metrics"] if m["strategy"] == "optimize"]
    constraints = [m for m in experiment["metrics"] if m["strategy"] == "constraint"]
    number = seed_of(seed, count)
    length = opening(experiment["parameters"], experiment["parallel_bandwidth"])
    if len(observations) < length:
        return _latin_hypercube(space, [o["assignments"] for o in (*observations, *pending)], length, number)
    sampler = optuna.samplers.TPESampler(seed=number, n_startup_trials=1, constant_liar=True)
    held = {} if held is None else held
    done, under_way = [], []
    for one in observations:
        mark = f"observation {one['id']}"
        if mark not in held:
            held[mark] = Held(shared(_trial(one, space, optimized, constraints)), _merit(one, optimized, constraints))
        done.append(held[mark])
    parallel = (experiment["parallel_bandwidth"] or 1) > 1
    for one in pending[-LIMITS.open :] if parallel else pending:
        mark = f"suggestion {one['id']}"
        if mark not in held:
            trial = optuna.trial.create_trial(state=TrialState.RUNNING, params=one["assignments"], distributions=space)
            held[mark] = Held(shared(trial))
        under_way.append(held[mark].trial)
    if parallel:
        done = _essential(done)
    trials = [*(one.trial for one in done), *under_way]
    return ask(sampler, [m["objective"] for m in optimized] or ["minimize"], space, trials).params


def _essential(done: list[Held]) -> list[Held]:
    """The best and the latest observations, in their order; see `Limits`."""
    if len(done) <= LIMITS.best + LIMITS.latest:
        return done
    earlier, latest = done[: -LIMITS.latest], done[-LIMITS.latest :]
    best = sorted(range(len(earlier)), key=lambda place: earlier[place].merit)[: LIMITS.best]
    return [*(earlier[place] for place in sorted(best)), *latest]


def _merit(observation: Json, optimized: list[Json], constraints: list[Json]) -> tuple[float, ...]:
    """Whether it failed, how far it misses the thresholds, and the sum of what is optimized."""
    values = {v["name"]: float(v["value"]) for v in observation["values"]}
    if observation["failed"]:
        return 1.0, 0.0, 0.0
    missed = sum(max(violation(m, values[m["name"]]), 0.0) for m in constraints)
    signs = {"maximize": -1.0, "minimize": 1.0}
    return 0.0, missed, sum(signs[m["objective"]] * values[m["name"]] for m in optimized)


def _latin_hypercube(space: dict[str, BaseDistribution], taken: Sequence[Json], length: int, seed: int) -> Json:
    """A point which takes, in each parameter, one of the equal parts of its range that no other point is in."""
    rng, chosen = random.Random(seed), {}
    for name, one in sorted(space.items()):
        left = sorted(set(range(length)) - {_part(one, value, length) for value in {point[name] for point in taken}})
        place = (rng.choice(left or list(range(length))) + rng.random()) / length
        chosen[name] = _value(one, place)
    return chosen


def _part(one: BaseDistribution, value: Any, length: int) -> int:
    if isinstance(one, CategoricalDistribution):
        place = (one.choices.index(value) + 0.5) / len(one.choices)
    else:
        assert isinstance(one, IntDistribution | FloatDistribution)
        place = max((value - one.low) / (one.high - one.low), 0.0)
    return min(int(place * length), length - 1)


def _within(one: BaseDistribution, value: Any) -> Any:
    """A value, the nearest one within its bounds: the API takes integers outside them."""
    if isinstance(one, IntDistribution | FloatDistribution):
        return min(max(value, one.low), one.high)
    return value


def _value(one: BaseDistribution, place: float) -> Any:
    if isinstance(one, CategoricalDistribution):
        return one.choices[int(place * len(one.choices))]
    assert isinstance(one, IntDistribution | FloatDistribution)
    value = one.low + place * (one.high - one.low)
    return round(value) if isinstance(one, IntDistribution) else value


def _distribution(parameter: Json) -> BaseDistribution:
    if parameter["type"] == "categorical":
        return CategoricalDistribution([v["name"] for v in parameter["categorical_values"]])
    low, high = parameter["bounds"]["min"], parameter["bounds"]["max"]
    return IntDistribution(int(low), int(high)) if parameter["type"] == "int" else FloatDistribution(low, high)


def _trial(
    observation: Json, space: dict[str, BaseDistribution], optimized: list[Json], constraints: list[Json]
) -> FrozenTrial:
    params = {name: _within(one, observation["assignments"][name]) for name, one in space.items()}
    if observation["failed"]:
        return optuna.trial.create_trial(state=TrialState.FAIL, params=params, distributions=space)
    values = {v["name"]: float(v["value"]) for v in observation["values"]}
    missed = {m["name"]: violation(m, values[m["name"]]) for m in constraints}
    # Where nothing is optimized, the least sum of what is missing is.
    reached = [values[m["name"]] for m in optimized] or [sum(max(v, 0.0) for v in missed.values())]
    trial = optuna.trial.create_trial(params=params, distributions=space, values=reached)
    for name, value in missed.items():
        trial.set_constraint(name, value)
    return trial


def violation(metric: Json, value: float) -> float:
    """How far a constraint metric's value misses its threshold; zero or below when it holds."""
    sign = 1.0 if metric["objective"] == "maximize" else -1.0
    return sign * (float(metric["threshold"]) - value)
