"""The built wheel in a new environment with plugins from outside the tree: third parties', the example, the tutorial's.

All in one file, so that one worker makes the one environment.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
TOY = [{"name": f"op{i}", "loss": 0.001 * i, "time_us": 200.0, "int8_time_us": 60.0} for i in range(4)]
pytestmark = pytest.mark.slow


@pytest.fixture
def toy(tmp_path):
    """A toy model, its data, and the arguments that tune it."""
    (tmp_path / "m.toy").write_text(json.dumps(TOY))
    x = np.random.default_rng(0).integers(2, size=400) + np.random.default_rng(1).random(400)
    np.savez(tmp_path / "d.npz", x=x, y=x.astype(int))
    return [
        "backend=toy",
        "backend.simulated=true",
        "model=toy",
        "model.path=m.toy",
        "data=npz",
        "data.path=d.npz",
        "tuning.tolerable_loss=0.05",
        "measure.latency_runs=40",
        "measure.final_runs=60",
        "run_dir=out",
    ]


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


def test_help_shows_built_in_choices_and_those_of_plugins_anywhere(command, tmp_path):
    done = command("nc-strategies", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    groups = {
        name: set(names.split(", "))
        for name, _, names in (line.partition(": ") for line in done.stdout.splitlines() if re.match(r"\w+: \w", line))
    }
    assert {"basic", "random", "tiny", "mine", "bisect"} <= groups["strategy"]
    assert {"onnxruntime", "tensorflow", "toy", "mine", "numpy_mlp"} <= groups["backend"]
    assert {"none"} <= groups["tracker"]


def test_the_search_path_shows_a_third_partys_configuration(command, tmp_path):
    done = command("nc-strategies", "--info", "searchpath", cwd=tmp_path)
    assert "pkg://nc_strategies_tiny.conf" in done.stdout
    assert "nc_strategies/conf" in done.stdout


def test_a_third_partys_strategy_and_backend_tune_and_a_broken_plugin_is_named(command, tmp_path, toy):
    done = command("nc-strategies", "strategy=tiny", *toy, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "plugin broken is left out (RuntimeError: made for another version)" in done.stderr
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (found["strategy"], found["backend"], found["status"]) == ("tiny", "toy", "met")
    assert found["trials"]["total"] == 3
    assert "pip install 'nc-strategies[report]'" in done.stderr
    assert not (tmp_path / "out" / "report.html").exists()
    assert (tmp_path / "tracked.txt").read_text().split() == ["1", "2", "3"]
    assert "the tracker's server is gone" in (tmp_path / "out" / "nc_strategies.log").read_text()


def test_a_third_partys_settings_are_checked_against_its_schema(command, tmp_path, toy):
    done = command("nc-strategies", "strategy=tiny", "+strategy.zzz=1", *toy, cwd=tmp_path)
    assert done.returncode == 2
    assert "strategy.zzz: is not a setting of strategy 'tiny'; allowed: name, patience" in done.stderr


def test_a_missing_engine_names_what_to_install(command, tmp_path):
    done = command("nc-strategies", "backend=onnxruntime", "run_dir=out", cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install 'nc-strategies[onnxruntime]'" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_list_says_what_to_install(command, tmp_path):
    done = command("nc-strategies", "list", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["strategy", "tiny"] in [line[:2] for line in lines]
    assert any(line[:2] == ["backend", "onnxruntime"] and "'nc-strategies[onnxruntime]'" in line for line in lines)


def test_the_page_s_templates_are_in_the_wheel(command, tmp_path):
    code = "from nc_strategies.report.page import TEMPLATES; print(sorted(p.name for p in TEMPLATES.iterdir()))"
    done = command("python", "-c", code, cwd=tmp_path)
    assert done.stdout.strip() == str(
        [
            "base.html.jinja",
            "charts.js",
            "comparison.html.jinja",
            "overview.css",
            "overview.html",
            "overview.js",
            "page.css",
            "page.js",
            "run.html.jinja",
        ]
    ), done.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("strategy=", {"strategy=mine", "strategy=bisect", "strategy=basic", "strategy=tiny"}),
        ("backend=m", {"backend=mine"}),
        ("strategy=mine strategy.pa", {"strategy.patience="}),
    ],
)
def test_the_console_script_completes_them(command, tmp_path, line, expected):
    line = f"nc-strategies {line}"
    done = command("nc-strategies", "-sc", "query=bash", cwd=tmp_path, COMP_LINE=line, COMP_POINT=str(len(line)))
    assert expected <= set(done.stdout.split()), done.stdout + done.stderr


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


def test_the_tutorials_plugins_tune(command, tmp_path, chain):
    done = command("nc-strategies", *chain, "strategy.patience=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (found["strategy"], found["backend"], found["status"]) == ("mine", "mine", "met")
    assert found["trials"]["total"] == 2
    assert found["tuned"]["int8_ops"] == 2
