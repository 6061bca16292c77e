"""A whole run: load, calibrate, measure fp32, tune, measure the best again, save it."""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np

from nc_strategies.backends.base import Backend
from nc_strategies.config import RunConfig
from nc_strategies.data.dataset import Dataset, Raw
from nc_strategies.data.settings import Preprocess
from nc_strategies.errors import EngineError, InputError
from nc_strategies.measure.metrics import Metric
from nc_strategies.measure.sensitivity import SAMPLES, output_noise
from nc_strategies.models import ModelSource
from nc_strategies.problem import Constraint, Evaluation, Goal, Objective, Problem, Trial
from nc_strategies.problem.objective import LATENCY_TIE
from nc_strategies.space import Space, Wishes
from nc_strategies.strategies.base import Strategy
from nc_strategies.study.folder import RunFolder
from nc_strategies.study.journal import Journal
from nc_strategies.study.measure import METRIC, Measurer
from nc_strategies.study.study import Status, Study, StudyListener
from nc_strategies.study.tuner import Tuner

log = logging.getLogger(__name__)
SCHEMA_VERSION = 1
FINALISTS = 3
FINAL_TIE = 0.015
"""Relative difference in latency that counts as none between finalists, which are timed at least 300 times."""
CALIBRATION_BATCH = 20
LEAST_SAMPLES = 2
SAVED_TOLERANCE = 1e-5


@dataclass
class Setup:
    """What a run works with.

    Args:
        config: The whole configuration; its sections are read here, its groups are already made below.
        backend: The engine.
        model: The fp32 model.
        evaluation: Labelled samples.
        calibration: Samples to calibrate with.
        preprocess: How samples become what the model takes.
        metric: The constraint's metric.
        make_strategy: Makes the strategy for a problem.
        executor: Runs trials; has an attribute ``workers``.
        resolved: The configuration as plain data, for ``config.yaml``, free of secrets.
    """

    config: RunConfig
    backend: Backend
    model: ModelSource
    evaluation: Raw
    calibration: Raw
    preprocess: Preprocess
    metric: Metric
    make_strategy: Callable[[Problem], Strategy]
    executor: Any
    resolved: Mapping[str, Any] = field(default_factory=dict)


def tune(setup: Setup, folder: RunFolder, listener: StudyListener | None = None,
         on_folder: Callable[[], None] = lambda: None) -> Study:
    """Run a study and leave its model, journal and configuration in a folder.

    Args:
        setup: What to work with.
        folder: Where; that of an interrupted run resumes it.
        listener: Told what happens.
        on_folder: Called once the folder exists.

    Raises:
        InputError: model, data, wishes and settings do not fit each other; nothing is left behind.
    """
    return _Run(setup, folder, listener or StudyListener(), on_folder).run()


