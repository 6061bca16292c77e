"""Choice of the next configuration: solutions of the program, ranked by their expected improvement."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from nc_strategies.problem import Prediction, Problem, Trial, TrialState
from nc_strategies.space import FLOAT, Config
from nc_strategies.strategies.halves import half
from nc_strategies.strategies.ilp.columns import Array
from nc_strategies.strategies.ilp.constraints import Budgeted, Cut
from nc_strategies.strategies.ilp.models import CostModel, LossModel, Seen, latency_terms
from nc_strategies.strategies.ilp.priors import losses
from nc_strategies.strategies.ilp.program import SOLVE_SECONDS, solve
from nc_strategies.strategies.ilp.settings import IlpSettings
from nc_strategies.strategies.ilp.trust import Z_95

QUADRATURE_NODES, QUADRATURE_WEIGHTS = np.polynomial.hermite_e.hermegauss(41)
"""Gauss-Hermite quadrature of a standard normal distribution."""


@dataclass(frozen=True)
class SearchRules:
    """Which solutions are compared, and when a search ends."""

    margins_sd: tuple[float, ...] = (0.5, 1.2)
    """Margins between predicted loss and limit, in standard deviations of the predicted loss, one solution for each."""
    proof_sd: float = 2.0
    """Standard deviations by which cost and loss may be better than predicted. A search has ended when even then no
    configuration would be better than the best trial."""
    max_excess_of_feasible: float = 0.25
    """Predicted loss over the limit, in sampling errors, up to which a trial that met the limit counts as feasible."""
    margin_tolerance: float = 0.01
    """Slack that a solution may leave beyond its margin, relative to the limit."""
    margin_iterations: int = 2
    """Times that a solution is tightened or relaxed to keep just its margin."""
    min_gain_per_noise: float = 0.25
    """Remaining gain, relative to the timing noise, below which a search ends. Averaging over some trials resolves
    differences down to this size."""
    posterior_draws: int = 2
    """Solutions for prices drawn from the posterior: they explore."""
    cost_tolerance: float = 1e-9
    """Excess over a limit on the cost, relative to fp32's, that is a rounding error of the solver."""
    proposal_seconds: float = 60.0
    """Limit of the time for all programs of `Search.next`, of `Search.closest` or of a front."""
    proposal_share: float = 0.25
    """The same as a share of the time that the run has left for proposals and trials."""
    least_seconds: float = 1.0
    """Time that a proposal may take in any case."""


SEARCH_RULES = SearchRules()


@dataclass(frozen=True)
class Point:
    """A configuration and its predicted cost and loss.

    Args:
        config: The configuration.
        cost: Predicted cost, relative to fp32.
        loss: Predicted loss of the first constraint's metric.
        cost_sd: Standard deviation of `cost`.
        loss_sd: Standard deviation of `loss`.
    """

    config: Config
    cost: float
    loss: float
    cost_sd: float = 0.0
    loss_sd: float = 0.0


