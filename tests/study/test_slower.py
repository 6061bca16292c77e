"""Models that int8 only slows down: the fastest accurate one is saved, and the advice is to keep the original."""

import numpy as np
import pytest

from nc_strategies.api import Strategy
from nc_strategies.problem.objective import Shortfall
from nc_strategies.report import analysis, explain, table
from nc_strategies.report.original import keep_original
from nc_strategies.report.result import as_dict, write
from nc_strategies.report.run_files import RunFiles
from nc_strategies.study.study import Status
from nc_strategies.testing import ToyOp

OPS = tuple(ToyOp(f"op{i}", loss=0.0001 * (6 - i), time_us=40, int8_time_us=40 * (2 + i)) for i in range(6))
"""The slower an operator in int8, the less it loses: the trial of the least loss is not the fastest."""
WORDS = "no model that keeps the accuracy is surely faster than fp32: keep the original model"


class From(Strategy):
    """Every operator in int8, then the one that loses least, the fastest, and others."""

    def __init__(self, problem):
        super().__init__(None, problem)
        int8 = problem.space.default()
        sets = [range(6), [5], [0], [4, 5], [3], [2, 3]]
        self.left = [problem.space.fall_back(int8, *(f"op{i}" for i in range(6) if i not in kept)) for kept in sets]

    def propose(self):
        return self.left.pop(0) if self.left else None

    def observe(self, trial):
        """Nothing is learnt."""


def costs(study):
    return {t.number: study.goal.cost(t.evaluation) for t in study.trials if study.goal.feasible(t.evaluation)}


@pytest.fixture
def slower(run):
    def make(**kwargs):
        return run(ops=OPS, make=From, criterion="absolute", tolerable_loss=0.02, **kwargs)

    return make


@pytest.mark.parametrize(
    ("reason", "kwargs"),
    [
        ("finished", {"max_trials": 0, "timeout": 600.0}),
        ("budget", {"max_trials": 5}),
        ("finished", {"max_trials": 50, "stop_when": "met"}),
    ],
    ids=["time limit", "budget", "until met"],
)
def test_the_fastest_of_the_accurate_models_is_saved(slower, reason, kwargs):
    study = slower(**kwargs)()
    assert study.stop_reason == reason
    assert study.final.trial.number == 3
    assert costs(study)[3] == min(costs(study).values())
    assert study.status is Status.MISSED
    assert study.shortfall is Shortfall.OBJECTIVE


def test_an_interrupted_run_saves_the_fastest_so_far(slower):
    one = slower(max_trials=50)
    one.backend.interrupt_at = 6  # fp32 all-float is the first build, so four trials are measured
    study = one()
    assert study.stop_reason == "interrupted"
    assert len(study.trials) == 4
    assert study.final.trial.number == 3
    assert keep_original(as_dict(study, one.setup)) == WORDS


def test_a_slower_accurate_model_is_preferred_to_a_faster_inaccurate_one(run):
    ops = (ToyOp("good", time_us=40, int8_time_us=80), ToyOp("bad", loss=0.5, time_us=40, int8_time_us=10))
    study = run(ops=ops, strategy="basic", criterion="absolute", tolerable_loss=0.02, max_trials=30)()
    assert study.goal.feasible(study.final.evaluation)
    assert study.status is Status.MISSED


@pytest.mark.parametrize("strategy", ["basic", "random"])
def test_the_strategies_save_the_fastest_accurate_one_too(run, strategy):
    study = run(ops=OPS, strategy=strategy, criterion="absolute", tolerable_loss=0.02, max_trials=12)()
    assert study.status is Status.MISSED
    least = min(costs(study).values())
    assert study.goal.cost(study.final.trial.evaluation) <= least * (1 + study.goal.tie)


def test_the_table_and_the_explanation_say_to_keep_the_original(slower):
    one = slower(max_trials=5)
    study = one()
    assert WORDS in table.verdict(as_dict(study, one.setup)).plain
    write(study, one.setup)
    analysis.write(study)
    files = RunFiles.read(study.run_dir)
    assert explain.headline(files) == "Goal missed: keep the original model"
    assert f"N{WORDS[1:]}." in explain.verdict(files)
    assert any("Keep the original model" in text for text in explain.advice(files, []))


def test_a_met_goal_does_not_say_so(run):
    one = run(max_trials=4, tolerable_loss=0.1)
    study = one()
    assert study.status is Status.MET
    assert keep_original(as_dict(study, one.setup)) == ""


@pytest.mark.parametrize(("low", "high", "said"), [(0.5, 0.9, True), (0.5, 1.1, False), (1.5, 1.7, False)])
def test_a_closest_model_that_is_also_slower_is_not_recommended(low, high, said):
    result = {
        "status": "missed",
        "tuned": {"accuracy": 0.5},
        "goal": {"shortfall": "accuracy"},
        "objectives": ["latency"],
        "speedup_ci95": [low, high],
    }
    assert bool(keep_original(result)) == said
    assert bool(keep_original({**result, "objectives": ["size"]})) is False


def test_other_objectives_are_named():
    result = {"status": "missed", "tuned": {}, "goal": {"shortfall": "objective"}, "objectives": ["size"]}
    assert keep_original(result) == ""  # nothing was saved
    saved = {**result, "tuned": {"accuracy": np.float64(1).item()}}
    assert "is surely better than fp32 in size: keep the original model" in keep_original(saved)
