"""``nc-strategies diagnose``: a real second process, on real runs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nc_strategies import samples


@pytest.fixture(scope="module")
def finished(tmp_path_factory, command):
    """A folder with a short run in ``out``."""
    folder = tmp_path_factory.mktemp("finished")
    data = np.load(samples.evaluation_images())
    np.savez(folder / "eval.npz", x=data["x"][:120], y=data["y"][:120])
    status, _, err = command(
        "model=onnx",
        f"model.path={samples.onnx_model()}",
        "data=npz",
        "data.path=eval.npz",
        "data.calibration_samples=20",
        "data.preprocess.scale=0.00784313725490196",
        "data.preprocess.offset=-1",
        "tuning.max_trials=1",
        "strategy=basic",
        "measure.latency_runs=20",
        "measure.final_runs=20",
        "space.op_type_dict={Gemm: {weight: {dtype: [fp32]}}}",
        "run_dir=out",
        cwd=folder,
    )
    assert status in (0, 3), err
    return folder


@pytest.fixture(scope="module")
def told(finished, command):
    status, out, err = command("diagnose", "out", "--samples", "30", cwd=finished)
    assert (status, err) == (0, "")
    return out


def test_a_run_is_diagnosed_on_the_terminal_in_a_file_and_on_the_page(finished, told):
    found = json.loads((finished / "out" / "diagnosis.json").read_text())
    assert (found["config"], found["samples"], found["data"]) == ("int8", 30, "evaluation")
    operators = json.loads((finished / "out" / "analysis.json").read_text())["operators"]
    wanted = [name for name, facts in operators.items() if facts["int8"]]
    assert [layer["name"] for layer in found["layers"]] == wanted
    ratios = {layer["name"]: layer["alone_db"] for layer in found["layers"]}
    assert found["worst_first"] == sorted(ratios, key=ratios.get)
    assert [one["operator"] for one in found["look_at"]] == found["worst_first"][:3]
    assert all(layer["accumulated_db"] <= 60 for layer in found["layers"])
    assert all(one["operator"] in told for one in found["look_at"])
    assert "out/diagnosis.json" in told
    assert "h-diagnosis" in (finished / "out" / "report.html").read_text()


def test_the_tuned_configuration_goes_to_a_file_elsewhere(finished, told, tmp_path, command):
    target = tmp_path / "d.json"
    before = {p: p.stat().st_mtime_ns for p in (finished / "out").rglob("*")}
    status, _, err = command("diagnose", "out", "--config", "tuned", "--samples", "5", "--output", target, cwd=finished)
    assert (status, err) == (0, "")
    assert (json.loads(target.read_text())["config"], json.loads(target.read_text())["samples"]) == ("tuned", 5)
    assert {p: p.stat().st_mtime_ns for p in (finished / "out").rglob("*")} == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "error: nowhere: does not exist"),
        (["."], "error: .: is not the folder of a run"),
        (["out", "--samples", "many"], "error: --samples: is many; a whole number, at least 1"),
        (["out", "--samples", "0"], "error: --samples: is 0; a whole number, at least 1"),
        (["out", "--config", "fp32"], "error: --config: is 'fp32'; int8, or tuned"),
        (["out", "--output", "none/d.json"], "error: --output: none is not a folder"),
        (["out", "--output", "."], "error: --output: . is a folder"),
    ],
)
def test_wrong_input_is_one_line_with_status_two(finished, arguments, says, command):
    status, out, err = command("diagnose", *arguments, cwd=finished)
    assert (status, out) == (2, "")
    assert err.startswith(says)
    assert err.count("\n") == 1


def test_data_that_has_changed_is_refused(finished, tmp_path, command):
    (tmp_path / "out").mkdir()
    for name in ("config.yaml", "result.json", "trials.jsonl"):
        (tmp_path / "out" / name).write_bytes((finished / "out" / name).read_bytes())
    data = np.load(finished / "eval.npz")
    np.savez(tmp_path / "eval.npz", x=data["x"][::-1], y=data["y"])
    status, out, err = command("diagnose", "out", cwd=tmp_path)
    assert (status, out) == (2, "")
    assert err.startswith("error: data: has changed since the run")
    assert not (tmp_path / "out" / "diagnosis.json").exists()
