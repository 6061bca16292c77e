"""Whole runs on the toy backend, in a folder of the test's."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from nc_strategies.api import ModelSource, Preprocess, Raw
from nc_strategies.config import MeasureConfig, RunConfig, TuningConfig
from nc_strategies.measuring.local_target import LocalTarget, TargetParts
from nc_strategies.metrics.classification import Top1
from nc_strategies.strategies.basic import BasicSettings, BasicStrategy
from nc_strategies.strategies.random import RandomSettings, RandomStrategy
from nc_strategies.study.executor import SerialExecutor
from nc_strategies.study.folder import RunFolder
from nc_strategies.study.setup import Setup
from nc_strategies.study.tune import tune
from nc_strategies.testing import ToyBackend, ToyOp, ToySettings

sys.path.insert(0, str(Path(__file__).parent))
OPS = (ToyOp("a", loss=0.001, time_us=60), ToyOp("b", "MatMul", loss=0.05, time_us=30), ToyOp("c", time_us=60))
STRATEGIES = {"basic": (BasicStrategy, BasicSettings), "random": (RandomStrategy, RandomSettings)}


class CountingBackend(ToyBackend):
    """Counts what it is asked to build, and can be interrupted."""

    def __init__(self):
        super().__init__(ToySettings(simulated=True))
        self.built = []
        self.interrupt_at = 0

    def build(self, config):
        self.built.append(config.fingerprint)
        if self.interrupt_at and len(self.built) == self.interrupt_at:
            raise KeyboardInterrupt
        return super().build(config)


def samples(count):
    """The right class plus an even spread of fractions, so that a share of samples is just that share."""
    labels = np.arange(count) % 2
    return labels + (np.arange(count) * 0.618034) % 1.0, labels


class Run:
    """One run, to be changed before it is started."""

    def __init__(self, folder, ops=OPS, strategy="random", backend=None, make=None, executor=None, count=500, **tuning):
        model = folder.parent / f"{folder.name}.toy"
        model.write_text(json.dumps([asdict(op) for op in ops]))
        x, y = samples(count)
        self.backend = backend or CountingBackend()
        self.folder = folder
        self.strategies = []
        self.config = RunConfig(
            strategy={"name": strategy},
            backend={"name": "toy"},
            model={"name": "toy"},
            data={"name": "numbers"},
            executor={"name": "serial"},
            tuning=TuningConfig(**{"max_trials": 8, **tuning}),
            measure=MeasureConfig(latency_runs=20, final_runs=20, evaluation_batch_size=100 if count > 500 else 500),
        )
        self.config.validate()
        kind, settings = STRATEGIES.get(strategy, (None, None))
        self.make = make or (lambda problem: kind(settings(), problem))
        self.parts = TargetParts(
            self.backend,
            ModelSource("toy", {"toy": model}),
            Raw("data.path", {"x": x}, y),
            Raw("data.path", {"x": x[:20]}),
            Preprocess(),
            Top1(),
        )
        self.setup = Setup(
            self.config, LocalTarget(self.parts, self.config), self._remember, executor or SerialExecutor()
        )

    def _remember(self, problem):
        self.strategies.append(self.make(problem))
        return self.strategies[-1]

    def __call__(self, listener=None):
        return tune(self.setup, RunFolder(self.folder), listener)

    def journal(self):
        return [json.loads(line) for line in (self.folder / "trials.jsonl").read_text().splitlines()]


@pytest.fixture
def run(tmp_path):
    def make(name="run", **kwargs):
        return Run(tmp_path / name, **kwargs)

    return make


@pytest.fixture
def ops():
    return OPS
