"""Runs that measure on another machine, over a real OpenSSH server."""

import io
import json
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from nc_strategies.api import Component
from nc_strategies.app import machine as app
from nc_strategies.testing import ToySettings

# The processor of the plugin's other machine: fp32 is six times, int8 twice as slow as here.
FP32_MS = 6 * 0.2
CEILING = 7.0


@pytest.fixture(scope="module")
def measured(machine, python_there, toys):
    """A finished run that measured there."""
    status, out, err = toys.run(
        *toys.arguments(*machine.settings(python_there), "run_dir=run", "metrics.objectives=[latency,size]")
    )
    assert status in (0, 3), (out, err)
    return toys.result()


def test_latency_is_that_of_the_target(measured):
    trial = measured["tuned"]
    assert measured["speedup"] > 2.6  # here, no configuration is faster than 2.5 times fp32
    assert measured["baseline"]["latency_ms"] / trial["latency_ms"] == pytest.approx(measured["speedup"])


def test_result_describes_the_machine_that_timed(measured, machine, python_there):
    found = measured["machine"]
    assert found["target"] == machine.address(python_there)
    assert found["engine"]["toys"] == "there"
    assert found["best_ceiling"] == CEILING
    assert found["instruction_sets"]
    assert found["agreement"]["agrees"]
    assert found["agreement"]["samples"] >= 200


def test_other_versions_of_the_engine_are_said(measured):
    # The plugin's versions are "here" and "there".
    assert any("toys there there, here here" in text for text in measured["notices"])


def test_nothing_of_a_run_stays_on_the_target(measured, machine):
    assert list((machine.cache / "nc_strategies" / "target").iterdir()) == []


def test_replay_measures_where_the_run_did(measured, toys):
    status, out, err = toys.run("replay", "run", "--json")
    assert (status, err) == (0 if measured["status"] == "met" else 3, "")
    found = json.loads(out)
    assert found["executed"]["equal"]
    assert found["machine"]["now"]["target"] == measured["machine"]["target"]
    assert found["speedup"]["now"] == pytest.approx(measured["speedup"], rel=0.01)


def test_a_run_here_is_replayed_on_a_machine_that_saturates(machine, python_there, toys):
    here = [*toys.arguments("run_dir=here", "backend.there=saturates", "tuning.tolerable_loss=0.08")]
    assert toys.run(*here)[0] == 0
    result = toys.result("here")
    assert result["machine"]["target"] is None
    assert result["machine"]["engine"]["toys"] == "here"
    status, out, err = toys.run(
        "replay", "here", "--target", machine.address(python_there), "--ssh-config", str(machine.config)
    )
    assert (status, err) == (3, "")
    assert "does not hold" in out
    assert "do not agree" in out
    assert machine.address(python_there) in out


def test_accuracy_is_evaluated_on_the_target_if_asked(measured, machine, python_there, toys):
    arguments = toys.arguments(
        *machine.settings(python_there),
        "backend.there=saturates",
        "tuning.max_trials=1",
        "tuning.early_stop=false",
        "measure.accuracy_on=target",
        "isolation=none",
        "run_dir=there",
    )
    status, _, err = toys.run(*arguments)
    assert status == 3, err
    assert "do not agree" in err
    assert "the target saturates" in toys.log("there")
    assert "the target saturates" not in toys.log("run")
    (trial,) = toys.journal("there")
    (same,) = [line for line in toys.journal("run") if line["fingerprint"] == trial["fingerprint"]]
    # Each int8 operator of the plugin's other machine answers 5 % of the samples wrongly beside its own loss.
    accuracies = [dict(line["evaluation"]["metrics"])["accuracy"] for line in (trial, same)]
    assert accuracies[0] < accuracies[1] - 0.04


def test_a_lost_connection_is_made_again(machine, python_there, toys):
    mark = toys.folder / "timing"
    run = toys.start(
        *toys.arguments(
            *machine.settings(python_there),
            "backend.there=slow",
            f"backend.mark={mark}",
            "run_dir=lost",
            "tuning.max_trials=2",
        )
    )
    toys.wait_for(lambda: mark.exists() or run.poll() is not None)
    time.sleep(0.1)
    machine.cut()
    out, err = run.communicate(timeout=120)
    assert run.returncode in (0, 3), (out, err)
    assert toys.result("lost")["trials"]["failed"] == 0
    assert "was lost" in toys.log("lost")
    assert list((machine.cache / "nc_strategies" / "target").iterdir()) == []


def test_a_run_whose_target_is_gone_keeps_its_trials(machine, python_there, toys):
    mark = toys.folder / "gone-timing"
    arguments = toys.arguments(
        *machine.settings(python_there),
        "backend.there=slow",
        f"backend.mark={mark}",
        "run_dir=gone",
        "measure.reconnect_seconds=0.3",
    )
    run = toys.start(*arguments)
    toys.wait_for(lambda: len(toys.journal("gone")) >= 1 or run.poll() is not None)
    machine.vanish()
    try:
        out, err = run.communicate(timeout=120)
    finally:
        machine.start()
    assert run.returncode == 2, (out, err)
    assert err.splitlines()[-1].startswith("error: measure.target: ")
    assert "cannot be reached any more" in err
    before = toys.journal("gone")
    assert all(line["error"] is None for line in before)
    status, out, err = toys.run(*arguments)
    assert status in (0, 3), (out, err)
    assert toys.journal("gone")[: len(before)] == before
    assert toys.result("gone")["trials"]["resumed"] == len(before)


def test_another_target_does_not_resume_a_run(measured, toys):
    status, _, err = toys.run(*toys.arguments("run_dir=run", "metrics.objectives=[latency,size]"))
    assert status == 2
    assert "target" in err


def test_the_machine_command_says_why_a_target_cannot_be_used(machine, toys):
    status, out, err = toys.run(
        "machine", "--target", machine.address("/no/python"), "--ssh-config", str(machine.config)
    )
    assert (status, out) == (2, "")
    assert err.startswith("error: --target: ")
    assert "has no Python at /no/python" in err


def test_the_machine_command_shows_what_each_backend_gains_there(machine, python_there, monkeypatch):
    known = {
        ("backend", "toy"): Component("backend", "toy", "nc_strategies.testing.toy:ToyBackend", ToySettings),
        ("backend", "none"): Component("backend", "none", "no_such_engine:Backend", None, "nc-strategies-none"),
    }
    names = sorted(name for _, name in known)
    monkeypatch.setattr(app, "registry", lambda: SimpleNamespace(components=known, names=lambda _: names))
    place = machine.address(python_there)
    found = app.survey_target(place, str(machine.config), 2)
    plain = app.as_dict(found)
    assert (plain["target"], plain["threads"]) == (place, 2)
    assert plain["versions"]["python"]
    assert plain["backends"]["toy"]["best_ceiling"] == pytest.approx(40 / 15, abs=1e-3)
    assert "has no no_such_engine" in plain["backends"]["none"]["unknown"]
    assert "nc-strategies-none" in plain["backends"]["none"]["unknown"]
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(app.render(found))
    assert place in console.export_text()
