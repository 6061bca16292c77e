"""The published comparison: what is said of runs, without running them."""

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "published_comparison.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("published_comparison", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def case(basic, sigopt, accuracy=0.80):
    runs = [
        {
            "strategy": name,
            "seed": seed,
            "accuracy": accuracy,
            "duration_s": of_fp32 * 10,
            "duration_of_fp32": of_fp32,
            "search_s": 60.0,
            "status": "met",
        }
        for name, values in (("basic", basic), ("sigopt", sigopt))
        for seed, of_fp32 in enumerate(values)
    ]
    return {"model": "net", "fp32": {"accuracy": 0.80, "duration_s": 10.0}, "runs": runs}


def test_a_row_holds_the_median_and_the_range_of_its_seeds(script):
    basic, sigopt = script.summary(case([0.5, 0.4, 0.6], [0.3, 0.3, 0.9]), ["basic", "sigopt"])
    assert (basic["of_fp32"], basic["of_fp32_range"], basic["met"], basic["runs"]) == (0.5, [0.4, 0.6], 3, 3)
    assert sigopt["duration_s"] == pytest.approx(3.0)
    assert "| net | 0.8000 | 10.00 | sigopt | 0.8000 (0.8000-0.8000) | 3.00 (3.00-9.00) |" in script.table([sigopt])


@pytest.mark.parametrize(
    ("sigopt", "verdict"),
    [([0.49] * 3, "yes (ratio 0.980)"), ([0.505] * 3, "a tie (ratio 1.010)"), ([0.6] * 3, "NO (ratio 1.200)")],
)
def test_sigopts_median_is_held_against_basics(script, sigopt, verdict):
    said = script.claims(script.summary(case([0.5] * 3, sigopt), ["basic", "sigopt"]))
    assert said[-1] == f"net: sigopt's median duration not above basic's: {verdict}"


def test_a_seed_that_loses_more_than_a_hundredth_is_said(script):
    said = script.claims(script.summary(case([0.5], [0.5], accuracy=0.79), ["basic", "sigopt"]))
    assert said[0].endswith("accuracy: NO")


@pytest.fixture
def asked(script, monkeypatch):
    """The command lines that would have been run."""
    commands = []

    def record(command, **kwargs):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(script.subprocess, "run", record)
    return commands


@pytest.mark.parametrize(
    ("reason", "trials", "again"),
    [("max_trials", 12, False), ("interrupted", 12, True), ("max_trials", 6, True), (None, 12, True)],
)
def test_what_is_finished_is_not_run_again(script, asked, tmp_path, reason, trials, again):
    arguments = argparse.Namespace(work=tmp_path, trials=12, batch_size=8)
    folder = tmp_path / "net" / "basic-3"
    if reason:
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps({"stop_reason": reason, "budget": {"max_trials": trials}}))
    assert script.run(script.Case("net", ("model.path=net.keras",)), "basic", 3, arguments) == folder
    assert len(asked) == again
    if again:
        assert {f"run_dir={folder}", "tuning.max_trials=12", "tuning.seed=3", "strategy=basic"} <= set(asked[0])
