"""Latency model of a loaded, calibrated backend, fitted to profiles and end-to-end timings.

Profiles give each operator's share of the latency. Timings give the latency of whole graphs.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from nc_strategies.backends.base import FEW_PROFILED_RUNS, Backend, Executable, Profile
from nc_strategies.errors import EngineError
from nc_strategies.measuring.deadline import Check, unlimited
from nc_strategies.measuring.latency import TIMING_RULES, Timing
from nc_strategies.measuring.latency_regression import (
    Array,
    Columns,
    Prior,
    expected,
    indirect,
    kind,
    posterior,
    unstretched,
)
from nc_strategies.measuring.lengths import TimedBatch, interleave_batches
from nc_strategies.measuring.timer import Timer
from nc_strategies.models.info import Batch
from nc_strategies.problem.latency import LatencyTerms
from nc_strategies.space import Config, OpScheme, Space

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitPlan:
    """Configurations and runs that are timed to fit the latency model, and when fitting stops.

    Values without a stated reason were set by hand; ``benchmarks/latency_model.py`` evaluates the model as a whole.
    """

    runs: int = 25
    """Minimum number of timed runs per configuration. Latency varies by a few percent between sessions of the same
    graph. Per-session bias is averaged out only over more graphs, so few runs of many configurations are more
    informative than many runs of few configurations."""
    most_runs: int = 100
    """Maximum number of timed runs per configuration, reached by fast models."""
    runs_seconds: float = 0.1
    """Time budget in seconds for fp32's runs beside one configuration; it determines the number of timed runs."""
    timing_seconds: float = 20.0
    """Seconds after which the timing of a configuration stops, once it has the minimum number of runs: as long as a
    trial's by default."""
    end_runs_factor: int = 2
    """Multiplier on the timed runs of the all-float graph, the default and the other int8 schemes: each of their terms
    depends on a single timing."""
    profiled_runs: int = 15
    """Minimum number of profiled runs per configuration."""
    most_profiled_runs: int = 40
    """Maximum number of profiled runs per configuration."""
    open_beside_fp32: int = 1
    """Configurations that are open at the same time as fp32, as many as in a trial. More open sessions would leave
    colder caches for each."""
    timed_between_checks: int = 4
    """Random configurations that are timed between two checks of the error."""
    pairs: int = 16
    """Maximum number of pairs of random configurations that are timed and profiled. A pair has a random subset of the
    operators in int8, then the complement of that subset."""
    most_pairs: int = 24
    """Maximum number of pairs of random configurations in models with many operators."""
    operators_per_pair: int = 5
    """Operators per pair in models with many operators: the maximum is then the number of operators divided by this."""
    pairs_without_profiles: int = 8
    """Minimum number of pairs of random configurations where the engine gives no profiles."""
    most_pairs_without_profiles: int = 16
    """Maximum number of pairs of random configurations where the engine gives no profiles."""
    int8_shares: tuple[float, ...] = (0.5, 0.2, 0.35, 0.08)
    """Shares of the operators in int8 in the first configuration of a pair, used in turn. Small shares are included
    because the latency of a mostly float or mostly int8 graph is no interpolation between the all-float graph and the
    default."""
    stretches: int = 6
    """Number of segments that a model is divided into in configurations that choose consecutive operators together."""
    least_random: int = 12
    """Minimum number of random configurations before fitting may stop."""
    operators_per_random: int = 3
    """Operators per random configuration; in models with many operators, this raises the minimum."""
    accepted_error: float = 0.02
    """Relative prediction error, in excess of timing noise, at which fitting stops."""
    unsure_error: float = 0.01
    """Standard error of a log latency ratio above which its timing is repeated, if the model's error exceeds
    `accepted_error`."""
    end_deviation_factor: float = 0.5
    """Factor on the standard deviations of the timings of the all-float graph and the default: the model is fitted more
    closely to these two than to the others."""
    session_deviation: float = 0.01
    """Relative standard deviation of latency between sessions of the same graph."""
    brief_runs: int = 6
    """Timed runs per configuration of a brief fit, which rests on the profiles: a timing of a whole graph only scales
    them."""
    brief_profiled_runs: int = FEW_PROFILED_RUNS
    """Profiled runs per configuration of a brief fit."""
    brief_margin: float = 1.5
    """Factor on the time that the all-float graph and the default take each: another one is begun only if so much is
    left."""


