"""The target: a model, an engine and data, behind calls that take and give plain data.

Everything heavy stands on the target. What goes in and comes out can be pickled, so that a target may as well be in
another process, where an engine that dies takes no run with it.
"""

from __future__ import annotations

import logging
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.base import Backend
from nc_strategies.backends.ceiling import Ceiling
from nc_strategies.config import RunConfig
from nc_strategies.data.dataset import Dataset, Raw
from nc_strategies.data.settings import Preprocess
from nc_strategies.errors import EngineError, InputError, first_line
from nc_strategies.measuring.core import METRIC
from nc_strategies.measuring.deadline import Deadline
from nc_strategies.measuring.ending import Ending
from nc_strategies.measuring.final import Final
from nc_strategies.measuring.latency_model import fit_latency
from nc_strategies.measuring.measurer import Measurer
from nc_strategies.measuring.sensitivity import SAMPLES, divergence, output_noise
from nc_strategies.measuring.user_function import FunctionMeasurer
from nc_strategies.metrics.base import Metric
from nc_strategies.metrics.objects import UserEvaluation
from nc_strategies.models import ModelSource
from nc_strategies.models.info import Batch
from nc_strategies.problem import Constraint, Evaluation, Goal, LatencyTerms, Trial
from nc_strategies.runtime.files import unwritable
from nc_strategies.space import Capabilities, Config, Space

log = logging.getLogger(__name__)
CALIBRATION_BATCH = 20
LEAST_SAMPLES = 2
SAVED_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Measured:
    """fp32, measured, and the direction of the metric it was measured with.

    Args:
        evaluation: Its values.
        latency_ci95: 95 % interval of its latency in milliseconds.
        higher_is_better: Direction of the metric.
        score_range: Lowest and highest score of a sample; infinite where the metric is no mean of bounded scores.
        directions: The same for each constraint beside the first, in their order.
    """

    evaluation: Evaluation
    latency_ci95: tuple[float, float]
    higher_is_better: bool = True
    score_range: tuple[float, float] = (-math.inf, math.inf)
    directions: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Finish:
    """The chosen model, measured once more side by side with fp32."""

    final: Final
    baseline: Measured


