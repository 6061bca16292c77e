"""Operator by operator around the best: prices learnt from the trials, then a local search on them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nc_strategies.api import Config, Evaluation, Problem, Trial, TrialState
from nc_strategies_optuna.estimate import Array, Estimate
from nc_strategies_optuna.parameters import Parameters

REFINED_SHARE = 0.4
"""Share of the budget, its last, that goes into single operators around the best."""
OPEN_END = 24
"""Without a budget, so many trials are searched before every other one refines."""
CAUTION = (0.0, -0.5, -1.0)
"""Standard deviations of the loss which refinements keep from the limit, in turn. A negative one tries what fits if
prices turn out lower than expected, and so learns prices that a cautious search never asks for."""
QUANTILE = 1.96
"""Half-width of a 95 % interval in standard deviations."""
LEAST_COST_NOISE = 0.003
"""Least standard deviation of one trial's relative latency: savings do not add up more exactly than that."""
LOSS_NOISE = 0.05
"""Standard deviation of one trial's loss by sampling, relative to the loss that is tolerated."""
PRUNED_NOISE = 0.27
"""Part of a pruned trial's loss beyond the tolerated one that is sampling: it was stopped at about 3.7 deviations."""
NOT_ADDITIVE = 0.1
"""Part of a trial's loss beyond the tolerated one which the sum over its operator groups may miss: large losses do
not add up."""
KNOB_SD = 0.3
"""Standard deviation of a graph-wide choice's effect, relative to that of int8 everywhere."""
Flags = NDArray[np.bool_]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class ParallelRules:
    """What keeps a refinement cheap while many trials run: its time grows with the number of trials."""

    trials: int = 500
    """Latest trials from which prices are learnt, where several run at a time."""
    workers_per_trial: int = 8
    """Workers for each new trial that is awaited before prices are learnt again: with up to twice as many minus one,
    they are learnt after each trial."""


PARALLEL = ParallelRules()


@dataclass(frozen=True)
class MoveRules:
    """Which changes the local search looks at: their number grows with the square of the operator groups."""

    all_pairs: int = 200
    """Most operator groups of which every pair is looked at."""
    paired: int = 48
    """Of more groups, so many in int8 and as many in float are paired; each is still looked at alone."""


MOVES = MoveRules()


def deviation(value: float, spread: float) -> float:
    """Standard deviation of a ratio whose 95 % interval goes from value / (1 + spread) to value * (1 + spread).

    From the nearer end: the farther one of a wild timing lies at several times the value, which no ratio's standard
    deviation is.
    """
    return value * (spread / (1 + spread) if math.isfinite(spread) else 1.0) / QUANTILE


class Prices:
    """Loss and saving by operator group, by Gaussian linear regression on the trials so far.

    Source: Bayesian linear regression, Bishop, "Pattern Recognition and Machine Learning", section 3.3; the prior's
    mean is the estimate, scaled to the trials.

    Args:
        problem: What is to be solved.
        parameters: The operator groups and their estimates.
        trials: Finished trials.
    """

    def __init__(self, problem: Problem, parameters: Parameters, trials: Sequence[Trial]) -> None:
        goal, guess = problem.goal, parameters.estimate
        done = [(t.config, t.evaluation) for t in trials if t.evaluation is not None]
        estimated = np.array([t.state is TrialState.PRUNED for t in trials if t.evaluation is not None], bool)
        first = goal.constraints[0]
        self.allowed = first.loss(first.threshold)
        self._parameters = parameters
        self._base = done[0][0] if done else problem.space.default()
        tied_ops = np.array([self._row(config) for config, _ in done]).reshape(len(done), len(self._row(self._base)))
        loss = np.array([goal.loss(e) for _, e in done])
        cost = np.array([1.0 - goal.cost(e) for _, e in done])
        beyond = np.maximum(np.abs(loss) - abs(self.allowed), 0.0)
        rough = NOT_ADDITIVE + PRUNED_NOISE * estimated
        noise = np.maximum(LOSS_NOISE * abs(self.allowed) + rough * beyond, 1e-6)
        self.loss, self.loss_cov = _regress(tied_ops, loss, guess.loss, guess.loss_sd, noise)
        timing = np.array([_deviation(e) for _, e in done])
        self.saved, _ = _regress(tied_ops, cost, guess.saved, guess.saved_sd, timing)

    def _row(self, config: Config) -> list[float]:
        """A configuration as regressors: operator groups in int8, and whether each graph-wide choice is another one."""
        chosen = set(self._parameters.int8_tied_ops(config))
        row = [float(i in chosen) for i in range(len(self._parameters.estimate.tied_ops))]
        ours, theirs = _choices(self._parameters, config), _choices(self._parameters, self._base)
        return row + [float(ours[name] != theirs[name]) for name in theirs]

    def offset(self, config: Config) -> tuple[float, float]:
        """Loss and saving of a configuration's graph-wide choices."""
        row = np.array(self._row(config))
        row[: len(self._parameters.estimate.tied_ops)] = 0.0
        return float(row @ self.loss), float(row @ self.saved)