PLAN = FitPlan()


@dataclass
class _Timed:
    """A configuration, its latency relative to fp32's, and the standard error of the logarithm of that ratio."""

    name: str
    config: Config
    ratio: float = 0.0
    deviation: float = 0.0
    profile: Profile | None = None

    def average(self, ratio: float, deviation: float) -> None:
        """Average with the timing of another session, weighted by inverse variance.

        The variance between sessions is added to both, so that the more precise timing does not dominate.
        """
        both = np.array([self.deviation, deviation])
        weights = 1 / (both**2 + PLAN.session_deviation**2)
        weights /= weights.sum()
        self.ratio = float(np.exp(weights @ np.log([self.ratio, ratio])))
        self.deviation = float(np.sqrt(weights**2 @ both**2))


@dataclass
class _TimingSession:
    """Times configurations beside fp32, a few at a time."""

    backend: Backend
    batch: Batch
    rng: np.random.Generator
    runs: int | None
    clock: Callable[[], float] | None
    reference: Executable | None = None
    check: Check = unlimited
    brief: bool = False
    timed_batches: Sequence[TimedBatch] = ()
    timer: Timer | None = None
    seconds: float = field(init=False, default=0.0)
    _own: bool = field(init=False, default=False)

    def choose_reference(self, all_float: Config) -> None:
        """Use the faster of the model as given and the all-float graph as fp32, unless a reference was given."""
        if self.reference is not None:
            self.seconds = self._interleave([self.reference]).median_ms(0) / 1e3
            return
        candidates = [self.backend.reference(), self.backend.build(all_float)]
        timing = self._interleave(candidates)
        faster = int(timing.ratio(1, 0) < 1.0)
        self.seconds = timing.median_ms(faster) / 1e3
        self.reference, self._own = candidates[faster], True
        candidates[1 - faster].close()

    def close(self) -> None:
        """Close the reference if it was opened here."""
        if self._own and self.reference is not None:
            self.reference.close()

    def time(self, samples: Sequence[_Timed], times: int = 1) -> list[_Timed]:
        """Fill in the ratios and profiles of some configurations.

        Args:
            samples: Configurations to time.
            times: Multiplier on the number of timed runs.

        Returns:
            The configurations that the engine can run.
        """
        done = []
        assert self.reference is not None
        for start in range(0, len(samples), PLAN.open_beside_fp32):
            models = [
                (sample, model)
                for sample in samples[start : start + PLAN.open_beside_fp32]
                if (model := self._build(sample)) is not None
            ]
            timing = self._interleave([self.reference, *(model for _, model in models)], times)
            for index, (sample, model) in enumerate(models, 1):
                sample.ratio = timing.ratio(index, 0)
                sample.deviation = timing.standard_error(index, 0)
                sample.profile = model.profile(self.batch, self._profiled_runs())
                model.close()
                done.append(sample)
        return done

    def time_again(self, samples: Sequence[_Timed]) -> None:
        """Time each configuration in another session, and average its ratios."""
        assert self.reference is not None
        for sample in samples:
            model = self._build(sample)
            if model is not None:
                timing = self._interleave([self.reference, model])
                model.close()
                sample.average(timing.ratio(1, 0), timing.standard_error(1, 0))

    def _build(self, sample: _Timed) -> Executable | None:
        self.check()
        try:
            model = self.backend.build(sample.config)
            model.predict(self.batch)
        except EngineError as error:
            log.warning("latency model: %s is left out: %s", sample.name, error)
            return None
        return model

    def _interleave(self, models: Sequence[Executable], times: int = 1) -> Timing:
        count = PLAN.brief_runs if self.brief else self.runs or self._count(PLAN.runs, PLAN.most_runs)
        batches = self.timed_batches or [TimedBatch(self.batch)]
        if self.timer is not None:
            return self.timer.time(models, batches, count * times, self.rng, PLAN.timing_seconds, self.check)
        return interleave_batches(models, batches, count * times, self.rng, PLAN.timing_seconds, self.clock, self.check)

    def _profiled_runs(self) -> int:
        return PLAN.brief_profiled_runs if self.brief else self._count(PLAN.profiled_runs, PLAN.most_profiled_runs)

    def _count(self, least: int, most: int) -> int:
        """Number of runs that fit into `FitPlan.runs_seconds`, within the given bounds."""
        return min(most, max(least, int(PLAN.runs_seconds / self.seconds) if self.seconds else least))


