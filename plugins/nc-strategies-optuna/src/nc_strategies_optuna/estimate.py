"""What int8 is expected to cost and to save, operator by operator, before anything is tried."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nc_strategies.api import FLOAT, Config, EngineError, Problem, Space

log = logging.getLogger("nc_strategies.optuna")
Array = NDArray[np.float64]
LEAST = 1e-3
"""Least loss and saving of a operator group, relative to the mean: estimates of zero or below are noise."""


LEAST_GAIN = 0.01
"""Part of the latency that a operator group must be expected to save in fp32 for that to be tried."""


@dataclass(frozen=True)
class Estimate:
    """Loss and saving of each operator group in int8; only their proportions count.

    Args:
        tied_ops: Operators that share one scheme and have the choice between fp32 and int8, the most worthwhile first.
        loss: Expected loss of each operator group, positive, with sum 1.
        saved: Expected share of the cost that each operator group saves, positive, with sum 1.
        loss_sd: Standard deviation of `loss`, relative.
        saved_sd: Standard deviation of `saved`, relative.
    """

    tied_ops: tuple[tuple[str, ...], ...]
    loss: Array
    saved: Array
    loss_sd: float
    saved_sd: float


def estimate(problem: Problem) -> Estimate:
    """The backend's estimates where it has some, else what is known of operators in general."""
    space = problem.space
    tied_ops = [
        group
        for group in space.groups
        if FLOAT in space.schemes(group) and any(not s.is_float for s in space.schemes(group))
    ]
    known = problem.sensitivity() if problem.sensitivity is not None else {}
    if known:
        loss, loss_sd = np.array([sum(known.get(name, 0.0) for name in tied_op) for tied_op in tied_ops]), 0.8
    else:
        loss, loss_sd = _prior_loss(space, tied_ops), 1.5
    saved, saved_sd = _prior_saving(space, tied_ops), 0.8
    if problem.latency_model is not None:
        try:
            saved, saved_sd = _modelled_saving(problem, tied_ops), 0.3
        except EngineError as error:
            log.warning("latency is not modelled: %s", error)
    loss, saved = _positive(loss), _positive(saved)
    order = np.argsort(loss / saved, kind="stable")
    return Estimate(tuple(tied_ops[i] for i in order), loss[order], saved[order], loss_sd, saved_sd)


def int8_scheme(space: Space, tied_op: tuple[str, ...], config: Config) -> Config:
    """The configuration with a operator group in its first int8 scheme."""
    return config.with_op(*tied_op, scheme=next(s for s in space.schemes(tied_op) if not s.is_float))


def fastest(problem: Problem, config: Config, tied_ops: Sequence[tuple[str, ...]]) -> Config:
    """A configuration with the operator groups in fp32 that a latency model expects to be faster there."""
    cost = problem.latency_model
    if cost is None:
        return config
    try:
        lowest = cost(config)
        gains = {tied_op: lowest - cost(config.with_op(*tied_op)) for tied_op in tied_ops}
        for tied_op in sorted((u for u in tied_ops if gains[u] > 0), key=lambda u: -gains[u]):
            without = config.with_op(*tied_op)
            now = cost(without)
            if now < lowest * (1 - LEAST_GAIN):
                config, lowest = without, now
    except EngineError as error:
        log.warning("latency is not modelled: %s", error)
    return config


def _modelled_saving(problem: Problem, tied_ops: list[tuple[str, ...]]) -> Array:
    """Mean of a operator group's saving alone and its saving among others: int8/fp32 boundaries count half."""
    space, cost = problem.space, problem.latency_model
    assert cost is not None
    bottom, top = space.all_float(), space.all_float()
    for tied_op in tied_ops:
        top = int8_scheme(space, tied_op, top)
    low, high = cost(bottom), cost(top)
    return np.array(
        [
            (low - cost(int8_scheme(space, tied_op, bottom)) + cost(top.with_op(*tied_op)) - high) / 2
            for tied_op in tied_ops
        ]
    )


def _prior_loss(space: Space, tied_ops: list[tuple[str, ...]]) -> Array:
    """First, last and lightly weighted operators lose most.

    Source: Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference" (2018), on depthwise
    convolutions; the first and last layer are kept in higher precision throughout the literature.
    """
    names = list(space.ops)
    weights = np.array([sum(space.ops[name].parameters for name in tied_op) for tied_op in tied_ops], float)
    loss = np.ones(len(tied_ops))
    if len(tied_ops) > 2:
        place = np.array([names.index(tied_op[0]) for tied_op in tied_ops])
        loss[int(place.argmin())] *= 3.0
        loss[int(place.argmax())] *= 3.0
        typical = np.median(weights[weights > 0]) if (weights > 0).any() else 1.0
        loss *= np.where(weights > 0, np.clip(typical / np.maximum(weights, 1.0), 0.5, 2.0), 0.5)
    return loss


def _prior_saving(space: Space, tied_ops: list[tuple[str, ...]]) -> Array:
    """Multiplications are near the geometric mean of weight and output size; others only move their outputs."""
    weights = np.array([sum(space.ops[name].parameters for name in tied_op) for tied_op in tied_ops], float)
    outputs = np.array([sum(space.ops[name].elements for name in tied_op) for tied_op in tied_ops], float)
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
