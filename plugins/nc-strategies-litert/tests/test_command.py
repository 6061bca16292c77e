"""A run through the command line, and what can be done with its folder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from nc_strategies_litert.graph import Graph

from nc_strategies import samples


def command(*arguments, folder, expected=(0,)):
    done = subprocess.run(
        [sys.executable, "-m", "nc_strategies", *arguments], capture_output=True, text=True, cwd=folder, check=False
    )
    assert done.returncode in expected, done.stdout + done.stderr
    assert "XNNPACK" not in done.stdout + done.stderr, "the engine's own messages are kept off the terminal"
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory, sample):
    """The folder of a short run on the bundled classifier; whether int8 pays is the machine's matter."""
    where = tmp_path_factory.mktemp("runs")
    source = ("model=tflite", f"model.path={sample.files['tflite']}", "data=sample")
    limits = ("strategy=basic", "tuning.max_trials=2", "measure.latency_runs=20")
    command("backend=litert", *source, *limits, "run_dir=out", folder=where, expected=(0, 3))
    return where


def result(folder):
    return json.loads((folder / "out" / "result.json").read_text())


def test_a_run_leaves_a_tflite_model_with_the_operators_it_reports(folder):
    found = result(folder)
    assert found["backend"] == "litert"
    assert {"ai-edge-litert", "ai-edge-quantizer"} <= set(found["versions"])
    assert found["model_path"] == "model/model.tflite"
    graph = Graph((folder / "out" / found["model_path"]).read_bytes())
    int8 = [
        op for op in graph.ops if graph.mode(op) in ("static", "dynamic") and op.type not in ("QUANTIZE", "RESHAPE")
    ]
    assert len(int8) == found["tuned"]["int8_ops"]


def test_a_served_model_is_as_accurate_as_it_was_measured(folder, tmp_path):
    page = Path(__file__).resolve().parents[3] / "docs" / "serving.md"
    if not page.exists():
        pytest.skip("needs the documentation of nc-strategies beside the plugins")
    (program,) = re.findall(r"`serve_litert\.py`\n\n```python\n(.*?)```", page.read_text(), re.DOTALL)
    found = result(folder)
    (tmp_path / "evaluation.npz").symlink_to(samples.evaluation_images())
    (tmp_path / "out-litert").symlink_to(folder / "out")
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(found["tuned"]["accuracy"], abs=4.5 / found["measure"]["samples"])


def test_the_page_and_the_explanation_name_its_operators(folder):
    page = (folder / "out" / "report.html").read_text()
    told = command("explain", "out", folder=folder).stdout
    assert "litert" in page
    assert "fashion_cnn_1/stem_1/convolution" in page
    assert result(folder)["status"] in told.lower().replace("goal ", "")


def test_its_model_is_exported_as_it_is(folder):
    command("export", "out", "--to", "copy.tflite", folder=folder)
    assert (folder / "copy.tflite").read_bytes() == (folder / "out" / "model" / "model.tflite").read_bytes()
    refused = command("export", "out", "--to", "copy.onnx", "--format", "onnx", folder=folder, expected=(2,))
    assert "the model of this run is tflite" in refused.stderr


def test_it_is_measured_again(folder):
    told = json.loads(command("replay", "out", "--json", folder=folder, expected=(0, 3)).stdout)
    assert told
