"""The points that are proposed before the engine is asked, and the changes around the best where all of it is int8."""

from dataclasses import replace

import pytest
from driving import Run
from nc_strategies_optuna.estimate import LEAST_GAIN, estimate, fastest
from nc_strategies_optuna.known import known_points
from nc_strategies_optuna.parameters import Parameters
from nc_strategies_optuna.refine import Prices, _deviation, halve, refine
from nc_strategies_sigopt import SigOptSettings
from nc_strategies_sigopt.session import STATE

from nc_strategies.api import EngineError, Trial, TrialState
from nc_strategies.testing import ToyOp, toy_problem
from nc_strategies.testing.toy import toy_evaluation, toy_time

GOOD = [ToyOp(f"good{i}", loss=1e-4, time_us=100, int8_time_us=40) for i in range(3)]
SLOWER = ToyOp("slower", loss=1e-4, time_us=20, int8_time_us=40)
HARDLY = ToyOp("hardly", loss=1e-4, time_us=40, int8_time_us=40.5)
LOSSY = ToyOp("lossy", loss=0.5, time_us=100, int8_time_us=40)


def modelled(ops, **changes):
    whole = toy_time(ops, toy_problem(ops).space.all_float())
    return replace(
        toy_problem(ops, tolerable_loss=0.01, budget=20),
        latency_model=lambda config: toy_time(ops, config) / whole,
        **changes,
    )


def parameters_of(problem):
    return Parameters(problem.space, estimate(problem))


def tried(number, ops, config):
    return Trial(number, config, TrialState.OK, toy_evaluation(ops, config))


def known(problem, ops):
    """The known points, each measured before the next is asked for."""
    trials, points = {}, []
    for point in known_points(parameters_of(problem), problem, trials):
        points.append(point)
        trials[point.config.fingerprint] = tried(len(points), ops, point.config)
    return points


def test_where_int8_everywhere_keeps_the_goal_what_is_faster_in_fp32_goes_back():
    ops = [*GOOD, SLOWER, HARDLY]
    first, second = known(modelled(ops), ops)
    assert first.mark == "known int8"
    assert second.mark == "known fastest"
    assert second.config == first.config.with_op("slower")


def test_less_than_a_hundredth_is_not_worth_a_trial():
    ops = [*GOOD, HARDLY]
    assert 0 < 0.5 / sum(op.int8_time_us for op in ops) < LEAST_GAIN
    assert [point.mark for point in known(modelled(ops), ops)] == ["known int8"]


def test_without_a_latency_model_nothing_is_known_to_be_faster():
    ops = [*GOOD, SLOWER]
    assert [point.mark for point in known(replace(modelled(ops), latency_model=None), ops)] == ["known int8"]


def test_where_int8_everywhere_misses_the_goal_the_estimates_of_the_loss_decide():
    ops = [*GOOD, SLOWER, LOSSY]
    _, second = known(modelled(ops, sensitivity=lambda: {op.name: op.loss for op in ops}), ops)
    assert second.mark == "known estimate"
    assert second.config.schemes["lossy"].is_float
    assert not any(second.config.schemes[op.name].is_float for op in GOOD)


def test_a_latency_model_that_fails_changes_nothing(caplog):
    ops = [*GOOD, SLOWER]
    problem = modelled(ops)
    parameters = parameters_of(problem)

    def fails(config):
        raise EngineError("no profile")

    config = parameters.config(parameters.all_int8())
    assert fastest(replace(problem, latency_model=fails), config, parameters.estimate.tied_ops) == config
    assert "latency is not modelled: no profile" in caplog.text


def test_tied_ops_are_put_back_one_after_the_other_as_the_model_sees_them_together():
    """Each alone is expected to gain; both together cost more than one, as a shared conversion would."""
    ops = [*GOOD, SLOWER, replace(SLOWER, name="other")]
    problem = modelled(ops)
    whole = sum(op.time_us for op in ops)

    def cost(config):
        both = config.schemes["slower"].is_float and config.schemes["other"].is_float
        return toy_time(ops, config) / (whole * 1e-6) + 0.2 * both

    parameters = parameters_of(problem)
    found = fastest(replace(problem, latency_model=cost), problem.space.default(), parameters.estimate.tied_ops)
    assert sum(found.schemes[name].is_float for name in ("slower", "other")) == 1


