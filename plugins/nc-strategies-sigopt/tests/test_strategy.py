"""The loop: what is asked of the engine, what it is told."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from driving import BUDGET, OPS, Run, assert_whole, created, http
from nc_strategies_optuna.estimate import estimate
from nc_strategies_optuna.parameters import Parameters
from nc_strategies_sigopt import SigOptSettings, form
from nc_strategies_sigopt.opening import opening
from nc_strategies_sigopt.strategy import SigOptStrategy

from nc_strategies.api import Constraint, Evaluation, Goal, Objective, Trial, TrialState
from nc_strategies.testing.toy import toy_evaluation, toy_problem

RECORDED = {entry["name"]: entry for entry in json.loads((Path(__file__).parent / "recorded.json").read_text())}
LOCAL = SigOptSettings(driver="local")
PARAMETERS = form.definition(Parameters(toy_problem(OPS).space, estimate(toy_problem(OPS))))


def kinds(value):
    """The form of a request: keys and types; a float may stand where the recording has an integer."""
    if isinstance(value, dict):
        return {key: kinds(item) for key, item in value.items()}
    return "number" if type(value) in (int, float) else type(value).__name__


def test_the_requests_have_the_recorded_forms(server, tmp_path):
    Run(tmp_path, http(server), failing=(4,)).go()
    wanted = RECORDED["experiment create"]["request"]
    (made,) = created(server)
    assert set(made.body) == set(wanted)
    for part in ("parameters", "metrics"):
        forms = [sorted(item) for item in wanted[part]]
        assert all(sorted(item) in forms for item in made.body[part])
    by_form = [RECORDED[name]["request"] for name in ("observation", "obs failed", "obs by assignments")]
    for request in server.sent("POST", "/observations$"):
        assert any(set(request.body) - {"metadata"} == set(form) - {"metadata"} for form in by_form), request.body
        for value in request.body.get("values", []):
            assert kinds(value) in (
                {"name": "str", "value": "number"},
                {"name": "str", "value": "number", "value_stddev": "number"},
            )
    assert all(r.body == {} for r in server.sent("POST", "/suggestions$"))
    assert {r.status for r in server.requests if r.body or r.method == "GET"} == {200}


def test_the_experiment_is_the_problem(server, tmp_path):
    run = Run(tmp_path, http(server, sigopt_experiment_name="mine"))
    run.go(trials=2)
    (made,) = created(server)
    goal = run.problem().goal
    assert made.body["metrics"] == [
        {
            "name": "accuracy",
            "objective": "maximize",
            "strategy": "constraint",
            "threshold": goal.constraints[0].threshold,
        },
        {"name": "latency", "objective": "minimize", "strategy": "optimize"},
    ]
    assert (made.body["name"], made.body["observation_budget"], made.body["parallel_bandwidth"]) == (
        "mine",
        BUDGET + 1,
        1,
    )
    assert {"model", "data", "space"} <= set(made.body["metadata"])
    assert "int" in [p["type"] for p in made.body["parameters"]]


def test_fp32_and_all_int8_are_reported_as_assignments(server, tmp_path):
    Run(tmp_path, http(server)).go(trials=1)
    fp32, int8 = [r.body for r in server.sent("POST", "/observations$")]
    assert fp32["assignments"]["int8_groups"] == 0
    assert {v["name"]: v["value"] for v in fp32["values"]} == {"accuracy": 0.9, "latency": 1.0}
    assert int8["assignments"]["int8_groups"] == len(OPS)


def test_the_first_trial_is_the_default(tmp_path):
    run = Run(tmp_path, LOCAL)
    (first,) = run.go(trials=1)
    assert first.config == run.problem().space.default()


def estimating(asked, **more):
    """What a problem's estimates answer, and that they were asked."""
    return {
        "sensitivity": lambda: asked.append("sensitivity") or {op.name: op.loss for op in OPS},
        "latency_model": lambda config: asked.append("latency") or 1.0 - 0.01 * len(config.int8_ops),
        **more,
    }


def test_in_this_process_nothing_is_estimated_before_int8_everywhere_is_measured(tmp_path):
    asked = []
    run = Run(tmp_path, LOCAL)
    run.problem = lambda: replace(Run.problem(run), **estimating(asked))
    (first,) = run.go(trials=1)
    assert (first.config, run.strategy.engine, asked) == (run.problem().space.default(), "local", [])
    assert (run.strategy.stage, run.strategy.note) == ("known", "int8 everywhere")
    assert not (tmp_path / "sigopt.jsonl").exists()
    run.go(trials=2)
    assert {"sensitivity", "latency"} <= set(asked)


