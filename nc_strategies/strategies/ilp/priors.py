"""Prior losses before any trial: shrunk estimates per operator, and factors for other schemes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nc_strategies.problem import LatencyTerms, Problem
from nc_strategies.space import OpScheme, Space
from nc_strategies.space.blocks import find_roles
from nc_strategies.space.scheme import way
from nc_strategies.strategies.choices import Change, changed_scheme, changes
from nc_strategies.strategies.ilp.candidate_schemes import CandidateSchemes, choose
from nc_strategies.strategies.ilp.columns import Array, Column, Columns

GUESSED_FACTORS = {
    "per_tensor": 1.5,
    "per_channel": 1 / 1.5,
    "sym": 1.2,
    "asym": 1 / 1.2,
    "static": 1.0,
    "dynamic": 0.5,
    "weight_only": 0.5,
}
"""Choice to the factor by which it multiplies an operator's loss, where nothing is measured."""


ROLE_FACTORS = {"down": 2.0}
"""Role in a transformer's layer to the factor by which it multiplies a guessed loss. The second product of the
feed-forward network reads and writes the tensors with outliers in few channels (Bondarenko et al., "Understanding and
Overcoming the Challenges of Efficient Transformer Quantization", EMNLP 2021)."""


@dataclass(frozen=True)
class PriorRules:
    """Errors of prior losses, and limits on the estimates from which they are derived."""

    estimate_log_sd: float = 0.7
    """Standard deviation of the logarithm of a loss over its estimate, where the backend estimates sensitivity."""
    guess_log_sd: float = 1.2
    """The same where losses are guessed."""
    min_estimate: float = 0.02
    """Least estimate of a decision, relative to the mean: an estimate of zero or below is noise."""
    least_alike: int = 3
    """Fewest decisions about operators that are alike, such as the same projection in every layer, from which the mean
    of these replaces that of all."""
    min_spread_decisions: int = 5
    """Fewest decisions for which the spread of the true losses is separated from the error of the estimates."""
    guessed_factor_sd: float = 0.3
    """Relative standard deviation of a factor from `GUESSED_FACTORS`."""
    measured_factor_sd: float = 0.15
    """Relative standard deviation of a factor that is a ratio of two measured divergences."""


PRIOR_RULES = PriorRules()


@dataclass(frozen=True)
class Losses:
    """Prior losses of decisions, up to a common scale, and of columns.

    Args:
        shape: Expected loss of each decision in its first int8 scheme, shape (decisions of operators,); only
            proportions count.
        error: Relative standard deviation of `shape`.
        factors: Loss of each column relative to its decision's `shape`: 0 for fp32. For a value of a graph option, the
            factor by which it multiplies the sum of all losses.
        measured: Fields of schemes, and options, whose factor is a ratio of measured divergences.
    """

    shape: Array
    error: float
    factors: Array
    measured: frozenset[str]


def losses(
    problem: Problem, probes: int, terms: LatencyTerms | None, known: dict[str, float | None]
) -> tuple[Columns, Losses]:
    """Estimate prior losses, and choose the schemes that enter the program.

    Args:
        problem: The tuning problem.
        probes: Divergences to measure at most.
        terms: Latency terms; None without any.
        known: Divergences by fingerprint that are measured already; new ones are added.

    Returns:
        The columns of the program, and their prior losses.
    """
    columns = Columns(problem.space)
    known_loss = problem.sensitivity() if problem.sensitivity is not None else {}
    raw, error = (
        (_by_decision(columns, known_loss), PRIOR_RULES.estimate_log_sd)
        if known_loss
        else (_guess(columns), PRIOR_RULES.guess_log_sd)
    )
    shape, relative = shrink(raw, error, _roles(columns))
    found = CandidateSchemes({}, {}, {})
    if problem.divergence is not None and probes > 0 and _alternatives(problem.space):
        found = choose(problem, shape, terms, probes, known)
        columns = Columns(problem.space, found.schemes)
    by_mode = _mode_factors(problem, columns, raw) if known_loss else {}
    found = replace(found, factors={**found.factors, **by_mode})
    factors = np.clip([_factor(columns, c, found) for c in columns.all], 0.0, 10.0)
    measured = frozenset(name for name, _ in found.options) | ({"scheme"} if found.factors else frozenset())
    return columns, Losses(shape, relative, factors, measured)


def _mode_factors(problem: Problem, columns: Columns, raw: Array) -> dict[tuple[tuple[str, ...], OpScheme], float]:
    """Noise of each operator in its other quantization modes, relative to its noise in the default scheme."""
    assert problem.sensitivity is not None
    found: dict[tuple[tuple[str, ...], OpScheme], float] = {}
    noise: dict[str, Mapping[str, float]] = {}
    for column in columns.all:
        if column.scheme is None or column.scheme.is_float or column.first or column.scheme.is_static:
            continue
        mode = way(column.scheme)
        if mode not in noise:
            noise[mode] = problem.sensitivity(mode)
        known = [noise[mode][name] for name in column.names if name in noise[mode]]
        if known and raw[column.decision] > 0 and math.isfinite(max(known)):
            found[column.names, column.scheme] = max(known) / float(raw[column.decision])
    return found


