"""A measured front on a real engine, by the command and from Python, and the model of one of its points."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime as ort
import pytest

import nc_strategies
from nc_strategies import samples

SCALE, OFFSET = 0.00784313725490196, -1.0
COUNT = 400


@pytest.fixture(scope="module")
def front(tmp_path_factory, command):
    """A folder with a run in ``out`` whose front was measured in a process of its own, and what it printed."""
    folder = tmp_path_factory.mktemp("front")
    data = np.load(samples.evaluation_images())
    np.savez(folder / "eval.npz", x=data["x"][:COUNT], y=data["y"][:COUNT])
    status, out, err = command(
        "strategy=basic",
        "model=onnx",
        f"model.path={samples.onnx_model()}",
        "data=npz",
        "data.path=eval.npz",
        "data.calibration_samples=50",
        f"data.preprocess.scale={SCALE}",
        f"data.preprocess.offset={OFFSET}",
        "tuning.max_trials=2",
        "tuning.front=4",
        "measure.latency_runs=20",
        "measure.final_runs=20",
        "run_dir=out",
        cwd=folder,
    )
    assert status in (0, 3), err
    return folder, json.loads((folder / "out" / "front.json").read_text()), out


def predictions(path, images):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    x = images.astype(np.float32) * np.float32(SCALE) + np.float32(OFFSET)
    return np.concatenate([session.run(None, {name: x[i : i + 1]})[0] for i in range(len(x))]).argmax(-1)


def test_a_front_of_a_real_model_has_complete_points(front):
    folder, found, out = front
    points = found["points"]
    assert 2 <= len(points) <= 4
    assert points[0]["role"] == "fp32"
    assert sum(p["role"] == "chosen" for p in points) == 1
    used = COUNT - 50
    for p in points:
        assert p["samples"] == used
        assert p["loss_ci95"][0] <= p["loss"] <= p["loss_ci95"][1]
        assert p["speedup_ci95"][0] <= p["speedup"] <= p["speedup_ci95"][1]
        assert p["latency_ms"] > 0
        assert p["metrics"]["top1"] == p["accuracy"]
    assert all(p["int8_ops"] > 0 and p["size_bytes"] < points[0]["size_bytes"] for p in points[1:])
    result = json.loads((folder / "out" / "result.json").read_text())
    assert [p["fingerprint"] for p in result["front"]["points"]] == [p["fingerprint"] for p in points]
    assert result["budget"]["front"] == 4
    assert "measured front" in out


def test_the_model_of_a_point_is_built_again_and_predicts_as_measured(front, tmp_path, command):
    folder, found, _ = front
    point = next((p for p in found["points"] if not p["role"]), found["points"][-1])
    target = tmp_path / "served" / "model.onnx"
    status, out, err = command("export", "out", "--point", point["point"], "--to", target, cwd=folder)
    assert (status, out) == (0, f"{target}\n"), err
    data = np.load(folder / "eval.npz")
    right = predictions(target, data["x"][50:]) == data["y"][50:]
    assert abs(right.mean() - point["accuracy"]) <= 1 / len(right)
    assert [p.name for p in target.parent.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("point", "says"), [(1, "--point: 1 is fp32, the model as it was given; one of 2"), (9, "--point: is 9; one of 2")]
)
def test_points_that_have_no_model_are_refused(front, tmp_path, point, says, command):
    folder, *_ = front
    status, out, err = command("export", "out", "--point", point, "--to", tmp_path / "m.onnx", cwd=folder)
    assert (status, out) == (2, "")
    assert says in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_exists_is_not_replaced_by_a_point(front, tmp_path, command):
    folder, *_ = front
    (tmp_path / "m.onnx").write_text("precious")
    status, _, err = command("export", "out", "--point", 2, "--to", tmp_path / "m.onnx", cwd=folder)
    assert status == 2
    assert "--to" in err
    assert (tmp_path / "m.onnx").read_text() == "precious"


def test_the_result_in_python_holds_the_front(front):
    folder, found, _ = front
    study = nc_strategies.Study(folder / "out")
    assert [p["fingerprint"] for p in study.front] == [p["fingerprint"] for p in found["points"]]
    assert study.front[0]["role"] == "fp32"