def fit_latency(
    backend: Backend,
    space: Space,
    batch: Batch,
    rng: np.random.Generator,
    runs: int | None = None,
    clock: Callable[[], float] | None = None,
    reference: Executable | None = None,
    check: Check = unlimited,
    brief: bool = False,
    left: Callable[[], float] = lambda: math.inf,
    timed_batches: Sequence[TimedBatch] = (),
    timer: Timer | None = None,
) -> LatencyTerms:
    """Fit the terms of a model's latency relative to fp32's.

    These configurations are profiled, and timed beside fp32 as trials are: the all-float graph, the default, each other
    int8 scheme, every second operator in int8 (the even ones, then the odd ones), and random mixtures. The profiles
    give the prior mean of each term. Bayesian linear regression on the timings corrects it. If the remaining error is
    too large, noisy timings are repeated. Without profiles, an operator's prior mean follows from its size, and
    operators that are not neighbours are assumed not to influence each other.

    Args:
        backend: Loaded and calibrated.
        space: Search space.
        batch: Input that trials are timed with; where they are timed at several lengths, that of the middle one, which
            configurations are profiled with.
        rng: Draws configurations and shuffles runs.
        runs: Timed runs per configuration; by default 25 to 100, depending on fp32's latency.
        clock: Clock in seconds; by default the backend's own.
        reference: fp32 session that trials are timed beside; it stays open. By default one is chosen and opened here.
            Latency varies by a few percent between sessions of the same graph, so ratios are comparable only beside
            the same session.
        check: Called before each timed run.
        brief: Profile only the all-float graph, the default and every second operator in int8, with few runs. The
            latter only if there is time.
        left: Returns the seconds that are left for a brief fit.
        timed_batches: Inputs that trials are timed with, if they are several.
        timer: What times trials; by default they are timed in this process with `clock`. Profiles are always taken in
            this process: they only give the prior of each term.

    Returns:
        The terms; `LatencyTerms.error` is the leave-one-out error on the random configurations; 0 without any.

    Raises:
        EngineError: not even the all-float graph runs.
        OutOfTimeError: `check` raised it.
    """
    session = _TimingSession(
        backend, batch, rng, runs, clock or backend.clock, reference, check, brief, timed_batches, timer
    )
    session.choose_reference(space.all_float())
    if brief:
        timed = _time_briefly(session, space, left)
    else:
        timed = session.time(list(_ends(space)), PLAN.end_runs_factor) + session.time(list(_alternating(space)))
    conversion_edges, profiled = backend.conversion_edges(), any(sample.profile is not None for sample in timed)
    columns = Columns(space, conversion_edges, indirect(space, conversion_edges) if profiled else ())
    pairs, least = _how_many(space, profiled)
    halves = [] if brief else list(_halves(space, pairs, rng))

    def fit() -> tuple[Array, float, float]:
        prior = expected(columns, _profiles(timed, session.seconds), session.seconds, len(next(iter(batch.values()))))
        return _fit(columns, prior, timed)

    values, error, own = fit() if brief else (np.zeros(0), 0.0, 0.0)
    for start in range(0, len(halves), PLAN.timed_between_checks):
        timed += session.time(halves[start : start + PLAN.timed_between_checks])
        values, error, own = fit()
        if start + PLAN.timed_between_checks >= least and own <= PLAN.accepted_error:
            break
    unsure = [sample for sample in timed if sample.deviation > PLAN.unsure_error]
    if own > PLAN.accepted_error and unsure:
        log.info("latency model: %d timings are noisy, and taken once more", len(unsure))
        session.time_again(unsure)
        values, error, own = fit()
    session.close()
    log.info("latency model: %d timings, error %s", len(timed), f"{error:.3f}" if halves else "unknown")
    return columns.terms(values, error)


