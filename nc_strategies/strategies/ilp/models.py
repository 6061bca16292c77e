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
from nc_strategies.strategies.ilp.priors import PRIOR_RULES, Losses
from nc_strategies.strategies.ilp.regression import Regression
from nc_strategies.strategies.ilp.trust import TRUST_RULES, Z_95, Trust

log = logging.getLogger(__name__)

TIME_OBJECTIVES = ("latency", "throughput")
SIZE_OBJECTIVES = ("size", "memory")


@dataclass(frozen=True)
class ModelRules:
    """Priors of the loss model and the cost model, and limits on what enters the integer program."""

    loss_scale_sd: float = 0.3
    """Relative standard deviation of the sum of all losses, once a trial has measured it."""
    unmeasured_loss_scale_sd: float = 1.0
    """The same before any trial has measured it."""
    loss_exponent_sd: float = 0.2
    """Standard deviation of the exponent by which losses follow the estimates. An error of the exponent moves all small
    estimates together."""
    min_loss_sd: float = 0.1
    """Least standard deviation of an operator's loss, relative to the mean operator's: no estimate excludes a loss."""
    scheme_loss_sd: float = 0.2
    """Relative standard deviation of the difference between one int8 scheme of an operator and its other ones."""
    min_loss_price: float = 0.05
    """Least price of an int8 scheme in the program, relative to its prior: no scheme is chosen to gain accuracy."""
    additive_loss_range: float = 5.0
    """Multiple of the tolerated loss up to which losses are taken as additive over operators."""
    nonadditive_loss_share: float = 0.1
    """Share of the loss beyond `additive_loss_range` that may not be additive."""
    discordant_samples_per_loss: float = 3.0
    """Samples on which fp32 and int8 disagree, per sample that int8 loses net."""
    assumed_samples: int = 10_000
    """Evaluation samples assumed where a measurement does not state their number."""
    max_product_terms: int = 6
    """Products of two columns that enter the program as terms of their own; the others are linearized."""
    min_product_loss: float = 0.03
    """Least loss of such a product, relative to the tolerated loss."""
    modelled_saving_sd: float = 0.3
    """Relative standard deviation of an operator's saving that latency terms or a latency model predict."""
    sized_saving_sd: float = 0.8
    """Relative standard deviation of an operator's saving that is guessed from its size."""
    reversed_saving_sd: float = 0.5
    """Relative standard deviation shared by all operators that the latency terms predict to be faster in fp32.
    Solutions choose fp32 for these operators, and often only an error of the terms makes fp32 look faster."""
    min_sized_saving: float = 0.25
    """Least saving of an operator, relative to the mean of the savings guessed from sizes. An fp32 operator among int8
    neighbours would add the cost of their conversions."""
    conversion_sd: float = 0.3
    """Relative standard deviation of the cost that the latency terms charge for all conversions."""
    fp32_weight_bytes: float = 4.0
    """Bytes per fp32 weight."""
    int8_weight_bytes: float = 1.0
    """Bytes per int8 weight."""
    int4_weight_bytes: float = 0.625
    """Bytes per int4 weight, with a float32 scale for each block of 32."""


MODEL_RULES = ModelRules()


@dataclass(frozen=True)
class Seen:
    """One observation: a configuration as a row, and its measurement."""

    row: Array
    evaluation: Evaluation
    reference: bool = False
    """The configuration is fp32. Its cost is 1 by definition, so it carries no information on a factor that all other
    costs share."""


