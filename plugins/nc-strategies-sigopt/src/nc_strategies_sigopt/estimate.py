"""What int8 is expected to cost and to save, operator by operator, before anything is tried."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nc_strategies.api import FLOAT, Config, EngineError, Problem, Space

log = logging.getLogger("nc_strategies.sigopt")
Array = NDArray[np.float64]
LEAST = 1e-3
"""Least loss and saving of a unit, relative to the mean: estimates of zero or below are noise."""


LEAST_GAIN = 0.01
"""Part of the latency that a unit must be expected to save in fp32 for that to be tried."""


@dataclass(frozen=True)
class Estimate:
    """Loss and saving of each unit in int8; only their proportions count.

    Args:
        units: Operators that share one scheme and have the choice between fp32 and int8, the most worthwhile first.
        loss: Expected loss of each unit, positive, with sum 1.
        saved: Expected share of the cost that each unit saves, positive, with sum 1.
        loss_sd: Standard deviation of `loss`, relative.
        saved_sd: Standard deviation of `saved`, relative.
    """

    units: tuple[tuple[str, ...], ...]
    loss: Array
    saved: Array
    loss_sd: float
    saved_sd: float


def estimate(problem: Problem) -> Estimate:
    """The backend's estimates where it has some, else what is known of operators in general."""
    space = problem.space
    units = [group for group in space.groups
             if FLOAT in space.schemes(group) and any(not s.is_float for s in space.schemes(group))]
    if problem.sensitivity is not None:
        known = problem.sensitivity()
        loss, loss_sd = np.array([sum(known.get(name, 0.0) for name in unit) for unit in units]), 0.8
    else:
        loss, loss_sd = _prior_loss(space, units), 1.5
    saved, saved_sd = _prior_saving(space, units), 0.8
    if problem.latency_model is not None:
        try:
            saved, saved_sd = _modelled_saving(problem, units), 0.3
        except EngineError as error:
            log.warning("latency is not modelled: %s", error)
    loss, saved = _positive(loss), _positive(saved)
    order = np.argsort(loss / saved, kind="stable")
    return Estimate(tuple(units[i] for i in order), loss[order], saved[order], loss_sd, saved_sd)


def int8_scheme(space: Space, unit: tuple[str, ...], config: Config) -> Config:
    """The configuration with a unit in its first int8 scheme."""
    return config.with_op(*unit, scheme=next(s for s in space.schemes(unit) if not s.is_float))


def fastest(problem: Problem, config: Config, units: Sequence[tuple[str, ...]]) -> Config:
    """A configuration without the units that a latency model expects to be faster in fp32; itself without a model."""
    cost = problem.latency_model
    if cost is None:
        return config
    try:
        lowest = cost(config)
        gains = {unit: lowest - cost(config.with_op(*unit)) for unit in units}
        for unit in sorted((u for u in units if gains[u] > 0), key=lambda u: -gains[u]):
            without = config.with_op(*unit)
            now = cost(without)
            if now < lowest * (1 - LEAST_GAIN):
                config, lowest = without, now
    except EngineError as error:
        log.warning("latency is not modelled: %s", error)
    return config


def _modelled_saving(problem: Problem, units: list[tuple[str, ...]]) -> Array:
    """Mean of a unit's saving alone and its saving among others: int8/fp32 boundaries count half."""
    space, cost = problem.space, problem.latency_model
    assert cost is not None
    bottom, top = space.all_float(), space.all_float()
    for unit in units:
        top = int8_scheme(space, unit, top)
    low, high = cost(bottom), cost(top)
    return np.array([(low - cost(int8_scheme(space, unit, bottom)) + cost(top.with_op(*unit)) - high) / 2
                     for unit in units])


def _prior_loss(space: Space, units: list[tuple[str, ...]]) -> Array:
    """First, last and lightly weighted operators lose most.

    Source: Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference" (2018), on depthwise
    convolutions; the first and last layer are kept in higher precision throughout the literature.
    """
    names = list(space.ops)
    weights = np.array([sum(space.ops[name].parameters for name in unit) for unit in units], float)
    loss = np.ones(len(units))
    if len(units) > 2:
        place = np.array([names.index(unit[0]) for unit in units])
        loss[int(place.argmin())] *= 3.0
        loss[int(place.argmax())] *= 3.0
        typical = np.median(weights[weights > 0]) if (weights > 0).any() else 1.0
        loss *= np.where(weights > 0, np.clip(typical / np.maximum(weights, 1.0), 0.5, 2.0), 0.5)
    return loss


def _prior_saving(space: Space, units: list[tuple[str, ...]]) -> Array:
    """Multiplications are near the geometric mean of weight and output size; others only move their outputs."""
    weights = np.array([sum(space.ops[name].parameters for name in unit) for unit in units], float)
    outputs = np.array([sum(space.ops[name].elements for name in unit) for unit in units], float)
    return np.asarray(np.sqrt(np.maximum(weights, 1.0) * np.maximum(outputs, 1.0)))


def _positive(values: Array) -> Array:
    if len(values) == 0:
        return values
    # Infinite is what cannot even run in int8: worse than all that can.
    worst = 3.0 * float(values[np.isfinite(values)].max(initial=0.0))
    values = np.nan_to_num(values, nan=0.0, posinf=worst, neginf=0.0)
    mean = float(np.maximum(values, 0.0).mean())
    least = LEAST * mean if mean > 0 else 1.0
    values = np.maximum(values, least)
    return np.asarray(values / values.sum())
