"""Selection of the int8 schemes that enter the program: one activation scheme, chosen by noise before any trial.

Engines convert between operators of different int8 activation schemes. A graph that mixes data types or zero points is
therefore slower than the sum of its operators predicts. One activation scheme is chosen for the whole graph, and
operators choose between it, the default and floating point.
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
from nc_strategies.space.scheme import way
from nc_strategies.strategies.ilp.columns import Array

log = logging.getLogger(__name__)
Group = tuple[str, ...]


@dataclass(frozen=True)
class CandidateRules:
    """When another scheme than the default enters the program."""

    cost_tie: float = 0.02
    """Relative difference in predicted cost of the whole graph that an activation scheme with less noise may have."""
    max_noise_ratio: float = 0.9
    """Noise relative to the default's below which another activation scheme replaces the default's."""
    compared_noise_share: float = 0.1
    """Largest share of the noise that the compared operators make. The noisiest operators are left in floating point
    until the others make no more than this."""
    max_noisy_share: float = 1 / 3
    """Largest share of the operators that are left in floating point for their noise."""
    max_cost_ratio: float = 0.98
    """Cost relative to the chosen scheme's below which another granularity of weights gets a column."""


CANDIDATE_RULES = CandidateRules()


@dataclass(frozen=True)
class CandidateSchemes:
    """The schemes that enter the program, and their measured effects.

    Args:
        schemes: The schemes of each group, the default first.
        factors: Expected loss of a scheme relative to its group's default, where it was measured.
        options: Pair (graph option, value) to the factor by which it multiplies the loss, where it was measured.
    """

    schemes: Mapping[Group, tuple[OpScheme, ...]]
    factors: Mapping[tuple[Group, OpScheme], float]
    options: Mapping[tuple[str, OptionValue], float]


def choose(
    problem: Problem, shape: Array, terms: LatencyTerms | None, probes: int, known: dict[str, float | None]
) -> CandidateSchemes:
    """Choose an activation scheme by the noise in the outputs.

    The operators that make most of the noise will not stay in int8, so they are in floating point for the comparison.

    Args:
        problem: The tuning problem; it has a divergence.
        shape: Estimated loss of each group, shape (groups,).
        terms: Latency terms; without them only activation schemes of the default's data type are compared.
        probes: Divergences to measure at most.
        known: Divergences by fingerprint that are measured already; new ones are added.
    """
    space, probe = problem.space, _Probe(problem, probes, known)
    noisy = _noisy(space, shape)
    start = probe.noise(_without_noisy(space, space.default(), noisy))
    best, factor = space.default(), 1.0
    options: dict[tuple[str, OptionValue], float] = {}
    if start:
        for config in _with_one_activation_scheme(space, terms):
            found = probe.noise(_without_noisy(space, config, noisy))
            if found is not None and found < min(CANDIDATE_RULES.max_noise_ratio, factor) * start:
                best, factor = config, found / start
        for name, values in space.options.items():
            for value in values[1:]:
                found = probe.noise(_without_noisy(space, best.with_option(name, value), noisy))
                if found is not None:
                    options[name, value] = found / (factor * start)
    default = space.default()
    schemes = {group: _kept(space, terms, group, best.schemes[group[0]]) for group in space.groups}
    chosen = {group: best.schemes[group[0]] for group in space.groups}
    factors = {
        (group, scheme): factor if scheme != default.schemes[group[0]] else 1.0
        for group, scheme in chosen.items()
        if scheme.is_static
    }
    return CandidateSchemes(schemes, factors, options)


def _kept(space: Space, terms: LatencyTerms | None, group: Group, chosen: OpScheme) -> tuple[OpScheme, ...]:
    """The schemes of a group that get a column: the default, the chosen one, other modes, and cheaper weights."""
    usual = space.default().schemes[group[0]]
    kept: dict[OpScheme, None] = {}
    ways: set[str] = set()
    for scheme in space.schemes(group):
        other_way = not scheme.is_static and way(scheme) not in ways
        ways.add(way(scheme))
        if other_way or scheme in (chosen, usual) or (scheme.is_static and _cheaper(terms, group, scheme, chosen)):
            kept[scheme] = None
    return tuple(kept)


def _noisy(space: Space, shape: Array) -> list[Group]:
    groups = [g for g in space.groups if FLOAT in space.schemes(g)]
    noise = {g: float(s) for g, s in zip(space.groups, shape, strict=True)}
    groups.sort(key=lambda g: -noise[g])
    left, total, noisy = float(np.sum(shape)), float(np.sum(shape)), list[Group]()
    for group in groups[: int(len(groups) * CANDIDATE_RULES.max_noisy_share)]:
        if left <= CANDIDATE_RULES.compared_noise_share * total:
            break
        noisy.append(group)
        left -= noise[group]
    return noisy


def _without_noisy(space: Space, config: Config, noisy: list[Group]) -> Config:
    return config.with_op(*(name for group in noisy for name in group), scheme=FLOAT) if noisy else config


def _with_one_activation_scheme(space: Space, terms: LatencyTerms | None) -> list[Config]:
    """The default with each other activation scheme wherever operators allow it, except where that is slower."""
    default = space.default()
    activations: dict[TensorScheme, None] = {}
    for op in space.quantizable:
        activations.update(dict.fromkeys(s.activation for s in op.schemes if s.is_static))
    found: dict[str, Config] = {}
    for activation in activations:
        chosen: dict[str, OpScheme] = {}
        for group in space.groups:
            old = default.schemes[group[0]]
            wanted = OpScheme(activation, old.weight)
            if old.is_static and wanted in space.schemes(group):
                chosen.update(dict.fromkeys(group, wanted))
        config = default.with_ops(chosen)
        found.setdefault(config.fingerprint, config)
    found.pop(default.fingerprint, None)
    if terms is None:
        return [c for c in found.values() if _activation_types(c) == _activation_types(default)]
    cheapest = min([terms(default), *(terms(c) for c in found.values())])
    return [c for c in found.values() if terms(c) <= (1 + CANDIDATE_RULES.cost_tie) * cheapest]


def _activation_types(config: Config) -> set[tuple[str, str]]:
    return {(s.activation.dtype, s.activation.scheme) for _, s in config.ops if s.is_static}


def _cheaper(terms: LatencyTerms | None, group: Group, scheme: OpScheme, chosen: OpScheme) -> bool:
    """Whether a scheme differs from the chosen one in its weights only, and costs less."""
    if terms is None or scheme.activation != chosen.activation:
        return False
    cost, usual = (sum(terms.ops[n][s] for n in group if n in terms.ops) for s in (scheme, chosen))
    return cost < CANDIDATE_RULES.max_cost_ratio * usual


class _Probe:
    """Measures divergences, up to a number."""

    def __init__(self, problem: Problem, probes: int, known: dict[str, float | None]) -> None:
        assert problem.divergence is not None
        self._ask, self._most, self._known = problem.divergence, probes, known

    def noise(self, config: Config) -> float | None:
        """A configuration's divergence; None where the engine fails at it, or no probe is left."""
        if config.fingerprint not in self._known:
            if len(self._known) >= self._most:
                return None
            self._known[config.fingerprint] = self._measured(config)
        return self._known[config.fingerprint]

    def _measured(self, config: Config) -> float | None:
        try:
            found = self._ask(config)
        except EngineError as error:
            log.info("no divergence: %s", error)
            return None
        return found if math.isfinite(found) and found >= 0 else None
