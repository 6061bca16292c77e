"""A finished run measured again, on an engine whose latencies are exact."""

import json

import pytest
import yaml


@pytest.fixture
def finished(lab):
    status, _, err = lab.run(*lab.toy("tuning.tolerable_loss=0.1", "tuning.max_trials=3", "run_dir=run"))
    assert status == 0, err
    return lab


def test_a_result_that_holds(finished):
    status, out, err = finished.run("replay", "run", "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["holds"]
    assert found["speedup"]["now"] == pytest.approx(found["speedup"]["then"])
    assert found["accuracy"]["now"] == found["accuracy"]["then"]
    status, out, err = finished.run("replay", "run")
    assert (status, err) == (0, "")
    assert out.startswith("holds: the goal is met now, was met then\n")


def test_a_goal_that_the_saved_model_does_not_reach_any_more_does_not_hold(finished):
    path = finished.folder / "run" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["tuning"]["tolerable_loss"] = 0.0001
    path.write_text(yaml.safe_dump(config))
    status, out, err = finished.run("replay", "run")
    assert (status, err) == (3, "")
    assert out.startswith("does not hold: the goal is missed now, was met then\n")


def test_a_model_that_has_changed_is_refused(finished):
    path = finished.folder / "model.toy"
    ops = json.loads(path.read_text())
    ops[0]["loss"] += 0.01
    path.write_text(json.dumps(ops))
    status, out, err = finished.run("replay", "run")
    assert (status, out) == (2, "")
    assert err.startswith("error: model: has changed since the run (its model_sha256 was ")
    assert len(err.splitlines()) == 1
