"""Replays a table: a strategy proposes through the real interface, and a trial is a look into the table.

A trial's latency is the table's true one times an error that is drawn from the differences between recorded sessions.
Its scores are the recorded ones in a random order, read in batches until the product's own test stops it. Its seconds
are the recorded ones.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.api import (
    Config,
    Constraint,
    EngineError,
    Evaluation,
    Goal,
    InputError,
    LatencyTerms,
    Objective,
    Problem,
    Strategy,
    Trial,
    TrialState,
)
from nc_strategies.measuring.sequential import STOPPING_RULES, PairedTest, Verdict
from nc_strategies.registry import registry
from nc_strategies.study.estimates import terms_from_dict
from strategies.table import Table

Array = NDArray[np.float64]
METRIC = "accuracy"


@dataclass(frozen=True)
class ReplayRules:
    """What a replay takes from the product's way of measuring."""

    trial_runs: int = 100
    """Timed runs of a trial. The errors of a table's shorter sessions are scaled by the square root of the runs."""
    spread_quantiles: tuple[float, float] = (2.26, 3.18)
    """Student's t of the 95 % interval of a trial's ten blocks, and of the four blocks of a short session."""
    pruned_timing: float = 0.2
    """Share of a trial's timed runs that one has which was stopped early: 20 of 100."""
    final_sessions: int = 5
    """Sessions of a final timing, over which its error is averaged."""
    finalists: int = 3
    """Models that are timed again at the end."""
    final_tie: float = 0.015
    """Relative difference in latency that counts as none between finalists."""
    most_repeats: int = 1000
    """Proposals of known configurations in a row after which a strategy counts as finished."""


REPLAY_RULES = ReplayRules()


@dataclass(frozen=True)
class Truth:
    """True latencies of a table, and the error of one session.

    Args:
        ratio: Latency relative to fp32's, shape (C,).
        errors: Errors of the logarithm of a trial's ratio, from those recorded.
        noise: Standard deviation of these errors.
        spread_factor: Factor from a session's recorded interval to a trial's.
        timed: Share of the configurations that were timed; the latency of the others is the fit's.
        held_out: Mean relative error of the fit on configurations that were left out of it.
    """

    ratio: Array
    errors: Array
    noise: float
    spread_factor: float
    timed: float
    held_out: float

    @staticmethod
    def of(table: Table) -> Truth:
        """Estimate the true latencies.

        The lowest of hundreds of noisy latencies is too low. Each mean over sessions is therefore shrunk towards a sum
        over groups and pairs of groups, by the share of the residuals' variance that is the sessions'.
        That is the best linear predictor of a value from a noisy one (Robinson, "That BLUP is a good thing",
        Statistical Science 6 (1991)). Configurations of one executed graph have one latency. A configuration that was
        not timed has the latency of the fit.
        """
        timed = np.isfinite(table.ratio) & ~table.failed[:, None]
        logs = np.where(timed, np.log(np.where(timed, table.ratio, 1.0).astype(np.float64)), np.nan)
        sessions = timed.sum(1)
        means = np.nansum(logs, 1) / np.maximum(sessions, 1)
        often = sessions > 1
        alone = (logs - means[:, None]) * np.sqrt(sessions / np.maximum(sessions - 1, 1))[:, None]
        errors = alone[often][timed[often]]
        noise = float(errors.std()) if len(errors) else 0.0
        runs = int(table.about["runs"])
        shrink = math.sqrt(min(1.0, runs / REPLAY_RULES.trial_runs))
        ten, four = REPLAY_RULES.spread_quantiles
        factor = shrink * (ten / four if runs < REPLAY_RULES.trial_runs else 1.0)
        _, place = np.unique(table.graph, return_inverse=True)
        count = np.bincount(place, sessions)[place]
        use = (count > 0) & ~table.failed
        mean = np.exp(np.bincount(place, sessions * means)[place] / np.maximum(count, 1))
        design = _design(table.choices)
        fit, _, rank, _ = np.linalg.lstsq(design[use], mean[use], rcond=None)
        fitted = design @ fit
        rest = mean[use] - fitted[use]
        spare = int(use.sum()) - int(rank)
        variance = float((rest**2).sum() / spare) if spare > 0 else math.inf
        sampling = float((noise**2 / count[use] * mean[use] ** 2).mean())
        kept = max(0.0, 1 - sampling / variance) if variance > 0 else 0.0
        ratio = fitted.copy()
        ratio[use] = mean[use] if spare <= 0 else fitted[use] + kept * rest
        held_out = _held_out(design[use], mean[use]) if spare > 0 else math.nan
        return Truth(
            ratio, shrink * errors if noise else np.zeros(1), shrink * noise, factor, float(use.mean()), held_out
        )