def test_with_a_server_the_experiment_is_there_before_anything_is_measured(server, tmp_path):
    strategy = SigOptStrategy(http(server), Run(tmp_path, http(server)).problem())
    assert len(created(server)) == 1
    assert strategy.engine == "http"


def test_what_was_measured_before_the_experiment_began_is_reported_to_it_once(tmp_path):
    run = Run(tmp_path, LOCAL)
    first, *_ = run.go(trials=4)
    lines = [json.loads(line) for line in (tmp_path / "sigopt.jsonl").read_text().splitlines()]
    assert [r["mark"] for r in lines if r["event"] == "posted"][:2] == ["fp32", "known int8"]
    assert [r["config"] for r in lines if r["event"] == "proposal"].count(first.config.to_dict()) == 1


def test_trials_at_a_time_take_int8_everywhere_once(tmp_path):
    run = Run(tmp_path, LOCAL, workers=3)
    strategy = SigOptStrategy(LOCAL, run.problem())
    configs = [strategy.propose() for _ in range(3)]
    assert len({config.fingerprint for config in configs}) == 3
    for number, config in enumerate(configs, 1):
        strategy.observe(Trial(number, config, TrialState.OK, toy_evaluation(OPS, config)))
    lines = [json.loads(line) for line in (tmp_path / "sigopt.jsonl").read_text().splitlines()]
    marks = [r["mark"] for r in lines if r["event"] == "posted"]
    assert marks.count("known int8") == 1
    assert len(marks) == 4


def test_many_workers_get_as_many_different_proposals(tmp_path):
    strategy = SigOptStrategy(LOCAL, Run(tmp_path, LOCAL, budget=1000, workers=150).problem())
    configs = [strategy.propose() for _ in range(150)]
    assert None not in configs
    assert len({config.fingerprint for config in configs}) == 150


@pytest.mark.parametrize("before", [1, 2, 5])
def test_resumed_wherever_it_was_left_it_goes_on_as_it_would_have(tmp_path, before):
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    whole = [t.config for t in Run(tmp_path / "whole", LOCAL).go()]
    run = Run(tmp_path / "parts", LOCAL)
    run.go(trials=before)
    assert [t.config for t in run.go()] == whole
    assert len(run.measured) == len(whole)


def test_every_suggestion_gets_one_observation_also_the_last_and_failed_ones(server, tmp_path):
    Run(tmp_path, http(server), failing=(4, 5, 6)).go()
    assert_whole(server)
    assert {s["state"] for s in server.suggestions.values()} == {"closed"}
    assert {o["suggestion"] for o in server.observations.values()} - {None} == set(server.suggestions)
    assert sum(o["failed"] for o in server.observations.values()) >= 3


def test_a_repeated_configuration_is_answered_from_history(server, tmp_path, monkeypatch):
    monkeypatch.setattr(
        server,
        "_draw",
        lambda p: int(p["bounds"]["max" if p["name"] == "int8_groups" else "min"]),
    )
    run = Run(tmp_path, http(server))
    trials = run.go()
    assert len(trials) == len({t.config.fingerprint for t in trials}) == BUDGET
    assert {s["state"] for s in server.suggestions.values()} == {"closed"}
    assert_whole(server)


def test_the_servers_budget_has_room_for_what_is_answered_without_a_trial(server, tmp_path, monkeypatch):
    monkeypatch.setattr(server, "_draw", lambda p: int(p["bounds"]["min"]))
    trials = Run(tmp_path, http(server)).go()
    (found,) = server.experiments.values()
    assert len(trials) == BUDGET
    assert len(server.observations) > BUDGET
    assert found["observation_budget"] >= len(server.observations)


def test_a_suggestion_says_whether_the_optimizer_made_it(tmp_path):
    Run(tmp_path, LOCAL).go()
    records = [json.loads(line) for line in (tmp_path / "sigopt.jsonl").read_text().splitlines()]
    posted, sources, expected = 0, [], []
    for record in records:
        posted += record["event"] == "posted"
        if record["event"] == "proposal" and record["suggestion"] is not None:
            sources.append(record["note"].partition(" (")[2].rstrip(")"))
            expected.append("optimizer" if posted >= opening(PARAMETERS) else "opening")
    assert sources == expected
    assert set(sources) == {"opening", "optimizer"}


