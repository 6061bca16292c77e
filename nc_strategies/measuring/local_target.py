"""Measurement target in the process of the engine. It holds all large objects: the model, the engine and the data."""

from __future__ import annotations

import logging
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.adapted import AdaptedExecutable, adapt
from nc_strategies.backends.base import Backend
from nc_strategies.backends.ceiling import Ceiling
from nc_strategies.calibration.recovery import LIMITS as RECOVERY_LIMITS
from nc_strategies.config import RunConfig
from nc_strategies.data.batches import LazyBatches
from nc_strategies.data.dataset import Dataset, Raw, cut, with_masks
from nc_strategies.data.matching import match
from nc_strategies.data.settings import InputRules, Preprocess
from nc_strategies.errors import EngineError, InputError, TargetError, first_line
from nc_strategies.measuring.core import METRIC, comparable
from nc_strategies.measuring.deadline import Deadline
from nc_strategies.measuring.diagnosis import Diagnosis, diagnose, first_samples
from nc_strategies.measuring.ending import Ending
from nc_strategies.measuring.extent import EXTENT_RULES, Allowance, BatchesInTime, Extent
from nc_strategies.measuring.final import Final
from nc_strategies.measuring.latency_model import fit_latency
from nc_strategies.measuring.lengths import heeds_mask
from nc_strategies.measuring.measurer import Measurer
from nc_strategies.measuring.outputs import close, within_noise
from nc_strategies.measuring.remote.agreement import SAMPLES_COMPARED, Agreement, compare
from nc_strategies.measuring.remote.models import ON_TARGET, RemoteTimer, TwinBackend
from nc_strategies.measuring.remote.session import RemoteSession
from nc_strategies.measuring.sensitivity import SAMPLES, mean_divergence, output_noise, signal_in_pieces
from nc_strategies.measuring.shares import Sharing, Watch
from nc_strategies.measuring.target import Finish, Measured
from nc_strategies.measuring.user_function import FunctionMeasurer
from nc_strategies.metrics.base import Metric
from nc_strategies.metrics.objects import UserEvaluation
from nc_strategies.models import ModelSource
from nc_strategies.models.feeds import Feeds, SequenceStep
from nc_strategies.models.info import Batch, ModelInfo
from nc_strategies.problem import Constraint, Evaluation, Goal, LatencyTerms, Trial
from nc_strategies.runtime import memory
from nc_strategies.runtime.files import unwritable
from nc_strategies.runtime.random_streams import Stream, generator
from nc_strategies.space import Capabilities, Config, Space

log = logging.getLogger(__name__)
CALIBRATION_BATCH = 20
"""Most samples of a calibration run where the user states no number; a backend takes fewer if memory is short."""
LEAST_SAMPLES = 2
SAVED_TOLERANCE = 1e-5
PREFILL_ONLY = (
    "Latency is that of reading samples at once; measure.context_lengths=[...] measures a decoder's time per token."
)
"""Remark on a decoder whose latency is measured as that of other models."""


@dataclass
class TargetParts:
    """Components of a target in this process.

    Args:
        backend: The engine.
        model: The fp32 model.
        evaluation: Labelled samples; with a `UserEvaluation`, samples to time models with.
        calibration: Calibration samples.
        preprocess: Preprocessing of samples into model inputs.
        metric: Metric of the first constraint.
        further: Metrics of the further constraints, in the order of the constraints.
        rules: What the user states about the model's inputs.
        remote: The use of the machine that times; None for this one.
    """

    backend: Backend
    model: ModelSource
    evaluation: Raw
    calibration: Raw
    preprocess: Preprocess
    metric: Metric
    further: tuple[Metric, ...] = ()
    rules: InputRules = field(default_factory=InputRules)
    remote: RemoteSession | None = None


