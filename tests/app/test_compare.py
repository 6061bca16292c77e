"""One comparison across engines: after a sweep, and of folders of earlier runs; a process for each engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from nc_strategies.testing import ToyOp

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = Path(__file__).resolve().parent / "engines_plugin"
OPS = (ToyOp("a", loss=0.0001, time_us=400, int8_time_us=100), ToyOp("b", "MatMul", time_us=400, int8_time_us=100))
ENGINES = "backend=quick,slow,shut,tensorflow"


class Folder:
    """A folder with a toy problem, in which the command line runs with the plugin of `ncs_engines`."""

    def __init__(self, path):
        self.path = path
        (path / "model.toy").write_text(json.dumps([asdict(op) for op in OPS]))
        labels = np.arange(400) % 2
        np.savez(path / "data.npz", x=labels + (np.arange(400) * 0.618034) % 1.0, y=labels)
        np.savez(path / "other.npz", x=labels + (np.arange(400) * 0.4142) % 1.0, y=labels)
        found = path / "site" / "ncs_engines-0.dist-info"
        found.mkdir(parents=True)
        (found / "METADATA").write_text("Metadata-Version: 2.1\nName: ncs-engines\nVersion: 0\n")
        (found / "entry_points.txt").write_text("[nc_strategies]\nengines = ncs_engines\n")
        search = [str(ROOT), str(PLUGIN), str(path / "site"), os.environ.get("PYTHONPATH", "")]
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(search)}

    def problem(self, data="data.npz"):
        return [
            "model=toy",
            f"model.path={self.path / 'model.toy'}",
            "data=npz",
            f"data.path={self.path / data}",
            "data.calibration_samples=20",
            "strategy=basic",
            "tuning.max_trials=2",
            "measure.latency_runs=20",
            "measure.final_runs=20",
        ]

    def run(self, *arguments):
        done = subprocess.run(
            [sys.executable, "-m", "nc_strategies", *map(str, arguments)],
            cwd=self.path,
            text=True,
            capture_output=True,
            env=self.environment,
            check=False,
            timeout=300,
        )
        return done.returncode, done.stdout, done.stderr

    def json(self, name):
        return json.loads((self.path / name).read_text())


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep over four engines, of which one cannot open what it saved and one refuses the model."""
    folder = Folder(tmp_path_factory.mktemp("engines"))
    folder.status, folder.out, folder.err = folder.run("-m", ENGINES, *folder.problem(), "run_dir=sweep")
    return folder


@pytest.fixture(scope="module")
def group(swept):
    (found,) = swept.json("sweep/engines.json")["groups"]
    return found


def test_a_refused_run_stays_a_row_and_sets_the_status(swept, group):
    assert swept.status == 2, swept.err
    assert [(line["engine"], line["status"]) for line in group["rows"]] == [
        ("quick", "met"),
        ("slow", "met"),
        ("shut", "met"),
        ("tensorflow", "failed"),
    ]
    assert "does not take a model of format toy" in group["rows"][3]["error"]


def test_all_models_and_fp32_of_each_engine_are_timed_side_by_side(group):
    quick, slow = group["rows"][:2]
    assert quick["latency_ms"] == pytest.approx(0.2)
    assert slow["latency_ms"] == pytest.approx(0.4)
    assert (quick["ratio"], slow["ratio"]) == (1, pytest.approx(2))
    assert slow["ratio_ci95"] == pytest.approx([2, 2])
    assert [line["fp32_latency_ms"] for line in (quick, slow)] == pytest.approx([0.8, 1.6])


def test_a_model_that_cannot_be_opened_again_says_why(group):
    assert group["rows"][2]["untimed"] == "this file is from another version"
    assert group["rows"][2]["latency_ms"] is None
    assert group["rows"][2]["fp32_latency_ms"] == pytest.approx(0.8)


def test_the_fastest_that_meets_its_goal_is_named(swept, group):
    assert (group["choice"], group["equal"]) == ("0", [])
    assert "choose quick (run 0): the fastest that meets its goal; slow (run 1) takes 2.00 times as long" in swept.out
    assert group["note"] in (swept.path / "sweep" / "comparison.md").read_text()


def test_the_comparison_has_what_was_timed_in_data_and_page(swept, group):
    rows = swept.json("sweep/comparison.json")
    assert [row["compared"]["ratio"] for row in rows] == [line["ratio"] for line in group["rows"]]
    assert [row["compared"]["chosen"] for row in rows] == [True, False, False, False]
    assert all(row["compared"]["note"] == group["note"] for row in rows)
    if find_spec("jinja2"):
        page = (swept.path / "sweep" / "comparison.html").read_text()
        assert page.count('aria-label="Engines table') == 1
        assert group["note"] in page


