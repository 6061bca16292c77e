"""`result.json` keeps its promise: every key, in every outcome, and nothing that is no JSON."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from nc_strategies.problem import TrialState
from nc_strategies.report.result import as_dict, failed, write, write_json
from nc_strategies.report.table import verdict
from nc_strategies.space import Config
from nc_strategies.testing import ToyOp

TOP = {
    "schema_version",
    "status",
    "stop_reason",
    "strategy",
    "engine",
    "backend",
    "model",
    "data",
    "metrics",
    "seed",
    "goal",
    "baseline",
    "tuned",
    "speedup",
    "speedup_ci95",
    "trials",
    "seconds",
    "model_path",
    "versions",
}
PARTS = {
    "goal": {
        "metric",
        "criterion",
        "tolerable_loss",
        "threshold",
        "higher_is_better",
        "certain",
        "resolution",
        "samples_needed",
    },
    "baseline": {
        "accuracy",
        "latency_ms",
        "latency_ms_ci95",
        "duration_s",
        "size_bytes",
        "as_given_latency_ms",
        "all_float_latency_ms",
    },
    "tuned": {
        "accuracy",
        "latency_ms",
        "latency_ms_ci95",
        "duration_s",
        "size_bytes",
        "accuracy_loss_ci95",
        "int8_ops",
        "fp32_ops",
        "config",
    },
    "trials": {"total", "ok", "failed", "pruned", "resumed"},
    "seconds": {"total", "calibrate", "build", "accuracy", "latency", "strategy"},
}


def numbers(data):
    if isinstance(data, dict):
        data = list(data.values())
    if isinstance(data, (list, tuple)):
        for value in data:
            yield from numbers(value)
    elif isinstance(data, float):
        yield data


def strict(text):
    def refuse(constant):
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("outcome", ["met", "missed"])
def test_a_run_with_a_model_leaves_every_key_that_is_relied_on(finished, outcome):
    study, setup = finished(criterion="absolute", tolerable_loss=0.2 if outcome == "met" else -0.05)
    result = write(study, setup)
    assert result["status"] == outcome
    assert set(result) >= TOP
    for part, keys in PARTS.items():
        assert set(result[part]) >= keys, part
    assert all(math.isfinite(value) for value in numbers(result))
    assert strict((study.run_dir / "result.json").read_text()) == result


def test_a_run_without_a_model_leaves_the_same_keys_and_none_where_nothing_is(finished, fails):
    study, setup = finished(ops=fails, max_trials=1)
    result = write(study, setup)
    assert set(result) >= TOP
    assert (result["status"], result["tuned"], result["speedup"], result["speedup_ci95"], result["model_path"]) == (
        "failed",
        None,
        None,
        None,
        None,
    )
    assert result["trials"]["failed"] == result["trials"]["total"] > 0
    assert set(result["baseline"]) >= PARTS["baseline"]
    assert set(result["seconds"]) >= PARTS["seconds"]
    assert strict((study.run_dir / "result.json").read_text()) == result


def test_values_are_those_of_the_study(finished):
    study, setup = finished(criterion="absolute", tolerable_loss=0.2)
    result = as_dict(study, setup)
    final = study.final
    assert result["goal"]["threshold"] == pytest.approx(result["baseline"]["accuracy"] - 0.2)
    assert result["tuned"]["accuracy"] == final.evaluation.metric("accuracy")
    assert result["tuned"]["int8_ops"] + result["tuned"]["fp32_ops"] == 2
    assert Config.from_dict(result["tuned"]["config"]) == final.trial.config
    assert result["tuned"]["size_bytes"] < result["baseline"]["size_bytes"]
    assert result["speedup_ci95"][0] <= result["speedup"] <= result["speedup_ci95"][1]
    assert result["trials"] == {"total": 4, "ok": 4, "failed": 0, "pruned": 0, "resumed": 0}
    assert (result["model"], result["strategy"], result["engine"], result["backend"]) == (
        "my model",
        "random",
        "random",
        "toy",
    )
    assert (study.run_dir / result["model_path"]).is_file()
    assert not Path(result["model_path"]).is_absolute()


def test_the_accuracy_loss_interval_holds_the_loss(finished):
    study, setup = finished()
    result = as_dict(study, setup)
    low, high = result["tuned"]["accuracy_loss_ci95"]
    assert low <= result["baseline"]["accuracy"] - result["tuned"]["accuracy"] <= high


def test_seconds_of_the_stages_fit_into_the_total(finished):
    study, setup = finished()
    seconds = as_dict(study, setup)["seconds"]
    assert all(value >= 0 for value in seconds.values())
    assert sum(seconds[s] for s in ("calibrate", "build", "accuracy", "latency", "strategy")) <= seconds["total"]


def test_counts_of_trials_add_up_in_a_resumed_run(finished):
    ops = (ToyOp("a", loss=0.01), ToyOp("b", fails=True))
    finished(ops=ops, max_trials=4)
    study, setup = finished(ops=ops, max_trials=8)
    trials = as_dict(study, setup)["trials"]
    assert trials["resumed"] == 4
    assert trials["ok"] + trials["failed"] + trials["pruned"] == trials["total"] == 8
    assert trials["failed"] == study.count(TrialState.FAILED) > 0


def test_a_number_that_is_not_finite_never_reaches_a_file(tmp_path):
    write_json(tmp_path / "result.json", {"a": 1})
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="JSON"):
            write_json(tmp_path / "result.json", {"a": value})
    assert strict((tmp_path / "result.json").read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_a_job_that_measured_nothing_has_a_result_with_its_reason():
    config = {"strategy": {"name": "basic"}, "backend": "toy", "model": None}
    result = failed(config, "bad input")
    assert (result["status"], result["error"], result["strategy"], result["backend"], result["model"]) == (
        "failed",
        "bad input",
        "basic",
        "toy",
        "",
    )
    assert result["baseline"] is result["tuned"] is result["speedup"] is None


def test_the_samples_that_would_decide_a_loss_are_named_only_where_these_leave_it_open(finished):
    study, setup = finished(criterion="absolute", tolerable_loss=0.2)
    study.final = replace(study.final, accuracy_loss_ci95=(0.1, 0.25))
    result = as_dict(study, setup)
    assert (result["goal"]["certain"], result["goal"]["samples_to_decide"]) == (False, 1800)
    assert "about 1,800 samples would tell" in verdict(result).plain
    study.final = replace(study.final, accuracy_loss_ci95=(0.0, 0.05))
    result = as_dict(study, setup)
    assert (result["goal"]["certain"], result["goal"]["samples_to_decide"]) == (True, None)
    assert "would tell" not in verdict(result).plain
