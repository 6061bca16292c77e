"""Finished runs on the toy backend, and a browser."""

import json
import os
import shutil
from dataclasses import asdict

import numpy as np
import pytest

from nc_strategies.api import ModelSource, Preprocess, Raw
from nc_strategies.config import MeasureConfig, RunConfig, TuningConfig
from nc_strategies.measuring.local_target import LocalTarget, TargetParts
from nc_strategies.metrics.classification import Top1
from nc_strategies.strategies.random import RandomSettings, RandomStrategy
from nc_strategies.study.executor import SerialExecutor
from nc_strategies.study.folder import RunFolder
from nc_strategies.study.setup import Setup
from nc_strategies.study.tune import tune
from nc_strategies.testing import ToyBackend, ToyOp, ToySettings

OPS = (ToyOp("a", loss=0.001), ToyOp("b", "MatMul", loss=0.05))


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, from the system's package."""
    where = shutil.which("chromium")
    if where is None:
        message = "chromium is not installed (apt-get install chromium)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=where, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def finished(tmp_path):
    """Runs to the end and gives the study and its setup."""

    def make(name="run", ops=OPS, listener=None, **tuning):
        model = tmp_path / f"{name}.toy"
        model.write_text(json.dumps([asdict(op) for op in ops]))
        labels = np.arange(200) % 2
        x = labels + (np.arange(200) * 0.618034) % 1.0
        config = RunConfig(
            strategy={"name": "random"},
            backend={"name": "toy"},
            model={"name": "toy"},
            data={"name": "numbers"},
            executor={"name": "serial"},
            tuning=TuningConfig(**{"max_trials": 4, "tolerable_loss": 0.1, **tuning}),
            measure=MeasureConfig(latency_runs=20, final_runs=20, evaluation_batch_size=200),
        )
        config.validate()
        parts = TargetParts(
            ToyBackend(ToySettings(simulated=True)),
            ModelSource("my model", {"toy": model}),
            Raw("data.path", {"x": x}, labels),
            Raw("data.path", {"x": x[:10]}),
            Preprocess(),
            Top1(),
        )
        setup = Setup(
            config,
            LocalTarget(parts, config),
            lambda problem: RandomStrategy(RandomSettings(), problem),
            SerialExecutor(),
        )
        return tune(setup, RunFolder(tmp_path / name), listener), setup

    return make


@pytest.fixture
def fails():
    """Operators of which no trial can be built."""
    return (ToyOp("a", fails=True),)
