"""Common part of all measurements of a run: backend, data, metrics and deadline, and scoring and timing of a model."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.base import Backend, Executable, ExecutedOps
from nc_strategies.calibration import noise
from nc_strategies.config import ACCURACY, MeasureConfig, MetricsConfig
from nc_strategies.data.dataset import Dataset
from nc_strategies.errors import EngineError, InputError, OutOfTimeError
from nc_strategies.measuring.accuracy import Condense, Predictions, loss_interval, predict
from nc_strategies.measuring.deadline import Deadline
from nc_strategies.measuring.extent import Allowance
from nc_strategies.measuring.latency import TIMING_RULES, Timing
from nc_strategies.measuring.lengths import by_length, middle, timed_batches
from nc_strategies.measuring.outputs import AxisError, Layouts, find_layouts
from nc_strategies.measuring.phases import phase_batches, run_ms
from nc_strategies.measuring.reference import ReferenceOutputs
from nc_strategies.measuring.selection import OutputReader, Request, described, select
from nc_strategies.measuring.sequential import PairedTest, Verdict
from nc_strategies.measuring.shares import Sharing, Source
from nc_strategies.measuring.timer import LocalTimer, Timer
from nc_strategies.metrics.base import Metric, Outputs, rows
from nc_strategies.models.info import TensorSpec
from nc_strategies.problem import Evaluation
from nc_strategies.problem.evaluation import Pairs
from nc_strategies.space import Config

log = logging.getLogger(__name__)
METRIC = ACCURACY
MEMORY_SPREAD = 0.02
"""Assumed relative half-width of the 95 % interval of a ratio of memory peaks: each peak is measured only once."""
SESSIONS = 5
"""Sessions in which finalists are timed: per-session bias is averaged out only by reopening the graph."""


@dataclass(frozen=True)
class Scored:
    """A model's metrics, the seconds to evaluate all samples, the number of samples read, and each metric's outputs."""

    metrics: Pairs
    seconds: float
    samples: int
    kept: tuple[Outputs, ...] = ()


@dataclass
class Baseline:
    """fp32: the model as given, the backend's all-float graph, and the faster of the two as the reference.

    Of a large model only the reference can run any more, see `reopening`; the slower of the two is closed.
    """

    as_given: Executable
    all_float: Executable
    reference: Executable
    kept: tuple[Outputs, ...]
    evaluation: Evaluation
    latency_ci95: tuple[float, float]
    large: bool = False
    readings: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    """Pairs (name of the constraint's value, what its metric reads), see `selection.described`."""


class MeasurerCore:
    """Measures one model's configurations on one backend.

    Args:
        backend: Loaded and calibrated.
        data: Evaluation samples.
        metric: Metric of the first constraint.
        higher_is_better: Direction of that metric.
        settings: Configuration section ``measure``.
        metrics: Configuration section ``metrics``, for its objectives.
        rng: Shuffles the timed runs.
        limit: Function from fp32's value to the tolerable loss, in the metric's unit. A trial beyond that loss is
            stopped early, and the data must be in random order. None evaluates all samples.
        further: Metrics of the further constraints, by name.
        deadline: Deadline after which a measurement raises `OutOfTimeError`.
        outputs: The model's declared outputs.
        named: Name of the output that each metric reads, by the name of the constraint's value; without an entry, the
            output is found. See `nc_strategies.measuring.selection.select`.
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
        outputs: Sequence[TensorSpec] = (),
        named: Mapping[str, str | tuple[str, ...]] | None = None,
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
        self.allowance = Allowance()
        self.sharing: Sharing | None = None
        self.timer: Timer = LocalTimer(backend, settings.lock)
        self.loss_intervals = False
        """Compute the interval of every trial's loss, where the metric gives it without resampling."""
        self._batch_size = settings.evaluation_batch_size
        self._all = {METRIC: metric, **(further or {})}
        self._specs, self._named = tuple(outputs), dict(named or {})
        self._layouts: Layouts | None = None
        self._readers: tuple[OutputReader, ...] = ()
        self._memory: dict[str, float] = {}
        self._fp32_outputs: dict[str, ReferenceOutputs] = {}
        if settings.context_lengths is None:
            self.timed = timed_batches(data, settings.batch_size, settings.lengths)
            self.batch = middle(self.timed).batch
        else:
            self.timed = phase_batches(data, settings.batch_size, settings.context_lengths)
            self.batch = data.batch(0, settings.batch_size)
        self._graphs: dict[str, Evaluation] = {}
        self._baseline: Baseline | None = None
        self._all_float: Config | None = None

    @property
    def baseline(self) -> Baseline:
        """fp32's measurement; available after `measure_baseline`."""
        assert self._baseline is not None
        return self._baseline

    def _read_outputs(self, fp32: Executable) -> None:
        """Find which axis of each output counts samples, and which outputs each metric reads.

        Raises:
            InputError: an output has no sample axis in a model with a fixed batch size, or no output fits the labels.
            EngineError: the engine cannot run the model.
        """
        self._use_layouts(find_layouts(fp32, self.data, self._specs))

    def _use_layouts(self, layouts: Layouts) -> None:
        requests = self._requests()
        readers = tuple(select(request, layouts, self.labels_of(request.metric)) for request in requests)
        size = layouts.batch_size
        for request, reader in zip(requests, readers, strict=True):
            whole = [layouts.outputs[place] for place in reader.positions if layouts.outputs[place].axis is None]
            if whole and size is not None and size > 1:
                raise InputError(
                    f"{request.key}.output",
                    f"{whole[0]} has no axis that follows the model's batches of {size}: its values cannot be assigned "
                    f"to samples",
                    f"data.axes={{{whole[0].name}: AXIS}} if an axis counts samples, or a model with batches of 1; its "
                    f"outputs: {layouts}",
                )
        self._layouts, self._readers = layouts, readers

    def _requests(self) -> list[Request]:
        keys = ["metrics.accuracy", *(f"metrics.constraints[{place}]" for place in range(len(self._all) - 1))]
        return [
            Request(key, metric, self._named.get(name))
            for key, (name, metric) in zip(keys, self._all.items(), strict=True)
        ]

    @property
    def one_by_one(self) -> bool:
        """Whether samples are run one by one, because an output that a metric reads belongs to a run as a whole."""
        layouts = self._layouts
        if layouts is None:
            return False
        read = {place for reader in self._readers for place in reader.positions}
        return layouts.single or any(layouts.outputs[place].axis is None for place in read)

    @property
    def evaluation_batch(self) -> int:
        """Samples per run when accuracy is evaluated."""
        return 1 if self.one_by_one else self._batch_size

    def readings(self) -> tuple[tuple[str, Mapping[str, Any]], ...]:
        """Pairs (name of the constraint's value, what its metric reads); empty before fp32 was measured."""
        layouts = self._layouts
        if layouts is None:
            return ()
        return tuple(
            (name, described(request, reader, layouts, self.one_by_one))
            for name, request, reader in zip(self._all, self._requests(), self._readers, strict=True)
        )

    def signal_of(self, outputs: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """The output whose noise ranks operators: one with fractions, preferably one that the first metric reads."""
        if not self._readers:
            return noise.signal_of(outputs)
        read = [outputs[place] for place in self._readers[0].positions]
        chosen = noise.signal_of(read)
        return chosen if np.asarray(chosen).dtype.kind == "f" else noise.signal_of([*outputs, *read])

    def _predict(
        self,
        models: list[Executable],
        enough: Callable[[Outputs], bool] | None = None,
        source: Source | None = None,
    ) -> list[Predictions]:
        models = self.timer.evaluated(models)
        if self._layouts is None:
            self._read_outputs(models[0])
        assert self._layouts is not None
        size = self.evaluation_batch
        like = self._baseline.kept if self._baseline is not None else ()
        condense = [self._condenser(name, metric) for name, metric in self._all.items()]
        outputs = self._layouts.outputs
        if self._baseline is None:
            self._fp32_outputs.clear()
        try:
            return predict(
                models, self.data, size, enough, self._readers, self.deadline.check, outputs, like, condense, source
            )
        except AxisError as error:
            if self._baseline is not None or self._layouts.outputs[error.place].axis is None:
                raise
            # fp32 on further samples has shown that the axis does not count samples.
            log.info("%s", error)
            self._use_layouts(self._layouts.whole(error.place))
            return self._predict(models, enough)

    def _source(self, config: Config | None) -> AbstractContextManager[Source | None]:
        """What runs the batches of a configuration's evaluation: several processes where that pays, otherwise None."""
        sharing = self.sharing
        if sharing is None or config is None or self._baseline is None or self._layouts is None:
            return nullcontext()
        return sharing.source(
            lambda folder: self.backend.save(config, folder),
            self.data.view(),
            sorted({place for reader in self._readers for place in reader.positions}),
            self.baseline.evaluation.value("duration_s"),
            math.ceil(len(self.data) / self.evaluation_batch),
        )

    def labels_of(self, metric: Metric) -> NDArray[Any]:
        """Labels that a metric gets, shape (N, ...); (N, 0) for one that compares with fp32.

        Raises:
            InputError: the metric needs labels, and the data has none.
        """
        return self.data.labels if metric.needs_labels else np.zeros((len(self.data), 0))

    def _condenser(self, name: str, metric: Metric) -> Condense | None:
        """The function that reduces the outputs that a metric keeps of a batch; None if it does not reduce them."""
        if type(metric).condense is Metric.condense:
            return None
        if not metric.needs_labels:
            return lambda kept, samples: metric.condense(kept, self._fp32_rows(name, metric, kept, samples))
        return lambda kept, samples: metric.condense(kept, self.labels_of(metric)[samples])

    def _fp32_rows(self, name: str, metric: Metric, kept: Outputs, samples: NDArray[np.intp]) -> Outputs:
        """fp32's outputs for some samples; until fp32 is measured, `kept` are fp32's own, and are stored."""
        if self._baseline is None:
            metric.observe(kept)
            self._fp32_outputs.setdefault(name, ReferenceOutputs()).append(kept, samples)
        return self._fp32_outputs[name].rows(samples)

    def _values(self, found: Predictions) -> Pairs:
        return tuple(
            (name, self._value(request, kept))
            for name, request, kept in zip(self._all, self._requests(), found.kept, strict=True)
        )

    def _value(self, request: Request, kept: Outputs) -> float:
        """A metric over all samples; its errors name the key of its own constraint."""
        metric, labels = request.metric, self.labels_of(request.metric)
        try:
            if self._baseline is None:
                metric.prepare(kept, labels)
            return metric.compute(kept, labels)
        except InputError as error:
            key = error.key.replace("metrics.accuracy", request.key)
            raise InputError(key, error.problem, error.allowed) from error

    def _peak(self, config: Config, graph: str) -> Pairs:
        """Peak memory of a configuration's run, measured once per graph; empty if memory is no objective."""
        if "memory" not in self.metrics.objectives:
            return ()
        if graph not in self._memory:
            self._memory[graph] = float(self.timer.peak_bytes(self.backend, config, self.timed[-1].batch))
        return (("memory_bytes", self._memory[graph]),)

    def _score(
        self,
        model: Executable,
        config: Config | None,
        test: PairedTest | None = None,
        out_of_time: Callable[[int], bool] | None = None,
    ) -> Scored:
        """Evaluate the metrics of a model.

        Args:
            model: The model.
            config: Its configuration; None for the model as given.
            test: Stops the evaluation once the goal is out of reach.
            out_of_time: Called with the number of samples read so far after each batch; stops the evaluation if true.
        """
        labels, read = self.labels_of(self.metric), 0

        def enough(outputs: Outputs) -> bool:
            nonlocal read
            count = len(outputs[0]) if isinstance(outputs, tuple) else len(outputs)
            start, read = read, read + count
            if test is not None:
                scores = self.metric.paired_scores(outputs, labels[start:read])
                assert scores is not None
                if test.read(scores) is Verdict.OUT_OF_REACH:
                    return True
            return out_of_time is not None and out_of_time(read)

        with self._source(config) as source:
            (found,) = self._predict([model], enough if test or out_of_time else None, source)
        read = read or len(self.data)
        values = self._values(found) if read == len(self.data) else self._extrapolated(found, read)
        return Scored(values, found.seconds * len(self.data) / read, read, found.kept)

    def _extrapolated(self, found: Predictions, read: int) -> Pairs:
        """Metrics estimated from the samples read: fp32's values on all samples less the paired losses."""
        values = []
        for (name, metric), kept, fp32 in zip(self._all.items(), found.kept, self.baseline.kept, strict=True):
            labels = self.labels_of(metric)[:read]
            change = metric.compute(kept, labels) - metric.compute(rows(fp32, slice(read)), labels)
            values.append((name, self.baseline.evaluation.metric(name) + change))
        return tuple(values)

    def _with_loss_interval(self, evaluation: Evaluation, found: Scored, resample: bool) -> Evaluation:
        """An evaluation of all samples with the interval of its loss, if there are outputs to compare with fp32's.

        Args:
            evaluation: The evaluation.
            found: What it was made from.
            resample: Compute the interval also where the metric takes hundreds of resamples for it.
        """
        fp32 = self.baseline.kept
        if found.samples < self.samples or not fp32 or not found.kept:
            return evaluation
        labels = self.labels_of(self.metric)
        if not resample and (not self.loss_intervals or self.metric.scores(found.kept[0], labels) is None):
            return evaluation
        return evaluation.with_loss_ci95(
            loss_interval(self.metric, fp32[0], found.kept[0], labels, self.higher_is_better, self.rng)
        )

    @staticmethod
    def _finite(found: Scored) -> Scored:
        for name, value in found.metrics:
            if not math.isfinite(value):
                raise EngineError(f"the metric{'' if name == METRIC else f' {name}'} is {value} for this model")
        return found

    def _time(self, models: list[Executable], runs: int, patience: float = 1.0) -> Timing:
        limit, deadline = self.settings.latency_timeout * patience, self.deadline
        return self.timer.time(models, self.timed, runs, self.rng, limit, deadline.check, lambda: deadline.left)

    def _time_trial(self, models: list[Executable], runs: int) -> Timing:
        """Time a trial, or fp32 before the trials, within `Allowance.timing_seconds`."""
        most, allowed = self.settings.latency_timeout, self.allowance.timing_seconds
        return self._time(models, runs, min(1.0, allowed / most) if most else 1.0)

    def _references(self) -> tuple[Callable[[], Executable], Callable[[], Executable]]:
        """Open fp32 as given, and the backend's all-float graph."""
        all_float = self._all_float
        assert all_float is not None
        return self.backend.reference, lambda: self.backend.build(all_float)

    def _sessions(self, makers: Sequence[Callable[[], Executable]], runs: int, patience: float) -> Timing:
        """Time models in several sessions, as many as leave enough runs per session.

        Raises:
            OutOfTimeError: no session ended before the deadline; otherwise, the sessions that ended are used.
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
                *run_ms(timing, self.timed, index),
                *peak,
            ),
            ratios=tuple(ratios.items()),
            spread=tuple(spread.items()),
            samples=self.samples,
            int8_ops=executed.int8_count,
            fp32_ops=executed.fp32_count,
            seconds=seconds,
            graph=model.fingerprint,
            latency_by_length=by_length(timing, self.timed, index, reference),
        )


def comparable(output: Any, floats_only: bool = False) -> bool:
    """Whether an output holds numbers. Text, sequences and maps are not compared.

    Args:
        output: An output of a model.
        floats_only: Leave out whole numbers: rounding in half precision may decide between two class numbers.
    """
    return isinstance(output, np.ndarray) and output.dtype.kind in ("f" if floats_only else "fiub")
