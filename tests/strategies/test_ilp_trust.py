"""How far the integer-programming strategy trusts its predictions of cost."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nc_strategies.api import LatencyTerms, Problem, Trial, TrialState
from nc_strategies.strategies.ilp.columns import Columns
from nc_strategies.strategies.ilp.models import CostModel, Seen
from nc_strategies.strategies.ilp.strategy import IlpStrategy
from nc_strategies.testing import ToyOp, toy_problem
from nc_strategies.testing.toy import toy_evaluation

NAMES = "abcdefgh"
OPS = [ToyOp(name, loss=0.001 * (k + 1), time_us=100.0, int8_time_us=60.0) for k, name in enumerate(NAMES)]
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "calibration_search.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("calibration_search", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def terms_of(problem: Problem, ops=OPS, error=0.0):
    """The true terms of a toy model."""
    full = sum(op.time_us for op in ops)
    return LatencyTerms(
        0.0,
        {
            op.name: {
                s: (op.time_us if s.is_float else op.int8_time_us) / full for s in problem.space.ops[op.name].schemes
            }
            for op in ops
        },
        error=error,
    )


def model(error=0.0):
    problem = toy_problem(OPS)
    columns = Columns(problem.space)
    return problem, columns, CostModel(problem, columns, terms_of(problem, error=error))


def configs(space, count, seed=0):
    rng = np.random.default_rng(seed)
    return [space.default().with_op(*rng.choice(list(NAMES), 3, replace=False)) for _ in range(count)]


def seen(columns, config, factor=1.0, spread=0.0):
    done = toy_evaluation(OPS, config)
    return Seen(
        columns.row(config),
        replace(done, ratios=(("latency", factor * done.ratio("latency")),), spread=(("latency", spread),)),
    )


def fp32(problem, columns):
    return Seen(columns.row(problem.space.all_float()), problem.baseline, reference=True)


@pytest.mark.parametrize("factor", [0.7, 1.4])
def test_a_factor_that_all_costs_share_is_learnt_from_two_trials(factor):
    problem, columns, costs = model()
    tried = configs(problem.space, 2)
    costs.fit([fp32(problem, columns), *(seen(columns, c, factor) for c in tried)])
    other = problem.space.default()
    expected, _ = costs.predict([columns.row(other)])
    assert float(expected[0]) == pytest.approx(factor * 0.6, rel=0.1)


def test_noise_beyond_what_intervals_say_is_learnt():
    problem, columns, costs = model()
    rng = np.random.default_rng(1)
    factors = np.exp(0.15 * rng.choice([-1, 1], 12))
    costs.fit(
        [
            fp32(problem, columns),
            *(seen(columns, c, f, spread=0.05) for c, f in zip(configs(problem.space, 12), factors, strict=True)),
        ]
    )
    assert 0.08 < costs.trust.error < 0.3
    quiet = model()[2]
    quiet.fit([fp32(problem, columns), *(seen(columns, c, spread=0.05) for c in configs(problem.space, 12))])
    assert quiet.trust.error < 0.03


def test_no_prediction_is_surer_than_the_measured_intervals():
    problem, columns, costs = model()
    costs.fit([fp32(problem, columns), *(seen(columns, c, spread=0.196) for c in configs(problem.space, 12))])
    cost, sd = (float(v[0]) for v in costs.predict([columns.row(problem.space.default())]))
    assert sd < 0.1 * cost
    assert costs.trust.measured_sd(cost, sd) >= 0.1 * cost


def test_a_latency_model_is_not_trusted_beyond_the_error_it_states():
    problem, columns, _ = model()
    row = columns.row(problem.space.default())
    sds = []
    for error in (0.01, 0.14):
        costs = model(error)[2]
        costs.fit([fp32(problem, columns)])
        cost, sd = (float(v[0]) for v in costs.predict([row]))
        sds.append(costs.trust.measured_sd(cost, sd) / cost)
    assert sds[1] >= 0.14
    assert sds[1] > 1.2 * sds[0]


def drive(ops, noise, spread, budget=25):
    problem = toy_problem(ops, tolerable_loss=0.012)
    terms = terms_of(problem, ops)
    strategy = IlpStrategy(
        None, replace(problem, sensitivity=lambda: {op.name: op.loss for op in ops}, latency_terms=lambda: terms)
    )
    rng, trials = np.random.default_rng(0), []
    while len(trials) < budget and (config := strategy.propose()) is not None:
        done = toy_evaluation(ops, config)
        ratio = done.ratio("latency") * float(np.exp(noise * rng.standard_normal()))
        done = replace(done, samples=10**9, ratios=(("latency", ratio),), spread=(("latency", spread),))
        trials.append(Trial(len(trials) + 1, config, TrialState.OK, done, predicted=strategy.predicted))
        strategy.observe(trials[-1])
    return strategy, trials


def test_a_search_whose_differences_are_below_the_noise_says_so_and_ends():
    alike = [op if op.name in "ab" else replace(op, int8_time_us=99.0) for op in OPS]
    strategy, trials = drive(alike, 0.15, 0.3)
    assert len(trials) < 25
    assert strategy.stage == "noise"
    assert strategy.ended.startswith("remaining differences (")
    assert "are below the timing noise (" in strategy.ended
    assert strategy.propose() is None


def test_a_search_without_noise_ends_by_proof():
    strategy, trials = drive(OPS, 0.0, 0.0)
    assert strategy.stage == "proved"
    assert strategy.ended.startswith("no other configuration is predicted below")
    assert trials[0].predicted is None
    assert all(t.predicted is not None and t.predicted.cost_sd > 0 for t in trials[1:])


@pytest.mark.parametrize("noise", [0.01, 0.15])
def test_measured_costs_lie_in_the_intervals_predicted_for_them(script, noise):
    residuals = np.concatenate([script.search(script.Drawn.draw(seed, noise), 8).residuals for seed in range(4)])
    assert len(residuals) >= 15
    assert np.mean(np.abs(residuals) <= 1.96) >= 0.8