class MeasurementTarget(Protocol):
    """What a study measures with. Call the first four in this order."""

    def load(self) -> Capabilities:
        """Open the model and say what may be chosen.

        Raises:
            InputError: it cannot be worked on.
        """

    def facts(self) -> Mapping[str, Any]:
        """What the target holds, as plain data: hashes of model, data and calibration data, names, preprocessing."""

    def calibrate(self, cautious: bool = False) -> None:
        """Bring model and data together, and run fp32 on the calibration data.

        Args:
            cautious: Run nothing else; see `Backend.cautious`.

        Raises:
            InputError: they do not fit each other.
        """

    def remarks(self) -> tuple[str, ...]:
        """What calibration did to the model that its user should know; see `Backend.remarks`."""

    def ceiling(self) -> Ceiling | None:
        """How much faster than fp32 the engine's int8 operators are here; see `Backend.ceiling`."""

    def baseline(self, space: Space) -> Measured:
        """Measure fp32."""

    def remember(self, evaluation: Evaluation) -> None:
        """Take an evaluation of an earlier run as measured."""

    def measure(self, config: Config) -> Evaluation:
        """Measure a configuration.

        Raises:
            EngineError: the engine cannot build or run it.
        """

    def rehearse(self, config: Config) -> Mapping[str, float]:
        """Seconds by stage that a trial would take, from a part of the data and of the timed runs.

        Raises:
            EngineError: the engine cannot build or run it.
        """

    def sensitivity(self) -> Mapping[str, float]:
        """Estimated loss by operator; see `Problem.sensitivity`."""

    def latency_terms(self) -> LatencyTerms:
        """What each choice adds to the latency; see `Problem.latency_terms`.

        Raises:
            EngineError: the engine cannot run what it is fitted to.
        """

    def divergence(self, config: Config) -> float:
        """Noise-to-signal ratio of a configuration's outputs; see `Problem.divergence`.

        Raises:
            EngineError: the engine cannot build or run it.
        """

    def settle(self, trial: Trial) -> Finish:
        """Take a trial as it was measured: a run that is interrupted or out of time measures nothing again."""

    def finish(self, trials: Sequence[Trial], goal: Goal, tie: float, ending: Ending | None = None) -> Finish:
        """Time the finalists side by side with fp32 again, choose, and evaluate the chosen one beside fp32.

        Args:
            trials: Candidates, the preferred one first.
            goal: Orders them.
            tie: Relative difference in cost that counts as none.
            ending: How much is measured; everything when left out.
        """

    def save(self, final: Final, folder: Path) -> Path:
        """Write the chosen model and see that, opened with the engine's defaults, it is what was measured.

        Raises:
            EngineError: it is not.
        """

    def replay(self, path: Path, trial: Trial, goal: Goal) -> Finish:
        """Open the model that an earlier run chose and saved, and measure it side by side with fp32.

        Args:
            path: The model.
            trial: The trial it came from.
            goal: Of that run.

        Raises:
            EngineError: the engine cannot open or run it.
        """

    def keep(self, folder: Path) -> None:
        """Leave in the run's folder what the run made of the model to work on."""

    def versions(self) -> Mapping[str, str]:
        """Versions of what measured."""

    def until(self, deadline: float, patience: float = 0.0) -> None:
        """Drop what is still being measured at a moment, where that is possible.

        Calls which measure then raise `OutOfTimeError`: between two batches of an evaluation, and between two timed
        runs. Where the engine is in a process of its own, and does not come to one of these, that is ended.

        Args:
            deadline: As `time.monotonic` counts; 0 for none.
            patience: Seconds after it in which a call may end by itself.
        """

    def prepared(self) -> bool:
        """Whether the next call is answered without loading, calibrating and measuring fp32 again."""

    def close(self) -> None:
        """Release everything."""


@dataclass
class TargetParts:
    """What a target in this process is made of.

    Args:
        backend: The engine.
        model: The fp32 model.
        evaluation: Labelled samples; with a `UserEvaluation`, samples to time models with.
        calibration: Samples to calibrate with.
        preprocess: How samples become what the model takes.
        metric: The constraint's metric.
        further: Metrics of the constraints beside the first, in their order.
    """

    backend: Backend
    model: ModelSource
    evaluation: Raw
    calibration: Raw
    preprocess: Preprocess
    metric: Metric
    further: tuple[Metric, ...] = ()


