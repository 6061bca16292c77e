"""Fallback in the order of an estimate: `mse`, `mse_v2` and `hawq_v2`."""

import math
from dataclasses import replace

import pytest

from nc_strategies.api import EngineError, InputError
from nc_strategies.strategies.hawq_v2 import HawqV2Settings, HawqV2Strategy
from nc_strategies.strategies.mse import MseSettings, MseStrategy
from nc_strategies.strategies.mse_v2 import MseV2Settings, MseV2Strategy
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


def fails(*_):
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


def noise(config, batches=1):
    """Operators of which "e" hurts only beside "a": an error that no estimate of single operators shows."""
    int8 = set(config.int8_ops)
    return sum(op.loss for op in OPS if op.name in int8) + (0.1 if {"a", "e"} <= int8 else 0.0)


def test_the_most_sensitive_operator_falls_back_and_the_least_is_requantized_first(toy):
    def far_off(way=""):
        return {"a": 0.5, "b": 0.4, "c": 0.3, "d": 0.2, "e": 0.0, "f": 0.1}

    settings = MseV2Settings(confidence_batches=0)
    problem, found = toy(MseV2Strategy, settings, OPS, tolerable_loss=0.012, sensitivity=far_off)
    assert fallback(found) == [{"a"}, {"a", "b"}, {"a", "b", "c"}, {"a", "b", "c", "d"}]
    back = [set(item.config.float_ops) for item in found if item.stage == "requantize"]
    # "d" was in int8 in an earlier trial, which missed the goal.
    assert back == [{"a", "b", "d"}, {"a", "c", "d"}, {"b", "c", "d"}]
    assert set(problem.goal.best([item.trial for item in found]).config.float_ops) == {"b", "c", "d"}


def test_operators_are_compared_in_the_current_configuration(toy):
    asked = []

    def compare(config, batches=1):
        asked.append(batches)
        return noise(config)

    def equal(way=""):
        return dict.fromkeys("abcdef", 1.0)

    _, found = toy(
        MseV2Strategy, MseV2Settings(confidence_batches=3), OPS, 500, tolerable_loss=0.01, sensitivity=equal,
        divergence=compare,
    )  # fmt: skip
    assert fallback(found)[:3] == [{"a"}, {"a", "d"}, {"a", "b", "d"}]
    assert set(asked) == {3}


def test_a_comparison_that_fails_leaves_the_order_of_the_estimate(toy):
    _, found = toy(MseV2Strategy, MseV2Settings(), OPS, tolerable_loss=0.01, sensitivity=loss, divergence=fails)
    assert fallback(found) == [{"d"}, {"b", "d"}, {"b", "d", "f"}]


def test_negative_confidence_batches_are_refused():
    with pytest.raises(InputError, match=r"strategy.confidence_batches: is -1"):
        MseV2Settings(confidence_batches=-1)


def test_operators_fall_back_by_their_hessian_and_those_without_weights_last(toy):
    asked = []

    def hessian(draws):
        asked.append(draws)
        return {"b": 2.0, "d": 3.0, "f": 1.0}

    _, found = toy(HawqV2Strategy, HawqV2Settings(draws=7), OPS, tolerable_loss=0.003, hessian=hessian)
    assert fallback(found)[:4] == [{"d"}, {"b", "d"}, {"b", "d", "f"}, {"a", "b", "d", "f"}]
    assert asked == [7]


def test_an_engine_without_gradients_is_refused():
    problem = toy_problem(OPS)
    with pytest.raises(InputError, match=r"^strategy: hawq_v2 needs gradients"):
        HawqV2Strategy.check_model(HawqV2Settings(), problem.space, lambda: False)
    with pytest.raises(InputError, match=r"^strategy: hawq_v2 needs gradients"):
        HawqV2Strategy(HawqV2Settings(), problem)
    HawqV2Strategy.check_model(HawqV2Settings(), problem.space, lambda: True)