def refining(problem: Problem, proposed: int, share: float = REFINED_SHARE) -> bool:
    """Whether the next proposal changes single operators around the best.

    Args:
        problem: What is to be solved.
        proposed: Number of proposals so far.
        share: Share of the budget, its last, that goes into such proposals.
    """
    if share <= 0:
        return False
    if problem.time_used() >= 1 - share:
        return True  # the time ends before the trials do
    if problem.budget:
        return proposed >= problem.budget - round(problem.budget * share)
    return proposed >= OPEN_END and proposed % 2 == 1


class Refinements:
    """Configurations around the best: `halve` while no trial keeps the goal, else `refine`.

    With many workers, several follow from the same prices, which are learnt from the latest trials.

    Args:
        problem: What is to be solved.
        parameters: The operator groups and their estimates.
    """

    def __init__(self, problem: Problem, parameters: Parameters) -> None:
        self._problem, self._parameters = problem, parameters
        self._learnt = 0
        self._ahead: dict[float, Iterator[Config]] = {}

    def next(self, trials: Mapping[str, Trial], waiting: Collection[str], refined: int) -> Config | None:
        """The next one; None where nothing new is found.

        Args:
            trials: Finished trials by fingerprint; fp32 has number 0.
            waiting: Fingerprints of what is being tried.
            refined: Number of refinements so far.
        """
        known, workers = {*trials, *waiting}, self._problem.workers
        done = [trial for trial in trials.values() if trial.number > 0]
        recent = done[-PARALLEL.trials :] if workers > 1 else done
        config = halve(self._problem, self._parameters, recent, known)
        if config is not None:
            return config
        if len(done) >= self._learnt + max(1, workers // PARALLEL.workers_per_trial):
            self._learnt = len(done)
            self._ahead.clear()
        caution = CAUTION[refined % len(CAUTION)]
        if caution not in self._ahead:
            best = self._problem.goal.best(done)
            self._ahead[caution] = _promising(self._problem, self._parameters, recent, best, caution)
        return next((c for c in self._ahead[caution] if c.fingerprint not in known), None)


def refine(
    problem: Problem, parameters: Parameters, trials: Sequence[Trial], known: set[str], caution: float = 0.0
) -> Config | None:
    """An untried configuration near the best which should be better, or None.

    See `_around` for what is near.

    Args:
        problem: What is to be solved.
        parameters: The operator groups and their estimates.
        trials: Finished trials.
        known: Fingerprints of what was tried or is being tried.
        caution: Standard deviations of the loss to keep from the limit.
    """
    found = _promising(problem, parameters, trials, problem.goal.best(list(trials)), caution)
    return next((config for config in found if config.fingerprint not in known), None)


def _promising(
    problem: Problem, parameters: Parameters, trials: Sequence[Trial], best: Trial | None, caution: float
) -> Iterator[Config]:
    """What is near the best trial, by prices that are learnt from some trials; see `refine`."""
    if best is None or not parameters.estimate.tied_ops:
        return
    prices = Prices(problem, parameters, trials)
    count = len(parameters.estimate.tied_ops)
    start = np.zeros(count, bool)
    start[parameters.int8_tied_ops(best.config)] = True
    loss0, _ = prices.offset(best.config)
    worth = _Worth(
        prices.loss[:count], prices.loss_cov[:count, :count], prices.saved[:count], prices.allowed - loss0, caution
    )
    yield from _around(parameters, best.config, worth.climb(start), worth)


def halve(problem: Problem, parameters: Parameters, trials: Sequence[Trial], known: set[str]) -> Config | None:
    """Half of the int8 operators of a trial close to the goal, while no trial keeps it; None once one does.

    A single operator may lose more than the goal allows, however few others run in int8. Prices learnt from trials that
    all contain it do not tell which one it is; halves without it do. Source: Zeller and Hildebrandt, "Simplifying and
    isolating failure-inducing input", IEEE Transactions on Software Engineering 28 (2002).

    Args:
        problem: What is to be solved.
        parameters: The operator groups and their estimates.
        trials: Finished trials.
        known: Fingerprints of what was tried or is being tried.
    """
    goal, loss = problem.goal, parameters.estimate.loss
    done = [(t, t.evaluation) for t in trials if t.evaluation is not None]
    if any(t.ok and goal.feasible(e) for t, e in done):
        return None
    for trial, _ in sorted(done, key=lambda pair: goal.violation(pair[1])):
        chosen = sorted(parameters.int8_tied_ops(trial.config), key=lambda i: float(loss[i]))
        middle = len(chosen) // 2
        for half in (chosen[:middle], chosen[middle:]) if middle else ():
            flags = np.zeros(len(parameters.estimate.tied_ops), bool)
            flags[half] = True
            config = _with_tied_ops(parameters, trial.config, flags)
            if config.fingerprint not in known:
                return config
    return None


def _around(parameters: Parameters, config: Config, top: Flags, worth: _Worth) -> Iterator[Config]:
    """The best set of operator groups and its neighbours; where all fit, other graph-wide choices with it instead.

    Less int8 than all of it is expected to be slower, and would only win by the luck of a timing.
    """
    yield _with_tied_ops(parameters, config, top)
    if not top.all():
        yield from (_with_tied_ops(parameters, config, flags) for flags in worth.near(top))
        return
    options = {name: list(values) for name, (_, values) in parameters.options.items()}
    for name, values in (parameters.knobs | options).items():
        for value in values:
            yield _with_tied_ops(parameters, config, top, {name: value})


class _Worth:
    """Predicted saving of a set of operator groups within the loss that is allowed, and a climb to the best set."""

    def __init__(self, loss: Array, cov: Array, saved: Array, allowed: float, caution: float) -> None:
        self.loss, self.cov, self.saved, self.allowed, self.caution = loss, cov, saved, allowed, caution
        self.penalty = 10.0 * float(np.abs(saved).sum()) / max(float(np.abs(loss).sum()), 1e-12)

    def of(self, sets: Flags) -> Array:
        """Worth of sets, shape (N, operator groups)."""
        rows = sets.astype(float)
        loss = rows @ self.loss
        if self.caution:
            loss = loss + self.caution * np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", rows, self.cov, rows), 0.0))
        return np.asarray(rows @ self.saved - self.penalty * np.maximum(loss - self.allowed, 0.0))

    def climb(self, flags: Flags) -> Flags:
        """The best set reached by one change after another; a change flips one operator group or two."""
        value = float(self.of(flags[None])[0])
        while True:
            first, second, values = self._changes(flags)
            best = int(values.argmax())
            if values[best] <= value + 1e-12:
                return flags
            flags, value = _flipped(flags, first[best], second[best]), float(values[best])

    def near(self, flags: Flags) -> Iterator[Flags]:
        """Neighbours of a set, the best first."""
        first, second, values = self._changes(flags)
        return (_flipped(flags, first[i], second[i]) for i in np.argsort(-values, kind="stable"))

    def _changes(self, flags: Flags) -> tuple[Indices, Indices, Array]:
        """Pairs of operator groups to flip, of which both are the same for a single one, and the worth that results."""
        count = len(flags)
        if count <= MOVES.all_pairs:
            first, second = np.triu_indices(count)
            moves = np.repeat(flags[None], len(first), axis=0)
            rows = np.arange(len(first))
            moves[rows, first] ^= True
            other = first != second
            moves[rows[other], second[other]] ^= True
            return first, second, self.of(moves)
        every, chosen = np.arange(count), self._worth_pairing(flags)
        one, two = np.triu_indices(len(chosen), 1)
        first, second = np.concatenate([every, chosen[one]]), np.concatenate([every, chosen[two]])
        return first, second, self._of_flips(flags, first, second)

    def _worth_pairing(self, flags: Flags) -> Indices:
        """Groups that pairs are made of: in int8 those that bring least for their loss, in float the most."""
        order = np.argsort(self.saved / np.maximum(self.loss, 1e-12), kind="stable")
        chosen = flags[order]
        return np.concatenate([order[chosen][: MOVES.paired], order[~chosen][-MOVES.paired :]])

    def _of_flips(self, flags: Flags, first: Indices, second: Indices) -> Array:
        """The result of `of` for sets that differ from one in a group or two, without making these sets."""
        sign, row, pair = np.where(flags, -1.0, 1.0), flags.astype(float), first != second

        def flipped(weights: Array) -> Array:
            change = sign * weights
            return np.asarray(float(row @ weights) + change[first] + np.where(pair, change[second], 0.0))

        loss = flipped(self.loss)
        if self.caution:
            towards = self.cov @ row
            single = 2 * sign * towards + np.diag(self.cov)
            both = single[second] + 2 * sign[first] * sign[second] * self.cov[first, second]
            variance = float(row @ towards) + single[first] + np.where(pair, both, 0.0)
            loss = loss + self.caution * np.sqrt(np.maximum(variance, 0.0))
        return np.asarray(flipped(self.saved) - self.penalty * np.maximum(loss - self.allowed, 0.0))


def _flipped(flags: Flags, first: int, second: int) -> Flags:
    changed = flags.copy()
    changed[first] ^= True
    if second != first:
        changed[second] ^= True
    return changed


def _regress(rows: Array, values: Array, guess: Array, relative_sd: float, noise: Array) -> tuple[Array, Array]:
    """Posterior mean and covariance of the coefficients."""
    tied_ops = len(guess)
    totals = rows[:, :tied_ops] @ guess
    scale = max(float(values @ totals) / max(float(totals @ totals), 1e-12), 1e-6) if len(values) else 1.0
    mean = np.concatenate([guess * scale, np.zeros(rows.shape[1] - tied_ops)])
    sd = np.concatenate([guess * scale * relative_sd, np.full(rows.shape[1] - tied_ops, KNOB_SD * scale)])
    weighted = rows * (sd**2)
    gain = np.linalg.solve(weighted @ rows.T + np.diag(noise**2), weighted)
    cov = np.diag(sd**2) - weighted.T @ gain
    return mean + gain.T @ (values - rows @ mean), cov


def _deviation(evaluation: Evaluation) -> float:
    """Standard deviation of what is minimized, relative to fp32: that of the least certain of its ratios."""
    ratios = dict(evaluation.ratios)
    found = [deviation(ratios[name], spread) for name, spread in evaluation.spread if name in ratios]
    return max([LEAST_COST_NOISE, *found])


def _choices(parameters: Parameters, config: Config) -> dict[str, object]:
    """The graph-wide choices of a configuration, read off it."""
    found: dict[str, object] = dict(config.options)
    for name in parameters.knobs:
        found[name] = parameters.knob_of(config, name)
    return found


def _with_tied_ops(
    parameters: Parameters, config: Config, flags: Flags, other: Mapping[str, str] | None = None
) -> Config:
    choices = {name: parameters.knob_of(config, name) for name in parameters.knobs}
    choices.update({name: str(config.option(option)) for name, (option, _) in parameters.options.items()})
    choices.update(other or {})
    return parameters.compose([int(i) for i in np.flatnonzero(flags)], choices)


def expected_tied_ops(guess: Estimate, total_loss: float, allowed: float) -> int:
    """How many of the most worthwhile operator groups the estimate expects to fit into the loss that is allowed."""
    if total_loss <= 0:
        return len(guess.tied_ops)
    return int(np.searchsorted(np.cumsum(guess.loss) * total_loss, allowed, side="right"))