def _held_out(design: Array, values: Array, parts: int = 10) -> float:
    """Mean relative error of the fit by ten-fold cross-validation."""
    part = np.random.default_rng(0).permutation(len(values)) % parts
    errors = []
    for k in range(parts):
        fit = np.linalg.lstsq(design[part != k], values[part != k], rcond=None)[0]
        errors += (np.abs(design[part == k] @ fit / values[part == k] - 1)).tolist()
    return float(np.mean(errors))


def _design(choices: NDArray[np.uint8]) -> Array:
    """Columns of 0 and 1: one, each choice of each group but the first one, and products of two groups' columns."""
    columns = [[choices[:, g] == k for k in range(1, int(choices[:, g].max()) + 1)] for g in range(choices.shape[1])]
    single = [column for group in columns for column in group]
    pairs = [a & b for i, one in enumerate(columns) for other in columns[i + 1 :] for a in one for b in other]
    return np.stack([np.ones(len(choices)), *single, *pairs], 1).astype(np.float64)


@dataclass(frozen=True)
class Course:
    """A strategy's trials on a table, with what a run would return after each number of them.

    Args:
        rows: Row of the table that the run returns after each trial; -1 where no trial keeps the goal.
        seconds: Seconds of estimates and trials up to the end of each trial.
        met: Number of the first trial that meets the goal; 0 if none does.
        met_seconds: Seconds up to its end.
        thinking: Seconds of the processor that the strategy itself took.
        budgeted: Whether the strategy has asked for its budget: with another budget it may propose other trials.
        ended: Why the strategy has finished before its budget; empty if it has not.
        refused: Why it cannot run at all.
    """

    rows: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()
    met: int = 0
    met_seconds: float = math.nan
    thinking: float = 0.0
    budgeted: bool = True
    ended: str = ""
    refused: str = ""

    def at(self, trials: int) -> Course:
        """The course of a budget of fewer trials."""
        if self.refused:
            return self
        met = self.met if 0 < self.met <= trials else 0
        return Course(
            self.rows[:trials],
            self.seconds[:trials],
            met,
            self.met_seconds if met else math.nan,
            self.thinking,
            self.budgeted,
            self.ended if len(self.rows) < trials else "",
        )


class WatchedProblem(Problem):
    """A problem that knows whether its budget was asked for."""

    def __getattribute__(self, name: str) -> Any:
        if name == "budget":
            object.__setattr__(self, "budgeted", True)
        return super().__getattribute__(name)


