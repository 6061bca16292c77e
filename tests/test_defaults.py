"""Defaults are the same whichever way a run is started."""

import inspect

import nc_strategies
from nc_strategies.config import AccuracyCriterion, TuningConfig, TuningCriterion
from nc_strategies.defaults import CRITERION, MAX_TRIALS, TOLERABLE_LOSS
from nc_strategies.problem import Constraint
from nc_strategies.testing.toy import toy_problem


def test_every_way_to_start_a_run_tolerates_the_same_loss():
    python = inspect.signature(nc_strategies.tune).parameters
    assert {
        TuningConfig().goal[1],
        AccuracyCriterion().tolerable_loss,
        Constraint("accuracy", 0.9, 1.0).tolerable_loss,
        inspect.signature(toy_problem).parameters["tolerable_loss"].default,
    } == {TOLERABLE_LOSS}
    assert {TuningConfig().goal[0], AccuracyCriterion().criterion} == {CRITERION}
    assert {python[name].default for name in ("criterion", "tolerable_loss")} == {None}
    assert {python["max_trials"].default, TuningConfig().max_trials, TuningCriterion().max_trials} == {MAX_TRIALS}
