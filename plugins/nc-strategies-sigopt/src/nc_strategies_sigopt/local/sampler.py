"""Suggestions by Optuna's tree-structured Parzen estimator under constraints."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

Json = dict[str, Any]
LONGEST_OPENING = 10
HAS_SET_CONSTRAINT = hasattr(FrozenTrial, "set_constraint")


def suggest(experiment: Json, observations: Sequence[Json], pending: Sequence[Json], seed: int, count: int) -> Json:
    """Assignments to try next.

    A function of its arguments alone, so that a restarted process goes on where the killed one was.

    Source: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NIPS 2011; constraints and parallel
    trials as in Optuna's `TPESampler`.

    Args:
        experiment: The experiment as the API gives it.
        observations: Its observations.
        pending: Assignments of suggestions that are being tried.
        seed: The experiment's seed.
        count: How many suggestions were made before.
    """
    space = {p["name"]: _distribution(p) for p in experiment["parameters"]}
    optimized = [m for m in experiment["metrics"] if m["strategy"] == "optimize"]
    constraints = [m for m in experiment["metrics"] if m["strategy"] == "constraint"]
    number = int.from_bytes(hashlib.sha256(f"{seed} {count}".encode()).digest()[:4], "little")
    opening = min(LONGEST_OPENING, 1 + len(space))
    older: Json = {} if HAS_SET_CONSTRAINT else {"constraints_func": lambda trial: trial.system_attrs["constraints"]}
    sampler = optuna.samplers.TPESampler(seed=number, n_startup_trials=opening, constant_liar=True, **older)
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(directions=[m["objective"] for m in optimized], sampler=sampler)
        study.add_trials([_trial(o, space, optimized, constraints) for o in observations])
        study.add_trials(
            [optuna.trial.create_trial(state=TrialState.RUNNING, params=p, distributions=space) for p in pending]
        )
        return dict(study.ask(space).params)
    finally:
        optuna.logging.set_verbosity(before)


def _distribution(parameter: Json) -> BaseDistribution:
    if parameter["type"] == "categorical":
        return CategoricalDistribution([v["name"] for v in parameter["categorical_values"]])
    low, high = parameter["bounds"]["min"], parameter["bounds"]["max"]
    return IntDistribution(int(low), int(high)) if parameter["type"] == "int" else FloatDistribution(low, high)


def _trial(
    observation: Json, space: dict[str, BaseDistribution], optimized: list[Json], constraints: list[Json]
) -> FrozenTrial:
    params = observation["assignments"]
    if observation["failed"]:
        return optuna.trial.create_trial(state=TrialState.FAIL, params=params, distributions=space)
    values = {v["name"]: float(v["value"]) for v in observation["values"]}
    missed = {m["name"]: violation(m, values[m["name"]]) for m in constraints}
    older: Json = {} if HAS_SET_CONSTRAINT else {"system_attrs": {"constraints": list(missed.values())}}
    trial = optuna.trial.create_trial(
        params=params, distributions=space, values=[values[m["name"]] for m in optimized], **older
    )
    if HAS_SET_CONSTRAINT:
        for name, value in missed.items():
            trial.set_constraint(name, value)
    return trial


def violation(metric: Json, value: float) -> float:
    """How far a constraint metric's value misses its threshold; zero or below when it holds."""
    sign = 1.0 if metric["objective"] == "maximize" else -1.0
    return sign * (float(metric["threshold"]) - value)