def test_a_report_made_again_keeps_the_comparison(swept, group):
    pytest.importorskip("jinja2")
    page = swept.path / "sweep" / "comparison.html"
    before = page.read_text()
    page.unlink()
    assert swept.run("report", "sweep")[0] == 0
    assert page.read_text() == before


def test_runs_are_compared_by_a_command(swept):
    status, out, err = swept.run("compare", "sweep/1", "sweep/0", "--to", "chosen", "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["groups"][0]["choice"] == "sweep/0"
    assert [line["ratio"] for line in found["groups"][0]["rows"]] == [pytest.approx(2), 1]
    assert swept.json("chosen/engines.json") == found
    assert "choose quick (run sweep/0)" in (swept.path / "chosen" / "engines.md").read_text()


def test_a_sweep_s_folder_stands_for_all_its_runs(swept):
    status, out, _ = swept.run("compare", "sweep")
    assert status == 0
    for name in ("sweep/0", "sweep/1", "sweep/2", "sweep/3", "note: choose quick"):
        assert name in out


@pytest.mark.parametrize(
    ("folders", "problem"),
    [
        (["nowhere"], "nowhere: does not exist"),
        (["site"], "site: is not the folder of a run"),
        (["sweep/3"], "compare: no run holds a saved model"),
    ],
)
def test_folders_without_a_run_s_model_are_refused(swept, folders, problem):
    status, out, err = swept.run("compare", *folders)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert problem in err


def test_runs_on_other_data_are_not_compared(swept):
    assert swept.run("backend=slow", *swept.problem("other.npz"), "run_dir=other")[0] == 0
    status, out, err = swept.run("compare", "sweep/0", "other")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "data: differs between sweep/0 and other (data_sha256:" in err


def test_a_sweep_over_one_engine_times_nothing_more(swept):
    status, out, err = swept.run("-m", "backend=quick", "tuning.seed=0,1", *swept.problem(), "run_dir=single")
    assert status == 0, err
    assert not (swept.path / "single" / "engines.json").exists()
    assert all("compared" not in row for row in swept.json("single/comparison.json"))
    assert "side by side" not in err + out


LAUNCHERS = {
    "joblib": ("hydra_joblib_launcher", "hydra.launcher.n_jobs=2"),
    "submitit_local": ("hydra_submitit_launcher", "hydra.launcher.timeout_min=5"),
    "ray": ("hydra_ray_launcher", "+hydra.launcher.ray.init.include_dashboard=false"),
}


@pytest.mark.parametrize("launcher", list(LAUNCHERS))
def test_a_launcher_of_processes_gives_the_same_comparison(swept, group, launcher):
    package, setting = LAUNCHERS[launcher]
    pytest.importorskip(
        f"hydra_plugins.{package}",
        reason=f"{package.replace('_', '-')} is not installed"
        + (": it takes 240 MB, and its cloudpickle<3 excludes Dask's" if launcher == "ray" else ""),
    )
    status, out, err = swept.run(
        "-m",
        "backend=quick,slow,tensorflow",
        *swept.problem(),
        f"run_dir={launcher}",
        f"hydra/launcher={launcher}",
        setting,
    )
    assert status == 2, err
    (found,) = swept.json(f"{launcher}/engines.json")["groups"]
    keys = ("engine", "status", "error", "accuracy", "int8_ops", "untimed")
    assert [[line[key] for key in keys] for line in found["rows"]] == [
        [line[key] for key in keys] for line in group["rows"] if line["engine"] != "shut"
    ]
    assert [line["ratio"] for line in found["rows"]] == [1, pytest.approx(2), None]
    assert found["note"] == group["note"]
    assert [row["overrides"]["backend"] for row in swept.json(f"{launcher}/comparison.json")] == [
        "quick",
        "slow",
        "tensorflow",
    ]
    assert "choose quick (run 0)" in out


@pytest.mark.parametrize(
    ("launcher", "status", "line"),
    [
        ("lost", 1, "error: hydra/launcher: lost failed (ConnectionError: no cluster answers at 10.0.0.1:6379); "),
        ("terminated", 130, "interrupted; what was measured is kept in the jobs' folders, and the same command "),
    ],
    ids=["lost", "terminated"],
)
def test_a_launcher_that_ends_early_is_one_line(swept, monkeypatch, launcher, status, line):
    search = os.pathsep.join([str(Path(__file__).parent / "launcher_plugin"), swept.environment["PYTHONPATH"]])
    monkeypatch.setitem(swept.environment, "PYTHONPATH", search)
    found, out, err = swept.run("-m", "backend=quick", *swept.problem(), f"hydra/launcher={launcher}", "run_dir=early")
    assert (found, out) == (status, "")
    assert err.startswith(line)
    assert err.count("\n") == 1
