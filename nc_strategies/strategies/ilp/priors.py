"""What is believed of losses before trials: estimates by operator, shrunk, and how much another scheme changes them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nc_strategies.errors import EngineError
from nc_strategies.problem import Problem
from nc_strategies.space import Config, OpScheme
from nc_strategies.strategies.choices import Change, changed, changed_scheme, changes
from nc_strategies.strategies.ilp.columns import Array, Columns

log = logging.getLogger(__name__)
ESTIMATE_ERROR, GUESS_ERROR = 0.7, 1.2
"""Standard deviation of the logarithm of a loss over its estimate, with and without the backend's sensitivity."""
LEAST = 0.02
"""Least estimate of a unit, relative to the mean: zero or below is noise of the estimate."""
ENOUGH = 5
"""Units from which the spread of the true losses can be told from that of the estimates."""
KNOWN = {"per_tensor": 1.5, "per_channel": 1 / 1.5, "sym": 1.2, "asym": 1 / 1.2}
"""How much a choice multiplies an operator's loss where nothing is measured."""
UNMEASURED, MEASURED = 0.3, 0.15
"""Relative standard deviation of such a factor, guessed and read off the divergence."""
NOISIEST = 3
"""Operators whose choices are compared one by one, where probes are left."""


@dataclass(frozen=True)
class Losses:
    """Prior beliefs on the loss of each unit, in proportion, and of each column.

    Args:
        shape: Expected loss of each unit in its first int8 scheme, shape (units of operators,); only proportions count.
        error: Relative standard deviation of `shape`.
        factors: Loss of each column relative to its unit's `shape`: 0 for fp32. For a graph option's value, what it
            multiplies the whole loss by.
        measured: Fields of schemes, and options, whose factor was read off the divergence.
    """

    shape: Array
    error: float
    factors: Array
    measured: frozenset[str]


def losses(problem: Problem, columns: Columns, probes: int) -> Losses:
    """Ask for the estimates and compare other choices by their divergence.

    Args:
        problem: What is to be solved.
        columns: Its columns.
        probes: Divergences to ask for at most.
    """
    if problem.sensitivity is not None:
        raw, error = _by_unit(columns, problem.sensitivity()), ESTIMATE_ERROR
    else:
        raw, error = _guess(columns), GUESS_ERROR
    shape, relative = shrink(raw, error)
    factors, measured = _Probe(problem, columns, probes, shape).factors()
    return Losses(shape, relative, factors, measured)


def shrink(estimates: Array, error: float) -> tuple[Array, float]:
    """Expected true values given estimates which are off by a lognormal factor, and their relative error.

    True values are taken as lognormal too, with the spread that is left of the estimates' own: the largest estimates
    are expected to be overestimated, the smallest to be underestimated. Source: empirical Bayes, Efron and Morris,
    "Stein's Estimation Rule and Its Competitors", JASA 1973.

    Args:
        estimates: Not negative.
        error: Standard deviation of the logarithm of estimate over truth.
    """
    if not len(estimates) or not (estimates > 0).any():
        return np.ones(len(estimates)), math.sqrt(math.expm1(error**2))
    logs = np.log(np.maximum(estimates, LEAST * float(estimates.mean())))
    spread, share = float(logs.var()), 1.0
    if len(estimates) >= ENOUGH:
        share = max(spread - error**2, 0.25 * spread) / spread if spread > 0 else 0.0
    left = max(share, 0.25) * error**2
    return np.exp(logs.mean() + share * (logs - logs.mean())), math.sqrt(math.expm1(left))


def _by_unit(columns: Columns, known: Mapping[str, float]) -> Array:
    """A unit's estimate: tied operators share one; what cannot even run is taken for thrice the worst."""
    raw = np.array([max((known.get(n, 0.0) for n in g), default=0.0) for g in columns.space.groups])
    finite = raw[np.isfinite(raw)]
    worst = 3 * float(finite.max()) if len(finite) and finite.max() > 0 else 1.0
    return np.asarray(np.maximum(np.nan_to_num(raw, nan=worst, posinf=worst, neginf=0.0), 0.0))


