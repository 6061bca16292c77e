"""A model of latency for a loaded, calibrated backend: profiles say how time is shared, timings how much it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from nc_strategies.backends.base import Backend, Executable, Profile
from nc_strategies.errors import EngineError
from nc_strategies.measuring.deadline import Check, unlimited
from nc_strategies.measuring.latency import TIMING_RULES, Timing, interleave
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
from nc_strategies.models.info import Batch
from nc_strategies.problem.latency import LatencyTerms
from nc_strategies.space import Config, OpScheme, Space

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitPlan:
    """What is timed to fit the latency model, and when it is enough.

    Values without a reason beside them were set by hand; ``benchmarks/latency_model.py`` measures the model as a whole.
    """

    runs: int = 25
    """Timed runs of a configuration, at least. Latency varies by a few percent between sessions of the same graph, and
    only more graphs average that out, so that few runs of many configurations tell more than many runs of few."""
    most_runs: int = 100
    """Timed runs of a configuration at most, of a model that runs fast."""
    runs_seconds: float = 0.1
    """Seconds that fp32's runs beside a configuration may take, from which its number of runs follows."""
    end_runs_factor: int = 2
    """How many times as many runs the all-float graph, the default and the other int8 schemes get: each of their terms
    depends on one timing."""
    profiled_runs: int = 15
    """Profiled runs of a configuration, at least."""
    most_profiled_runs: int = 40
    """Profiled runs of a configuration at most."""
    open_beside_fp32: int = 1
    """Configurations that are open at the same time beside fp32, as many as in a trial: the more there are, the colder
    are the caches of each."""
    timed_between_checks: int = 4
    """Random configurations that are timed before the error is looked at."""
    pairs: int = 16
    """Pairs of random configurations, a part of the operators and its complement each, that are timed and profiled at
    most."""
    most_pairs: int = 24
    """The same in models with many operators."""
    operators_per_pair: int = 5
    """Operators for each of which there may be one pair more than `pairs`."""
    pairs_without_profiles: int = 8
    """Pairs of random configurations at least where the engine gives no profiles."""
    most_pairs_without_profiles: int = 16
    """The same at most."""
    int8_shares: tuple[float, ...] = (0.5, 0.2, 0.35, 0.08)
    """Share of the operators in int8 in the first of a pair, in turn: what is mostly float or mostly int8 is no mix of
    the ends."""
    stretches: int = 6
    """Stretches that the operators are divided into where those that follow each other are chosen together."""
    least_random: int = 12
    """Random configurations after which fitting may end, at least."""
    operators_per_random: int = 3
    """Operators for each of which there is one such configuration at least."""
    accepted_error: float = 0.02
    """Relative error of predictions, beyond the noise of the timings, at which fitting ends."""
    unsure_error: float = 0.01
    """Standard error of a timing's logarithm above which it is taken once more, where the model's error is larger than
    `accepted_error`."""
    end_deviation_factor: float = 0.5
    """Factor on the standard deviations of the timings of the all-float graph and the default: the model is held more
    closely to them than to the others."""
    session_deviation: float = 0.01
    """Relative standard deviation of latency between sessions of the same graph."""


PLAN = FitPlan()


@dataclass
class _Timed:
    """A configuration, its latency relative to fp32's, and the standard error of the latter's logarithm."""

    name: str
    config: Config
    ratio: float = 0.0
    deviation: float = 0.0
    profile: Profile | None = None

    def average(self, ratio: float, deviation: float) -> None:
        """Take in the timing of another session; what sessions differ by keeps the surer one from counting alone."""
        both = np.array([self.deviation, deviation])
        weights = 1 / (both**2 + PLAN.session_deviation**2)
        weights /= weights.sum()
        self.ratio = float(np.exp(weights @ np.log([self.ratio, ratio])))
        self.deviation = float(np.sqrt(weights**2 @ both**2))


