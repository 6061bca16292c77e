"""Predicted loss and predicted cost of configurations, corrected by trials."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nc_strategies.errors import EngineError
from nc_strategies.problem import Constraint, Evaluation, LatencyTerms, Problem
from nc_strategies.problem.latency import ConversionEdge
from nc_strategies.space import FLOAT, Config
from nc_strategies.strategies.ilp.columns import Array, Column, Columns
from nc_strategies.strategies.ilp.constraints import Budgeted
from nc_strategies.strategies.ilp.priors import MEASURED, UNMEASURED, Losses
from nc_strategies.strategies.ilp.regression import Regression
from nc_strategies.strategies.ilp.trust import FACTOR_SD, Z_95, Trust

log = logging.getLogger(__name__)

SCALE_SD = 0.3
"""Relative standard deviation of the sum of all losses, once a trial has shown it."""
UNSEEN_SCALE_SD = 1.0
"""The same before that."""
SLOPE_SD = 0.2
"""Standard deviation of the power of the estimates that losses follow: what the small ones have in common."""
LEAST_SD = 0.1
"""Standard deviation of any operator's loss at least, relative to the mean operator's: no estimate excludes a loss."""
OWN_SD = 0.2
"""Relative standard deviation of what sets one int8 scheme of an operator apart from the others."""
LEAST_PRICE = 0.05
"""Least price of an int8 scheme in the program, relative to its prior: none is taken to gain accuracy."""
BEYOND, FAR = 0.1, 5.0
"""Part of a loss beyond so many times the tolerated one that may not add up."""
DISCORDANT = 3.0
"""Samples on which fp32 and int8 disagree, for each that int8 loses net."""
UNKNOWN_SAMPLES = 10_000
TOP_PAIRS, LEAST_PAIR = 6, 0.03
"""Products that enter the program one by one: how many, and how large at least, relative to the tolerated loss."""
TERM_ERROR, PRIOR_ERROR = 0.3, 0.8
"""Relative standard deviation of what an operator saves, from latency terms and from its size alone."""
REVERSED_SD = 0.5
"""The same of what all operators together save that terms have faster in fp32: solutions choose them for that, and
often an error makes them seem so."""
LEAST_SAVING = 0.25
"""Saving of an operator at least, relative to the mean of those guessed by size: in fp32 among int8 neighbours it would
cost their conversions."""
CONVERSION_SD = 0.3
BYTES, BYTES_INT8 = 4.0, 1.0
TIMES, SIZES = ("latency", "throughput"), ("size", "memory")


@dataclass(frozen=True)
class Seen:
    """One observation: a configuration as a row, and what was measured of it."""

    row: Array
    evaluation: Evaluation
    reference: bool = False
    """It is fp32, whose cost is 1 by definition and shows nothing of a factor that all other costs share."""


class LossModel:
    """Loss of one constraint's metric: a price a column, and products.

    Args:
        constraint: Says what a loss is.
        columns: The columns.
        prior: What is believed of them.
    """

    def __init__(self, constraint: Constraint, columns: Columns, prior: Losses) -> None:
        self.constraint, self._columns, self._prior = constraint, columns, prior
        self.limit = constraint.loss(constraint.threshold)
        self._decision = abs(constraint.baseline) or 1.0

    def fit(self, seen: Sequence[Seen]) -> None:
        """Learn from observations; those over fewer samples count less."""
        name = self.constraint.metric
        used = [s for s in seen if np.isfinite(dict(s.evaluation.metrics).get(name, np.nan))]
        rows = np.array([s.row for s in used]).reshape(len(used), len(self._columns.all))
        values = np.array([self.constraint.loss(s.evaluation.metric(name)) for s in used])
        samples = np.array([s.evaluation.samples or UNKNOWN_SAMPLES for s in used], float)
        mean, root = self._believed(rows, values, samples)
        self.root = root
        self.regression = Regression(mean, root @ root.T, np.maximum(mean, 0.0))
        expected = rows @ mean
        for _ in range(3):  # Noise follows the expected loss: by the observed one, lucky trials would weigh most.
            self.regression.fit(rows, values, self._noise(expected, samples))
            expected, _ = self.regression.predict(rows)
        self.samples = float(samples.max()) if len(samples) else float(UNKNOWN_SAMPLES)

    def sampling(self, loss: Array, samples: Array | float) -> Array:
        """Standard deviation of a measured loss: that of the difference of two counts of discordant samples."""
        rate = DISCORDANT * np.maximum(loss, 0.0) / self._decision + 0.1 * abs(self.limit) / self._decision
        return np.asarray(self._decision * np.sqrt(rate / samples))

    def _noise(self, loss: Array, samples: Array) -> Array:
        beyond = BEYOND * np.maximum(loss - FAR * abs(self.limit), 0.0)
        return np.asarray(np.hypot(self.sampling(loss, samples), beyond) + 1e-9 * self._decision)

    def _believed(self, rows: Array, values: Array, samples: Array) -> tuple[Array, Array]:
        """Prior mean of the prices, and a root of their covariance.

        The whole is scaled to the first observation. Columns share what is unknown of their operator, of the
        choice that sets them apart, and of the scale.
        """
        prior, columns = self._prior, self._columns.all
        mean = np.array(
            [
                0.0 if c.scheme is None else prior.shape[c.decision] * f
                for c, f in zip(columns, prior.factors, strict=True)
            ]
        )
        scale, scale_sd = 3 * abs(self.limit) or 0.01 * self._decision, UNSEEN_SCALE_SD
        first = next((k for k, row in enumerate(rows) if row @ mean > 0), None)
        if first is not None:
            part = float(rows[first] @ mean) / max(float(mean @ self._most(mean)), 1e-300)
            noise = float(self.sampling(np.array(abs(values[first])), samples[first]))
            scale = max(float(values[first]), noise) / max(part, 1e-9)
            scale_sd = SCALE_SD if values[first] > 2 * noise else UNSEEN_SCALE_SD
        mean *= scale / max(float(mean @ self._most(mean)), 1e-300)
        level = min(abs(self.limit) or scale, scale)
        return self._with_options(mean, level), self._root(mean, level, scale_sd)

    def _most(self, mean: Array) -> Array:
        """The default configuration's columns, as far as they lose something."""
        return np.array([float(c.first and m > 0) for c, m in zip(self._columns.all, mean, strict=True)])

    def _with_options(self, mean: Array, level: float) -> Array:
        """A graph option multiplies losses; near the limit, where it matters, that is about so much added."""
        return np.array(
            [
                (f - 1.0) * level if c.scheme is None and not c.first else m
                for c, m, f in zip(self._columns.all, mean, self._prior.factors, strict=True)
            ]
        )

    def _root(self, mean: Array, level: float, scale_sd: float) -> Array:
        prior, columns = self._prior, self._columns.all
        decisions = len(self._columns.space.groups)
        shared = sorted({_choice(c) for c in columns if c.is_int8 and not c.first})
        sd = MEASURED if prior.measured else UNMEASURED
        root = np.zeros((len(columns), decisions + len(shared) + 2 + len(columns)))
        some = mean > 0
        typical = float(mean[some].mean()) if some.any() else 0.0
        logs = np.log(np.where(some, mean, 1.0))
        logs -= float(logs @ np.maximum(mean, 0.0)) / max(float(mean[some].sum()), 1e-300)
        for k, column in enumerate(columns):
            if column.scheme is None:
                own = MEASURED if column.names[0] in prior.measured else UNMEASURED
                root[k, decisions + len(shared) + 1 + k] = 0.0 if column.first else own * level
                continue
            root[k, column.decision] = (
                float(np.hypot(prior.error * mean[k], LEAST_SD * typical)) if column.is_int8 else 0.0
            )
            root[k, decisions + len(shared)] = scale_sd * mean[k]
            root[k, -1] = SLOPE_SD * mean[k] * logs[k]
            if column.is_int8 and not column.first:
                root[k, decisions + shared.index(_choice(column))] = sd * mean[k]
                root[k, decisions + len(shared) + 1 + k] = OWN_SD * mean[k]
        return root

    def budgeted(self, limit: float, around: Array, prices: Array | None = None) -> Budgeted:
        """The loss as the program takes it: the largest products one by one, the others linearized.

        Args:
            limit: The most it may sum to.
            around: The configuration in whose neighbourhood the other products are right.
            prices: Other prices than the expected ones.
        """
        linear = self.regression.prices if prices is None else prices
        linear = np.where(self.regression.mean > 0, np.maximum(linear, LEAST_PRICE * self.regression.mean), linear)
        products = self.regression.pairs()
        upper = np.triu(np.abs(products), 1)
        order = np.argsort(-upper, axis=None)[:TOP_PAIRS]
        pairs = []
        for a, b in zip(*np.unravel_index(order, upper.shape), strict=True):
            if upper[a, b] > LEAST_PAIR * abs(self.limit):
                pairs.append((int(a), int(b), float(products[a, b])))
                products[a, b] = products[b, a] = 0.0
        slope = products @ around
        return Budgeted(linear + slope, limit + 0.5 * float(around @ slope), tuple(pairs))