class LocalTarget:
    """A target in this process. See `MeasurementTarget`.

    Args:
        parts: What it is made of.
        config: The whole configuration.
    """

    def __init__(self, parts: TargetParts, config: RunConfig) -> None:
        self.parts, self.config = parts, config
        self._rng = np.random.default_rng([config.tuning.seed, 1])
        self._facts: dict[str, Any] | None = None
        self._info: Any = None
        self._space: Space | None = None
        self._calibration: Dataset | None = None
        self._measurer: Measurer | None = None
        self._noise: dict[str, float] | None = None
        self._signal: NDArray[Any] | None = None
        self._terms: LatencyTerms | None = None
        self._deadline = Deadline()

    @property
    def higher_is_better(self) -> bool:
        """Direction of the metric: the user's word, else the metric's own."""
        asked = self.config.metrics.accuracy.get("higher_is_better")
        return self.parts.metric.higher_is_better if asked is None else bool(asked)

    @property
    def directions(self) -> tuple[bool, ...]:
        """The same for the constraints beside the first."""
        asked = [further.metric.get("higher_is_better") for further in self.config.metrics.further()]
        return tuple(
            metric.higher_is_better if word is None else bool(word)
            for word, metric in zip(asked, self.parts.further, strict=True)
        )

    def facts(self) -> dict[str, Any]:
        """See `MeasurementTarget.facts`; nothing needs to be loaded."""
        if self._facts is not None:
            return self._facts
        parts = self.parts
        kind, path = parts.model.pick(parts.backend.accepts, self.config.backend["name"])
        self._facts = {
            "model_name": parts.model.name,
            "model_sha256": parts.model.sha256(kind, parts.backend.companions(path)),
            "data_sha256": parts.evaluation.sha256(),
            "calibration_sha256": parts.calibration.sha256(),
            "preprocess": asdict(parts.preprocess),
        }
        return self._facts

    def load(self) -> Capabilities:
        """See `MeasurementTarget.load`."""
        with _model_at_fault("cannot be worked on"):
            self._info = self.parts.backend.load(self.parts.model)
            return self.parts.backend.capabilities()

    def calibrate(self, cautious: bool = False) -> None:
        """See `MeasurementTarget.calibrate`."""
        self.parts.backend.cautious = cautious
        parts, measure, info = self.parts, self.config.measure, self._info
        evaluation = Dataset(parts.evaluation, parts.preprocess, info, self._order())
        self._calibration = Dataset(parts.calibration, parts.preprocess, info)
        if len(evaluation) < LEAST_SAMPLES:
            raise InputError(
                "data",
                f"holds {len(evaluation)} evaluation samples",
                f"at least {LEAST_SAMPLES} are needed to tell a loss from chance",
            )
        if info.batch_size not in (None, measure.batch_size):
            raise InputError(
                "measure.batch_size", f"is {measure.batch_size}", f"the model takes batches of {info.batch_size} only"
            )
        by_function = isinstance(parts.metric, UserEvaluation)
        if by_function and parts.further:
            raise InputError(
                "metrics.constraints",
                "cannot be measured beside a function that takes the model",
                "a metric of outputs and labels as the first",
            )
        kind = FunctionMeasurer if by_function else Measurer
        further = [asked.name for asked in self.config.metrics.further()]
        self._measurer = kind(
            parts.backend,
            evaluation,
            parts.metric,
            self.higher_is_better,
            measure,
            self.config.metrics,
            self._rng,
            self._limit if self.config.tuning.early_stop and not by_function else None,
            dict(zip(further, parts.further, strict=True)),
            self._deadline,
        )
        # Asked for here, so that data without labels is refused before anything long begins.
        assert by_function or evaluation.labels is not None
        with _model_at_fault("cannot be run on the calibration data"):
            parts.backend.calibrate([batch for batch, _, _ in self._calibration.batches(CALIBRATION_BATCH)])

    def _order(self) -> NDArray[np.intp] | None:
        """One random order for all trials, which an early stop needs."""
        if not self.config.tuning.early_stop:
            return None
        return np.random.default_rng([self.config.tuning.seed, 2]).permutation(len(self.parts.evaluation))

    def _limit(self, baseline: float) -> float:
        tuning = self.config.tuning
        constraint = Constraint.from_baseline(
            METRIC, baseline, self.higher_is_better, tuning.criterion, tuning.tolerable_loss
        )
        return constraint.loss(constraint.threshold)

    @property
    def measurer(self) -> Measurer:
        """What measures, once calibrated."""
        assert self._measurer is not None, "calibrate first"
        return self._measurer

    def remarks(self) -> tuple[str, ...]:
        """See `MeasurementTarget.remarks`."""
        return self.parts.backend.remarks()

    def ceiling(self) -> Ceiling | None:
        """See `MeasurementTarget.ceiling`: whatever a backend raises in it is logged, and the ceiling is unknown."""
        try:
            return self.parts.backend.ceiling()
        except Exception:
            log.exception("the int8 ceiling could not be measured")
            return None

    def baseline(self, space: Space) -> Measured:
        """See `MeasurementTarget.baseline`."""
        self._space = space
        found = self.measurer.measure_baseline(space)
        return Measured(
            found.evaluation, found.latency_ci95, self.higher_is_better, self.parts.metric.score_range, self.directions
        )

    def remember(self, evaluation: Evaluation) -> None:
        """See `MeasurementTarget.remember`."""
        self.measurer.remember(evaluation)

    def measure(self, config: Config) -> Evaluation:
        """See `MeasurementTarget.measure`."""
        return self.measurer.measure(config)

    def rehearse(self, config: Config) -> dict[str, float]:
        """See `MeasurementTarget.rehearse`."""
        return self.measurer.rehearse(config)

    def sensitivity(self) -> dict[str, float]:
        """See `MeasurementTarget.sensitivity`; estimated once."""
        if self._noise is None:
            assert self._space is not None, "measure the baseline first"
            self._noise = output_noise(self.parts.backend, self._space, *self._looked_at(), check=self._deadline.check)
        return self._noise

    def latency_terms(self) -> LatencyTerms:
        """See `MeasurementTarget.latency_terms`; fitted once."""
        if self._terms is None:
            assert self._space is not None, "measure the baseline first"
            rng = np.random.default_rng([self.config.tuning.seed, 3])
            self._terms = fit_latency(
                self.parts.backend,
                self._space,
                self.measurer.batch,
                rng,
                reference=self.measurer.baseline.reference,
                check=self._deadline.check,
            )
        return self._terms

    def divergence(self, config: Config) -> float:
        """See `MeasurementTarget.divergence`."""
        self._deadline.check()
        return divergence(self.parts.backend, config, *self._looked_at())

    def _looked_at(self) -> tuple[Batch, NDArray[Any]]:
        """A few calibration samples, and what fp32 gives for them."""
        assert self._calibration is not None
        batch, _, _ = next(self._calibration.batches(SAMPLES))
        if self._signal is None:
            self._signal = np.array(self.measurer.baseline.all_float.predict(batch)[0])
        return batch, self._signal

    def settle(self, trial: Trial) -> Finish:
        """See `MeasurementTarget.settle`."""
        return self._finish(self.measurer.settle(trial))

    def finish(self, trials: Sequence[Trial], goal: Goal, tie: float, ending: Ending | None = None) -> Finish:
        """See `MeasurementTarget.finish`."""
        return self._finish(self.measurer.measure_finalists(list(trials), goal, tie, ending=ending))

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
                self.parts.metric.score_range,
                self.directions,
            ),
        )

    def save(self, final: Final, folder: Path) -> Path:
        """See `MeasurementTarget.save`."""
        backend, config = self.parts.backend, final.trial.config
        try:
            path = backend.save(config, folder)
        except OSError as error:
            raise unwritable(folder, error) from error
        saved = backend.open(path)
        executed, measured = saved.executed(), final.executed
        if dict(executed.int8) != dict(measured.int8):
            raise EngineError(
                f"the saved model executes {dict(executed.int8)} in int8, the measured one {dict(measured.int8)}"
            )
        if dict(executed.fp32) != dict(measured.fp32):
            # Fused in another way: the same result, at a price that was not measured.
            log.warning(
                "the saved model executes %s in fp32, the measured one %s: its latency may differ",
                dict(executed.fp32),
                dict(measured.fp32),
            )
        batch = self.measurer.data.batch(0, self.config.measure.batch_size)
        again = backend.build(config)
        for a, b in zip(again.predict(batch), saved.predict(batch), strict=True):
            # Not bit by bit: when it loads a model, an engine may add up float operators in another order.
            scale = max(1.0, float(np.abs(a).max(initial=0.0)))
            if not np.allclose(a, b, rtol=0, atol=SAVED_TOLERANCE * scale):
                raise EngineError("the saved model does not give the outputs of the measured one")
        again.close()
        saved.close()
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
        """See `MeasurementTarget.until`: here, nothing can stop a run of the engine that does not end by itself."""
        self._deadline.at = deadline

    def prepared(self) -> bool:
        """See `MeasurementTarget.prepared`."""
        return self._measurer is not None

    def close(self) -> None:
        """See `MeasurementTarget.close`; the process's end releases the rest."""


@contextmanager
def _model_at_fault(what: str) -> Iterator[None]:
    """Whatever is raised before anything of ours is in the model's graph is the model's: parsers raise anything.

    Raises:
        InputError: in place of any other exception, which goes to the log.
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
