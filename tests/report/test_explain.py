"""What is said of a run follows from its files, and nothing is said that they do not tell."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rich.console import Console

from nc_strategies.errors import InputError
from nc_strategies.problem import Evaluation, LatencyTerms, Trial, TrialState
from nc_strategies.report import analysis, explain, table
from nc_strategies.report.operators import operators, prices
from nc_strategies.report.result import write
from nc_strategies.report.run_files import RunFiles
from nc_strategies.space import FLOAT, Config, OpScheme, TensorScheme
from nc_strategies.testing import ToyOp

FRONT_FIELDS = {
    *("point", "role", "trial", "fingerprint", "accuracy", "metrics", "samples", "loss", "loss_ci95", "keeps_goal"),
    *("cost", "cost_ci95", "latency_ms", "fp32_latency_ms", "speedup", "speedup_ci95", "size_bytes"),
    *("int8_ops", "fp32_ops", "dominated", "within_noise"),
}
INT8 = OpScheme(TensorScheme("uint8", "asym"), TensorScheme("int8"))
GOAL = {"threshold": 0.9, "baseline": 0.95, "higher_is_better": True, "criterion": "absolute", "tolerable_loss": 0.05}
BASE = {"accuracy": 0.95, "latency_ms": 2.0, "size_bytes": 1000}


def trial(number, schemes, loss, ratio):
    config = Config(tuple(schemes.items()), (("fold", True),))
    done = Evaluation((("accuracy", 0.95 - loss),), (("latency_ms", 2 * ratio),), (("latency", ratio),))
    return Trial(number, config, TrialState.OK, done)


def synthetic(path, count=24, noise=1e-3, fixed=()):
    """Trials whose losses and latencies are known sums over operators, with noise."""
    rng = np.random.default_rng(0)
    costs, saves = {"a": 0.02, "b": 0.0, "c": -0.01, "d": 0.05}, {"a": 0.1, "b": 0.2, "c": -0.05, "d": 0.0}
    trials = []
    for number in range(1, count + 1):
        schemes = {n: INT8 if n in fixed or rng.random() < 0.5 else FLOAT for n in costs}
        on = [n for n, s in schemes.items() if not s.is_float]
        trials.append(
            trial(
                number,
                schemes,
                sum(costs[n] for n in on) + rng.normal(0, noise),
                1 - sum(saves[n] for n in on) + rng.normal(0, noise),
            )
        )
    run = RunFiles(
        path, {"goal": {**GOAL, "metric": "top1"}, "baseline": BASE, "tuned": {"trial": 1}}, trials=tuple(trials)
    )
    return run, costs, saves


def test_prices_are_found_with_intervals_that_hold_them(tmp_path):
    run, costs, saves = synthetic(tmp_path)
    loss, saved = prices(run)
    assert set(loss) == set(saved) == set(costs)
    for name in costs:
        assert abs(loss[name].value - costs[name]) < 2 * loss[name].reach
        assert abs(saved[name].value - saves[name]) < 2 * saved[name].reach
        assert 0 < loss[name].reach < 0.005
    assert loss["d"].sure
    assert loss["d"].value > loss["a"].value


def test_what_the_trials_do_not_determine_is_left_open(tmp_path):
    run, *_ = synthetic(tmp_path, fixed=("b",))
    assert set(prices(run)[0]) == {"a", "c", "d"}
    run, *_ = synthetic(tmp_path, count=6)
    assert prices(run) == ({}, {})


def test_a_trial_that_differs_in_one_operator_is_the_reason(tmp_path):
    chosen = trial(1, {"a": INT8, "b": FLOAT}, 0.01, 0.8)
    worse = trial(2, {"a": INT8, "b": INT8}, 0.2, 0.6)
    run = RunFiles(
        tmp_path, {"goal": {**GOAL, "metric": "top1"}, "baseline": BASE, "tuned": {"trial": 1}}, trials=(chosen, worse)
    )
    a, b = operators(run)
    assert b.reason == "in int8: top1 0.7500 (missed the goal) at 1.67 times fp32 (trial 2)"
    assert a.reason.startswith("the trials do not tell")


def test_what_was_asked_and_what_executed_are_told_apart(finished):
    study, setup = finished(criterion="absolute", tolerable_loss=0.2, max_trials=8)
    write(study, setup)
    study.sensitivity = {"a": 0.1, "b": float("inf")}
    study.latency_terms = LatencyTerms(0.2, {"a": {INT8: 0.1, FLOAT: 0.3}, "b": {FLOAT: 0.5}})
    analysis.write(study)
    data = json.loads((study.run_dir / "analysis.json").read_text())
    assert data["sensitivity"] == {"a": 0.1, "b": None}
    assert data["latency"]["saved"] == {"a": pytest.approx(0.2)}
    data["executed_int8"] = ["b"]
    data["order"] = ["a", "relu", "b"]
    (study.run_dir / "analysis.json").write_text(json.dumps(data))
    rows = {o.name: o for o in operators(RunFiles.read(study.run_dir))}
    assert list(rows) == ["a", "relu", "b"]
    assert rows["relu"].runs == "none"
    asked = {name: not scheme.is_float for name, scheme in study.final.trial.config.ops}
    assert rows["a"].runs == ("lost" if asked["a"] else "fp32")
    if asked["a"]:
        assert rows["a"].reason == "asked for in int8, but the engine ran it in float"
    assert rows["a"].model_saved == pytest.approx(0.2)


def test_a_missed_goal_is_explained(finished, capsys):
    study, setup = finished(criterion="absolute", tolerable_loss=-0.05)
    result = write(study, setup)
    analysis.write(study)
    Console(width=100).print(explain.render(RunFiles.read(study.run_dir)))
    shown = " ".join(capsys.readouterr().out.split())
    assert "Goal missed: the closest model is saved" in shown
    assert "No trial kept the accuracy" in shown
    assert f"{result['speedup']:.2f} times as fast as fp32" in shown


def test_failed_trials_are_counted_with_their_error(finished):
    study, setup = finished(ops=(ToyOp("a"), ToyOp("b", fails=True)), max_trials=4)
    write(study, setup)
    run = RunFiles.read(study.run_dir)
    words = " ".join(explain.advice(run, operators(run)))
    assert f"{sum(t.error is not None for t in study.trials)} trials failed, most often with: b cannot run" in words


def test_a_run_that_goes_on_is_read_without_touching_a_line_being_written(finished):
    study, _ = finished()
    analysis.write(study)
    journal = study.run_dir / "trials.jsonl"
    with journal.open("a") as stream:
        stream.write('{"number": 5, "fing')
    before = journal.read_bytes()
    run = RunFiles.read(study.run_dir, running=True)
    assert [t.number for t in run.trials] == [t.number for t in study.trials]
    assert journal.read_bytes() == before
    assert explain.status(run) == "running"
    assert explain.status(RunFiles.read(study.run_dir)) == "unfinished"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: p / "nothing", "does not exist"),
        (lambda p: ((p / "file").write_text("") and None) or p / "file", "is not a folder"),
        (lambda p: p, "is not the folder of a run"),
        (lambda p: (p / "comparison.json").write_text("[]") and p, "is the folder of a sweep"),
        (lambda p: (p / "result.json").write_text("{") and p, "cannot be read"),
    ],
)
def test_a_folder_that_is_no_run_s_is_refused(tmp_path, make, says):
    with pytest.raises(InputError, match=says):
        RunFiles.read(make(tmp_path))


def test_a_front_is_explained_and_shown_as_a_table(finished):
    ops = tuple(ToyOp(name, loss=0.01 * 2**place, time_us=60) for place, name in enumerate("abcde"))
    study, setup = finished(ops=ops, max_trials=4, criterion="absolute", tolerable_loss=0.1, front=6)
    result = write(study, setup)
    points = result["front"]["points"]
    console = Console(width=200)
    with console.capture() as captured:
        console.print(explain.render(RunFiles.read(study.run_dir)))
        console.print(table.render(result, str(study.run_dir), 200))
    text = " ".join(captured.get().split())
    assert f"The measured front has {len(points)} points" in text
    assert "export RUN_DIR --point K" in text
    beyond = next(p for p in points if not p["keeps_goal"])
    assert (
        f"A tolerated loss of {beyond['loss']:.4f} instead of 0.1000 would allow {beyond['speedup']:.2f} times" in text
    )
    for p in points[1:]:
        assert f"{p['loss']:+.4f}" in text
    assert "chosen, keeps the goal" in text
    assert set(points[0]) == FRONT_FIELDS
    whole = json.loads((study.run_dir / "front.json").read_text())
    assert set(whole["points"][0]) == FRONT_FIELDS | {"config", "evaluation"}
    assert {key: value for key, value in whole.items() if key != "points"} == {
        key: value for key, value in result["front"].items() if key != "points"
    }


def test_a_run_without_a_front_says_nothing_of_one(finished):
    study, setup = finished()
    result = write(study, setup)
    assert result["front"] is None
    console = Console(width=200)
    with console.capture() as captured:
        console.print(explain.render(RunFiles.read(study.run_dir)))
        console.print(table.render(result, str(study.run_dir), 200))
    assert "measured front" not in captured.get()
    assert "--point" not in captured.get()