@pytest.mark.parametrize("spread", [0.01, 0.2, 8.1, math.inf])
def test_the_deviation_stays_within_the_interval(problem, spread):
    done = trial(problem, ratios=(("latency", 0.65),), spread=(("latency", spread),))
    sd = form.outcome(problem, done)["values"][1]["value_stddev"]
    assert 0 < 1.96 * sd <= 0.65 - 0.65 / (1 + spread) + 1e-12


def test_several_trials_at_a_time_are_told_apart(server, tmp_path):
    run = Run(tmp_path, http(server), workers=3)
    strategy = SigOptStrategy(run.settings, run.problem())
    pending, number = [], 0
    for _ in range(6):
        while len(pending) < 3:
            config = strategy.propose()
            assert config.fingerprint not in [c.fingerprint for c in pending]
            pending.append(config)
        for config in [pending.pop(), pending.pop(0)]:
            number += 1
            strategy.observe(Trial(number, config, TrialState.OK, toy_evaluation(OPS, config)))
    assert created(server)[0].body["parallel_bandwidth"] == 3
    assert_whole(server)
    for observation in server.observations.values():
        if observation["suggestion"]:
            assert observation["assignments"] == server.suggestions[observation["suggestion"]]["assignments"]


@pytest.fixture
def problem():
    return toy_problem(OPS, budget=10)


def trial(problem, **changes):
    config = problem.space.default()
    return Trial(1, config, TrialState.OK, replace(toy_evaluation(OPS, config), **changes))


def test_values_are_plain_floats(problem):
    done = trial(problem, metrics=(("accuracy", np.float32(0.5)),), ratios=(("latency", np.float64(0.5)),))
    assert [type(v["value"]) for v in form.outcome(problem, done)["values"]] == [float, float]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_a_failure(problem, bad):
    assert form.outcome(problem, trial(problem, ratios=(("latency", bad),)))["failed"] is True


def test_a_pruned_trial_is_an_observation_with_its_estimates(problem):
    pruned = replace(trial(problem), state=TrialState.PRUNED)
    sent = form.outcome(problem, pruned)
    assert sent["values"] == form.outcome(problem, trial(problem))["values"]
    assert sent["metadata"]["pruned_after"] == str(pruned.evaluation.samples)


def test_a_trial_without_all_metrics_is_a_failure(problem):
    assert form.outcome(problem, trial(problem, ratios=()))["failed"] is True


def test_the_spread_is_reported_as_a_standard_deviation(problem):
    done = trial(problem, ratios=(("latency", 0.5),), spread=(("latency", 0.0392),))
    assert form.outcome(problem, done)["values"][1]["value_stddev"] == pytest.approx(0.01 / 1.0392)


def test_a_metric_where_lower_is_better_is_minimized(problem):
    goal = Goal((Constraint("mae", 1.1, 1.0, False),), (Objective("size"),))
    assert form.metrics(replace(problem, goal=goal)) == [
        {"name": "mae", "objective": "minimize", "strategy": "constraint", "threshold": 1.1},
        {"name": "size", "objective": "minimize", "strategy": "optimize"},
    ]


@pytest.mark.parametrize(
    ("names", "optimized"), [(["latency", "size"], ["latency", "size"]), (["latency", "size", "throughput"], ["cost"])]
)
def test_at_most_two_quantities_are_optimized(problem, names, optimized):
    goal = replace(problem.goal, objectives=tuple(map(Objective, names)))
    assert [m["name"] for m in form.metrics(replace(problem, goal=goal)) if m["strategy"] == "optimize"] == optimized
    done = Evaluation((("accuracy", 0.9),), (), tuple((n, 0.5) for n in names))
    assert form.values(replace(problem, goal=goal), done) == [
        {"name": "accuracy", "value": 0.9},
        *({"name": n, "value": 0.5} for n in optimized),
    ]


@pytest.mark.parametrize("objectives", [("latency", "size"), ("latency", "size", "throughput")])
def test_several_objectives_run_to_the_end(tmp_path, objectives):
    run = Run(tmp_path, LOCAL)
    base = run.problem()
    goal = replace(base.goal, objectives=tuple(map(Objective, objectives)))
    strategy = SigOptStrategy(LOCAL, replace(base, goal=goal))
    for number in range(1, BUDGET):
        config = strategy.propose()
        done = toy_evaluation(OPS, config)
        share = 1 - 0.7 * len(config.int8_ops) / len(OPS)
        strategy.observe(
            Trial(
                number,
                config,
                TrialState.OK,
                replace(done, ratios=(*done.ratios, ("size", share), ("throughput", done.ratio("latency")))),
            )
        )