def refinements(problem, ops, configs):
    parameters = parameters_of(problem)
    trials = [tried(n, ops, config) for n, config in enumerate(configs, 1)]
    seen, found = {config.fingerprint for config in configs}, []
    while (config := refine(problem, parameters, trials, seen)) is not None:
        found.append(config)
        seen.add(config.fingerprint)
    return found


def test_where_all_of_int8_fits_only_graph_wide_choices_change():
    problem = modelled(GOOD)
    found = refinements(problem, GOOD, [problem.space.default()])
    assert found
    assert all(not config.float_ops for config in found)
    tried_weights = {config.schemes["good0"].weight.granularity for config in found}
    assert "per_tensor" in tried_weights
    assert "percentile" in {config.schemes["good0"].activation.algorithm for config in found}


@pytest.mark.parametrize("name", ["good0", "good1"])
def test_where_it_does_not_single_operators_change(name):
    ops = [*GOOD, LOSSY]
    problem = modelled(ops, sensitivity=lambda: {op.name: op.loss for op in ops})
    default = problem.space.default()
    found = refinements(problem, ops, [default, default.with_op("lossy")])
    assert any(config.float_ops and config.schemes[name].is_float for config in found)


@pytest.mark.parametrize(("spread", "least"), [(0.0, 0.003), (0.2, 0.04), (float("inf"), 0.2)])
def test_a_trial_whose_timing_is_unsteady_teaches_less_of_the_savings(spread, least):
    problem = modelled(GOOD)
    parameters = parameters_of(problem)
    surprise = replace(
        toy_evaluation(GOOD, problem.space.default()), ratios=(("latency", 0.9),), spread=(("latency", spread),)
    )
    trial = Trial(1, problem.space.default(), TrialState.OK, surprise)
    assert _deviation(surprise) >= least
    saved = Prices(problem, parameters, [trial]).saved[: len(GOOD)].sum()
    steady = replace(surprise, spread=(("latency", 0.0),))
    exact = Prices(problem, parameters, [replace(trial, evaluation=steady)]).saved[: len(GOOD)].sum()
    assert abs(exact - 0.1) <= abs(saved - 0.1) + 1e-12


@pytest.mark.parametrize(("used", "refined"), [(0.0, 0), (0.5, 0), (0.7, 4)])
def test_single_operators_change_when_the_time_ends_before_the_budget(tmp_path, used, refined):
    run = Run(
        tmp_path,
        SigOptSettings(driver="local"),
        budget=100,
        time_used=lambda: used if len(run.measured) >= 8 else 0.0,
    )
    assert len(run.go(12)) == 12
    notes = [line for line in (tmp_path / STATE).read_text().splitlines() if "refinement" in line]
    assert len(notes) == refined


class TestHalves:
    """One of eight operators loses too much, and the estimates say that it is the one that loses least."""

    OPS = (*(ToyOp(f"good{i}", loss=1e-4, time_us=100, int8_time_us=40) for i in range(7)), LOSSY)

    def problem(self):
        return modelled(self.OPS, sensitivity=lambda: {op.name: 1e-6 if op is LOSSY else 0.1 for op in self.OPS})

    def test_halves_leave_out_the_operator_that_loses_too_much(self):
        problem = self.problem()
        parameters, trials = parameters_of(problem), []
        config = problem.space.default()
        while config is not None:
            trials.append(tried(len(trials) + 1, self.OPS, config))
            config = halve(problem, parameters, trials, {t.config.fingerprint for t in trials})
        assert problem.goal.feasible(trials[-1].evaluation)
        assert trials[-1].config.int8_ops
        assert len(trials) <= 5

    def test_once_a_trial_keeps_the_goal_there_is_no_half(self):
        problem = self.problem()
        good = problem.space.default().with_op("lossy")
        assert halve(problem, parameters_of(problem), [tried(1, self.OPS, good)], set()) is None

    def test_single_operators_have_no_halves(self):
        problem = self.problem()
        alone = problem.space.fall_back(problem.space.default(), *(f"good{i}" for i in range(7)))
        trials = [tried(1, self.OPS, alone)]
        assert halve(problem, parameters_of(problem), trials, set()) is None
