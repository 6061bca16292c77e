"""Measuring configurations: fp32 once, then each trial side by side with it."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from nc_strategies.backends.base import Backend, Executable, ExecutedOps
from nc_strategies.config import ACCURACY, MeasureConfig, MetricsConfig
from nc_strategies.data.dataset import Dataset
from nc_strategies.errors import EngineError, InputError, OutOfTimeError
from nc_strategies.measuring import resolution
from nc_strategies.measuring.accuracy import Predictions, loss_interval, predict
from nc_strategies.measuring.deadline import Deadline
from nc_strategies.measuring.ending import Ending
from nc_strategies.measuring.final import Final
from nc_strategies.measuring.latency import TIMING_RULES, Timing, interleave
from nc_strategies.measuring.memory import peak_bytes
from nc_strategies.measuring.sequential import STOPPING_RULES, PairedTest, Verdict
from nc_strategies.metrics.base import Metric, Outputs, rows
from nc_strategies.problem import Evaluation, Goal, Trial
from nc_strategies.problem.evaluation import Pairs
from nc_strategies.runtime.clock import Clock
from nc_strategies.space import Config, Space

log = logging.getLogger(__name__)
FLOAT_TOLERANCE = 1e-3
METRIC = ACCURACY
MEMORY_SPREAD = 0.02
"""Relative half-width taken for the 95 % interval of a ratio of peaks, which are measured once."""
FINALISTS = 3
"""Models that are timed side by side at the end; where more come into question, a heat chooses them."""
CLEAR_TIE = 0.005
"""Relative difference in cost that counts as none between finalists when the fastest keeps the goal beyond doubt: more
accuracy is then worth no more time."""
SESSIONS = 5
"""Times that finalists are opened anew to be timed: two sessions of one graph may differ by some per cent for life."""
LEAST_TIMING = 1e-3
"""Seconds of a timing that has no time left; 0 would be no limit."""
REHEARSED = 0.1
"""Share of the samples that is read to tell how long all of them take."""


Candidate = tuple[Trial, Executable, int, Evaluation, ExecutedOps]
"""A finalist, its model, its column in the timing, its final measurement and what executes."""


@dataclass(frozen=True)
class Scored:
    """A model's metrics, the seconds of an evaluation of all samples, samples read, and what each metric kept."""

    metrics: Pairs
    seconds: float
    samples: int
    kept: tuple[Outputs, ...] = ()


@dataclass
class Baseline:
    """fp32: the model as given and the backend's own all-float graph, and the faster of the two as the reference."""

    as_given: Executable
    all_float: Executable
    reference: Executable
    kept: tuple[Outputs, ...]
    evaluation: Evaluation
    latency_ci95: tuple[float, float]