class LossModel:
    """Loss of one constraint's metric: one price per column, and products of columns.

    Args:
        constraint: Defines the loss.
        columns: The columns.
        prior: Prior losses of the columns.
    """

    def __init__(self, constraint: Constraint, columns: Columns, prior: Losses) -> None:
        self.constraint, self._columns, self._prior = constraint, columns, prior
        self.limit = constraint.loss(constraint.threshold)
        self._metric_scale = abs(constraint.baseline) or 1.0

    def fit(self, seen: Sequence[Seen]) -> None:
        """Fit the prices to observations; the weight of an observation grows with its number of samples."""
        name = self.constraint.metric
        used = [s for s in seen if np.isfinite(dict(s.evaluation.metrics).get(name, np.nan))]
        rows = np.array([s.row for s in used]).reshape(len(used), len(self._columns.all))
        values = np.array([self.constraint.loss(s.evaluation.metric(name)) for s in used])
        samples = np.array([s.evaluation.samples or MODEL_RULES.assumed_samples for s in used], float)
        mean, root = self._believed(rows, values, samples)
        self.root = root
        self.regression = Regression(mean, root @ root.T, np.maximum(mean, 0.0))
        expected = rows @ mean
        for _ in range(3):  # Noise follows the expected loss: with the observed loss, lucky trials would weigh most.
            self.regression.fit(rows, values, self._noise(expected, samples))
            expected, _ = self.regression.predict(rows)
        self.samples = float(samples.max()) if len(samples) else float(MODEL_RULES.assumed_samples)

    def assume(self, rows: Array) -> None:
        """Assume the expected losses of trials that are open; rows of shape (trials, columns)."""
        self.regression.assume(rows, self._noise(rows @ self.regression.prices, np.full(len(rows), self.samples)))

    def sampling(self, loss: Array, samples: Array | float) -> Array:
        """Standard deviation of a measured loss, which is the difference of two counts of discordant samples."""
        discordant = MODEL_RULES.discordant_samples_per_loss * np.maximum(loss, 0.0)
        rate = discordant / self._metric_scale + 0.1 * abs(self.limit) / self._metric_scale
        return np.asarray(self._metric_scale * np.sqrt(rate / samples))

    def _noise(self, loss: Array, samples: Array) -> Array:
        beyond = MODEL_RULES.nonadditive_loss_share * np.maximum(
            loss - MODEL_RULES.additive_loss_range * abs(self.limit), 0.0
        )
        return np.asarray(np.hypot(self.sampling(loss, samples), beyond) + 1e-9 * self._metric_scale)

    def _believed(self, rows: Array, values: Array, samples: Array) -> tuple[Array, Array]:
        """Prior mean of the prices, and a square root of their covariance.

        The first observation sets the scale of all prices. Columns share the errors of their operator, of the choice
        that distinguishes them from the default, and of the scale.
        """
        prior, columns = self._prior, self._columns.all
        mean = np.array(
            [
                0.0 if c.scheme is None else prior.shape[c.decision] * f
                for c, f in zip(columns, prior.factors, strict=True)
            ]
        )
        scale, scale_sd = 3 * abs(self.limit) or 0.01 * self._metric_scale, MODEL_RULES.unmeasured_loss_scale_sd
        first = next((k for k, row in enumerate(rows) if row @ mean > 0), None)
        if first is not None:
            part = float(rows[first] @ mean) / max(float(mean @ self._most(mean)), 1e-300)
            noise = float(self.sampling(np.array(abs(values[first])), samples[first]))
            scale = max(float(values[first]), noise) / max(part, 1e-9)
            scale_sd = MODEL_RULES.loss_scale_sd if values[first] > 2 * noise else MODEL_RULES.unmeasured_loss_scale_sd
        mean *= scale / max(float(mean @ self._most(mean)), 1e-300)
        level = min(abs(self.limit) or scale, scale)
        return self._with_options(mean, level), self._root(mean, level, scale_sd)

    def _most(self, mean: Array) -> Array:
        """1 for each column of the default configuration that has a loss, 0 for the others, shape (columns,)."""
        return np.array([float(c.first and m > 0) for c, m in zip(self._columns.all, mean, strict=True)])

    def _with_options(self, mean: Array, level: float) -> Array:
        """Add the prices of graph options. An option multiplies losses; near the limit this is about a constant sum."""
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
        sd = PRIOR_RULES.measured_factor_sd if prior.measured else PRIOR_RULES.guessed_factor_sd
        root = np.zeros((len(columns), decisions + len(shared) + 2 + len(columns)))
        some = mean > 0
        typical = float(mean[some].mean()) if some.any() else 0.0
        logs = np.log(np.where(some, mean, 1.0))
        logs -= float(logs @ np.maximum(mean, 0.0)) / max(float(mean[some].sum()), 1e-300)
        for k, column in enumerate(columns):
            if column.scheme is None:
                own = (
                    PRIOR_RULES.measured_factor_sd
                    if column.names[0] in prior.measured
                    else PRIOR_RULES.guessed_factor_sd
                )
                root[k, decisions + len(shared) + 1 + k] = 0.0 if column.first else own * level
                continue
            root[k, column.decision] = (
                float(np.hypot(prior.error * mean[k], MODEL_RULES.min_loss_sd * typical)) if column.is_int8 else 0.0
            )
            root[k, decisions + len(shared)] = scale_sd * mean[k]
            root[k, -1] = MODEL_RULES.loss_exponent_sd * mean[k] * logs[k]
            if column.is_int8 and not column.first:
                root[k, decisions + shared.index(_choice(column))] = sd * mean[k]
                root[k, decisions + len(shared) + 1 + k] = MODEL_RULES.scheme_loss_sd * mean[k]
        return root

    @property
    def prior_prices(self) -> Array:
        """Prior loss of each column, up to a common scale; never negative, and 0 for fp32 and for graph options."""
        shape = self._prior.shape
        return np.array(
            [
                0.0 if c.scheme is None else shape[c.decision] * f
                for c, f in zip(self._columns.all, self._prior.factors, strict=True)
            ]
        )

    def budgeted(self, limit: float, around: Array, prices: Array | None = None) -> Budgeted:
        """The loss for the program: the largest products as terms of their own, the others linearized.

        Args:
            limit: Largest allowed sum.
            around: The configuration at which the other products are linearized.
            prices: Prices to use instead of the expected ones.
        """
        linear = self.regression.prices if prices is None else prices
        linear = np.where(
            self.regression.mean > 0, np.maximum(linear, MODEL_RULES.min_loss_price * self.regression.mean), linear
        )
        products = self.regression.pairs()
        upper = np.triu(np.abs(products), 1)
        order = np.argsort(-upper, axis=None)[: MODEL_RULES.max_product_terms]
        pairs = []
        for a, b in zip(*np.unravel_index(order, upper.shape), strict=True):
            if upper[a, b] > MODEL_RULES.min_product_loss * abs(self.limit):
                pairs.append((int(a), int(b), float(products[a, b])))
                products[a, b] = products[b, a] = 0.0
        slope = products @ around
        return Budgeted(linear + slope, limit + 0.5 * float(around @ slope), tuple(pairs))


