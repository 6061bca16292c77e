"""The built wheel in a new environment, with third parties' packages beside it."""

from __future__ import annotations

import json
import os
import re
import subprocess

import numpy as np
import pytest

pytestmark = pytest.mark.slow
TOY = [{"name": f"op{i}", "loss": 0.001 * i, "time_us": 200.0, "int8_time_us": 60.0} for i in range(4)]


@pytest.fixture
def toy(tmp_path):
    """A toy model, its data, and the arguments that tune it."""
    (tmp_path / "m.toy").write_text(json.dumps(TOY))
    x = np.random.default_rng(0).integers(2, size=400) + np.random.default_rng(1).random(400)
    np.savez(tmp_path / "d.npz", x=x, y=x.astype(int))
    return [
        "backend=toy",
        "model=toy",
        "model.path=m.toy",
        "data=npz",
        "data.path=d.npz",
        "tuning.tolerable_loss=0.05",
        "measure.latency_runs=40",
        "measure.final_runs=60",
        "run_dir=out",
    ]


def run(environment, *arguments, cwd, **env):
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [str(environment / "nc-strategies"), *arguments],
        cwd=cwd,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env={**clean, **env},
        check=False,
    )


def test_help_shows_built_in_and_third_party_choices_anywhere(environment, tmp_path):
    done = run(environment, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^strategy: basic, .*\brandom, tiny$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^backend: .*\bonnxruntime, tensorflow, toy$", done.stdout, re.MULTILINE), done.stdout


def test_the_search_path_shows_a_third_partys_configuration(environment, tmp_path):
    done = run(environment, "--info", "searchpath", cwd=tmp_path)
    assert "pkg://nc_strategies_tiny.conf" in done.stdout
    assert "nc_strategies/conf" in done.stdout


def test_a_third_partys_strategy_and_backend_tune(environment, tmp_path, toy):
    done = run(environment, "strategy=tiny", *toy, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (found["strategy"], found["backend"], found["status"]) == ("tiny", "toy", "met")
    assert found["trials"]["total"] == 3
    assert "pip install 'nc-strategies[report]'" in done.stderr
    assert not (tmp_path / "out" / "report.html").exists()
    assert (tmp_path / "tracked.txt").read_text().split() == ["1", "2", "3"]
    assert "the tracker's server is gone" in (tmp_path / "out" / "nc_strategies.log").read_text()


def test_a_broken_third_party_is_named_and_left_out(environment, tmp_path, toy):
    done = run(environment, "strategy=tiny", *toy, cwd=tmp_path)
    assert done.returncode == 0
    assert "plugin broken is left out (RuntimeError: made for another version)" in done.stderr


def test_a_third_partys_settings_are_checked_against_its_schema(environment, tmp_path, toy):
    done = run(environment, "strategy=tiny", "+strategy.zzz=1", *toy, cwd=tmp_path)
    assert done.returncode == 2
    assert "strategy.zzz: is not a setting of strategy 'tiny'; allowed: name, patience" in done.stderr


def test_a_missing_engine_names_what_to_install(environment, tmp_path):
    done = run(environment, "backend=onnxruntime", "run_dir=out", cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install 'nc-strategies[onnxruntime]'" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_list_says_what_to_install(environment, tmp_path):
    done = run(environment, "list", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["strategy", "tiny"] in [line[:2] for line in lines]
    assert any(line[:2] == ["backend", "onnxruntime"] and "'nc-strategies[onnxruntime]'" in line for line in lines)


def test_the_page_s_templates_are_in_the_wheel(environment):
    code = "from nc_strategies.report.page import TEMPLATES; print(sorted(p.name for p in TEMPLATES.iterdir()))"
    done = subprocess.run(
        [str(environment / "python"), "-c", code],
        text=True,
        capture_output=True,
        cwd="/",
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        check=True,
    )
    assert done.stdout.strip() == str(
        ["base.html.jinja", "comparison.html.jinja", "page.css", "page.js", "run.html.jinja"]
    )


def test_the_console_script_completes(environment, tmp_path):
    line = "nc-strategies strategy="
    done = run(environment, "-sc", "query=bash", cwd=tmp_path, COMP_LINE=line, COMP_POINT=str(len(line)))
    assert {"strategy=basic", "strategy=tiny"} <= set(done.stdout.split())