class _Run:
    def __init__(self, setup: Setup, folder: RunFolder, listener: StudyListener,
                 on_folder: Callable[[], None]) -> None:
        self.setup, self.folder, self.listener, self.on_folder = setup, folder, listener, on_folder
        self.config = setup.config
        self.begin = time.perf_counter()
        self.seconds: dict[str, float] = {}
        self._noise: Mapping[str, float] | None = None
        self.rng = np.random.default_rng([self.config.tuning.seed, 1])

    def run(self) -> Study:
        setup, config = self.setup, self.config
        config.validate()
        info, space = self._load()
        evaluation = Dataset(setup.evaluation, setup.preprocess, info)
        calibration = Dataset(setup.calibration, setup.preprocess, info)
        if len(evaluation) < LEAST_SAMPLES:
            raise InputError("data", f"holds {len(evaluation)} evaluation samples",
                             f"at least {LEAST_SAMPLES} are needed to tell a loss from chance")
        if info.batch_size not in (None, config.measure.batch_size):
            raise InputError("measure.batch_size", f"is {config.measure.batch_size}",
                             f"the model takes batches of {info.batch_size} only")
        assert evaluation.labels is not None
        facts = identity(setup, space.fingerprint)
        self.folder.check(facts)
        self.listener.stage("calibrating")
        with self._clock("calibrate"):
            setup.backend.calibrate([batch for batch, _, _ in calibration.batches(CALIBRATION_BATCH)])
        self.listener.stage("measuring fp32")
        measurer = Measurer(setup.backend, evaluation, setup.metric, self.higher_is_better, config.measure,
                            config.metrics, self.rng)
        with self._clock("baseline"):
            baseline = measurer.measure_baseline(space)
        self.folder.start(setup.resolved, facts)
        self.on_folder()
        setup.backend.keep(self.folder.path)
        goal = self._goal(baseline.evaluation)
        study = Study(self.folder.path, space, goal, baseline.evaluation, baseline.latency_ci95, facts,
                      seconds=self.seconds)
        study.versions = {"nc-strategies": _version("nc-strategies"), "python": platform.python_version(),
                          "numpy": np.__version__, **setup.backend.versions()}
        self._search(study, measurer, calibration)
        self._finish(study, measurer)
        return study

    def _load(self) -> tuple[Any, Space]:
        self.listener.stage("loading the model")
        with self._clock("load"):
            info = self.setup.backend.load(self.setup.model)
            wishes = self.config.space
            capabilities = self.setup.backend.capabilities()
            space = Space(capabilities, Wishes(wishes.op_type_dict, wishes.op_name_dict,
                                               tuple(wishes.excluded_precisions)))
        if not space.quantizable:
            raise InputError("space", "no operator of this model can run in int8 on this backend",
                             "see the wishes under space., or take another backend")
        log.info("%d operators can be chosen, %.3g configurations", len(space.ops), float(space.size()))
        return info, space

    @property
    def higher_is_better(self) -> bool:
        asked = self.config.metrics.accuracy.get("higher_is_better")
        return self.setup.metric.higher_is_better if asked is None else bool(asked)

    def _goal(self, baseline: Evaluation) -> Goal:
        tuning, metrics = self.config.tuning, self.config.metrics
        constraint = Constraint.from_baseline(METRIC, baseline.metric(METRIC), self.higher_is_better, tuning.criterion,
                                              tuning.tolerable_loss)
        weights = metrics.weights or [1.0] * len(metrics.objectives)
        ties = {"size": 0.0}
        objectives = tuple(Objective(name, weight, ties.get(name, LATENCY_TIE))
                           for name, weight in zip(metrics.objectives, weights, strict=True))
        return Goal((constraint,), objectives)

    def _sensitivity(self, space: Space, calibration: Dataset) -> Mapping[str, float]:
        """Estimated once, when a strategy first asks."""
        if self._noise is None:
            self.listener.stage("estimating sensitivity")
            with self._clock("sensitivity"):
                batch, _, _ = next(calibration.batches(SAMPLES))
                self._noise = output_noise(self.setup.backend, space, batch)
        return self._noise

    def _search(self, study: Study, measurer: Measurer, calibration: Dataset) -> None:
        config = self.config.tuning
        journal = Journal(self.folder.path, METRIC)
        finished = journal.read() if self.folder.resumes else []
        for trial in finished:
            if trial.evaluation is not None:
                measurer.remember(trial.evaluation)
        problem = Problem(study.space, study.goal, study.baseline, np.random.default_rng([config.seed, 0]),
                          config.max_trials, self.setup.executor.workers,
                          lambda: self._sensitivity(study.space, calibration), state_dir=self.folder.path,
                          metadata={"model": self.setup.model.name, "data": str(study.metadata["data_sha256"])[:16],
                                    "space": study.space.fingerprint})
        self.listener.started(study, config.max_trials, config.timeout)
        deadline = time.monotonic() + config.timeout - (time.perf_counter() - self.begin) if config.timeout else 0.0
        strategy = _Timed(self.setup.make_strategy(problem))
        study.engine = strategy.inner.engine
        try:
            tuner = Tuner(study, strategy, measurer.measure, journal, self.setup.executor,
                          self.setup.executor.workers, config, self.listener, finished,
                          str(self.config.strategy["name"]), deadline)
            study.stop_reason = tuner.run()
        finally:
            strategy.close()
            study.engine = strategy.inner.engine
        self.seconds["strategy"] = strategy.seconds
        for stage in ("realise", "accuracy", "latency"):
            self.seconds[stage] = sum(dict(t.evaluation.seconds).get(stage, 0.0) for t in study.trials
                                      if t.evaluation is not None and not t.resumed)

    def _finish(self, study: Study, measurer: Measurer) -> None:
        best = study.best
        if best is None:
            study.status = Status.FAILED
            self.seconds["total"] = time.perf_counter() - self.begin
            return
        self.listener.stage("measuring the best again")
        with self._clock("final"):
            study.final = measurer.measure_finalists(self._finalists(study, best), study.goal, FINAL_TIE)
        study.baseline = measurer.baseline.evaluation
        study.baseline_ci95 = measurer.baseline.latency_ci95
        final = study.final.evaluation
        surely = replace(final, ratios=tuple((name, ratio * (1 + dict(final.spread)[name]))
                                             for name, ratio in final.ratios))
        study.status = Status.MET if study.goal.met(surely) else Status.MISSED
        self.listener.stage("saving")
        with self._clock("save"):
            study.model_path = self._save(study, measurer)
        self.seconds["total"] = time.perf_counter() - self.begin

    def _finalists(self, study: Study, best: Trial) -> list[Trial]:
        """The best, and what one trial's timing cannot tell from it; an interrupted run takes the best as it is."""
        assert best.evaluation is not None
        if study.stop_reason == "interrupted" or study.goal.violation(best.evaluation) > 0:
            return [best]
        cost = study.goal.cost(best.evaluation) * (1 + study.goal.tie)
        level = [t for t in study.trials if t.ok and t.evaluation is not None and study.goal.feasible(t.evaluation)
                 and study.goal.cost(t.evaluation) <= cost]
        unique: dict[str, Trial] = {}
        for trial in [best, *sorted(level, key=lambda t: study.goal.cost(t.evaluation))]:  # type: ignore[arg-type]
            assert trial.evaluation is not None
            unique.setdefault(trial.evaluation.graph, trial)
        return list(unique.values())[:FINALISTS]

    def _save(self, study: Study, measurer: Measurer) -> Path:
        """Save the chosen model and see that, opened with the engine's defaults, it is what was measured."""
        assert study.final is not None
        target = self.folder.path / "model"
        path = self.setup.backend.save(study.final.trial.config, target)
        saved = self.setup.backend.open(path)
        executed = saved.executed()
        if (dict(executed.int8), dict(executed.fp32)) != (
            dict(study.final.executed.int8), dict(study.final.executed.fp32)
        ):
            raise EngineError(f"the saved model executes {dict(executed.int8)} in int8 and {dict(executed.fp32)} in "
                              f"fp32, the measured one {dict(study.final.executed.int8)} and "
                              f"{dict(study.final.executed.fp32)}")
        batch = measurer.data.batch(0, self.config.measure.batch_size)
        measured = self.setup.backend.realise(study.final.trial.config)
        for a, b in zip(measured.predict(batch), saved.predict(batch), strict=True):
            # Not bit by bit: when it loads a model, an engine may add up float operators in another order.
            scale = max(1.0, float(np.abs(a).max(initial=0.0)))
            if not np.allclose(a, b, rtol=0, atol=SAVED_TOLERANCE * scale):
                raise EngineError("the saved model does not give the outputs of the measured one")
        return path

    def _clock(self, stage: str) -> _Clock:
        return _Clock(self.seconds, stage)