def _time_briefly(timer: _TimingSession, space: Space, left: Callable[[], float]) -> list[_Timed]:
    """The all-float graph, the default, and as many of the alternating ones as there is time for."""
    ends = list(_ends(space, brief=True))
    start = time.perf_counter()
    timed = timer.time(ends)
    each = (time.perf_counter() - start) / len(ends)
    for sample in _alternating(space):
        if PLAN.brief_margin * each > left():
            break
        timed += timer.time([sample])
    return timed


def least_seconds(space: Space, run: float, build: float, brief: bool = False) -> float:
    """Minimum seconds that `fit_latency` takes.

    Args:
        space: Search space.
        run: Seconds of one run of fp32.
        build: Seconds to build one model.
        brief: See `fit_latency`.
    """
    ends, alternating = len(list(_ends(space, brief))), len(list(_alternating(space)))
    if brief:
        # Per timed run, fp32 and the model are each run twice; profiled runs are those of the model alone.
        each = 4 * PLAN.brief_runs + 2 * PLAN.brief_profiled_runs + TIMING_RULES.warm_up_runs
        opened = 2  # A profile is taken in a session of its own.
        return ends * (opened * build + each * run)
    _, random = _how_many(space)
    runs = min(PLAN.most_runs, max(PLAN.runs, int(PLAN.runs_seconds / run) if run else PLAN.runs))
    models = ends + alternating + random
    # Per timed run, fp32 and the model are each run twice: untimed, then timed. Both are warmed up before.
    timed = 2 * runs * (models + (PLAN.end_runs_factor - 1) * ends) + TIMING_RULES.warm_up_runs * models
    return models * build + 2 * run * timed


