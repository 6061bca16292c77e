"""Plugins outside the tree: the example to copy, and what the tutorial's text alone gives."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture
def chain(tmp_path):
    """A model for the tutorial's backend, whose labels it knows, and the arguments that tune it."""
    rng = np.random.default_rng(0)
    weights = {"w0": rng.normal(size=(8, 16)).astype(np.float32), "w1": rng.normal(size=(16, 4)).astype(np.float32)}
    x = rng.normal(size=(400, 8)).astype(np.float32)
    np.savez(tmp_path / "model.npz", **weights)
    np.savez(tmp_path / "data.npz", x=x, y=(x @ weights["w0"] @ weights["w1"]).argmax(1))
    return [
        "strategy=mine",
        "backend=mine",
        "model=chain",
        "model.path=model.npz",
        "data=npz",
        "data.path=data.npz",
        "metrics=accuracy_size",
        "tuning.tolerable_loss=0.1",
        "measure.latency_runs=20",
        "measure.final_runs=20",
        "run_dir=out",
    ]


def passed(done, least):
    """See that tests ran, and passed."""
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"(\d+) passed", done.stdout)
    assert found, done.stdout
    assert int(found[1]) >= least


def test_the_example_passes_its_own_tests_alone(command, tmp_path):
    source = ROOT / "plugins" / "nc-strategies-example"
    shutil.copytree(source / "tests", tmp_path / "tests")
    shutil.copy(source / "pyproject.toml", tmp_path)
    passed(command("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path), 30)


def test_the_tutorials_strategy_is_20_lines_of_python(tutorial):
    sources = (tutorial / "nc-strategies-mine" / "src").rglob("*.py")
    assert sum(bool(line.strip()) for path in sources for line in path.read_text().splitlines()) <= 20


@pytest.mark.parametrize(("name", "least"), [("nc-strategies-mine", 7), ("nc-strategies-minebackend", 10)])
def test_the_tutorials_plugins_pass_their_suites(command, tutorial, tmp_path, name, least):
    shutil.copytree(tutorial / name / "tests", tmp_path / "tests")
    passed(command("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path), least)


def test_they_tune_with_a_broken_plugin_beside_them(command, tmp_path, chain):
    done = command("nc-strategies", *chain, "strategy.patience=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (found["strategy"], found["backend"], found["status"]) == ("mine", "mine", "met")
    assert found["trials"]["total"] == 2
    assert found["tuned"]["int8_ops"] == 2
    assert "plugin broken is left out" in done.stderr


def test_help_shows_them(command, tmp_path):
    done = command("nc-strategies", "--help", cwd=tmp_path)
    groups = dict(line.split(": ", 1) for line in done.stdout.splitlines() if re.match(r"\w+: \w", line))
    assert {"mine", "bisect", "basic"} <= set(groups["strategy"].split(", "))
    assert {"mine", "numpy_mlp", "onnxruntime"} <= set(groups["backend"].split(", "))
    assert {"none"} <= set(groups["tracker"].split(", "))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("strategy=", {"strategy=mine", "strategy=bisect", "strategy=basic"}),
        ("backend=m", {"backend=mine"}),
        ("strategy=mine strategy.pa", {"strategy.patience="}),
    ],
)
def test_the_shell_completes_them(command, tmp_path, line, expected):
    line = f"nc-strategies {line}"
    done = command("nc-strategies", "-sc", "query=bash", cwd=tmp_path, COMP_LINE=line, COMP_POINT=str(len(line)))
    assert expected <= set(done.stdout.split()), done.stdout + done.stderr
