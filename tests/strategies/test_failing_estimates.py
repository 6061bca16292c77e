"""An engine that fails at latency terms: each strategy goes on with what it has."""

import pytest

from nc_strategies.api import EngineError, Trial, TrialState
from nc_strategies.strategies.auto import AutoSettings, AutoStrategy
from nc_strategies.strategies.basic import BasicSettings, BasicStrategy
from nc_strategies.strategies.conservative import ConservativeSettings, ConservativeStrategy
from nc_strategies.strategies.ilp.settings import IlpSettings
from nc_strategies.strategies.ilp.strategy import IlpStrategy
from nc_strategies.strategies.mse import MseSettings, MseStrategy
from nc_strategies.strategies.mse_v2 import MseV2Settings, MseV2Strategy
from nc_strategies.testing import ToyOp
from nc_strategies.testing.toy import toy_evaluation, toy_problem

OPS = [ToyOp(name, loss=loss, time_us=40) for name, loss in zip("abcd", (0.0, 0.001, 0.03, 0.002), strict=True)]


def fail(*_):
    raise EngineError("the engine crashed")


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (AutoStrategy, AutoSettings()),
        (BasicStrategy, BasicSettings()),
        (ConservativeStrategy, ConservativeSettings()),
        (IlpStrategy, IlpSettings()),
        (MseStrategy, MseSettings()),
        (MseV2Strategy, MseV2Settings()),
    ],
)
def test_a_strategy_reaches_the_goal_without_latency_terms(kind, settings):
    problem = toy_problem(
        OPS,
        budget=40,
        divergence=fail,
        sensitivity=lambda: {op.name: op.loss for op in OPS},
        latency_model=fail,
        latency_terms=fail,
    )
    strategy, trials = kind(settings, problem), []
    while len(trials) < problem.budget and (config := strategy.propose()) is not None:
        trials.append(Trial(len(trials) + 1, config, TrialState.OK, toy_evaluation(OPS, config)))
        strategy.observe(trials[-1])
    best = problem.goal.best(trials)
    assert problem.goal.met(best.evaluation)
    assert "c" in best.config.float_ops