def identity(setup: Setup, space: str) -> dict[str, Any]:
    """What must be equal for a run to be resumed; not the budget, which may grow.

    Args:
        setup: What the run works with.
        space: Fingerprint of the space.
    """
    config = setup.config
    kind, _ = setup.model.pick(setup.backend.accepts, config.backend["name"])
    facts = {
        "schema_version": SCHEMA_VERSION,
        "strategy": dict(config.strategy), "backend": dict(config.backend),
        "metrics": asdict(config.metrics), "criterion": config.tuning.criterion,
        "tolerable_loss": config.tuning.tolerable_loss, "seed": config.tuning.seed,
        "model_sha256": setup.model.sha256(kind),
        "data_sha256": setup.evaluation.sha256(), "calibration_sha256": setup.calibration.sha256(),
        "preprocess": asdict(setup.preprocess), "space": space,
        "threads": config.measure.threads, "batch_size": config.measure.batch_size,
    }
    # As it comes back from the file: tuples as lists, and the like.
    return cast(dict[str, Any], json.loads(json.dumps(facts)))


class _Clock:
    def __init__(self, seconds: dict[str, float], stage: str) -> None:
        self.seconds, self.stage = seconds, stage

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + time.perf_counter() - self.start


class _Timed(Strategy):
    """A strategy whose own time is counted."""

    def __init__(self, inner: Strategy) -> None:
        self.inner = inner
        self.seconds = 0.0

    @property
    def stage(self) -> str:  # type: ignore[override]
        return self.inner.stage

    @property
    def note(self) -> str:  # type: ignore[override]
        return self.inner.note

    @property
    def stopped(self) -> str:  # type: ignore[override]
        return self.inner.stopped

    def propose(self) -> Any:
        start = time.perf_counter()
        try:
            return self.inner.propose()
        finally:
            self.seconds += time.perf_counter() - start

    def observe(self, trial: Trial) -> None:
        start = time.perf_counter()
        try:
            self.inner.observe(trial)
        finally:
            self.seconds += time.perf_counter() - start

    def close(self) -> None:
        self.inner.close()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