@dataclass
class Replay:
    """A table as a strategy's world.

    Args:
        table: The table.
        limit: Tolerable absolute loss.
        seed: Decides the order of the samples, the errors of timings and the strategy's random numbers.
        folder: Folder for a strategy's files; None without one.
    """

    table: Table
    limit: float
    seed: int
    folder: Path | None = None
    seconds: float = 0.0
    trials: list[Trial] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    notices: list[str] = field(default_factory=list)

    @cached_property
    def truth(self) -> Truth:
        """True latencies."""
        return Truth.of(self.table)

    @cached_property
    def _order(self) -> NDArray[np.intp]:
        return np.random.default_rng([self.seed, 2]).permutation(len(self.table.reference))

    @cached_property
    def goal(self) -> Goal:
        """The goal: latency within the limit."""
        value, better = float(self.table.reference.mean()), bool(self.table.about["higher_is_better"])
        constraint = Constraint.from_baseline(METRIC, value, better, "absolute", self.limit)
        return Goal((constraint,), (Objective("latency"),), len(self.table.reference))

    def problem(self, budget: int) -> WatchedProblem:
        """The problem that the strategy gets."""
        able = self.table.estimates
        terms = (lambda: self._terms) if "terms" in able else None
        return WatchedProblem(
            self.table.space,
            self.goal,
            self._baseline(),
            np.random.default_rng([self.seed, 0]),
            budget,
            sensitivity=self._sensitivity if "sensitivity" in able else None,
            latency_model=(lambda config: self._terms(config)) if terms else None,
            latency_terms=terms,
            divergence=self._divergence if "divergence" in able else None,
            hessian=self._hessian if "hessian" in able else None,
            state_dir=self.folder,
            metadata={"model": self.table.name, "data": "", "space": self.table.space.fingerprint},
            notice=self.notices.append,
        )

    def _pay(self, name: str) -> Any:
        """An estimate; its seconds count when it is asked for first."""
        found = self.table.estimates[name]
        if name not in self.asked:
            self.asked.add(name)
            self.seconds += found.seconds
        return found.value

    def _sensitivity(self, way: str = "") -> Mapping[str, float]:
        name = f"sensitivity {way}" if way else "sensitivity"
        return dict(self._pay(name)) if name in self.table.estimates else {}

    @property
    def _terms(self) -> LatencyTerms:
        return terms_from_dict(self._pay("terms"))

    def _hessian(self, draws: int) -> Mapping[str, float]:
        return dict(self._pay("hessian"))

    def _divergence(self, config: Config, batches: int = 1) -> float:
        row = self.table.row(config)
        name = f"divergence of {row} on {batches}"
        if name not in self.asked:
            self.asked.add(name)
            self.seconds += float(self.table.estimates["divergence"].value)
        if self.table.failed[row]:
            raise EngineError("the engine failed at this configuration when the table was made")
        return float(self.table.divergence[row])

    def _baseline(self) -> Evaluation:
        about, samples = self.table.about, len(self.table.reference)
        return Evaluation(
            metrics=((METRIC, float(self.table.reference.mean())),),
            values=(("latency_ms", float(about["fp32_ms"])), ("size_bytes", 1.0), ("duration_s", 1.0)),
            ratios=(("latency", 1.0), ("size", 1.0)),
            spread=(("latency", 0.0), ("size", 0.0)),
            samples=samples,
            graph="fp32",
        )

    def measure(self, config: Config) -> Trial:
        """The trial of a configuration; its seconds count."""
        number, row = len(self.trials) + 1, self.table.row(config)
        self.seconds += _known(self.table.build_seconds, row)
        if self.table.failed[row]:
            trial = Trial(number, config, TrialState.FAILED, error="the engine failed when the table was made")
        else:
            evaluation = self._evaluation(row)
            state = TrialState.OK if evaluation.samples == len(self.table.reference) else TrialState.PRUNED
            trial = Trial(number, config, state, evaluation)
        self.trials.append(trial)
        return trial

    def _evaluation(self, row: int) -> Evaluation:
        table, graph = self.table, str(self.table.graph[row])
        same = [t.evaluation for t in self.trials if t.evaluation is not None and t.evaluation.graph == graph]
        if same:
            return same[0]  # the product never measures an executed graph twice
        read, value = self._read(row)
        share = read / len(table.reference)
        timed = 1.0 if read == len(table.reference) else REPLAY_RULES.pruned_timing
        self.seconds += share * _known(table.accuracy_seconds, row) + timed * _known(table.latency_seconds, row)
        rng = np.random.default_rng([self.seed, 5, row])
        spreads = table.spread[row] if np.isfinite(table.spread[row]).any() else table.spread.ravel()
        ratio = float(self.truth.ratio[row] * np.exp(rng.choice(self.truth.errors)))
        spread = self.truth.spread_factor * float(rng.choice(spreads[np.isfinite(spreads)]))
        return Evaluation(
            metrics=((METRIC, value),),
            values=(
                ("latency_ms", ratio * float(table.about["fp32_ms"])),
                ("size_bytes", float(table.size[row])),
                ("duration_s", _known(table.accuracy_seconds, row)),
            ),
            ratios=(("latency", ratio), ("size", float(table.size[row]))),
            spread=(("latency", spread), ("size", 0.0)),
            samples=read,
            int8_ops=int(table.int8_ops[row]),
            fp32_ops=int(table.fp32_ops[row]),
            graph=graph,
        )

    def _read(self, row: int) -> tuple[int, float]:
        """Samples that are read before the test stops the trial, and the metric as estimated from them."""
        table, count, size = self.table, len(self.table.reference), int(self.table.about["evaluation_batch_size"])
        reference, scores = table.reference[self._order], table.scores[row][self._order]
        low, high = table.about["score_range"]
        least = math.ceil(STOPPING_RULES.least_share * count)
        better = bool(table.about["higher_is_better"])
        test = PairedTest(reference, self.limit, (low, high), better, least=least)
        read = count
        for start in range(0, count, size) if test.possible else ():
            if test.read(scores[start : start + size]) is Verdict.OUT_OF_REACH:
                read = min(start + size, count)
                break
        return read, float(reference.mean() + (scores[:read] - reference[:read]).mean())

    def returned(self, trials: Sequence[Trial]) -> int:
        """Row of the model that a run returns: the finalists are timed again, and the best is chosen.

        Returns:
            The row; -1 if no trial keeps the constraint.
        """
        done = [t for t in trials if t.ok and t.evaluation is not None and self.goal.feasible(t.evaluation)]
        if not done:
            return -1
        done.sort(key=lambda t: self.goal.cost(t.evaluation))  # type: ignore[arg-type]
        rows = list(dict.fromkeys(self.table.row(t.config) for t in done))[: REPLAY_RULES.finalists]
        again = []
        for row in rows:
            rng = np.random.default_rng([self.seed, 6, row])
            error = float(rng.choice(self.truth.errors, REPLAY_RULES.final_sessions).mean())
            again.append(float(self.truth.ratio[row]) * math.exp(error))
        tie = min(again) * (1 + REPLAY_RULES.final_tie)
        level = [(self.table.losses[row], ratio, row) for row, ratio in zip(rows, again, strict=True) if ratio <= tie]
        return min(level)[2]