@dataclass
class _TimingSession:
    """Where configurations are timed: beside fp32, a few at a time."""

    backend: Backend
    batch: Batch
    rng: np.random.Generator
    runs: int | None
    limit: float
    clock: Callable[[], float] | None
    reference: Executable | None = None
    check: Check = unlimited
    seconds: float = field(init=False, default=0.0)
    _own: bool = field(init=False, default=False)

    def choose_reference(self, all_float: Config) -> None:
        """Take the faster of the model as given and the all-float graph as fp32, unless one was given."""
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
        """Close fp32 where it was chosen here."""
        if self._own and self.reference is not None:
            self.reference.close()

    def time(self, samples: Sequence[_Timed], times: int = 1) -> list[_Timed]:
        """Fill in the ratios and profiles of some configurations; what cannot run is left out.

        `times` as many runs as usual are timed.
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
                sample.profile = model.profile(self.batch, self._count(PLAN.profiled_runs, PLAN.most_profiled_runs))
                model.close()
                done.append(sample)
        return done

    def time_again(self, samples: Sequence[_Timed]) -> None:
        """Average the ratios of some configurations with those of another session of each."""
        assert self.reference is not None
        for sample in samples:
            model = self._build(sample)
            if model is not None:
                timing = self._interleave([self.reference, model])
                model.close()
                sample.average(timing.ratio(1, 0), timing.standard_error(1, 0))

    def _build(self, sample: _Timed) -> Executable | None:
        try:
            model = self.backend.build(sample.config)
            model.predict(self.batch)
        except EngineError as error:
            log.warning("latency model: %s is left out: %s", sample.name, error)
            return None
        return model

    def _interleave(self, models: Sequence[Executable], times: int = 1) -> Timing:
        def run(model: Executable) -> Callable[[], object]:
            return lambda: model.predict(self.batch)

        count = self.runs or self._count(PLAN.runs, PLAN.most_runs)
        return interleave([run(model) for model in models], count * times, self.rng, self.limit, self.clock, self.check)

    def _count(self, least: int, most: int) -> int:
        """Runs that are affordable."""
        return min(most, max(least, int(PLAN.runs_seconds / self.seconds) if self.seconds else least))


def fit_latency(
    backend: Backend,
    space: Space,
    batch: Batch,
    rng: np.random.Generator,
    runs: int | None = None,
    limit: float = 20.0,
    clock: Callable[[], float] | None = None,
    reference: Executable | None = None,
    check: Check = unlimited,
) -> LatencyTerms:
    """Latency relative to fp32's, as terms.

    The all-float graph, the default, each other sort of int8, every second operator in int8 one way and the other, and
    random mixtures are timed beside fp32 as trials are, and profiled. The profiles give what to expect of each term,
    Bayesian linear regression on the timings corrects it. Where that leaves an error, noisy timings are taken once
    more. Without profiles, operators are expected to take time by their sizes, and those that are not neighbours are
    not taken to influence each other.

    Args:
        backend: Loaded and calibrated.
        space: What may be chosen.
        batch: What trials are timed with.
        rng: Draws configurations and shuffles runs.
        runs: Timed runs of a configuration; by fp32's latency when left out, from 25 to 100.
        limit: Seconds after which the timing of a configuration stops, once there were 20 runs.
        clock: Gives the seconds that are counted; the backend's own when left out.
        reference: fp32 as trials are timed beside it, which stays open; chosen and opened here when left out. Two
            sessions of one model differ by a few per cent, so that ratios only compare beside the same one.
        check: Called before each timed run.

    Returns:
        Terms; `LatencyTerms.error` from the random configurations, each predicted without itself.

    Raises:
        EngineError: not even the all-float graph runs.
        OutOfTimeError: `check` raised it.
    """
    timer = _TimingSession(backend, batch, rng, runs, limit, clock or backend.clock, reference, check)
    timer.choose_reference(space.all_float())
    timed = timer.time(list(_ends(space)), PLAN.end_runs_factor) + timer.time(list(_alternating(space)))
    conversion_edges, profiled = backend.conversion_edges(), any(sample.profile is not None for sample in timed)
    columns = Columns(space, conversion_edges, indirect(space, conversion_edges) if profiled else ())
    pairs, least = _how_many(space, profiled)
    halves = list(_halves(space, pairs, rng))

    def fit() -> tuple[Array, float, float]:
        prior = expected(columns, _profiles(timed, timer.seconds), timer.seconds, len(next(iter(batch.values()))))
        return _fit(columns, prior, timed)

    for start in range(0, len(halves), PLAN.timed_between_checks):
        timed += timer.time(halves[start : start + PLAN.timed_between_checks])
        values, error, own = fit()
        if start + PLAN.timed_between_checks >= least and own <= PLAN.accepted_error:
            break
    unsure = [sample for sample in timed if sample.deviation > PLAN.unsure_error]
    if own > PLAN.accepted_error and unsure:
        log.info("latency model: %d timings are noisy, and taken once more", len(unsure))
        timer.time_again(unsure)
        values, error, own = fit()
    timer.close()
    log.info("latency model: %d timings, error %.3f", len(timed), error)
    return columns.terms(values, error)


def least_seconds(space: Space, run: float, build: float) -> float:
    """Seconds that `fit_latency` takes at least.

    Args:
        space: What may be chosen.
        run: Seconds of one run of fp32.
        build: Seconds to build one model.
    """
    ends, alternating = len(list(_ends(space))), len(list(_alternating(space)))
    _, random = _how_many(space)
    runs = min(PLAN.most_runs, max(PLAN.runs, int(PLAN.runs_seconds / run) if run else PLAN.runs))
    models = ends + alternating + random
    # fp32 and the model are each run twice a timed run, and a few times before.
    timed = 2 * runs * (models + (PLAN.end_runs_factor - 1) * ends) + TIMING_RULES.warm_up_runs * models
    return models * build + 2 * run * timed


def _how_many(space: Space, profiled: bool = True) -> tuple[int, int]:
    """Pairs of random parts at most, and random parts at least: without profiles, all are timed."""
    changing = len(_int8(space))
    if profiled:
        pairs = min(PLAN.most_pairs, max(PLAN.pairs, changing // PLAN.operators_per_pair))
        return pairs, max(PLAN.least_random, changing // PLAN.operators_per_random)
    pairs = min(PLAN.most_pairs_without_profiles, max(PLAN.pairs_without_profiles, changing // 2))
    return pairs, 2 * pairs


def _profiles(timed: Sequence[_Timed], seconds: float) -> list[tuple[Config, Profile]]:
    """Configurations and their profiles, without what profiling adds; `seconds` is fp32's latency."""
    told = [(sample.config, sample.profile, sample.ratio * seconds) for sample in timed if sample.profile is not None]
    plain = unstretched([profile for _, profile, _ in told], [wanted for *_, wanted in told])
    return [(config, profile) for (config, *_), profile in zip(told, plain, strict=True)]


