"""Halves of a trial's int8 operators, where one operator loses more than the goal allows and the estimates miss it."""

from dataclasses import replace

import pytest

from nc_strategies.api import Trial, TrialState
from nc_strategies.strategies.halves import half
from nc_strategies.strategies.ilp.settings import IlpSettings
from nc_strategies.strategies.ilp.strategy import MAX_FAILED_SOLUTIONS, IlpStrategy
from nc_strategies.testing import ToyOp, toy_problem
from nc_strategies.testing.toy import toy_evaluation

OPS = tuple(ToyOp(f"op{i}", loss=0.3 if i == 5 else 1e-4, time_us=100, int8_time_us=40) for i in range(16))


def estimated(group):
    """Ranks the harmful operator last."""
    return 0.0 if group == ("op5",) else 1.0


def tried(number, config, state=TrialState.OK):
    return Trial(number, config, state, toy_evaluation(OPS, config))


def search(problem, config, loss=estimated):
    trials = []
    while config is not None:
        trials.append(tried(len(trials) + 1, config))
        config = half(problem.space, problem.goal, trials, {t.config.fingerprint for t in trials}, loss)
    return trials


@pytest.mark.parametrize("loss", [estimated, lambda group: 0.0, lambda group: -estimated(group)])
def test_a_half_without_the_harmful_operator_is_found_in_few_trials(loss):
    problem = toy_problem(OPS, tolerable_loss=0.01)
    trials = search(problem, problem.space.default(), loss)
    assert problem.goal.feasible(trials[-1].evaluation)
    assert len(trials) <= 3
    assert len(trials[-1].config.int8_ops) == 8


def test_none_is_proposed_once_a_trial_keeps_the_goal():
    problem = toy_problem(OPS, tolerable_loss=0.01)
    good = tried(1, problem.space.fall_back(problem.space.default(), "op5"))
    assert half(problem.space, problem.goal, [good], set(), estimated) is None


def test_a_trial_that_stopped_early_does_not_keep_the_goal():
    problem = toy_problem(OPS, tolerable_loss=0.01)
    early = tried(1, problem.space.fall_back(problem.space.default(), "op5"), TrialState.PRUNED)
    assert half(problem.space, problem.goal, [early], set(), estimated) is not None


def test_it_ends_where_everything_loses_too_much():
    ops = tuple(ToyOp(f"op{i}", loss=0.3) for i in range(4))
    problem = toy_problem(ops, tolerable_loss=0.01)
    config, trials = problem.space.default(), []
    while config is not None:
        trials.append(Trial(len(trials) + 1, config, TrialState.OK, toy_evaluation(ops, config)))
        config = half(problem.space, problem.goal, trials, {t.config.fingerprint for t in trials}, lambda g: 0.0)
    assert len(trials) == 7  # 4 operators, 2 pairs, 4 single ones
    assert all(trial.config.int8_ops for trial in trials)


def test_ilp_finds_a_model_although_the_estimate_of_one_operator_is_far_too_low():
    problem = toy_problem(
        OPS, tolerable_loss=0.01, sensitivity=lambda: {op.name: 1e-9 if op.name == "op5" else 1.0 for op in OPS}
    )
    strategy, trials = IlpStrategy(IlpSettings(), problem), []
    while (config := strategy.propose()) is not None and len(trials) < MAX_FAILED_SOLUTIONS + 6:
        trials.append(tried(len(trials) + 1, config))
        strategy.observe(trials[-1])
    assert any(problem.goal.feasible(t.evaluation) and t.config.int8_ops for t in trials)


def test_ilp_goes_on_with_halves_where_no_model_is_predicted_to_beat_fp32():
    # int8 is slower, so the program ends at once; without halves the only trial would be one that misses the goal.
    ops = tuple(replace(op, int8_time_us=150) for op in OPS)
    problem = toy_problem(ops, tolerable_loss=0.01, sensitivity=lambda: {op.name: 1.0 for op in ops})
    strategy, trials = IlpStrategy(IlpSettings(), problem), []
    while (config := strategy.propose()) is not None:
        trials.append(Trial(len(trials) + 1, config, TrialState.OK, toy_evaluation(ops, config)))
        strategy.observe(trials[-1])
    assert any(problem.goal.feasible(t.evaluation) for t in trials)
    assert len(trials) < 20
    assert strategy.ended
