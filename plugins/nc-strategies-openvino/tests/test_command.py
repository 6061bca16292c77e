"""All of it together, from the command line: a run, and what looks at it afterwards."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nc_strategies_openvino import engine

from nc_strategies import samples


def run(*arguments, cwd):
    done = subprocess.run(
        [sys.executable, "-m", "nc_strategies", *map(str, arguments)],
        cwd=cwd,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory, sample_path):
    """A folder with a short run in ``out``."""
    folder = tmp_path_factory.mktemp("finished")
    data = np.load(samples.evaluation_images())
    np.savez(folder / "eval.npz", x=data["x"][:200], y=data["y"][:200])
    status, _, err = run(
        "backend=openvino",
        "model=onnx",
        f"model.path={sample_path}",
        "data=npz",
        "data.path=eval.npz",
        "data.calibration_samples=20",
        "data.preprocess.scale=0.00784313725490196",
        "data.preprocess.offset=-1",
        "tuning.max_trials=2",
        "tuning.tolerable_loss=0.05",
        "measure.latency_runs=20",
        "measure.final_runs=20",
        "run_dir=out",
        cwd=folder,
    )
    assert status in (0, 3), err
    return folder


def test_a_run_is_recorded_with_what_was_executed(finished):
    result = json.loads((finished / "out" / "result.json").read_text())
    assert (result["backend"], result["model_path"]) == ("openvino", "model/model.xml")
    assert result["tuned"]["int8_ops"] > 0
    assert result["versions"]["openvino"].startswith("20")
    analysis = json.loads((finished / "out" / "analysis.json").read_text())
    asked = set(analysis["operators"])
    assert len(asked & set(analysis["executed_int8"])) >= 1
    told = [text for text in analysis["remarks"] if engine.PRECISION in text]
    assert bool(told) == (engine.default_precision() != "f32")


def test_a_served_model_is_as_accurate_as_it_was_measured(finished, tmp_path):
    page = Path(__file__).resolve().parents[3] / "docs" / "serving.md"
    if not page.exists():
        pytest.skip("needs the documentation of nc-strategies beside the plugins")
    (program,) = re.findall(r"`serve_openvino\.py`\n\n```python\n(.*?)```", page.read_text(), re.DOTALL)
    result = json.loads((finished / "out" / "result.json").read_text())
    count = result["measure"]["samples"]
    with np.load(finished / "eval.npz") as data:
        # The first samples were left out of the evaluation: they calibrated.
        np.savez(tmp_path / "evaluation.npz", x=data["x"][-count:], y=data["y"][-count:])
    (tmp_path / "out-openvino").symlink_to(finished / "out")
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(result["tuned"]["accuracy"], abs=1.5 / count)


def test_the_exported_model_takes_its_weights_along_under_its_new_name(finished, tmp_path):
    target = tmp_path / "served.xml"
    assert run("export", finished / "out", "--to", target, cwd=tmp_path) == (0, f"{target}\n", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["served.bin", "served.xml"]
    assert engine.read(target).inputs
    status, _, err = run(
        "export", finished / "out", "--to", tmp_path / "served.onnx.xml", "--format", "onnx", cwd=tmp_path
    )
    assert status == 2
    assert len(err.splitlines()) == 1


def test_a_run_is_explained_and_replayed(finished):
    status, out, err = run("explain", "out", cwd=finished)
    assert (status, err) == (0, "")
    assert "openvino" in out
    status, out, err = run("replay", "out", "--json", cwd=finished)
    assert status in (0, 3), err
    found = json.loads(out)
    assert found["executed"]["equal"]
    assert found["accuracy"]["now"] == found["accuracy"]["then"]


def test_a_model_is_inspected_for_the_engine(finished, sample_path):
    status, out, err = run("inspect", sample_path, "--backend", "openvino", "--json", cwd=finished)
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["backend"] == "openvino"
    assert not found["refused"]
    assert "backend=openvino" in found["start"]["command"]
