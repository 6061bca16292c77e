"""All of it together, from the command line."""

import json
import subprocess
import sys

import numpy as np
from nc_strategies_example.backend import NumpyBackend
from nc_strategies_example.settings import NumpySettings


def run(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "nc_strategies", *arguments],
        cwd=cwd,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_a_model_is_tuned(problem, tmp_path):
    done = run(
        "strategy=bisect",
        "backend=numpy_mlp",
        "model=mlp",
        f"model.path={problem / 'model.npz'}",
        "data=npz",
        f"data.path={problem / 'data.npz'}",
        "metrics=brier_size",
        "tuning.criterion=absolute",
        "tuning.tolerable_loss=0.01",
        "measure.latency_runs=20",
        "measure.final_runs=20",
        "run_dir=out",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (result["strategy"], result["backend"], result["status"]) == ("bisect", "numpy_mlp", "met")
    assert result["tuned"]["size_bytes"] < 0.6 * result["baseline"]["size_bytes"]
    assert result["tuned"]["int8_ops"] == 3
    saved = NumpyBackend(NumpySettings()).open(tmp_path / "out" / result["model_path"])
    with np.load(problem / "data.npz") as data:
        right = saved.predict({"x": data["x"]})[0].argmax(1) == data["y"]
    assert right.mean() > 0.85


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    done = run("backend=numpy_mlp", "model=mlp", "model.path=none.npz", "run_dir=out", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: model.path: no such file: none.npz"
