"""Which int8 schemes enter the program: those of one form of activations, compared by noise before any trial.

Engines convert where one operator's int8 form meets another's, so a graph that mixes data types or zero points is slow
in a way that no sum of single operators tells. One form is therefore chosen for the whole graph, and operators choose
between it, the default and floating point.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nc_strategies.errors import EngineError
from nc_strategies.problem import LatencyTerms, Problem
from nc_strategies.space import FLOAT, Config, OpScheme, Space, TensorScheme
from nc_strategies.space.capabilities import OptionValue
from nc_strategies.strategies.ilp.columns import Array

log = logging.getLogger(__name__)
Group = tuple[str, ...]
COST_TIE = 0.02
"""Relative difference in predicted cost of the whole graph that a quieter form may take."""
WORTH = 0.9
"""Noise relative to the default's below which another form is taken."""
LOUD, LOUD_SHARE = 0.1, 1 / 3
"""Operators are set aside, the noisiest first, until the others make this part of the noise; at most such a share."""
CHEAPER = 0.98
"""Cost relative to the default scheme's below which another granularity of weights is worth a column."""


@dataclass(frozen=True)
class CandidateSchemes:
    """What enters the program.

    Args:
        schemes: The schemes of each group, the default first.
        factors: Expected loss of a scheme relative to its group's default, where it was measured.
        options: Pairs (graph option, value) to what it multiplies the loss by, where it was measured.
    """

    schemes: Mapping[Group, tuple[OpScheme, ...]]
    factors: Mapping[tuple[Group, OpScheme], float]
    options: Mapping[tuple[str, OptionValue], float]


def choose(
    problem: Problem, shape: Array, terms: LatencyTerms | None, probes: int, known: dict[str, float | None]
) -> CandidateSchemes:
    """Compare forms by the noise they leave in the outputs.

    Operators that make most of the noise will not stay in int8; they are in floating point while forms are compared.

    Args:
        problem: What is to be solved; has a divergence.
        shape: Estimated loss of each group, shape (groups,).
        terms: Latency terms; without them only forms of the default's data type are compared.
        probes: Divergences to ask for at most.
        known: Divergences by fingerprint that were asked for before, to which those asked for here are added.
    """
    space, probe = problem.space, _Probe(problem, probes, known)
    loud = _loud(space, shape)
    start = probe.noise(_quiet(space, space.default(), loud))
    best, factor = space.default(), 1.0
    options: dict[tuple[str, OptionValue], float] = {}
    if start:
        for config in _uniform(space, terms):
            found = probe.noise(_quiet(space, config, loud))
            if found is not None and found < min(WORTH, factor) * start:
                best, factor = config, found / start
        for name, values in space.options.items():
            for value in values[1:]:
                found = probe.noise(_quiet(space, best.with_option(name, value), loud))
                if found is not None:
                    options[name, value] = found / (factor * start)
    default = space.default()
    schemes = {group: _kept(space, terms, group, best.schemes[group[0]]) for group in space.groups}
    chosen = {group: best.schemes[group[0]] for group in space.groups}
    factors = {
        (group, scheme): factor if scheme != default.schemes[group[0]] else 1.0
        for group, scheme in chosen.items()
        if not scheme.is_float
    }
    return CandidateSchemes(schemes, factors, options)


def _kept(space: Space, terms: LatencyTerms | None, group: Group, chosen: OpScheme) -> tuple[OpScheme, ...]:
    """The schemes of a group that are worth a column: floating point, the default, the chosen one, cheaper weights."""
    usual = space.default().schemes[group[0]]
    return tuple(
        s for s in space.schemes(group) if s.is_float or s in (chosen, usual) or _cheaper(terms, group, s, chosen)
    )


def _loud(space: Space, shape: Array) -> list[Group]:
    groups = [g for g in space.groups if FLOAT in space.schemes(g)]
    noise = {g: float(s) for g, s in zip(space.groups, shape, strict=True)}
    groups.sort(key=lambda g: -noise[g])
    left, total, loud = float(np.sum(shape)), float(np.sum(shape)), list[Group]()
    for group in groups[: int(len(groups) * LOUD_SHARE)]:
        if left <= LOUD * total:
            break
        loud.append(group)
        left -= noise[group]
    return loud


def _quiet(space: Space, config: Config, loud: list[Group]) -> Config:
    return config.with_op(*(name for group in loud for name in group), scheme=FLOAT) if loud else config


def _uniform(space: Space, terms: LatencyTerms | None) -> list[Config]:
    """The default with another form of activations wherever it can be had, none slower than what can be had."""
    default = space.default()
    forms: dict[TensorScheme, None] = {}
    for op in space.quantizable:
        forms.update(dict.fromkeys(s.activation for s in op.schemes if not s.is_float))
    found: dict[str, Config] = {}
    for form in forms:
        chosen: dict[str, OpScheme] = {}
        for group in space.groups:
            old = default.schemes[group[0]]
            wanted = OpScheme(form, old.weight)
            if not old.is_float and wanted in space.schemes(group):
                chosen.update(dict.fromkeys(group, wanted))
        config = default.with_ops(chosen)
        found.setdefault(config.fingerprint, config)
    found.pop(default.fingerprint, None)
    if terms is None:
        return [c for c in found.values() if _sort(c) == _sort(default)]
    cheapest = min([terms(default), *(terms(c) for c in found.values())])
    return [c for c in found.values() if terms(c) <= (1 + COST_TIE) * cheapest]


def _sort(config: Config) -> set[tuple[str, str]]:
    return {(s.activation.dtype, s.activation.scheme) for _, s in config.ops}


def _cheaper(terms: LatencyTerms | None, group: Group, scheme: OpScheme, chosen: OpScheme) -> bool:
    """Whether a scheme differs from the chosen one in its weights only, and costs less."""
    if terms is None or scheme.activation != chosen.activation:
        return False
    cost, usual = (sum(terms.ops[n][s] for n in group if n in terms.ops) for s in (scheme, chosen))
    return cost < CHEAPER * usual


class _Probe:
    """Asks for divergences, so many at most."""

    def __init__(self, problem: Problem, probes: int, known: dict[str, float | None]) -> None:
        assert problem.divergence is not None
        self._ask, self._most, self._known = problem.divergence, probes, known

    def noise(self, config: Config) -> float | None:
        """A configuration's divergence; None where there is none, or none is left to ask for."""
        if config.fingerprint not in self._known:
            if len(self._known) >= self._most:
                return None
            self._known[config.fingerprint] = self._found(config)
        return self._known[config.fingerprint]

    def _found(self, config: Config) -> float | None:
        try:
            found = self._ask(config)
        except EngineError as error:
            log.info("no divergence: %s", error)
            return None
        return found if math.isfinite(found) and found >= 0 else None