class Measurer:
    """Measures one model's configurations on one backend.

    Args:
        backend: Loaded and calibrated.
        data: Evaluation samples.
        metric: The metric that is the constraint.
        higher_is_better: Its direction.
        settings: How to measure.
        metrics: The set of metrics, for its objectives.
        rng: Orders the timed runs.
        limit: The tolerable loss given fp32's value, in the metric's unit, beyond which a trial is stopped early; None
            evaluates everything. The data is then in random order.
        further: Metrics of the constraints beside the first, by name.
        deadline: The moment at which whatever is being measured ends with an `OutOfTimeError`.
    """

    def __init__(
        self,
        backend: Backend,
        data: Dataset,
        metric: Metric,
        higher_is_better: bool,
        settings: MeasureConfig,
        metrics: MetricsConfig,
        rng: np.random.Generator,
        limit: Callable[[float], float] | None = None,
        further: Mapping[str, Metric] | None = None,
        deadline: Deadline | None = None,
    ) -> None:
        self.backend = backend
        self.data = data
        self.metric = metric
        self.higher_is_better = higher_is_better
        self.settings = settings
        self.metrics = metrics
        self.rng = rng
        self.limit = limit
        self.deadline = deadline or Deadline()
        self.samples = len(data)
        self._all = {METRIC: metric, **(further or {})}
        self._memory: dict[str, float] = {}
        self.batch = data.batch(0, settings.batch_size)
        self._graphs: dict[str, Evaluation] = {}
        self._baseline: Baseline | None = None
        self._all_float: Config | None = None

    @property
    def baseline(self) -> Baseline:
        """fp32, once `measure_baseline` has been called."""
        assert self._baseline is not None
        return self._baseline

    def remember(self, evaluation: Evaluation) -> None:
        """Take an evaluation of an earlier run as measured."""
        self._graphs[evaluation.graph] = evaluation
        if "memory_bytes" in dict(evaluation.values):
            self._memory[evaluation.graph] = evaluation.value("memory_bytes")

    def _predict(self, models: list[Executable], enough: Callable[[Outputs], bool] | None = None) -> list[Predictions]:
        keep = [metric.keep for metric in self._all.values()]
        return predict(models, self.data, self.settings.evaluation_batch_size, enough, keep, self.deadline.check)

    def _values(self, found: Predictions) -> Pairs:
        return tuple(
            (name, metric.compute(kept, self.data.labels))
            for (name, metric), kept in zip(self._all.items(), found.kept, strict=True)
        )

    def _peak(self, config: Config, graph: str) -> Pairs:
        """Peak memory of a configuration's run, once a graph, when it is an objective."""
        if "memory" not in self.metrics.objectives:
            return ()
        if graph not in self._memory:
            with tempfile.TemporaryDirectory(prefix="ncs-memory-") as folder:
                path = self.backend.save(config, Path(folder) / "model")
                self._memory[graph] = float(peak_bytes(self.backend, path, self.batch))
        return (("memory_bytes", self._memory[graph]),)

    def measure_baseline(self, space: Space) -> Baseline:
        """Measure fp32, as given and as the backend's all-float graph.

        Raises:
            EngineError: the two do not give the same outputs.
        """
        self._all_float = space.all_float()
        spent: dict[str, float] = {}
        with Clock(spent, "build"):
            as_given, all_float = self.backend.reference(), self.backend.build(self._all_float)
        with Clock(spent, "accuracy"):
            try:
                found = self._score(as_given, None)
            except EngineError as error:
                raise InputError("model", f"as given, in fp32, it cannot be evaluated ({error})") from error
            self._check_equal(as_given, all_float)
        for place, (_, value) in enumerate(found.metrics):
            if not math.isfinite(value):
                key = "accuracy" if place == 0 else f"constraints[{place - 1}]"
                raise InputError(f"metrics.{key}.name", f"the metric is {value} for fp32 on this data")
        with Clock(spent, "latency"):
            timing = self._time([as_given, all_float], self.settings.latency_runs)
        faster = int(np.argmin([timing.median_ms(0), timing.median_ms(1)]))
        reference = (as_given, all_float)[faster]
        with Clock(spent, "build"):
            executed = reference.executed()
            peak = self._peak(self._all_float, all_float.fingerprint)
        evaluation = Evaluation(
            metrics=found.metrics,
            values=(
                ("latency_ms", timing.median_ms(faster)),
                ("duration_s", found.seconds),
                ("size_bytes", float(as_given.size_bytes)),
                ("as_given_latency_ms", timing.median_ms(0)),
                ("all_float_latency_ms", timing.median_ms(1)),
                *peak,
            ),
            ratios=tuple((name, 1.0) for name in self.metrics.objectives),
            samples=self.samples,
            int8_ops=executed.int8_count,
            fp32_ops=executed.fp32_count,
            seconds=tuple(spent.items()),
            graph=reference.fingerprint,
        )
        self._baseline = Baseline(as_given, all_float, reference, found.kept, evaluation, timing.interval_ms(faster))
        return self._baseline

    def _check_equal(self, as_given: Executable, all_float: Executable) -> None:
        for a, b in zip(as_given.predict(self.batch), all_float.predict(self.batch), strict=True):
            scale = max(1.0, float(np.abs(a).max(initial=0.0)))
            if not np.allclose(a, b, atol=FLOAT_TOLERANCE * scale, rtol=0, equal_nan=True):
                raise EngineError(
                    "the backend's all-float graph does not compute what the model as given computes: "
                    f"outputs differ by {float(np.abs(a - b).max()):.2g}"
                )

    def measure(self, config: Config) -> Evaluation:
        """Measure a configuration; the same executed graph is never measured twice.

        Raises:
            EngineError: the engine cannot build or run it.
        """
        start = time.perf_counter()
        model = self.backend.build(config)
        built = time.perf_counter() - start
        try:
            known = self._graphs.get(model.fingerprint)
            if known is not None:
                log.info("the same executed graph was measured before")
                return replace(known, seconds=(("build", built),))
            evaluation = self._measure(model, config)
        finally:
            model.close()
        # Reading what executes, closing the session and a run for its peak of memory count as making it.
        measured = sum(took for _, took in evaluation.seconds)
        seconds = (("build", time.perf_counter() - start - measured), *evaluation.seconds)
        self._graphs[model.fingerprint] = evaluation = replace(evaluation, seconds=seconds)
        return evaluation

    def _measure(self, model: Executable, config: Config) -> Evaluation:
        start = time.perf_counter()
        found = self._finite(self._score(model, config, self._paired_test()))
        evaluated = time.perf_counter() - start
        start = time.perf_counter()
        runs = self.settings.latency_runs if found.samples == self.samples else TIMING_RULES.least_runs
        timing = self._time([self.baseline.reference, model], runs)
        seconds = (("accuracy", evaluated), ("latency", time.perf_counter() - start))
        evaluation = self._evaluation(
            model, model.executed(), timing, 1, 0, found, seconds, self._peak(config, model.fingerprint)
        )
        return replace(evaluation, samples=found.samples)

    def rehearse(self, config: Config) -> dict[str, float]:
        """Seconds by stage that measuring a configuration would take, from a part of its samples and timed runs.

        Raises:
            EngineError: the engine cannot build or run it.
        """
        seconds: dict[str, float] = {}
        start = time.perf_counter()
        model = self.backend.build(config)
        try:
            seconds["build"] = time.perf_counter() - start
            model.predict(self.batch)
            start, read = time.perf_counter(), 0

            def enough(outputs: Outputs) -> bool:
                nonlocal read
                read += len(outputs[0]) if isinstance(outputs, tuple) else len(outputs)
                return read >= REHEARSED * len(self.data)

            self._predict([model], enough)
            seconds["accuracy"] = (time.perf_counter() - start) * len(self.data) / read
            start = time.perf_counter()
            self._time([self.baseline.reference, model], TIMING_RULES.least_runs)
            spent = (time.perf_counter() - start) * self.settings.latency_runs / TIMING_RULES.least_runs
            seconds["latency"] = min(spent, self.settings.latency_timeout or spent)
        finally:
            model.close()
        return seconds

    def _paired_test(self) -> PairedTest | None:
        """The test that stops a trial early; None where there is none for this metric."""
        if self.limit is None:
            return None
        base = self.baseline
        scores = self.metric.scores(base.kept[0], self.data.labels) if base.kept else None
        if scores is None:
            return None
        test = PairedTest(
            scores,
            self.limit(base.evaluation.metric(METRIC)),
            self.metric.score_range,
            self.higher_is_better,
            least=math.ceil(STOPPING_RULES.least_share * len(self.data)),
        )
        return test if test.possible else None

    def _score(self, model: Executable, config: Config | None, test: PairedTest | None = None) -> Scored:
        """The metrics of a model; None stands for the model as given."""
        labels = self.data.labels

        def enough(outputs: Outputs) -> bool:
            assert test is not None
            count = len(outputs[0]) if isinstance(outputs, tuple) else len(outputs)
            scores = self.metric.scores(outputs, labels[test.samples : test.samples + count])
            assert scores is not None
            return test.read(scores) is Verdict.OUT_OF_REACH

        (found,) = self._predict([model], enough if test else None)
        read = len(self.data) if test is None else test.samples
        values = self._values(found) if read == len(self.data) else self._extrapolated(found, read)
        return Scored(values, found.seconds * len(self.data) / read, read, found.kept)

    def _extrapolated(self, found: Predictions, read: int) -> Pairs:
        """fp32's values on all samples less the paired losses: what the samples read say of all of them."""
        labels, values = self.data.labels[:read], []
        for (name, metric), kept, fp32 in zip(self._all.items(), found.kept, self.baseline.kept, strict=True):
            change = metric.compute(kept, labels) - metric.compute(rows(fp32, slice(read)), labels)
            values.append((name, self.baseline.evaluation.metric(name) + change))
        return tuple(values)

    @staticmethod
    def _finite(found: Scored) -> Scored:
        for name, value in found.metrics:
            if not math.isfinite(value):
                raise EngineError(f"the metric{'' if name == METRIC else f' {name}'} is {value} for this model")
        return found

    def _compare(
        self, fp32: Executable, int8: Executable, trial: Trial
    ) -> tuple[Scored, Scored, tuple[float, float] | None]:
        """fp32 and the chosen trial's model evaluated side by side, and the interval of the loss."""
        one, other = self._predict([fp32, int8])
        labels = self.data.labels
        interval = loss_interval(self.metric, one.outputs, other.outputs, labels, self.higher_is_better, self.rng)
        return (
            Scored(self.baseline.evaluation.metrics, one.seconds, self.samples),
            Scored(self._values(other), other.seconds, self.samples),
            interval,
        )

    def measure_finalists(
        self,
        trials: list[Trial],
        goal: Goal,
        tie: float,
        opened: Callable[[Trial], Executable] | None = None,
        ending: Ending | None = None,
    ) -> Final:
        """Time the finalists side by side with fp32 again, choose, and evaluate the chosen one beside fp32.

        Args:
            trials: Candidates; the first is preferred where nothing tells them apart.
            goal: Orders them.
            tie: Relative difference in cost that still counts as none, now that more runs were timed.
            opened: Makes a candidate's model; of its configuration when left out.
            ending: How much is measured; everything when left out.

        Raises:
            OutOfTimeError: the deadline has passed before.
        """
        ending = ending or Ending(FINALISTS, self.settings.final_runs, compare=True, preselect=True)
        make = opened or self._built
        base, all_float = self.baseline, self._all_float
        assert all_float is not None
        spent: dict[str, float] = {}
        references = [base.as_given, base.all_float]
        with Clock(spent, "latency"):
            if len(trials) > FINALISTS and ending.preselect:
                trials = self._preselect(trials, goal)
            trials = trials[: ending.finalists]
            timing = self._sessions(
                [
                    self.backend.reference,
                    lambda: self.backend.build(all_float),
                    *(partial(make, trial) for trial in trials),
                ],
                ending.runs,
                3.0,
            )
        faster = int(np.argmin([timing.median_ms(0), timing.median_ms(1)]))
        with Clock(spent, "build"):
            models = [make(trial) for trial in trials]
        candidates: list[Candidate] = []
        scores: list[Scored] = []
        for position, (trial, model) in enumerate(zip(trials, models, strict=True)):
            assert trial.evaluation is not None
            found = Scored(trial.evaluation.metrics, trial.evaluation.value("duration_s"), self.samples)
            if trial.evaluation.samples < self.samples:
                with Clock(spent, "accuracy"):
                    found = self._finite(self._score(model, trial.config))
            index = position + len(references)
            with Clock(spent, "build"):
                executed = model.executed()
                evaluation = self._evaluation(
                    model,
                    executed,
                    timing,
                    index,
                    faster,
                    found,
                    trial.evaluation.seconds,
                    self._peak(trial.config, model.fingerprint),
                )
            candidates.append((trial, model, index, evaluation, executed))
            scores.append(found)
        trial, model, index, _, executed = candidates[self._choose([c[3] for c in candidates], goal, tie)]
        fp32 = Scored(base.evaluation.metrics, base.evaluation.value("duration_s"), self.samples)
        int8, interval = scores[index - len(references)], None
        if ending.compare:
            try:
                with Clock(spent, "accuracy"):
                    fp32, int8, interval = self._compare(references[faster], model, trial)
            except OutOfTimeError as error:
                log.warning("fp32 and the chosen model are not evaluated side by side: %s", error)
        assert trial.evaluation is not None
        with Clock(spent, "build"):
            evaluation = self._evaluation(
                model,
                executed,
                timing,
                index,
                faster,
                int8,
                trial.evaluation.seconds,
                self._peak(trial.config, model.fingerprint),
            )
            for finalist in models:
                finalist.close()
        measured = tuple(
            (c[0].evaluation.graph, evaluation if c[1] is model else c[3])
            for c in candidates
            if c[0].evaluation is not None
        )
        low, high = timing.ratio_interval(index, faster)
        latencies = {
            "latency_ms": timing.median_ms(faster),
            "duration_s": fp32.seconds,
            "as_given_latency_ms": timing.median_ms(0),
            "all_float_latency_ms": timing.median_ms(1),
        }
        return Final(
            trial,
            evaluation,
            executed,
            1 / timing.ratio(index, faster),
            (1 / high, 1 / low),
            interval,
            timing.interval_ms(index),
            _with_values(base.evaluation, latencies),
            timing.interval_ms(faster),
            tuple(spent.items()),
            measured,
        )

    def _choose(self, found: Sequence[Evaluation], goal: Goal, tie: float) -> int:
        """Which of the finalists is closest to the goal, then as fast as the fastest, then the most accurate."""
        closest = min(goal.violation(e) for e in found)
        kept = [e for e in found if goal.violation(e) == closest]
        kept = [e for e in kept if goal.met(e)] or kept
        fastest = min(kept, key=goal.cost)
        if self._clear(fastest, goal):
            tie = min(tie, CLEAR_TIE)
        level = [
            i
            for i, e in enumerate(found)
            if any(e is other for other in kept) and goal.cost(e) <= goal.cost(fastest) * (1 + tie)
        ]
        return min(level, key=lambda i: goal.loss(found[i]))

    def _clear(self, evaluation: Evaluation, goal: Goal) -> bool:
        """Whether an evaluation keeps the goal by more than the samples leave open."""
        first = goal.constraints[0]
        limit = first.loss(first.threshold)
        found = resolution.assumed(self.samples, limit, self.metric.score_range)
        return found is not None and goal.loss(evaluation) + found.half_width <= limit

    def _built(self, trial: Trial) -> Executable:
        return self.backend.build(trial.config)

    def _preselect(self, trials: list[Trial], goal: Goal) -> list[Trial]:
        """The fastest of many candidates, by their trial's timing and one side by side."""
        timing = self._sessions(
            [self._reference, *(partial(self._built, trial) for trial in trials)], self.settings.latency_runs, 1.0
        )
        costs = []
        for index, trial in enumerate(trials, 1):
            assert trial.evaluation is not None
            ratio = timing.ratio(index, 0)
            both = tuple(
                (name, float(np.sqrt(before * ratio)) if name in ("latency", "throughput") else before)
                for name, before in trial.evaluation.ratios
            )
            costs.append(goal.cost(replace(trial.evaluation, ratios=both)))
        return [trials[i] for i in sorted(np.argsort(costs, kind="stable")[:FINALISTS].tolist())]

    def _reference(self) -> Executable:
        """A new session of what trials are timed beside."""
        if self.baseline.reference is self.baseline.as_given:
            return self.backend.reference()
        assert self._all_float is not None
        return self.backend.build(self._all_float)

    def _sessions(self, makers: Sequence[Callable[[], Executable]], runs: int, patience: float) -> Timing:
        """Time models in several sessions of each, as many as leave enough runs a session.

        Raises:
            OutOfTimeError: there was no time for a single session; what was timed before the deadline counts else.
        """
        count = min(SESSIONS, max(1, runs // TIMING_RULES.least_runs))
        timings: list[Timing] = []
        for _ in range(count):
            models: list[Executable] = []
            try:
                for make in makers:
                    self.deadline.check()
                    models.append(make())
                timings.append(self._time(models, math.ceil(runs / count), patience / count))
            except OutOfTimeError:
                if not timings:
                    raise
                log.info("timed in %d of %d sessions: time is over", len(timings), count)
                break
            finally:
                for model in models:
                    model.close()
        return Timing.joined(timings)

    def settle(self, trial: Trial) -> Final:
        """A trial as it was measured, for a run that is interrupted or out of time; nothing is measured."""
        assert trial.evaluation is not None
        done = trial.evaluation
        model = self.backend.build(trial.config)
        executed = model.executed()
        model.close()
        ratio, spread = done.ratio("latency"), dict(done.spread).get("latency", 0.0)
        base, values, latency = self.baseline.evaluation, dict(done.values), done.value("latency_ms")
        # fp32's latency is the one timed beside this trial. Its other times were measured first, when the machine may
        # have had another speed: they are brought to the trial's.
        fp32 = latency / ratio
        drift = fp32 / base.value("latency_ms")
        times = {
            name: base.value(name) * drift
            for name in ("latency_ms", "duration_s", "as_given_latency_ms", "all_float_latency_ms")
        }

        def interval(name: str, value: float) -> tuple[float, float]:
            # Journals of earlier versions hold the ratio's interval only.
            return (
                values.get(f"{name}_low_ms", value / (1 + spread)),
                values.get(f"{name}_high_ms", value * (1 + spread)),
            )

        return Final(
            trial,
            done,
            executed,
            1 / ratio,
            (1 / (ratio * (1 + spread)), (1 + spread) / ratio),
            None,
            interval("latency", latency),
            _with_values(base, times),
            interval("fp32_latency", fp32),
        )

    def _time(self, models: list[Executable], runs: int, patience: float = 1.0) -> Timing:
        def run(model: Executable) -> Callable[[], object]:
            return lambda: model.predict(self.batch)

        limit, left = self.settings.latency_timeout * patience, self.deadline.left
        if left < math.inf:  # what is timed by then counts, once it is enough
            limit = max(min(limit or left, left), LEAST_TIMING)
        return interleave([run(m) for m in models], runs, self.rng, limit, self.backend.clock, self.deadline.check)

    def _evaluation(
        self,
        model: Executable,
        executed: ExecutedOps,
        timing: Timing,
        index: int,
        reference: int,
        found: Scored,
        seconds: Pairs,
        peak: Pairs,
    ) -> Evaluation:
        ratio = timing.ratio(index, reference)
        low, high = timing.ratio_interval(index, reference)
        latency, fp32 = timing.interval_ms(index), timing.interval_ms(reference)
        size = model.size_bytes / self.baseline.as_given.size_bytes
        reach = max(high / ratio, ratio / low) - 1
        ratios = {"latency": ratio, "throughput": ratio, "size": size}
        spread = {"latency": reach, "throughput": reach, "size": 0.0}
        for _, used in peak:
            ratios["memory"] = used / self.baseline.evaluation.value("memory_bytes")
            spread["memory"] = MEMORY_SPREAD
        return Evaluation(
            metrics=found.metrics,
            values=(
                ("latency_ms", timing.median_ms(index)),
                ("fp32_latency_ms", timing.median_ms(reference)),
                ("latency_low_ms", latency[0]),
                ("latency_high_ms", latency[1]),
                ("fp32_latency_low_ms", fp32[0]),
                ("fp32_latency_high_ms", fp32[1]),
                ("duration_s", found.seconds),
                ("size_bytes", float(model.size_bytes)),
                *peak,
            ),
            ratios=tuple(ratios.items()),
            spread=tuple(spread.items()),
            samples=self.samples,
            int8_ops=executed.int8_count,
            fp32_ops=executed.fp32_count,
            seconds=seconds,
            graph=model.fingerprint,
        )


def _with_values(evaluation: Evaluation, values: Mapping[str, float]) -> Evaluation:
    """An evaluation with some of its values replaced."""
    return replace(evaluation, values=tuple({**dict(evaluation.values), **values}.items()))