class LocalTarget:
    """A target in this process. See `MeasurementTarget`.

    Args:
        parts: Components of the target.
        config: The whole configuration.
        sharing: Other processes that evaluate a part of the samples.
    """

    def __init__(self, parts: TargetParts, config: RunConfig, sharing: Sharing | None = None) -> None:
        self.parts, self.config, self.sharing = parts, config, sharing
        memory.set_limit(config.tuning.memory_limit)
        self._rng = generator(config.tuning.seed, Stream.TIMING)
        self._facts: dict[str, Any] | None = None
        self._info: ModelInfo | None = None
        self._space: Space | None = None
        self._calibration: Dataset | None = None
        self._measurer: Measurer | None = None
        self._remarks: tuple[str, ...] = ()
        self._noise: dict[str, dict[str, float]] = {}
        self._allowance = Allowance()
        self._batches: BatchesInTime | None = None
        self._every_batch: LazyBatches | None = None
        self._calibration_size = CALIBRATION_BATCH
        self._signals: dict[int, NDArray[Any]] = {}
        self._terms: LatencyTerms | None = None
        self._agreement: Agreement | None = None
        self._deadline = Deadline()
        self._stateful = False

    @property
    def higher_is_better(self) -> bool:
        """Direction of the first constraint's metric: the configured one, otherwise the metric's default."""
        asked = self.config.metrics.accuracy.get("higher_is_better")
        return self.parts.metric.higher_is_better if asked is None else bool(asked)

    @property
    def directions(self) -> tuple[bool, ...]:
        """Directions of the further constraints' metrics."""
        asked = [further.metric.get("higher_is_better") for further in self.config.metrics.further()]
        return tuple(
            metric.higher_is_better if word is None else bool(word)
            for word, metric in zip(asked, self.parts.further, strict=True)
        )

    def facts(self) -> dict[str, Any]:
        """See `MeasurementTarget.facts`; the model need not be loaded."""
        if self._facts is not None:
            return self._facts
        parts = self.parts
        kind, path = parts.model.pick(parts.backend.accepts, self.config.backend["name"])
        self._facts = {
            "model_name": parts.model.name,
            "model_sha256": parts.model.sha256(kind, parts.backend.companions(path)),
            "data_sha256": parts.evaluation.sha256(),
            "calibration_sha256": parts.calibration.sha256(),
            "labelled": parts.evaluation.labels is not None,
            "preprocess": asdict(parts.preprocess),
            **({"inputs": _stated(parts.rules)} if parts.rules != InputRules() else {}),
        }
        return self._facts

    def load(self) -> Capabilities:
        """See `MeasurementTarget.load`."""
        if self.parts.remote is not None:
            self.parts.remote.connect()
            there = self.ceiling()
            self.parts.backend.saturates_there = there is not None and there.saturates is True
        with _model_at_fault("cannot be worked on"):
            self._info = self.parts.backend.load(self.parts.model)
            return self.parts.backend.capabilities()

    def allow(self, allowance: Allowance) -> None:
        """See `MeasurementTarget.allow`."""
        self._allowance = allowance

    def calibrate(self, cautious: bool = False) -> Capabilities:
        """See `MeasurementTarget.calibrate`."""
        parts, measure = self.parts, self.config.measure
        if self.sharing is not None:
            if measure.accuracy_on == ON_TARGET:
                self.sharing.stop("samples are evaluated on the target")
            self.sharing.start()
        evaluation, self._calibration, feeds = self._datasets()
        self._stateful = bool(feeds.state)
        if feeds.state:
            self._allowance = Allowance()  # The steps of a sequence follow each other: none can be left out.
            if self.sharing is not None:
                self.sharing.stop("the samples of a sequence follow each other")
        if parts.remote is not None:
            parts.backend = TwinBackend(parts.backend, feeds, parts.remote)
        parts.backend.cautious = cautious
        parts.backend.recovery_seconds = min(RECOVERY_LIMITS.seconds, self._allowance.recovery_seconds)
        self._check_mask(evaluation, self._calibration)
        if self._allowance.calibration_samples:
            self._calibration.limit(min(self._allowance.calibration_samples, len(self._calibration)))
        self._check_samples(evaluation, feeds.info.batch_size)
        self._measurer = self._make_measurer(evaluation, feeds)
        if not isinstance(parts.metric, UserEvaluation) and any(m.needs_labels for m in (parts.metric, *parts.further)):
            _ = evaluation.labels  # Read now, so that data without labels is rejected before any long step.
        with _model_at_fault("cannot be run on the calibration data"):
            if feeds.state:
                self._carry_state(self._calibration)
            parts.backend.calibrate(self._calibration_batches())
        for data in (evaluation, self._calibration):
            data.at_most(parts.backend.largest_batch)
        with _model_at_fault("cannot be run on the calibration data"):
            return parts.backend.capabilities()

    def _check_samples(self, evaluation: Dataset, batch_size: int | None) -> None:
        """Check that the samples and the settings fit the model and the metric.

        Args:
            evaluation: The samples for evaluation.
            batch_size: The only number of samples that the model takes at a time; None for any.

        Raises:
            InputError: they do not.
        """
        parts, measure = self.parts, self.config.measure
        if len(evaluation) < LEAST_SAMPLES:
            raise InputError(
                "data",
                f"holds {len(evaluation)} evaluation samples",
                f"at least {LEAST_SAMPLES} are needed to tell a loss from chance",
            )
        if batch_size not in (None, measure.batch_size):
            raise InputError(
                "measure.batch_size", f"is {measure.batch_size}", f"the model takes batches of {batch_size} only"
            )
        by_function = isinstance(parts.metric, UserEvaluation)
        if by_function and parts.further:
            raise InputError(
                "metrics.constraints",
                "cannot be measured beside a function that takes the model",
                "a metric of outputs and labels as the first",
            )
        if by_function and measure.accuracy_on == ON_TARGET:
            raise InputError(
                "measure.accuracy_on", "is target, but a function that takes the model runs here", "host, or a metric"
            )

    def _make_measurer(self, evaluation: Dataset, feeds: Feeds) -> Measurer:
        parts, measure = self.parts, self.config.measure
        by_function = isinstance(parts.metric, UserEvaluation)
        kind = FunctionMeasurer if by_function else Measurer
        further = [asked.name for asked in self.config.metrics.further()]
        measurer = kind(
            parts.backend,
            evaluation,
            parts.metric,
            self.higher_is_better,
            measure,
            self.config.metrics,
            self._rng,
            # The samples of a sequence have a fixed order, and the test for early stopping needs a random one.
            self._limit if self.config.tuning.early_stop and not by_function and not feeds.state else None,
            dict(zip(further, parts.further, strict=True)),
            self._deadline,
            feeds.presented,
            self.config.metrics.named_outputs(),
        )
        measurer.allowance = self._allowance
        measurer.sharing = None if by_function else self.sharing
        if parts.remote is not None:
            measurer.timer = RemoteTimer(parts.remote, measure.accuracy_on)
        measurer.loss_intervals = self.config.tuning.front > 0
        return measurer

    def _datasets(self) -> tuple[Dataset, Dataset, Feeds]:
        """The samples for evaluation and for calibration as the loaded model takes them, and how it is fed."""
        parts, measure, loaded = self.parts, self.config.measure, self._info
        assert loaded is not None, "load first"
        self.facts()  # of the samples as they were loaded
        fed = (*parts.rules.constants, *parts.rules.state)
        parts.evaluation, parts.calibration = (
            raw.for_model(loaded, fed) for raw in (parts.evaluation, parts.calibration)
        )
        given, calibration = (
            with_masks(cut(raw, loaded, parts.rules.lengths), loaded, parts.rules.constants)
            for raw in (parts.evaluation, parts.calibration)
        )
        matched = match(loaded, given, parts.preprocess, parts.rules)
        feeds, info, self._remarks = matched.feeds, matched.feeds.info, (*parts.evaluation.remarks, *matched.remarks)
        if feeds.decoder is not None and measure.context_lengths is None:
            self._remarks += (PREFILL_ONLY,)
        parts.backend = adapt(parts.backend, feeds)
        width, pad = measure.evaluation_batch_size, parts.rules.pad
        evaluation = Dataset(given, parts.preprocess, info, self._order(), feeds, width, pad)
        order = self._calibration_order()
        return evaluation, Dataset(calibration, parts.preprocess, info, order, feeds, width, pad), feeds

    def evaluation_data(self) -> tuple[Backend, Dataset]:
        """Load the model's description and the evaluation data only: for a process that runs saved models.

        Raises:
            InputError: the model cannot be used, or the data does not fit it.
        """
        with _model_at_fault("cannot be worked on"):
            self._info = self.parts.backend.load(self.parts.model)
        evaluation, _, _ = self._datasets()
        return self.parts.backend, evaluation

    def _check_mask(self, *sets: Dataset) -> None:
        """Run fp32 on filled up samples, and fill none up if that changes its outputs."""
        varied = next((data for data in sets if data.lengths is not None and data.lengths.mask is not None), None)
        if varied is None or varied.lengths is None:
            return
        with _model_at_fault("cannot be run on the data"):
            heeded = heeds_mask(self.parts.backend, varied)
        if heeded:
            return
        mask = varied.lengths.mask
        for data in sets:
            data.distrust_mask()
        self._remarks += (
            f"Samples are not cut to their own length and not filled up to the longest of a batch: in spite of {mask}, "
            "that changes the model's outputs.",
        )

    def _carry_state(self, data: Dataset) -> None:
        """Run fp32 along the sequences, and take the state that it carries as data."""
        model = self.parts.backend.reference()
        assert isinstance(model, AdaptedExecutable)
        parts: dict[str, list[NDArray[Any]]] = {}
        for batch, _, count in data.batches(self.config.measure.evaluation_batch_size):
            assert isinstance(batch, SequenceStep)
            full = model.with_state(batch)
            model.predict(batch)
            for name in model.carried:
                parts.setdefault(name, []).append(np.array(full[name][:count]))
        model.close()
        data.set_state({name: np.concatenate(arrays) for name, arrays in parts.items()})

    def _calibration_batches(self) -> Sequence[Batch]:
        """Batches of calibration samples, as many as the run's time limit has time for."""
        assert self._calibration is not None
        allowed = self._allowance
        size = self.parts.rules.calibration_batch_size or CALIBRATION_BATCH
        size = min(size, self.config.measure.evaluation_batch_size)
        if allowed.limited:
            size = min(size, EXTENT_RULES.calibration_batch)
        self._calibration_size = self._calibration.batch_size or size
        every = LazyBatches(self._calibration, self._calibration_size, seed=self.config.tuning.seed)
        self._every_batch = every
        seconds = math.inf if allowed.calibration_samples else allowed.calibration_seconds
        self._batches = BatchesInTime(every, seconds, further=allowed.equalization)
        return self._batches if allowed.limited else every

    def _calibration_order(self) -> NDArray[np.intp] | None:
        """Random order of the calibration samples where perhaps not all are read; None to keep the stored order."""
        if not self._allowance.limited:
            return None
        return generator(self.config.tuning.seed, Stream.CALIBRATION_ORDER).permutation(len(self.parts.calibration))

    def _extent(self) -> Extent:
        """Numbers of samples used, of those given."""
        assert self._calibration is not None
        calibrated, equalization = len(self._calibration), 1
        if self._batches is not None and self._every_batch is not None and self._allowance.limited:
            calibrated = self._every_batch.samples(len(self._batches))
            equalization = int(self._batches.further)
        used, given = self.measurer.samples, len(self.parts.evaluation)
        return Extent(used, given if used else 0, calibrated, len(self.parts.calibration), equalization)

    def _order(self) -> NDArray[np.intp] | None:
        """Random order of the samples, the same for all trials, which early stopping requires; None without it."""
        if not self.config.tuning.early_stop:
            return None
        return generator(self.config.tuning.seed, Stream.EVALUATION_ORDER).permutation(len(self.parts.evaluation))

    def _limit(self, baseline: float) -> float:
        constraint = Constraint.from_baseline(METRIC, baseline, self.higher_is_better, *self.config.tuning.goal)
        return constraint.loss(constraint.threshold)

    @property
    def measurer(self) -> Measurer:
        """The measurer; available after `calibrate`."""
        assert self._measurer is not None, "calibrate first"
        return self._measurer

    def remarks(self) -> tuple[str, ...]:
        """See `MeasurementTarget.remarks`."""
        return (*self._remarks, *self.parts.backend.remarks())

    def recovery(self) -> tuple[Mapping[str, Any], ...]:
        """See `MeasurementTarget.recovery`."""
        return tuple(record.to_dict() for record in self.parts.backend.recovery)

    def ceiling(self) -> Ceiling | None:
        """See `MeasurementTarget.ceiling`; any exception of the backend is logged, and the ceiling is unknown."""
        try:
            remote = self.parts.remote
            return self.parts.backend.ceiling() if remote is None else remote.ceiling()
        except TargetError:
            raise
        except Exception:
            log.exception("the int8 ceiling could not be measured")
            return None

    def baseline(self, space: Space) -> Measured:
        """See `MeasurementTarget.baseline`."""
        self._space = space
        if self.sharing is not None:
            self.sharing.ready()
        found = self.measurer.measure_baseline(space)
        self._compare_machines(space)
        return Measured(
            found.evaluation,
            found.latency_ci95,
            self.higher_is_better,
            self.parts.metric.hit_range,
            self.directions,
            found.readings,
            self._extent(),
        )

    def _compare_machines(self, space: Space) -> None:
        """Check that the default configuration's model gives the same outputs here and on the machine that times."""
        if self.parts.remote is None or isinstance(self.parts.metric, UserEvaluation):
            return
        measurer, backend = self.measurer, self.parts.backend
        assert isinstance(backend, TwinBackend)
        try:
            self._agreement = compare(
                backend.build(space.default()),
                measurer.baseline.reference if measurer.baseline.large else measurer.baseline.all_float,
                (batch for batch, *_ in measurer.data.batches(min(SAMPLES_COMPARED, measurer.evaluation_batch))),
                measurer.signal_of,
                self._deadline.check,
            )
        except EngineError as error:
            log.warning("whether this machine and the target agree is unknown: %s", error)

    def timed_on(self) -> dict[str, Any] | None:
        """See `MeasurementTarget.timed_on`."""
        if self.parts.remote is None:
            return None
        agreement = self._agreement.to_dict() if self._agreement is not None else None
        return {"target": self.config.measure.target, **self.parts.remote.machine(), "agreement": agreement}

    def remember(self, evaluation: Evaluation) -> None:
        """See `MeasurementTarget.remember`."""
        self.measurer.remember(evaluation)

    def measure(self, config: Config, partial: bool = False, complete: bool = False) -> Evaluation:
        """See `MeasurementTarget.measure`."""
        return self.measurer.measure(config, partial, complete)

    def rehearse(self, config: Config) -> dict[str, float]:
        """See `MeasurementTarget.rehearse`."""
        return self.measurer.rehearse(config)

    def sensitivity(self, way: str = "") -> dict[str, float]:
        """See `MeasurementTarget.sensitivity`; estimated once for each mode."""
        if way not in self._noise:
            assert self._space is not None, "measure the baseline first"
            self._noise[way] = output_noise(
                self.parts.backend,
                self._space,
                *self._looked_at(),
                check=self._deadline.check,
                select=self.measurer.signal_of,
                left=lambda: self._deadline.left,
                wanted=way,
            )
        return self._noise[way]

    def latency_terms(self, brief: bool = False) -> LatencyTerms:
        """See `MeasurementTarget.latency_terms`; fitted once."""
        if self._terms is None:
            assert self._space is not None, "measure the baseline first"
            rng = generator(self.config.tuning.seed, Stream.LATENCY_MODEL)
            self._terms = fit_latency(
                self.parts.backend,
                self._space,
                self.measurer.batch,
                rng,
                reference=self.measurer.baseline.reference,
                check=self._deadline.check,
                brief=brief,
                left=lambda: self._deadline.left,
                timed_batches=self.measurer.timed,
                timer=self.measurer.timer,
            )
        return self._terms

    def gradients(self) -> bool:
        """See `MeasurementTarget.gradients`."""
        return self.parts.backend.gradients

    def hessian(self, draws: int) -> Mapping[str, float]:
        """See `MeasurementTarget.hessian`."""
        self._deadline.check()
        batch = self._looked_at()[0]
        return self.parts.backend.hessian(batch if isinstance(batch, Mapping) else batch[0], draws)

    def divergence(self, config: Config, batches: int = 1) -> float:
        """See `MeasurementTarget.divergence`."""
        self._deadline.check()
        assert self._calibration is not None
        most = max(1, len(self._calibration) // self._looked_at_count()) if self._calibration.lengths is None else 1
        parts = [self._looked_at(place) for place in range(min(batches, most))]
        return mean_divergence(self.parts.backend, config, parts, self.measurer.signal_of)

    def _looked_at_count(self) -> int:
        assert self._calibration is not None
        return self._calibration.batch_size or min(self._noise_samples(), len(self._calibration))

    def _looked_at(self, place: int = 0) -> tuple[Batch | Sequence[Batch], NDArray[Any]]:
        """A few calibration samples, in batches of like length if they differ in it, and fp32's output for them.

        Args:
            place: Number of the samples' batch, from 0; there is only one if they differ in their length.
        """
        assert self._calibration is not None
        count = self._looked_at_count()
        batch: Batch | Sequence[Batch]
        if self._calibration.lengths is None:
            batch = self._calibration.batch(place * count, count)
        else:
            batch = [run.batch for run in self._calibration.first_runs(count)]
        if place not in self._signals:
            base = self.measurer.baseline
            predict = (base.reference if base.large else base.all_float).predict
            select = self.measurer.signal_of
            self._signals[place] = np.array(signal_in_pieces(predict, batch, self.parts.backend.largest_batch, select))
        return batch, self._signals[place]

    def _noise_samples(self) -> int:
        assert self._space is not None, "measure the baseline first"
        base = self.measurer.baseline.evaluation
        # A user's function counts no samples: its time says nothing about the model's.
        each = base.value("duration_s") / base.samples if base.samples else base.value("latency_ms") / 1e3
        return self._allowance.noise_samples(SAMPLES, len(self._space.groups), each)

    def diagnose(self, config: Config, alone: Config, samples: int) -> Diagnosis:
        """See `MeasurementTarget.diagnose`."""
        assert self._calibration is not None, "calibrate first"
        backend = self.parts.backend
        reader = backend.layers(config, alone)
        if reader is None:
            raise InputError(
                "backend",
                f"{self.config.backend['name']} cannot read the outputs of single operators",
                "a run with a backend that can, such as onnxruntime or tensorflow",
            )
        data = self._calibration if self._stateful else self.measurer.data
        source = "calibration" if self._stateful else "evaluation"
        try:
            layers, count = diagnose(
                reader,
                first_samples(data, samples),
                backend.largest_batch,
                data.batch_size is None,
                self._deadline.check,
            )
        finally:
            reader.close()
        return Diagnosis(layers, count, source)

    def settle(self, trial: Trial) -> Finish:
        """See `MeasurementTarget.settle`."""
        return self._finish(self.measurer.settle(trial))

    def finish(self, trials: Sequence[Trial], goal: Goal, tie: float, ending: Ending | None = None) -> Finish:
        """See `MeasurementTarget.finish`."""
        return self._finish(self.measurer.measure_finalists(list(trials), goal, tie, ending=ending))

    def time_front(self, trials: Sequence[Trial], runs: int) -> tuple[Evaluation, ...]:
        """See `MeasurementTarget.time_front`."""
        return self.measurer.time_front(trials, runs)

    def replay(self, path: Path, trial: Trial, goal: Goal) -> Finish:
        """See `MeasurementTarget.replay`."""
        opened = self.parts.backend.open
        return self._finish(self.measurer.measure_finalists([trial], goal, 0.0, lambda _: opened(path)))

    def _finish(self, final: Final) -> Finish:
        return Finish(
            final,
            Measured(
                final.baseline,
                final.baseline_ci95,
                self.higher_is_better,
                self.parts.metric.hit_range,
                self.directions,
                extent=self._extent(),
            ),
        )

    def save(self, final: Final, folder: Path) -> Path:
        """See `MeasurementTarget.save`."""
        backend, config = self.parts.backend, final.trial.config
        try:
            path = backend.save(config, folder)
        except OSError as error:
            raise unwritable(folder, error) from error
        batch = self.measurer.data.batch(0, self.config.measure.batch_size)
        again = backend.build(config)
        wanted = [np.array(output) for output in again.predict(batch)]
        again.close()
        saved = backend.open(path)
        executed, measured = saved.executed(), final.executed
        if dict(executed.int8) != dict(measured.int8):
            raise EngineError(
                f"the saved model executes {dict(executed.int8)} in int8, the measured one {dict(measured.int8)}"
            )
        if dict(executed.fp32) != dict(measured.fp32):
            # The engine fused the graph differently: the outputs are the same, but the latency was not measured.
            log.warning(
                "the saved model executes %s in fp32, the measured one %s: its latency may differ",
                dict(executed.fp32),
                dict(measured.fp32),
            )
        found = [np.array(output) for output in saved.predict(batch)]
        saved.close()
        # Not bit for bit: after loading a saved model, an engine may sum float values in another order.
        apart = [
            place
            for place, (a, b) in enumerate(zip(wanted, found, strict=True))
            if comparable(a) and not close(a, b, SAVED_TOLERANCE)
        ]
        fp32 = self.measurer.baseline.reference.predict(batch) if apart else ()
        for place in apart:
            # Such float noise moves values between two int8 steps.
            if not within_noise(wanted[place], found[place], fp32[place]):
                raise EngineError("the saved model does not give the outputs of the measured one")
        if apart:
            log.info("rounding to int8 differs in places between the saved model and the measured one")
        return path

    def keep(self, folder: Path) -> None:
        """See `MeasurementTarget.keep`."""
        self.parts.backend.keep(folder)

    def versions(self) -> dict[str, str]:
        """See `MeasurementTarget.versions`."""
        return {
            "nc-strategies": _version("nc-strategies"),
            "python": platform.python_version(),
            "numpy": np.__version__,
            **self.parts.backend.versions(),
        }

    def until(self, deadline: float, patience: float = 0.0) -> None:
        """See `MeasurementTarget.until`. An engine run that hangs cannot be stopped in this process."""
        self._deadline.at = deadline

    def workers(self) -> Mapping[str, Any]:
        """See `MeasurementTarget.workers`."""
        return {} if self.sharing is None else self.sharing.to_dict()

    def watch(self, listener: Watch) -> None:
        """See `MeasurementTarget.watch`."""
        if self.sharing is not None:
            self.sharing.watch = listener

    def prepared(self) -> bool:
        """See `MeasurementTarget.prepared`."""
        return self._measurer is not None

    def close(self) -> None:
        """See `MeasurementTarget.close`. On this machine, the end of the process releases what is not released here."""
        if self.sharing is not None:
            self.sharing.close()
        if self.parts.remote is not None:
            self.parts.remote.close()


def _stated(rules: InputRules) -> dict[str, Any]:
    """The rules as plain data; those about lengths only if they are stated, as runs of earlier versions have none."""
    plain, unstated = asdict(rules), InputRules()
    return {
        name: value
        for name, value in plain.items()
        if name not in ("pad", "lengths") or value != getattr(unstated, name)
    }


@contextmanager
def _model_at_fault(what: str) -> Iterator[None]:
    """Attribute any exception to the model: its graph is still unmodified, and parsers raise exceptions of any class.

    Raises:
        InputError: instead of any other exception, which is logged.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        log.exception("the model %s", what)
        kind = "" if isinstance(error, EngineError) else f"{type(error).__name__}: "
        raise InputError("model", f"{what} ({kind}{first_line(error)})") from error


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
