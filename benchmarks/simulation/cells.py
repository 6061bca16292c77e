"""One cell of the benchmark: a whole run of the tuner, and the same run resumed."""

from __future__ import annotations

import json
import logging
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nc_strategies.api import ModelSource, Preprocess, Raw
from nc_strategies.config import MeasureConfig, RunConfig, TuningConfig
from nc_strategies.measuring.core import METRIC
from nc_strategies.measuring.local_target import TargetParts
from nc_strategies.metrics.classification import Top1
from nc_strategies.problem import Problem, Trial
from nc_strategies.registry import registry
from nc_strategies.report import page, result
from nc_strategies.strategies.base import Strategy
from nc_strategies.study.folder import RunFolder
from nc_strategies.study.journal import Journal
from nc_strategies.study.setup import Setup
from nc_strategies.study.study import Study, StudyListener
from nc_strategies.study.tune import tune
from nc_strategies.testing.toy import ToyBackend, ToyOp, ToySettings
from simulation.workers import SimulatedClock, SimulatedTarget, SimulatedWorkers

SETTINGS = {"sigopt": {"driver": "local"}}
LATENCY_NOISE = 0.01
"""Standard deviation of a simulated latency."""
FP32_LOSS = 0.05
"""Loss of int8 in all operators together, in accuracy: five times what is tolerated."""


@dataclass(frozen=True)
class Cell:
    """What is simulated.

    Args:
        strategy: The strategy.
        workers: Number of workers.
        trials: Number of trials.
        operators: Number of operators of the model.
        seconds: Mean seconds of a trial.
    """

    strategy: str
    workers: int
    trials: int
    operators: int
    seconds: float = 60.0


@dataclass(frozen=True)
class Figures:
    """What a cell shows.

    Args:
        trials: Trials that the strategy asked for.
        throughput: Trials per second, relative to workers that are never idle; the end, when they run out of trials,
            is included.
        idle: Share of the workers' time without a trial, while there were trials to start; None without a second trial
            on any worker.
        open: Largest number of trials that ran at the same time.
        tuner_ms: The tuner's processor time per trial, without the strategy's and without the page, in milliseconds.
        strategy_ms: The strategy's per trial.
        page_ms: The page's per trial, as it is renewed during the run.
        memory_kb: Growth of the process per trial during the search, the strategy's own memory included, in kB.
        journal_bytes: Size of the journal with the names of the operators.
        page_bytes: Size of the page at the end.
        last_page_s: Processor time of the last page, in seconds.
        resume_read_s: Seconds to read the journal.
        resume_replay_s: Seconds to show its trials to the strategy, without the strategy's own.
        resume_strategy_s: The strategy's own seconds in that.
    """

    trials: int
    throughput: float
    idle: float | None
    open: int
    tuner_ms: float
    strategy_ms: float
    page_ms: float
    memory_kb: float
    journal_bytes: int
    page_bytes: int
    last_page_s: float
    resume_read_s: float
    resume_replay_s: float
    resume_strategy_s: float


class Meter:
    """Processor time of this process by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Count the block's time."""
        begin = time.process_time()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.process_time() - begin

    def of(self, part: str) -> float:
        """Seconds of a part."""
        return self.seconds.get(part, 0.0)


class Metered(Strategy):
    """A strategy whose time is counted."""

    def __init__(self, inner: Strategy, meter: Meter) -> None:
        self.inner, self._meter = inner, meter

    def __getattribute__(self, name: str) -> Any:
        if name in ("stage", "note", "predicted", "engine", "ended", "stopped"):
            return getattr(object.__getattribute__(self, "inner"), name)
        return object.__getattribute__(self, name)

    def propose(self) -> Any:
        """See `Strategy.propose`."""
        with self._meter("strategy"):
            return self.inner.propose()

    def observe(self, trial: Trial) -> None:
        """See `Strategy.observe`."""
        with self._meter("strategy"):
            self.inner.observe(trial)

    def close(self) -> None:
        """See `Strategy.close`."""
        self.inner.close()


class Watch(StudyListener):
    """Writes the page as a run does, and knows when the search begins and ends."""

    def __init__(self, meter: Meter, writer: StudyListener) -> None:
        self._meter, self._writer = meter, writer
        self.began = self.ended = 0.0
        self.before = self.after = 0

    def stage(self, text: str) -> None:
        """The search ends with the stage that follows it."""
        if self.began and not self.ended and text.startswith(("measuring the best", "saving")):
            self._end()

    def _end(self) -> None:
        self.ended, self.after = time.process_time(), resident_kb()

    def started(self, study: Study, max_trials: int, timeout: float) -> None:
        """See `StudyListener.started`."""
        self._writer.started(study, max_trials, timeout)
        self.began, self.before = time.process_time(), resident_kb()

    def trial_finished(self, study: Study, trial: Trial) -> None:
        """See `StudyListener.trial_finished`."""
        logging.getLogger("nc_strategies.app.run").info("trial %d %s: %s", trial.number, trial.note, trial.error)
        with self._meter("page"):
            self._writer.trial_finished(study, trial)

    def finished(self, study: Study) -> None:
        """See `StudyListener.finished`."""
        with self._meter("last page"):
            self._writer.finished(study)