def latency_terms(problem: Problem) -> LatencyTerms | None:
    """The latency terms of a problem with a time objective; None without one, or where the engine fails to fit them."""
    timed = any(o.name in TIME_OBJECTIVES for o in problem.goal.objectives)
    if not timed or problem.latency_terms is None:
        return None
    try:
        return problem.latency_terms()
    except EngineError as error:
        log.warning("latency terms cannot be fitted: %s", error)
        return None


SIZED_SAVINGS = {"static": 1.0, "dynamic": 0.9, "weight_only": 0.4}
"""Quantization mode to the time that it is guessed to save, relative to static int8: a dynamic operator also computes
the range of its input, and weights alone save time only with few rows."""
LOOKUPS = ("Gather",)
"""Operator types that read a few rows of their weights: their time does not grow with the number of weights."""


class CostModel:
    """Cost of a configuration relative to fp32: a base, one price per column, conversions.

    Args:
        problem: The tuning problem.
        columns: The columns.
        terms: The problem's latency terms; None without any. See `latency_terms`.
        timed: Without terms, use the predictions of the problem's latency model.
    """

    def __init__(self, problem: Problem, columns: Columns, terms: LatencyTerms | None, timed: bool = True) -> None:
        self._goal, self._columns = problem.goal, columns
        names = {o.name for o in problem.goal.objectives}
        self._terms = terms
        self._modelled = None
        if timed and self._terms is None and names & set(TIME_OBJECTIVES) and problem.latency_model is not None:
            try:
                self._modelled = _savings(problem, columns)
            except EngineError as error:
                log.warning("latency is not modelled: %s", error)
        self._share = {
            o.name: o.weight / sum(x.weight for x in problem.goal.objectives) for o in problem.goal.objectives
        }
        share = sum(w for n, w in self._share.items() if n in TIME_OBJECTIVES)
        found = columns.conversions(self._terms) if self._terms else ()
        self._conversions = tuple(
            replace(b, quantize=b.quantize * share, dequantize=b.dequantize * share) for b in found
        )
        self._error = self._terms.error if self._terms else 0.0

    def fit(self, seen: Sequence[Seen]) -> None:
        """Fit the prices to observations in their order; less precise timings get less weight."""
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

    def assume(self, rows: Sequence[Array]) -> None:
        """Assume the expected costs of trials that are open; each row of shape (columns,)."""
        if rows:
            wide = self.rows(rows)
            cost, _ = self.regression.predict(wide)
            self.regression.assume(wide, np.abs(cost) * float(np.hypot(self.trust.error, self.trust.timing)))

    def rows(self, rows: Sequence[Array]) -> Array:
        """Rows with three more columns: 1, the terms' cost of conversions, and the cost predicted by the prior.

        The price of the last column is the relative error that all costs share.
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
        """Expected difference of two configurations' costs, the first less the second, and its standard deviation.

        Errors that both costs share, such as a factor of all costs, cancel out of the difference.
        """
        one, two = self.rows([row, other])
        mean, sd = self.regression.predict((one - two)[None])
        return float(mean[0]), self.trust.inflation * float(sd[0])

    def timed(self, evaluation: Evaluation) -> float:
        """Relative standard error of a measured cost, from the intervals that were measured with it."""
        spread, cost = dict(evaluation.spread), self._goal.cost(evaluation)
        squared = sum((w * evaluation.ratio(n) * spread.get(n, 0.0) / Z_95) ** 2 for n, w in self._share.items())
        return float(squared**0.5 / cost) if cost > 0 else 0.0

    def _believed(self, used: Sequence[Seen]) -> tuple[Array, Array]:
        columns = self._columns.all
        total, saved = np.zeros(len(columns)), np.zeros(len(columns))
        sd, base, scale = np.zeros(len(columns)), 0.0, np.zeros(len(columns))
        reversed_ = np.zeros(len(columns))
        for name, weight in self._share.items():
            if name in TIME_OBJECTIVES and self._terms is not None:
                costs = self._columns.costs(self._terms)
                base += weight * self._terms.base
                part, error, scale_sd = costs - self._fp32(costs), MODEL_RULES.modelled_saving_sd, 0.1
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
        root[len(columns) + 1, decisions + len(columns) + 2] = MODEL_RULES.conversion_sd
        root[: len(columns), decisions + len(columns) + 3] = MODEL_RULES.reversed_saving_sd * reversed_
        root[len(columns) + 2, -1] = TRUST_RULES.factor_sd * sum(
            w for n, w in self._share.items() if n in TIME_OBJECTIVES
        )
        return np.concatenate([total, [base, 1.0, 0.0]]), root

    def _fp32(self, costs: Array) -> Array:
        """Cost of each column's decision in fp32, or in its first scheme where it must be int8, shape (columns,)."""
        float_cost: dict[int, float] = {}
        for column, cost in zip(self._columns.all, costs.tolist(), strict=True):
            if column.scheme == FLOAT or (column.first and column.decision not in float_cost):
                float_cost[column.decision] = cost
        return self._columns.each(lambda c: float_cost[c.decision])

    def _prior(self, name: str, used: Sequence[Seen]) -> tuple[Array, float, float]:
        """Prior cost of each column relative to fp32, its relative error, and the relative error of the scale.

        Sizes are linear in the number of weights. Times of matrix multiplications are close to proportional to the
        geometric mean of the numbers of weights and outputs. The first observation sets the sum.
        """
        modelled = name in TIME_OBJECTIVES and self._modelled is not None
        if modelled:
            assert self._modelled is not None
            return self._modelled, MODEL_RULES.modelled_saving_sd, 0.1
        amount = self._columns.each(lambda c: -self._amount(name, c))
        if name in TIME_OBJECTIVES:
            some = amount < 0
            floor = MODEL_RULES.min_sized_saving * float(amount[some].mean()) if some.any() else 0.0
            amount = np.where(some, np.minimum(amount, floor), amount)
        first = next((s for s in used if float(s.row @ amount) < 0), None)
        share = 0.5 if first is None else max(1 - first.evaluation.ratio(name), 0.02)
        whole = float(self._default() @ amount) if first is None else float(first.row @ amount)
        error, scale = (0.05, 0.1) if name in SIZE_OBJECTIVES else (MODEL_RULES.sized_saving_sd, 0.3)
        return amount * (share / -whole if whole else 0.0), error, scale

    def _default(self) -> Array:
        return self._columns.each(lambda c: float(c.first))

    def _amount(self, name: str, column: Column) -> float:
        if not column.is_int8:
            return 0.0
        ops = [self._columns.space.ops[n] for n in column.names]
        if name in SIZE_OBJECTIVES:
            assert column.scheme is not None
            four_bits = column.scheme.weight is not None and column.scheme.weight.dtype == "int4"
            stored = MODEL_RULES.int4_weight_bytes if four_bits else MODEL_RULES.int8_weight_bytes
            return sum(op.parameters for op in ops) * (MODEL_RULES.fp32_weight_bytes - stored)
        assert column.scheme is not None
        factor = SIZED_SAVINGS[column.scheme.mode]
        computing = [op for op in ops if op.type not in LOOKUPS]
        return factor * float(sum(math.sqrt(max(op.parameters, 1) * max(op.elements, 1)) for op in computing))

    @property
    def prices(self) -> tuple[Array, float, tuple[ConversionEdge[int], ...]]:
        """Expected cost of each column, the constant cost, and the conversions with their costs."""
        return self.split(self.regression.prices)

    def split(self, prices: Array) -> tuple[Array, float, tuple[ConversionEdge[int], ...]]:
        """The same as `prices` for other prices than the expected ones."""
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
    """Cost of each column from a latency model: its operators in int8, all others in fp32, conversions included."""
    space, cost = problem.space, problem.latency_model
    assert cost is not None
    base: Config = space.all_float()
    start = cost(base)
    return columns.each(
        lambda c: cost(base.with_op(*c.names, scheme=c.scheme)) - start if c.is_int8 and c.scheme else 0.0
    )