def _guess(columns: Columns) -> Array:
    """The first and the last operator lose most, as the literature keeps them in higher precision throughout."""
    guess = np.ones(len(columns.space.groups))
    if len(guess) > 2:
        guess[[0, -1]] = 3.0
    return guess


class _Probe:
    """Compares choices by the noise they leave in the outputs."""

    def __init__(self, problem: Problem, columns: Columns, probes: int, shape: Array) -> None:
        self.space, self.columns, self.shape = problem.space, columns, shape
        self.divergence, self.left = problem.divergence, probes
        self.base = problem.space.default()
        self.fields = changes(problem.space.quantizable)
        self._asked: set[str] = set()

    @property
    def _alternatives(self) -> bool:
        return any(values[1:] for values in self.space.options.values()) or any(
            changed(self.space, self.base, self.space.quantizable, change) != self.base
            for change in self.fields.values())

    def factors(self) -> tuple[Array, frozenset[str]]:
        by_field, by_option = dict[str, float](), dict[tuple[str, object], float]()
        start = self._noise(self.base) if self._alternatives else None
        single: dict[tuple[int, str], float] = {}
        if start:
            for text, change in self.fields.items():
                found = self._noise(changed(self.space, self.base, self.space.quantizable, change))
                if found is not None:
                    by_field[text] = found / start
            for name, values in self.space.options.items():
                for value in values[1:]:
                    found = self._noise(self.base.with_option(name, value))
                    if found is not None:
                        by_option[name, value] = found / start
            single = self._noisiest(start)
        measured = frozenset(by_field) | {name for name, _ in by_option}
        result = []
        for column in self.columns.all:
            if column.scheme is None:
                result.append(by_option.get((column.names[0], column.value), 1.0))
            elif column.scheme.is_float:
                result.append(0.0)
            else:
                result.append(self._factor(column.unit, column.scheme, by_field, single))
        return np.clip(np.array(result), 0.0, 10.0), measured

    def _noise(self, config: Config) -> float | None:
        """A configuration's divergence; None where there is none, none is left to ask for, or it was asked for."""
        if self.divergence is None or self.left <= 0 or config.fingerprint in self._asked:
            return None
        self._asked.add(config.fingerprint)
        self.left -= 1
        try:
            found = self.divergence(config)
        except EngineError as error:
            log.info("no divergence: %s", error)
            return None
        return found if math.isfinite(found) and found >= 0 else None

    def _noisiest(self, start: float) -> dict[tuple[int, str], float]:
        """Each choice for each of the noisiest units alone: what it does to that unit's part of the noise."""
        part = self.shape * start / float(self.shape.sum())
        found = {}
        for unit in np.argsort(-self.shape, kind="stable")[:NOISIEST].tolist():
            ops = [self.space.ops[name] for name in self.space.groups[unit]]
            for text, change in self.fields.items():
                noise = self._noise(changed(self.space, self.base, ops[:1], change))
                if noise is not None:
                    found[unit, text] = float(np.clip(1 + (noise - start) / part[unit], 0.2, 4.0))
        return found

    def _factor(self, unit: int, scheme: OpScheme, by_field: Mapping[str, float],
                single: Mapping[tuple[int, str], float]) -> float:
        """The product of what each field that differs from the first scheme does."""
        first = next(s for s in self.space.schemes(self.space.groups[unit]) if not s.is_float)
        total = 1.0
        for text, change in differences(first, scheme, self.fields).items():
            total *= single.get((unit, text), by_field.get(text, KNOWN.get(change[-1][1], 1.0)))
        return total


def differences(first: OpScheme, scheme: OpScheme, fields: Mapping[str, Change]) -> dict[str, Change]:
    """The changes that lead from one int8 scheme towards another."""
    return {text: change for text, change in fields.items()
            if changed_scheme(first, change) != first and changed_scheme(scheme, change) == scheme}