def _fit(columns: Columns, prior: Prior, timed: Sequence[_Timed]) -> tuple[Array, float, float]:
    """Terms, the error on the random configurations, each predicted without itself, and that beyond their noise."""
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
    """Groups that can run in int8, to the schemes."""
    found = {group: tuple(s for s in space.schemes(group) if not s.is_float) for group in space.groups}
    return {group: schemes for group, schemes in found.items() if schemes}


def _chosen(space: Space, chosen: dict[tuple[str, ...], OpScheme]) -> Config:
    return space.all_float().with_ops({name: scheme for group, scheme in chosen.items() for name in group})


def _ends(space: Space) -> Iterator[_Timed]:
    """All-float, the default, and every other kind of int8 wherever it can be."""
    default = space.default()
    yield _Timed("float", space.all_float())
    yield _Timed("int8", default)
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
    """Random parts of the operators in int8, and their complements; every third pair with random schemes.

    In every second pair operators that follow each other are chosen together: where there are few boundaries, operators
    find other neighbours than where int8 and float mix.
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
        place = rng.permutation(len(groups) + together)  # of each stretch
        order = sorted(range(len(groups)), key=lambda i: (place[(i + shift) // together], i))
        first = {groups[i] for i in order[:count]}
        for side in (True, False):
            config = _chosen(space, {group: schemes[group] for group in groups if (group in first) == side})
            for name, values in space.options.items():
                config = config.with_option(name, values[int(rng.integers(len(values)))])
            yield _Timed(f"half {pair}", config)
