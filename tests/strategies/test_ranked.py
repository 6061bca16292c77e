"""Fallback in the order of an estimate: `mse`."""

import math
from dataclasses import replace

import pytest

from nc_strategies.api import EngineError
from nc_strategies.strategies.mse import MseSettings, MseStrategy
from nc_strategies.testing import ToyOp, toy_problem
from nc_strategies.testing.toy import toy_evaluation

OPS = [ToyOp(name, loss=loss) for name, loss in zip("abcdef", (0.001, 0.03, 0.002, 0.04, 0.001, 0.01), strict=True)]


def loss(way=""):
    return {op.name: op.loss for op in OPS}


def fallback(found):
    return [set(item.config.float_ops) for item in found if item.stage == "fallback"]


def test_operators_fall_back_by_their_error_until_the_goal_is_met(toy):
    problem, found = toy(MseStrategy, MseSettings(), OPS, tolerable_loss=0.01, sensitivity=loss)
    assert fallback(found) == [{"d"}, {"b", "d"}, {"b", "d", "f"}]
    assert problem.goal.met(found[-1].trial.evaluation)


def test_several_operators_fall_back_per_trial_if_the_budget_is_small(toy):
    _, found = toy(MseStrategy, MseSettings(), OPS, budget=8, tolerable_loss=0.01, sensitivity=loss)
    steps = fallback(found)
    assert len(steps[0]) == 3


def test_no_error_is_estimated_while_the_whole_model_keeps_the_goal(toy):
    def never(way=""):
        raise AssertionError("estimated")

    _, found = toy(MseStrategy, MseSettings(), OPS, tolerable_loss=0.5, sensitivity=never)
    assert found[0].stage == "default int8"
    assert not fallback(found)


def fails(way=""):
    raise EngineError("the engine crashed")


@pytest.mark.parametrize(
    ("sensitivity", "reason"),
    [
        (None, "the backend has no such estimate"),
        (lambda way="": {}, "the run has no time for it"),
        (fails, "the engine failed"),
        (lambda way="": dict.fromkeys("abcdef", math.inf), "the engine fails at every operator"),
    ],
)
def test_without_an_estimate_the_order_is_guessed_and_the_user_told(drive, sensitivity, reason):
    told = []
    problem = toy_problem(OPS, tolerable_loss=0.01, sensitivity=sensitivity, notice=told.append)
    problem.space.ops["c"] = replace(problem.space.ops["c"], parameters=1)
    found = drive(MseStrategy(MseSettings(), problem), problem, lambda c: toy_evaluation(OPS, c))
    assert fallback(found)[:3] == [{"a"}, {"a", "f"}, {"a", "f", "c"}]
    assert len(told) == 1
    assert reason in told[0]


def test_tied_and_fixed_operators_stay_within_the_space(drive, modes):
    problem, _ = modes
    problem = problem(sensitivity=lambda way="": {"product1": 2.0, "product3": 1.0, "product0": 3.0})
    hard = problem.goal.constraints[0].threshold - 0.1
    evaluation = replace(problem.baseline, metrics=(("accuracy", hard),))
    found = drive(MseStrategy(MseSettings(), problem), problem, lambda c: evaluation)
    assert fallback(found)[:2] == [{"product0"}, {"product0", "product1", "product2"}]
    assert "conv" in found[-1].config.int8_ops