def _alternatives(space: Space) -> bool:
    return any(values[1:] for values in space.options.values()) or any(
        sum(not s.is_float for s in space.schemes(group)) > 1 for group in space.groups
    )


def _factor(columns: Columns, column: Column, found: CandidateSchemes) -> float:
    """Loss of a column relative to its decision's default: measured, or the product of its fields' guessed factors."""
    if column.scheme is None:
        return found.options.get((column.names[0], column.value), 1.0)  # type: ignore[arg-type]
    if column.scheme.is_float:
        return 0.0
    known = found.factors.get((column.names, column.scheme))
    if known is not None:
        return known
    first = next(s for s in columns.space.schemes(column.names) if not s.is_float)
    if not column.scheme.is_static or not first.is_static:
        return GUESSED_FACTORS[column.scheme.mode] / GUESSED_FACTORS[first.mode]
    fields = changes(columns.space.quantizable)
    return float(
        np.prod(
            [GUESSED_FACTORS.get(change[-1][1], 1.0) for change in differences(first, column.scheme, fields).values()]
        )
    )


def _roles(columns: Columns) -> list[str]:
    """Role of each decision's operators in a transformer's layer, see `find_roles`; empty for none."""
    known = find_roles(list(columns.space.ops.values()))
    return [next((known[name] for name in group if name in known), "") for group in columns.space.groups]


def shrink(estimates: Array, error: float, kinds: Sequence[str] = ()) -> tuple[Array, float]:
    """Expected true values given estimates with a lognormal error, and their relative error.

    True values are taken as lognormal too, around the mean of their kind. Their spread is that of the estimates less
    the error's, so that the largest estimates are lowered and the smallest raised. Source: empirical Bayes, Efron and
    Morris, "Stein's Estimation Rule and Its Competitors", JASA 1973.

    Args:
        estimates: Not negative.
        error: Standard deviation of the logarithm of estimate over truth.
        kinds: Kind of each estimate, empty for none. Kinds with few estimates count as none.
    """
    if not len(estimates) or not (estimates > 0).any():
        return np.ones(len(estimates)), math.sqrt(math.expm1(error**2))
    logs = np.log(np.maximum(estimates, PRIOR_RULES.min_estimate * float(estimates.mean())))
    means = _means(logs, kinds)
    spread, share = float(np.square(logs - means).mean()), 1.0
    if len(estimates) >= PRIOR_RULES.min_spread_decisions:
        share = max(spread - error**2, 0.25 * spread) / spread if spread > 0 else 0.0
    left = max(share, 0.25) * error**2
    return np.exp(means + share * (logs - means)), math.sqrt(math.expm1(left))


def _means(values: Array, kinds: Sequence[str]) -> Array:
    """Mean of the values of each one's kind, shape of `values`; of all that are of no frequent kind for the others."""
    frequent = {k for k, n in Counter(kinds).items() if k and n >= PRIOR_RULES.least_alike}
    labels = np.array([k if k in frequent else "" for k in kinds] or [""] * len(values))
    means = np.empty(len(values))
    for label in dict.fromkeys(labels.tolist()):
        means[labels == label] = values[labels == label].mean()
    return means


def _by_decision(columns: Columns, known: Mapping[str, float]) -> Array:
    """Estimate of each decision: the largest of its tied operators; three times the worst for one that cannot run."""
    raw = np.array([max((known.get(n, 0.0) for n in g), default=0.0) for g in columns.space.groups])
    finite = raw[np.isfinite(raw)]
    worst = 3 * float(finite.max()) if len(finite) and finite.max() > 0 else 1.0
    return np.asarray(np.maximum(np.nan_to_num(raw, nan=worst, posinf=worst, neginf=0.0), 0.0))


def _guess(columns: Columns) -> Array:
    """Guessed loss of each decision: more for the first, the last, and some roles in a transformer's layer.

    The literature keeps the first and the last operator in high precision; see `ROLE_FACTORS` for roles.
    """
    guess = np.ones(len(columns.space.groups))
    if len(guess) > 2:
        guess[[0, -1]] = 3.0
    return np.asarray(guess * np.array([ROLE_FACTORS.get(role, 1.0) for role in _roles(columns)]))


def differences(first: OpScheme, scheme: OpScheme, fields: Mapping[str, Change]) -> dict[str, Change]:
    """The changes that one int8 scheme needs to become another."""
    return {
        text: change
        for text, change in fields.items()
        if changed_scheme(first, change) != first and changed_scheme(scheme, change) == scheme
    }