def resident_kb() -> int:
    """Resident memory of this process in kB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


def model_of(operators: int) -> list[ToyOp]:
    """A model in which few operators have most of the loss, and times differ."""
    rng = np.random.default_rng(0)
    loss, took = rng.lognormal(0.0, 1.5, operators), rng.lognormal(0.0, 0.8, operators)
    loss, took = FP32_LOSS * loss / loss.sum(), took / took.mean()
    return [
        ToyOp(f"features/stage_{i // 100}/block_{i}/conv", "Conv", float(a), 40.0 * float(b), 15.0 * float(b))
        for i, (a, b) in enumerate(zip(loss, took, strict=True))
    ]


class _Run:
    def __init__(self, cell: Cell, folder: Path) -> None:
        ops = model_of(cell.operators)
        folder.mkdir(parents=True, exist_ok=True)
        model = folder / "model.toy"
        if not model.exists():
            model.write_text(json.dumps([asdict(op) for op in ops]))
        labels = np.arange(1000) % 2
        x = labels + (np.arange(1000) * 0.618034) % 1.0
        strategy = {"name": cell.strategy, **SETTINGS.get(cell.strategy, {})}
        config = RunConfig(
            strategy=strategy,
            backend={"name": "toy"},
            model={"name": "toy"},
            data={"name": "numbers"},
            executor={"name": "simulated"},
            tuning=TuningConfig(max_trials=cell.trials, tolerable_loss=FP32_LOSS / 5, criterion="absolute"),
            measure=MeasureConfig(latency_runs=20, final_runs=20, evaluation_batch_size=1000),
        )
        config.validate()
        parts = TargetParts(
            ToyBackend(ToySettings(simulated=True)),
            ModelSource("toy", {"toy": model}),
            Raw("data.path", {"x": x}, labels),
            Raw("data.path", {"x": x[:20]}),
            Preprocess(),
            Top1(),
        )
        self.meter, self.clock = Meter(), SimulatedClock()
        target = SimulatedTarget(parts, config)
        target.simulate(ops, self.clock, LATENCY_NOISE)
        found = registry()
        make = found.target(found.get("strategy", cell.strategy))
        settings = found.settings("strategy", strategy)
        self.workers = SimulatedWorkers(cell.workers, self.clock, cell.seconds)
        self.setup = Setup(config, target, lambda problem: self._made(make, settings, problem), self.workers)
        self.watch = Watch(self.meter, page.PageWriter(clock=self.clock))
        self.folder = RunFolder(folder / "run")

    def _made(self, make: Callable[[Any, Problem], Strategy], settings: Any, problem: Problem) -> Strategy:
        return Metered(make(settings, problem), self.meter)

    def __call__(self) -> Study:
        study = tune(self.setup, self.folder, self.watch)
        if not self.watch.ended:
            self.watch._end()
        result.write(study, self.setup)
        self.watch.finished(study)
        return study

    @property
    def own(self) -> float:
        """The tuner's own seconds in the search."""
        held = self.clock._held
        return self.watch.ended - self.watch.began - self.meter.of("strategy") - self.meter.of("page") - held


def measured(cell: Cell, folder: Path) -> Figures:
    """Simulate a cell in an empty folder."""
    logging.getLogger("nc_strategies").setLevel(logging.INFO)
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / "log.txt")
    logging.getLogger("nc_strategies").addHandler(handler)
    logging.getLogger("nc_strategies").propagate = False
    run = _Run(cell, folder)
    study = run()
    count = len(study.trials)
    path = folder / "run"
    files = [path / "trials.jsonl", path / "trials.operators.json"]
    begin = time.process_time()
    Journal(path, METRIC).read()
    read = time.process_time() - begin
    again = _Run(cell, folder)
    resumed = again()
    if len(resumed.trials) < count or not all(trial.resumed for trial in resumed.trials[:count]):
        raise SystemExit("a resumed run has measured a trial again")
    return Figures(
        count,
        run.workers.throughput,
        run.workers.idle,
        most_open(run.workers.spans),
        run.own / count * 1e3,
        run.meter.of("strategy") / count * 1e3,
        run.meter.of("page") / count * 1e3,
        (run.watch.after - run.watch.before) / count,
        sum(os.path.getsize(one) for one in files if one.exists()),
        (path / page.FILE).stat().st_size,
        run.meter.of("last page"),
        read,
        again.own,
        again.meter.of("strategy"),
    )


def most_open(spans: list[tuple[float, float]]) -> int:
    """Largest number of spans that overlap."""
    events = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans], key=lambda e: (e[0], e[1]))
    most = now = 0
    for _, change in events:
        now += change
        most = max(most, now)
    return most
