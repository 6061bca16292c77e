"""What is recommended after a run: only what can be chosen, or together with how to install it."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from rich.console import Console

from nc_strategies.app.listing import available
from nc_strategies.problem import Evaluation, Trial, TrialState
from nc_strategies.registry import Registry
from nc_strategies.report import explain, page
from nc_strategies.report.operators import Operator, Price
from nc_strategies.report.result import write
from nc_strategies.report.run_files import RunFiles
from nc_strategies.space import FLOAT, Config, OpScheme, TensorScheme

ROOT = Path(__file__).resolve().parents[2]
INT8 = OpScheme(TensorScheme("uint8", "asym"), TensorScheme("int8"))
GOAL = {
    "metric": "top1",
    "threshold": 0.9,
    "baseline": 0.95,
    "higher_is_better": True,
    "criterion": "absolute",
    "tolerable_loss": 0.05,
}
SIGOPT = "strategy=sigopt"
INSTALL = "strategy=sigopt (after pip install nc-strategies-sigopt)"


def trial(number, loss, ratio):
    done = Evaluation((("accuracy", 0.95 - loss),), (("latency_ms", 2 * ratio),), (("latency", ratio),))
    return Trial(number, Config((("a", INT8), ("b", FLOAT))), TrialState.OK, done)


def ended(path, accuracy, status="missed", strategy="ilp", trials=(), model="onnx", **result):
    stated = {
        "status": status,
        "strategy": strategy,
        "backend": "onnxruntime",
        "goal": GOAL,
        "stop_reason": "finished",
        "baseline": {"accuracy": 0.95, "latency_ms": 2.0, "size_bytes": 1000},
        "tuned": {"trial": 1, "accuracy": accuracy},
        **result,
    }
    return RunFiles(path, stated, config={"model": {"name": model}}, trials=tuple(trials))


def advice(run, rows=(), can_be_chosen=None):
    return explain.advice(run, rows, can_be_chosen)


def test_an_installed_plugin_is_recommended_as_it_is(tmp_path):
    pytest.importorskip("nc_strategies_sigopt")
    found = available(Registry([EntryPoint("sigopt", "nc_strategies_sigopt", "nc_strategies")]))
    (text,) = [line for line in advice(ended(tmp_path, 0.8), can_be_chosen=found) if SIGOPT in line]
    assert "pip install" not in text


def test_a_plugin_that_is_not_registered_is_recommended_with_its_installation(tmp_path):
    found = available(Registry([]))
    assert ("strategy", "sigopt") not in found
    (text,) = [line for line in advice(ended(tmp_path, 0.8), can_be_chosen=found) if SIGOPT in line]
    assert INSTALL in text


def test_a_plugin_that_cannot_be_loaded_counts_as_not_installed(tmp_path):
    found = available(Registry([EntryPoint("sigopt", "no_such_module_at_all", "nc_strategies")]))
    assert any(INSTALL in line for line in advice(ended(tmp_path, 0.8), can_be_chosen=found))


def test_a_missing_extra_of_a_registered_component_is_named(tmp_path):
    run = ended(tmp_path, 0.94, model="keras")
    without = {("backend", "tensorflow"): "pip install 'nc-strategies[tensorflow]'"}
    told = "backend=tensorflow (after pip install 'nc-strategies[tensorflow]') or metrics=accuracy_size."
    assert any(told in line for line in advice(run, can_be_chosen=without))
    ready = {("backend", "tensorflow"): ""}
    assert any("try backend=tensorflow or metrics=accuracy_size." in line for line in advice(run, can_be_chosen=ready))


def test_no_backend_is_recommended_that_does_not_take_the_model(tmp_path):
    text = " ".join(advice(ended(tmp_path, 0.94, model="onnx"), can_be_chosen={("backend", "tensorflow"): ""}))
    assert "try metrics=accuracy_size." in text
    assert "backend=" not in text


@pytest.mark.parametrize("strategy", ["random", "basic"])
def test_the_yardsticks_lead_to_the_strategy_for_the_fastest_model(tmp_path, strategy):
    for status, accuracy in (("met", 0.94), ("missed", 0.8)):
        run = ended(tmp_path, accuracy, status, strategy)
        assert any(line.startswith("strategy=ilp finds the fastest model") for line in advice(run))
    assert not any("strategy=ilp" in line for line in advice(ended(tmp_path, 0.8, strategy="ilp")))


def test_every_recommended_strategy_stands_in_the_table_of_strategies(tmp_path):
    table = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "strategies.md").read_text(), re.MULTILINE))
    named = {
        name
        for strategy in ("random", "basic", "ilp", "sigopt")
        for accuracy in (0.8, 0.94)
        for line in advice(ended(tmp_path, accuracy, strategy=strategy))
        for name in re.findall(r"strategy=(\w+)", line)
    }
    assert named
    assert named <= table


def test_a_late_best_trial_asks_for_a_larger_budget(tmp_path):
    trials = [trial(n, 0.1, 0.9 - n / 100) for n in range(1, 11)]
    run = ended(tmp_path, 0.85, trials=trials, stop_reason="budget", budget={"max_trials": 10}, speedup=1.25)
    assert not any("came late" in line for line in advice(run))
    late = ended(
        tmp_path,
        0.85,
        trials=trials,
        stop_reason="budget",
        budget={"max_trials": 10},
        speedup=1.25,
        tuned={"trial": 9, "accuracy": 0.85},
    )
    assert "The best came late (trial 9 of 10): tuning.max_trials=20 in the same run_dir goes on from here." in advice(
        late
    )


def test_the_proposed_tolerance_accepts_the_closest_model(tmp_path):
    lines = advice(ended(tmp_path, 0.8123))
    (found,) = [float(m[1]) for line in lines if (m := re.match(r"tuning.tolerable_loss=([\d.]+) would", line))]
    assert 0.95 - found <= 0.8123 <= 0.95 - found + 2e-3
    assert not any(line.startswith("tuning.tolerable_loss") for line in advice(ended(tmp_path, 0.94)))


def test_a_speed_up_that_is_not_repeated_is_called_unsteady(tmp_path):
    steady = ended(tmp_path, 0.94, "met", trials=[trial(1, 0.01, 0.5)], speedup=1.8)
    unsteady = ended(tmp_path, 0.94, "met", trials=[trial(1, 0.01, 0.5)], speedup=1.2)
    assert not any("unsteady" in line for line in advice(steady))
    assert any("2.00 times as fast as fp32 in its trial and 1.20 times" in line for line in advice(unsteady))


def test_operators_held_in_float_for_their_loss_are_to_be_retrained(tmp_path):
    rows = [
        Operator(1, "a", "Conv", "fp32", "fp32", loss=Price(0.02, 0.01)),
        Operator(2, "b", "Conv", "fp32", "fp32", loss=Price(0.02, 0.03)),
        Operator(3, "c", "Conv", "int8", "int8", loss=Price(0.02, 0.01)),
        Operator(4, "d", "Conv", "fp32", "fp32", loss=Price(-0.02, 0.01)),
    ]
    assert [line for line in advice(ended(tmp_path, 0.8), rows) if line.startswith("Retrain")] == [
        "Retrain with fake quantization, or change the layers, where int8 hurts: a."
    ]


def test_samples_that_cannot_confirm_the_loss_are_told(tmp_path):
    tuned = {"trial": 1, "accuracy": 0.93, "accuracy_loss_ci95": [0.0, 0.07]}
    run = ended(tmp_path, 0.93, "met", tuned=tuned, measure={"samples": 500, "threads": 2})
    lines = advice(run)
    assert any("on these 500 samples, but could be up to 0.0700" in line for line in lines)
    assert "measure.threads=1 makes timing several times less noisy." in lines


def test_terminal_and_page_recommend_what_the_caller_says_is_there(finished, capsys):
    pytest.importorskip("jinja2")
    pytest.importorskip("vl_convert")
    study, setup = finished(criterion="absolute", tolerable_loss=-0.05)
    write(study, setup)
    for found, shown in ((available(Registry([])), True), ({("strategy", "sigopt"): ""}, False)):
        Console(width=1000).print(explain.render(RunFiles.read(study.run_dir), found))
        text = capsys.readouterr().out
        assert SIGOPT in text
        assert (INSTALL in text) is shown
        html = page.write(study.run_dir, available=found).read_text()
        assert SIGOPT in html
        assert (INSTALL in html) is shown


def test_trials_without_a_known_goal_have_a_page_and_no_advice(finished):
    pytest.importorskip("jinja2")
    pytest.importorskip("vl_convert")
    study, _ = finished()
    assert not (study.run_dir / "analysis.json").exists()
    run = RunFiles.read(study.run_dir)
    assert run.trials
    assert run.goal is None
    assert explain.advice(run, ()) == []
    assert "</html>" in page.write(study.run_dir).read_text()