def _known(values: NDArray[np.float32], row: int) -> float:
    """A configuration's value; the median of all where it was not measured."""
    return float(values[row] if np.isfinite(values[row]) else np.nanmedian(values))


def settings_of(name: str) -> dict[str, Any]:
    """A strategy's name and the settings without which it would need a server."""
    return {"name": name, **({"driver": "local"} if name == "sigopt" else {})}


def search(table: Table, strategy: str, limit: float, budget: int, seed: int, folder: Path | None = None) -> Course:
    """Run a strategy on a table.

    Args:
        table: The table.
        strategy: The strategy's name.
        limit: Tolerable absolute loss.
        budget: Trials.
        seed: See `Replay`.
        folder: Folder for the strategy's files.
    """
    replay = Replay(table, limit, seed, folder)
    problem = replay.problem(budget)
    object.__setattr__(problem, "budgeted", False)
    begun = time.process_time()
    try:
        made: Strategy = registry().create("strategy", settings_of(strategy), problem)
    except InputError as error:
        return Course(refused=f"{error.key}: {error.problem}")
    rows: list[int] = []
    seconds: list[float] = []
    met, met_seconds, ended, repeats = 0, math.nan, "", 0
    known: dict[str, Trial] = {}
    try:
        while len(rows) < budget and repeats < REPLAY_RULES.most_repeats:
            config = made.propose()
            if config is None:
                ended = made.ended or made.note or "nothing is left to try"
                break
            repeats = repeats + 1 if config.fingerprint in known else 0
            if not repeats:
                trial = known[config.fingerprint] = replay.measure(config)
                if not met and trial.evaluation is not None and replay.goal.met(trial.evaluation):
                    met, met_seconds = trial.number, replay.seconds
                rows.append(replay.returned(replay.trials))
                seconds.append(replay.seconds)
            made.observe(known[config.fingerprint])
    finally:
        made.close()
    thinking = time.process_time() - begun
    budgeted = bool(problem.__dict__["budgeted"])
    return Course(tuple(rows), tuple(seconds), met, met_seconds, thinking, budgeted, ended)
