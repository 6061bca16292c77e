"""The example of a workflow: valid YAML whose scripts do what they say, run by a real bash."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def steps():
    # YAML 1.1 reads the key `on` as true.
    found = yaml.safe_load((ROOT / "docs/examples/quantization.yml").read_text())
    assert set(found) == {"name", True, "permissions", "jobs"}
    assert found["permissions"] == {"contents": "read"}
    (job,) = found["jobs"].values()
    assert job["defaults"]["run"]["shell"] == "bash"
    for step in job["steps"]:
        assert ("run" in step) != ("uses" in step)
        assert "uses" not in step or step["uses"].partition("@")[2]
    return {step.get("name", step.get("uses")): step for step in job["steps"]}


@pytest.fixture
def start(tmp_path, environment):
    """Runs the script of a step as the service does: bash with -e and pipefail, in the repository's folder."""

    def run(step):
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=tmp_path,
            env={**environment, "RUNNER_TEMP": str(tmp_path), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")},
            text=True,
            capture_output=True,
            check=False,
        )

    return run


def test_a_missed_goal_fails_the_last_step_and_not_the_tuning(steps, start, tmp_path):
    script = tmp_path / "quantization" / "run.sh"
    script.parent.mkdir()
    for status, expected in ((0, 0), (3, 0), (2, 1), (1, 1), (130, 1)):
        script.write_text(f'#!/bin/sh\necho "$@" > asked\nexit {status}\n')
        script.chmod(0o755)
        assert start(steps["Tune"]).returncode == expected
    assert (tmp_path / "asked").read_text().split()[0] == f"run_dir={tmp_path}/out"


def test_the_build_fails_when_the_goal_is_missed(steps, start, tmp_path, finished):
    shutil.copytree(finished, tmp_path / "out")
    result = json.loads((finished / "result.json").read_text())
    assert result["speedup_ci95"][0] > 1.2
    done = start(steps["Check the goal"])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "summary.md").read_text() == done.stdout
    assert "met: top1" in done.stdout
    (tmp_path / "out" / "result.json").write_text(json.dumps({**result, "status": "missed"}))
    assert start(steps["Check the goal"]).returncode == 3
    (tmp_path / "out" / "result.json").unlink()
    assert start(steps["Check the goal"]).returncode == 2


def test_the_report_is_kept_whatever_became_of_the_goal(steps):
    keep = steps["Keep the report and the model"]
    assert keep["uses"].startswith("actions/upload-artifact@")
    assert "cancelled()" in keep["if"]
    assert keep["with"]["path"] == "${{ runner.temp }}/out"
    names = list(steps)
    assert names.index("Tune") < names.index("Keep the report and the model") < names.index("Check the goal")
