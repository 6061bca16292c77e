"""A real run of the bundled sample on simulated latency, and the console script as an installation has it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nc_strategies
from nc_strategies import samples
from nc_strategies.backends.onnxruntime.backend import OnnxRuntimeBackend
from nc_strategies.testing import simulated_time

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of a run that met its goal; its latencies are simulated, all else is real."""
    with np.load(samples.evaluation_images()) as file:
        data = file["x"][:300], file["y"][:300]
    with simulated_time(OnnxRuntimeBackend):
        study = nc_strategies.tune(
            samples.onnx_model(),
            data,
            preprocess={"scale": samples.SCALE, "offset": samples.OFFSET},
            calibration_samples=50,
            tolerable_loss=0.05,
            strategy="basic",
            max_trials=1,
            latency_runs=20,
            final_runs=20,
            run_dir=tmp_path_factory.mktemp("finished") / "out",
        )
    assert study.status == "met"
    return Path(study.run_dir)


@pytest.fixture(scope="session")
def path(tmp_path_factory):
    """PATH with ``nc-strategies`` and ``python`` of this environment in front."""
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "nc-strategies"
    script.write_text(f"#!{sys.executable}\nfrom nc_strategies.app.entry import main\nmain()\n")
    script.chmod(0o755)
    # Not a link, which would lose the environment that pyvenv.cfg beside the interpreter describes.
    (folder / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / "python").chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture(scope="session")
def environment(path):
    """Variables of a process in which the package can be imported and its commands be found."""
    packages = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PATH": path, "PYTHONPATH": packages}


@pytest.fixture
def command(environment):
    """Starts a program in a folder; its status, standard output and standard error."""

    def run(*words, cwd, answers=None, **more):
        done = subprocess.run(
            [str(word) for word in words],
            cwd=cwd,
            env={**environment, **more},
            text=True,
            capture_output=True,
            check=False,
            **({"stdin": subprocess.DEVNULL} if answers is None else {"input": answers}),
        )
        return done.returncode, done.stdout, done.stderr

    return run