def _how_many(space: Space, profiled: bool = True) -> tuple[int, int]:
    """Maximum number of pairs of random configurations, and minimum number of random configurations.

    Without profiles, all pairs are timed.
    """
    changing = len(_int8(space))
    if profiled:
        pairs = min(PLAN.most_pairs, max(PLAN.pairs, changing // PLAN.operators_per_pair))
        return pairs, max(PLAN.least_random, changing // PLAN.operators_per_random)
    pairs = min(PLAN.most_pairs_without_profiles, max(PLAN.pairs_without_profiles, changing // 2))
    return pairs, 2 * pairs


def _profiles(timed: Sequence[_Timed], seconds: float) -> list[tuple[Config, Profile]]:
    """Configurations and their profiles, corrected for profiling overhead; `seconds` is fp32's latency."""
    profiled = [
        (sample.config, sample.profile, sample.ratio * seconds) for sample in timed if sample.profile is not None
    ]
    corrected = unstretched([profile for _, profile, _ in profiled], [wanted for *_, wanted in profiled])
    return [(config, profile) for (config, *_), profile in zip(profiled, corrected, strict=True)]


def _fit(columns: Columns, prior: Prior, timed: Sequence[_Timed]) -> tuple[Array, float, float]:
    """Terms, the leave-one-out error on the random configurations, and that error in excess of timing noise."""
    rows = np.stack([columns.row(sample.config) for sample in timed])
    ratios = np.array([sample.ratio for sample in timed])
    deviation = np.hypot([sample.deviation for sample in timed], PLAN.session_deviation)
    ends = np.array([sample.name in ("float", "int8") for sample in timed])
    noise = deviation * ratios * np.where(ends, PLAN.end_deviation_factor, 1.0)
    values, left_out = posterior(prior, rows, ratios, noise, ends)
    mixed = np.array([sample.name.startswith("half") for sample in timed])
    if not mixed.any():
        return values, 0.0, 0.0
    squared = float(np.mean((left_out[mixed] / ratios[mixed]) ** 2))
    explained = float(np.mean(np.array([sample.deviation for sample in timed])[mixed] ** 2))
    return values, float(np.sqrt(squared)), float(np.sqrt(max(0.0, squared - explained)))


def _int8(space: Space) -> dict[tuple[str, ...], tuple[OpScheme, ...]]:
    """Int8 schemes of each group of operators that can run in int8."""
    found = {group: tuple(s for s in space.schemes(group) if not s.is_float) for group in space.groups}
    return {group: schemes for group, schemes in found.items() if schemes}


def _chosen(space: Space, chosen: dict[tuple[str, ...], OpScheme]) -> Config:
    return space.all_float().with_ops({name: scheme for group, scheme in chosen.items() for name in group})


def _ends(space: Space, brief: bool = False) -> Iterator[_Timed]:
    """All-float, the default, and unless `brief`, each other int8 scheme on all operators that support it."""
    default = space.default()
    yield _Timed("float", space.all_float())
    yield _Timed("int8", default)
    if brief:
        return
    usual = {group: default.schemes[group[0]] for group in space.groups}
    kinds = dict.fromkeys(kind(s) for schemes in _int8(space).values() for s in schemes)
    for other in kinds:
        chosen = {
            group: next(
                (s for s in space.schemes(group) if kind(s) == other and not usual[group].is_float), usual[group]
            )
            for group in space.groups
        }
        if any(kind(chosen[group]) != kind(usual[group]) for group in chosen):
            yield _Timed(f"all {other}", _chosen(space, chosen))


def _alternating(space: Space) -> Iterator[_Timed]:
    default = space.default()
    groups = [group for group in space.groups if not default.schemes[group[0]].is_float]
    for start, name in enumerate(("even", "odd")):
        if groups[start::2]:
            yield _Timed(name, _chosen(space, {group: default.schemes[group[0]] for group in groups[start::2]}))


def _halves(space: Space, pairs: int, rng: np.random.Generator) -> Iterator[_Timed]:
    """Random subsets of the operators in int8, and their complements; every third pair uses random schemes.

    In every second pair, consecutive operators are chosen together. Such graphs have few boundaries between int8 and
    float, so operators have other neighbours in them than in fine mixtures.
    """
    available = _int8(space)
    groups = list(available)
    for pair in range(pairs):
        schemes = {
            group: available[group][0 if pair % 3 != 2 else int(rng.integers(len(available[group])))]
            for group in groups
        }
        count = round(PLAN.int8_shares[pair // 2 % len(PLAN.int8_shares)] * len(groups))
        together = 1 if pair % 2 == 0 else max(1, len(groups) // PLAN.stretches)
        shift = int(rng.integers(together))
        place = rng.permutation(len(groups) + together)  # random position of each segment
        order = sorted(range(len(groups)), key=lambda i: (place[(i + shift) // together], i))
        first = {groups[i] for i in order[:count]}
        for side in (True, False):
            config = _chosen(space, {group: schemes[group] for group in groups if (group in first) == side})
            for name, values in space.options.items():
                config = config.with_option(name, values[int(rng.integers(len(values)))])
            yield _Timed(f"half {pair}", config)