def latency_terms(problem: Problem) -> LatencyTerms | None:
    """A problem's latency terms, asked for where time is an objective; None where the engine fails at them."""
    timed = any(o.name in TIMES for o in problem.goal.objectives)
    if not timed or problem.latency_terms is None:
        return None
    try:
        return problem.latency_terms()
    except EngineError as error:
        log.warning("latency terms cannot be fitted: %s", error)
        return None


class CostModel:
    """Cost of a configuration relative to fp32: a base, a price a column, conversions.

    Args:
        problem: What is to be solved.
        columns: The columns.
        terms: Its latency terms, where there are some; see `latency_terms`.
        timed: Ask for predictions of latency where there are no terms.
    """

    def __init__(self, problem: Problem, columns: Columns, terms: LatencyTerms | None, timed: bool = True) -> None:
        self._goal, self._columns = problem.goal, columns
        names = {o.name for o in problem.goal.objectives}
        self._terms = terms
        self._modelled = None
        if timed and self._terms is None and names & set(TIMES) and problem.latency_model is not None:
            try:
                self._modelled = _savings(problem, columns)
            except EngineError as error:
                log.warning("latency is not modelled: %s", error)
        self._share = {
            o.name: o.weight / sum(x.weight for x in problem.goal.objectives) for o in problem.goal.objectives
        }
        share = sum(w for n, w in self._share.items() if n in TIMES)
        found = columns.conversions(self._terms) if self._terms else ()
        self._conversions = tuple(
            replace(b, quantize=b.quantize * share, dequantize=b.dequantize * share) for b in found
        )
        self._error = self._terms.error if self._terms else 0.0

    def fit(self, seen: Sequence[Seen]) -> None:
        """Learn from observations in their order; those timed with less confidence count less."""
        names = list(self._share)
        used = [s for s in seen if all(n in dict(s.evaluation.ratios) for n in names)]
        mean, self.root = self._believed(used)
        self.regression = Regression(mean, self.root @ self.root.T)
        rows = self.rows([s.row for s in used])
        rows[[s.reference for s in used], -1] = 0.0
        values = np.array([self._goal.cost(s.evaluation) for s in used])
        timed = np.array([self.timed(s.evaluation) for s in used])
        trials = np.array([not s.reference for s in used], bool)
        self.trust = Trust.learnt(self.regression, rows, values, timed, trials, self._error)
        self.root = np.where(self.regression.cov.diagonal()[:, None] > 0, self.root, 0.0)

    def rows(self, rows: Sequence[Array]) -> Array:
        """Rows with three more columns: 1, what the terms charge for conversions, and the cost predicted beforehand.

        The price of the last is how far all costs are off by the same factor.
        """
        plain = np.array(
            [np.concatenate([row, [1.0, self._columns.converting(row, self._conversions)]]) for row in rows]
        ).reshape(len(rows), len(self._columns.all) + 2)
        return np.column_stack([plain, plain @ self.regression.mean[:-1]])

    def predict(self, rows: Sequence[Array]) -> tuple[Array, Array]:
        """Expected cost of each configuration and its standard deviation, without the noise of a measurement."""
        mean, sd = self.regression.predict(self.rows(rows))
        return mean, self.trust.inflation * sd

    def difference(self, row: Array, other: Array) -> tuple[float, float]:
        """By how much one configuration is expected to cost more than another, and the standard deviation of that.

        What both share, such as a factor of all costs, leaves the difference certain where each of them is not.
        """
        one, two = self.rows([row, other])
        mean, sd = self.regression.predict((one - two)[None])
        return float(mean[0]), self.trust.inflation * float(sd[0])

    def timed(self, evaluation: Evaluation) -> float:
        """Relative standard error of a measured cost, by the intervals that were measured with it."""
        spread, cost = dict(evaluation.spread), self._goal.cost(evaluation)
        squared = sum((w * evaluation.ratio(n) * spread.get(n, 0.0) / Z_95) ** 2 for n, w in self._share.items())
        return float(squared**0.5 / cost) if cost > 0 else 0.0

    def _believed(self, used: Sequence[Seen]) -> tuple[Array, Array]:
        columns = self._columns.all
        total, saved = np.zeros(len(columns)), np.zeros(len(columns))
        sd, base, scale = np.zeros(len(columns)), 0.0, np.zeros(len(columns))
        reversed_ = np.zeros(len(columns))
        for name, weight in self._share.items():
            if name in TIMES and self._terms is not None:
                costs = self._columns.costs(self._terms)
                base += weight * self._terms.base
                part, error, scale_sd = costs - self._fp32(costs), TERM_ERROR, 0.1
                total += weight * costs
                reversed_ += weight * np.maximum(part, 0.0)
            else:
                part, error, scale_sd = self._prior(name, used)
                base += weight
                total += weight * part
            saved += weight * part
            sd += weight * error * np.abs(part)
            scale += weight * scale_sd * part
        decisions = int(self._columns.owner.max()) + 1 if len(columns) else 0
        root = np.zeros((len(columns) + 3, decisions + len(columns) + 5))
        for k, column in enumerate(columns):
            root[k, column.decision] = sd[k] * np.sign(saved[k])
            root[k, decisions + k] = 0.1 * abs(saved[k]) * (not column.first)
            if column.scheme is None and not column.first:
                root[k, decisions + k] = 0.02
        root[: len(columns), decisions + len(columns)] = scale
        root[len(columns), decisions + len(columns) + 1] = 0.01
        root[len(columns) + 1, decisions + len(columns) + 2] = CONVERSION_SD
        root[: len(columns), decisions + len(columns) + 3] = REVERSED_SD * reversed_
        root[len(columns) + 2, -1] = FACTOR_SD * sum(w for n, w in self._share.items() if n in TIMES)
        return np.concatenate([total, [base, 1.0, 0.0]]), root

    def _fp32(self, costs: Array) -> Array:
        """What each column's decision costs in fp32, or in its first scheme where it has to be int8."""
        float_cost: dict[int, float] = {}
        for column, cost in zip(self._columns.all, costs.tolist(), strict=True):
            if column.scheme == FLOAT or (column.first and column.decision not in float_cost):
                float_cost[column.decision] = cost
        return self._columns.each(lambda c: float_cost[c.decision])

    def _prior(self, name: str, used: Sequence[Seen]) -> tuple[Array, float, float]:
        """What a column adds to fp32's cost, its relative error and that of the scale.

        Sizes are linear in weights; times of matrix multiplications lie near the geometric mean of weights and
        outputs. The sum is that of the first observation.
        """
        modelled = name in TIMES and self._modelled is not None
        if modelled:
            assert self._modelled is not None
            return self._modelled, TERM_ERROR, 0.1
        amount = self._columns.each(lambda c: -self._amount(name, c))
        if name in TIMES:
            some = amount < 0
            floor = LEAST_SAVING * float(amount[some].mean()) if some.any() else 0.0
            amount = np.where(some, np.minimum(amount, floor), amount)
        first = next((s for s in used if float(s.row @ amount) < 0), None)
        share = 0.5 if first is None else max(1 - first.evaluation.ratio(name), 0.02)
        whole = float(self._default() @ amount) if first is None else float(first.row @ amount)
        error, scale = (0.05, 0.1) if name in SIZES else (PRIOR_ERROR, 0.3)
        return amount * (share / -whole if whole else 0.0), error, scale

    def _default(self) -> Array:
        return self._columns.each(lambda c: float(c.first))

    def _amount(self, name: str, column: Column) -> float:
        if not column.is_int8:
            return 0.0
        ops = [self._columns.space.ops[n] for n in column.names]
        if name in SIZES:
            return sum(op.parameters for op in ops) * (BYTES - BYTES_INT8)
        return float(sum(math.sqrt(max(op.parameters, 1) * max(op.elements, 1)) for op in ops))

    @property
    def prices(self) -> tuple[Array, float, tuple[ConversionEdge[int], ...]]:
        """Expected cost of each column, of what is always paid, and of conversions."""
        return self.split(self.regression.prices)

    def split(self, prices: Array) -> tuple[Array, float, tuple[ConversionEdge[int], ...]]:
        """The same for other prices."""
        known, shared = self.regression.mean, float(prices[-1])
        factor = max(float(prices[-2] + shared * known[-2]), 0.0)
        return (
            prices[:-3] + shared * known[:-3],
            float(prices[-3] + shared * known[-3]),
            tuple(
                replace(c, quantize=c.quantize * factor, dequantize=c.dequantize * factor) for c in self._conversions
            ),
        )


def _choice(column: Column) -> str:
    return str(column.scheme)


def _savings(problem: Problem, columns: Columns) -> Array:
    """What each column adds, from a model that only predicts: alone among fp32, boundaries included."""
    space, cost = problem.space, problem.latency_model
    assert cost is not None
    base: Config = space.all_float()
    start = cost(base)
    return columns.each(
        lambda c: cost(base.with_op(*c.names, scheme=c.scheme)) - start if c.is_int8 and c.scheme else 0.0
    )