class Search:
    """The models, and the trials that they are fitted to.

    Args:
        settings: The strategy's settings.
        problem: The tuning problem; its estimates are made here.
        seed: Seed of the draws from the posterior.
        divergences: Known divergences by fingerprint; new ones are added.
        timed: Fit latency terms too. Without them, the time that an operator saves is guessed from its size, and half
            of the probes are kept for later.
    """

    def __init__(
        self,
        settings: IlpSettings,
        problem: Problem,
        seed: int,
        divergences: dict[str, float | None],
        timed: bool = True,
    ) -> None:
        self._settings, self._problem = settings, problem
        self._seed = seed
        terms = latency_terms(problem) if timed else None
        probes = settings.probes if timed else settings.probes // 2
        self.columns, prior = losses(problem, probes, terms, divergences)
        self._losses = [LossModel(c, self.columns, prior) for c in problem.goal.constraints]
        self._costs = CostModel(problem, self.columns, terms, timed)
        self._tried: dict[str, tuple[Array, Trial]] = {}
        self._open: dict[str, Array] = {}
        self._float = self._all_float()
        self._end = math.inf

    def _all_float(self) -> Array | None:
        config = self._problem.space.all_float()
        return self.columns.row(config) if self._problem.space.contains(config) else None

    def tell(self, trial: Trial) -> None:
        """Add the trial of a configuration."""
        self._open.pop(trial.config.fingerprint, None)
        self._tried[trial.config.fingerprint] = self.columns.row(trial.config), trial

    def expect(self, config: Config) -> None:
        """Count with the trial of a configuration that is open; `tell` ends that."""
        self._open[config.fingerprint] = self.columns.row(config)

    def half(self) -> Config | None:
        """Half of the int8 operators of a trial, by predicted loss, while no trial keeps the goal; see `halves`."""
        self._fit_all()
        prices = self._losses[0].regression.prices
        loss: dict[str, float] = {}
        for column, price in zip(self.columns.all, prices.tolist(), strict=True):
            if column.is_int8:
                loss.setdefault(column.names[0], price)
        trials = [trial for _, trial in self._tried.values()]
        known = {*self._tried, *self._open}
        return half(self._problem.space, self._problem.goal, trials, known, lambda group: loss.get(group[0], 0.0))

    def fit(self) -> None:
        """Fit the models to all trials."""
        seen = [] if self._float is None else [Seen(self._float, self._problem.baseline, reference=True)]
        seen += [Seen(row, t.evaluation) for row, t in self._tried.values() if t.evaluation is not None]
        self._costs.fit(seen)
        for model in self._losses:
            model.fit(seen)

    def _allow(self, seconds: float | None = None) -> None:
        """Limit the time of all programs that follow; None for the limit of a proposal."""
        if seconds is None:
            share = SEARCH_RULES.proposal_share * self._problem.seconds_left()
            seconds = max(SEARCH_RULES.least_seconds, min(SEARCH_RULES.proposal_seconds, share))
        self._end = time.monotonic() + seconds

    @property
    def _seconds(self) -> float:
        """Limit of the next program's time; 0 or less where none is left."""
        return min(SOLVE_SECONDS, self._end - time.monotonic())

    def _fit_all(self) -> None:
        """Fit the models to all trials, and assume the expected values of those that are open."""
        self.fit()
        rows = list(self._open.values())
        self._costs.assume(rows)
        for model in self._losses:
            model.assume(np.array(rows).reshape(len(rows), len(self.columns.all)))

    @property
    def incumbent(self) -> float:
        """Lowest cost of a trial that met the constraints and is predicted to meet them; fp32's where none did."""
        return self._incumbent()[0]

    def _incumbent(self) -> tuple[float, Array | None]:
        """The cost of `incumbent`, and the trial's row; None for fp32.

        A trial that met the constraints by luck, or was fast by luck, would set a target that only luck can beat, so
        its predictions count too. A trial that was slow counts with the lower end of its interval.
        """
        goal, best, found = self._problem.goal, 1.0, None
        for row, trial in self._tried.values():
            if trial.ok and trial.evaluation is not None and goal.feasible(trial.evaluation):
                believed = all(
                    self._slack(model, row, 0.0)
                    >= -SEARCH_RULES.max_excess_of_feasible
                    * float(model.sampling(np.array(model.limit), model.samples))
                    for model in self._losses
                )
                measured = goal.cost(trial.evaluation) * (1 - Z_95 * self._costs.timed(trial.evaluation))
                cost = max(measured, float(self._costs.predict([row])[0][0]))
                if believed and cost < best:
                    best, found = cost, row
        return best, found

    def next(self) -> tuple[Point | None, str]:
        """The configuration to measure next, None where none can be better, and the reason.

        Where the time for a proposal ends, the programs solved by then count, and nothing is proved.
        """
        self._fit_all()
        self._allow()
        around, cuts = self._around(), self._cuts()
        plain = self._solve(0.0, around, cuts)
        if plain is None:
            plain = self._least(cuts)
        if plain is None:
            nothing = "nothing is left to try" if self._seconds > 0 else "no time is left to find another configuration"
            return None, f"finished: {nothing}"
        bold = self._margin(-SEARCH_RULES.proof_sd, plain, around, cuts)
        incumbent, best_row = self._incumbent()
        target = self._better_than(incumbent)
        cost, cost_sd = (float(v[0]) for v in self._costs.predict([bold]))
        least = cost - SEARCH_RULES.proof_sd * float(np.hypot(cost_sd, self._costs.trust.error_of(cost)))
        if least >= target and self._seconds > 0:
            return None, (
                f"proved: no other configuration is predicted below {target:.3f}, "
                f"even where cost and loss are {SEARCH_RULES.proof_sd:g} standard deviations better than expected"
            )
        rows = [
            bold,
            plain,
            *(self._margin(m, plain, around, cuts) for m in SEARCH_RULES.margins_sd),
            *self._drawn(around, cuts),
        ]
        unique = {row.tobytes(): row for row in rows if row is not None}
        found = np.array(list(unique.values()))
        left, noise = self._left(found, best_row, incumbent), self._costs.trust.noise
        if noise and left < SEARCH_RULES.min_gain_per_noise * noise:
            return None, (
                f"noise: remaining differences ({max(left, 0.0):.1%}) are below the timing noise "
                f"({noise:.1%}), and more trials could not tell them apart"
            )
        gains, risks = self._gains(found, self._expected_target(target))
        safe = risks <= self._settings.risk
        best = int(np.argmax(np.where(safe, gains, -1.0) if safe.any() else -risks))
        point = self.point(found[best])
        return point, self._described(point)

    def closest(self) -> tuple[Point | None, str]:
        """The configuration, predicted to be faster than fp32, that is likeliest to be measured within the limits.

        For a goal that no configuration is predicted to reach, such as a required gain in accuracy: predictions may be
        wrong, and the closest configuration is what a run without a better one saves. Compared are the least losses by
        expected prices and by prices drawn from the posterior.

        Returns:
            None where a trial has kept the limits, or where no untried configuration is predicted to be faster; and the
            reason.
        """
        trials = [trial for _, trial in self._tried.values()]
        if any(self._problem.goal.kept_by(trial) for trial in trials):
            return None, ""
        self._fit_all()
        self._allow()
        cuts, rng = self._cuts(), self._rng()
        prices = [[m.regression.prices for m in self._losses]]
        for _ in range(SEARCH_RULES.posterior_draws):
            prices.append([m.regression.draw(m.root, rng) for m in self._losses])
        rows = [row for one in prices if (row := self._least_faster(one, cuts)) is not None]
        if not rows:
            return None, ""
        point = self.point(max(rows, key=self._distance))
        return (
            point,
            f"no model is predicted to keep the goal, this one is likely the closest: {self._described(point)}",
        )

    def _described(self, point: Point) -> str:
        """The prediction of a configuration, for the note of its trial."""
        expected = self.expected(point)
        return (
            f"predicted cost {expected.cost:.3f} (sd {expected.cost_sd:.3f}), loss {point.loss:.4f} "
            f"(sd {point.loss_sd:.4f}) of {self._losses[0].limit:.4f}"
        )

    def _better_than(self, cost: float) -> float:
        """The largest cost that counts as better than another one."""
        return cost * (1 - self._problem.goal.tie / 4)

    def _distance(self, row: Array) -> float:
        """Distance of the predicted losses below their limits, in standard deviations of their measurements."""
        found = []
        for model in self._losses:
            loss, sd = model.regression.predict(row[None])
            noise = float(np.hypot(sd[0], model.sampling(loss, model.samples)[0]))
            found.append((model.limit - float(loss[0])) / max(noise, 1e-12))
        return min(found)

    def _least_faster(self, prices: Sequence[Array], cuts: Sequence[Cut]) -> Array | None:
        """The untried configuration of least loss among those predicted to be faster than fp32; None without one.

        The program's limit on the cost leaves out the cost of conversions. Where these make a solution too slow, the
        limit is lowered by the excess. The cheapest configuration is the answer where that finds none.

        Args:
            prices: Losses of the columns, for each constraint.
            cuts: Cuts that exclude what was tried.
        """
        loss = np.sum([p / (abs(m.constraint.baseline) or 1.0) for p, m in zip(prices, self._losses, strict=True)], 0)
        loss = loss / (float(np.abs(loss).max()) or 1.0)  # The solver's tolerances are absolute.
        cost, base, _ = self._costs.prices
        most = limit = self._better_than(1.0)
        for _ in range(1 + SEARCH_RULES.margin_iterations):
            limits = [Budgeted(cost, most - base)]
            row = solve(self.columns.owner, self.columns.is_static, loss, limits, (), cuts, self._seconds)
            if row is None:
                break
            excess = float(self._costs.predict([row])[0][0]) - limit
            if excess <= SEARCH_RULES.cost_tolerance:
                return row
            most -= excess
        row = self._solve(np.inf, self._around(), cuts)
        faster = row is not None and float(self._costs.predict([row])[0][0]) <= limit
        return row if faster else None

    def _expected_target(self, target: float) -> float:
        """The target once the open trials have the costs and losses that are expected of them."""
        rows = [row for row in self._open.values() if all(self._slack(model, row, 0.0) >= 0 for model in self._losses)]
        if not rows:
            return target
        return min(target, self._better_than(float(self._costs.predict(rows)[0].min())))

    def _left(self, rows: Array, best: Array | None, cost: float) -> float:
        """Largest possible gain of some configurations over the best trial, relative to its cost.

        Each configuration may be `proof_sd` standard deviations better than expected. Infinite while no trial has met
        the goal.
        """
        if best is None:
            return np.inf
        differences = [self._costs.difference(row, best) for row in rows]
        return max(SEARCH_RULES.proof_sd * sd - mean for mean, sd in differences) / cost

    def expected(self, point: Point) -> Prediction:
        """Prediction of a configuration's measurement: its point, with the noise of a measurement."""
        sampling = float(self._losses[0].sampling(np.array(point.loss), self._losses[0].samples))
        return Prediction(
            point.cost,
            self._costs.trust.measured_sd(point.cost, point.cost_sd),
            point.loss,
            float(np.hypot(point.loss_sd, sampling)),
        )

    def point(self, row: Array) -> Point:
        """Predicted cost and loss of a configuration."""
        cost, cost_sd = self._costs.predict([row])
        loss, loss_sd = self._losses[0].regression.predict(row[None])
        return Point(self.columns.config(row), float(cost[0]), float(loss[0]), float(cost_sd[0]), float(loss_sd[0]))

    def front(self, count: int = 20, seconds: float | None = None) -> list[Point]:
        """Predicted Pareto front of cost and loss, the cheapest first; see `sweep`.

        Args:
            count: Number of limits, from the least loss to that of the cheapest configuration.
            seconds: Limit of the time; points that it leaves no time for are missing. None for that of a proposal.
        """
        front: list[Point] = []
        for point in self.sweep(count, seconds):
            if not front or point.loss < front[-1].loss:
                front.append(point)
        return front

    def sweep(self, count: int = 20, seconds: float | None = None) -> list[Point]:
        """Solutions of the program for several limits on the loss, the cheapest first.

        With noisy losses, some may be predicted to be dominated by others.

        Source: the epsilon-constraint method, Haimes et al., IEEE Trans. SMC 1971.

        Args:
            count: Number of limits, from the least loss to that of the cheapest configuration.
            seconds: Limit of the time; points that it leaves no time for are missing. None for that of a proposal.
        """
        self._allow(seconds)
        self.fit()
        model, around = self._losses[0], self._around()
        cheapest = self._solve(np.inf, around, [])
        if cheapest is None:
            return []
        most, found, prices = self.point(cheapest).loss, [cheapest], None
        if most <= 0:
            # Where int8 is measured to lose nothing, the prior's proportions tell which operators to leave in fp32.
            prices = [m.prior_prices for m in self._losses]
            most = float(cheapest @ model.budgeted(0.0, around, prices[0]).prices)
        for share in np.linspace(0.0, 1.0, count, endpoint=False):
            if self._seconds <= 0:
                break
            limit = most * float(share) - model.limit
            row = self._solve(limit, around, [], prices)
            if row is not None:
                found.append(row)
        unique = {p.config.fingerprint: p for p in map(self.point, found)}
        return sorted(unique.values(), key=lambda p: (p.cost, p.loss))

    def _around(self) -> Array:
        """The configuration at which products are linearized: the best trial, or else the default."""
        best = self._problem.goal.best([t for _, t in self._tried.values()])
        return (
            self._tried[best.config.fingerprint][0]
            if best is not None
            else self.columns.row(self._problem.space.default())
        )

    def _solve(
        self,
        relaxed: float,
        around: Array,
        cuts: Sequence[Cut],
        prices: Sequence[Array] | None = None,
        costs: Array | None = None,
    ) -> Array | None:
        """The cheapest configuration whose predicted losses exceed their limits by no more than `relaxed`.

        None where there is none, or where no time is left.
        """
        cost, _, conversions = self._costs.prices if costs is None else self._costs.split(costs)
        limited = (
            [
                m.budgeted(m.limit + relaxed, around, None if prices is None else prices[k])
                for k, m in enumerate(self._losses)
            ]
            if np.isfinite(relaxed)
            else []
        )
        return solve(self.columns.owner, self.columns.is_static, cost, limited, conversions, cuts, self._seconds)

    def _margin(self, margin: float, start: Array, around: Array, cuts: Sequence[Cut]) -> Array:
        """The cheapest configuration whose predicted loss keeps a margin, found by tightening or relaxing the limit."""
        row, relaxed, kept = start, 0.0, None
        for _ in range(SEARCH_RULES.margin_iterations):
            slack = min(self._slack(model, row, margin) for model in self._losses)
            if 0 <= slack <= SEARCH_RULES.margin_tolerance * abs(self._losses[0].limit):
                return row
            relaxed += slack
            found = self._solve(relaxed, around, cuts)
            if found is None:
                break
            row = found
            if min(self._slack(model, row, margin) for model in self._losses) >= 0:
                kept = row
        return row if kept is None else kept

    def _slack(self, model: LossModel, row: Array, margin: float) -> float:
        loss, sd = model.regression.predict(row[None])
        return float(model.limit - loss[0] - margin * sd[0])

    def _least(self, cuts: Sequence[Cut]) -> Array | None:
        """The untried configuration with the least predicted loss."""
        loss = self._losses[0].regression.prices
        seconds = max(SEARCH_RULES.least_seconds, self._seconds)
        return solve(self.columns.owner, self.columns.is_static, loss, [], (), cuts, seconds)

    def _drawn(self, around: Array, cuts: Sequence[Cut]) -> list[Array | None]:
        """Solutions for prices drawn from the posterior (Thompson sampling)."""
        rng, rows = self._rng(), []
        for _ in range(SEARCH_RULES.posterior_draws):
            prices = [m.regression.draw(m.root, rng) for m in self._losses]
            rows.append(self._solve(0.0, around, cuts, prices, self._costs.regression.draw(self._costs.root, rng)))
        return rows

    def _rng(self) -> np.random.Generator:
        """Random numbers of one proposal, the same in a resumed run."""
        return np.random.default_rng([self._seed, len(self._tried) + len(self._open)])

    def _gains(self, rows: Array, target: float) -> tuple[Array, Array]:
        """Expected improvement of the cost times the probability that all constraints hold, and the risk.

        The risk is the probability that the true loss exceeds a limit although the measured one is within it. With
        several constraints, the highest risk counts.
        Source: constrained expected improvement, Gardner et al., ICML 2014.
        """
        cost, sd = self._costs.predict(list(rows))
        z = (target - cost) / np.maximum(sd, 1e-12)
        gain = np.maximum((target - cost) * ndtr(z) + sd * np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi), 0.0)
        risk = np.zeros(len(rows))
        for model in self._losses:
            loss, sd = model.regression.predict(rows)
            true = loss[:, None] + sd[:, None] * QUADRATURE_NODES
            seen = ndtr((model.limit - true) / np.maximum(model.sampling(loss, model.samples), 1e-12)[:, None])
            accepted = seen @ QUADRATURE_WEIGHTS / QUADRATURE_WEIGHTS.sum()
            right = (seen * (true <= model.limit)) @ QUADRATURE_WEIGHTS / QUADRATURE_WEIGHTS.sum()
            gain, risk = gain * right, np.maximum(risk, 1 - right / np.maximum(accepted, 1e-12))
        return gain, risk

    def _cuts(self) -> list[Cut]:
        """Cuts that exclude tried and open configurations, those without int8, and most of the suspects of a failure.

        A suspect is a choice of the failed trial that has worked in no other trial. Where no int8 scheme of an operator
        has worked, all of its int8 schemes are suspects.
        """
        known = [*(row for row, _ in self._tried.values()), *self._open.values()]
        cuts = [Cut(_chosen(row), float(row.sum()) - 1) for row in known]
        if self._float is not None:
            floats = [k for k, c in enumerate(self.columns.all) if c.scheme == FLOAT]
            cuts.append(Cut(tuple(floats), float(len(floats)) - 1))
        works = self._works()
        good = {c.decision for c, x in zip(self.columns.all, works, strict=True) if x and c.is_int8}
        for row, trial in self._tried.values():
            if trial.state is TrialState.FAILED:
                cuts += self._blamed(_chosen(row * (works == 0)), good)
        return cuts

    def _works(self) -> Array:
        """1 for each column that was chosen in fp32 or in a trial that did not fail."""
        works = np.zeros(len(self.columns.all)) if self._float is None else self._float.copy()
        for row, trial in self._tried.values():
            if trial.state is not TrialState.FAILED:
                works = np.maximum(works, row)
        return works

    def _blamed(self, places: tuple[int, ...], good: set[int]) -> list[Cut]:
        """A cut that allows at most half of the suspects of one failure.

        Args:
            places: Columns of the failed trial that have worked in no other trial.
            good: Decisions for which an int8 scheme has worked.
        """
        if not places:
            return []
        chosen = [self.columns.all[k] for k in places]
        wholly = {c.decision for c in chosen if c.is_int8 and c.decision not in good}
        suspects = [
            k
            for k, c in enumerate(self.columns.all)
            if (c.is_int8 and c.decision in wholly) or (c in chosen and c.decision not in wholly)
        ]
        return [Cut(tuple(suspects), float(len(chosen) // 2))]


def _chosen(row: Array) -> tuple[int, ...]:
    return tuple(np.flatnonzero(row > 0.5).tolist())
