"""Which of two evaluations is preferred, and which trial is the best."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from nc_strategies.problem import Constraint, Goal, Objective, Trial, TrialState
from nc_strategies.problem.objective import Shortfall
from nc_strategies.space import Config

CONSTRAINT = Constraint.from_baseline("accuracy", 0.9, True, "absolute", 0.01)
GOAL = Goal((CONSTRAINT,), (Objective("latency"),))
CONFIG = Config(())


def trial(number, evaluation, state=TrialState.OK):
    return Trial(number, CONFIG, state, evaluation)


def test_feasible_beats_infeasible_however_slow(evaluation):
    slow, fast = evaluation(0.89, 5.0), evaluation(0.8899, 0.1)
    assert GOAL.better(slow, fast)
    assert not GOAL.better(fast, slow)
    assert GOAL.best([trial(1, fast), trial(2, slow)]).number == 2


def test_of_two_infeasible_the_smaller_violation_wins(evaluation):
    near, far = evaluation(0.88, 2.0), evaluation(0.87, 0.1)
    assert GOAL.better(near, far)
    assert not GOAL.better(far, near)
    assert GOAL.best([trial(1, far), trial(2, near)]).number == 2


def test_of_two_feasible_the_faster_wins_where_the_difference_can_be_told(evaluation):
    fast, slow = evaluation(0.891, 0.5), evaluation(0.899, 0.53)
    assert GOAL.better(fast, slow)
    assert not GOAL.better(slow, fast)
    assert GOAL.best([trial(1, slow), trial(2, fast)]).number == 2


def test_ties_in_cost_go_to_the_smaller_loss(evaluation):
    exact, quick = evaluation(0.899, 0.51), evaluation(0.891, 0.50)
    assert GOAL.better(exact, quick)
    assert not GOAL.better(quick, exact)
    assert GOAL.best([trial(1, quick), trial(2, exact)]).number == 2


def test_ties_in_cost_and_loss_go_to_the_lower_cost(evaluation):
    one, other = evaluation(0.895, 0.505), evaluation(0.895, 0.5)
    assert GOAL.better(other, one)
    assert GOAL.best([trial(1, one), trial(2, other)]).number == 2


def test_nothing_is_better_than_itself_and_never_both_ways(evaluation):
    rng = np.random.default_rng(0)
    some = [
        evaluation(float(a), float(c))
        for a, c in zip(rng.choice([0.87, 0.888, 0.89, 0.895, 0.9], 30), rng.uniform(0.5, 0.6, 30), strict=True)
    ]
    for a, b in itertools.product(some, some):
        assert not (GOAL.better(a, b) and GOAL.better(b, a))
    assert not any(GOAL.better(a, a) for a in some)


def test_the_best_does_not_depend_on_the_order_of_trials(evaluation):
    rng = np.random.default_rng(1)
    for _ in range(50):
        trials = [trial(n, evaluation(float(rng.uniform(0.88, 0.9)), float(rng.uniform(0.5, 0.56)))) for n in range(12)]
        found = {GOAL.best([trials[i] for i in rng.permutation(12)]).number for _ in range(8)}
        assert len(found) == 1


def test_the_best_is_never_beaten_by_more_than_a_tie(evaluation):
    rng = np.random.default_rng(2)
    for _ in range(50):
        trials = [trial(n, evaluation(float(rng.uniform(0.885, 0.9)), float(rng.uniform(0.3, 1.2)))) for n in range(10)]
        best = GOAL.best(trials).evaluation
        feasible = [t.evaluation for t in trials if GOAL.feasible(t.evaluation)]
        assert GOAL.feasible(best) == bool(feasible)
        assert all(GOAL.cost(best) <= 1.04 * GOAL.cost(e) for e in feasible)


def test_equal_trials_leave_the_earlier_one(evaluation):
    same = evaluation(0.895, 0.5)
    assert GOAL.best([trial(1, same), trial(2, same)]).number == 1


def test_failed_trials_are_never_the_best_and_pruned_ones_only_without_others(evaluation):
    good = evaluation(0.9, 0.1)
    far, near = (trial(n, evaluation(a, 0.1), TrialState.PRUNED) for n, a in ((2, 0.5), (3, 0.7)))
    assert GOAL.best([trial(1, None, TrialState.FAILED)]) is None
    assert GOAL.best([trial(1, None, TrialState.FAILED), far, near]).number == 3
    assert GOAL.best([trial(1, good, TrialState.PRUNED), trial(2, evaluation(0.5, 2.0))]).number == 2
    assert GOAL.best([]) is None


@pytest.mark.parametrize(
    ("accuracy", "latency", "reach", "shortfall"),
    [
        (0.89, 0.99, 0.0, None),
        (0.89, 0.99, 0.01, None),
        (0.89, 0.99, 0.011, Shortfall.OBJECTIVE),
        (0.89, 1.0, 0.0, Shortfall.OBJECTIVE),
        (0.89, 1.5, 0.0, Shortfall.OBJECTIVE),
        (0.8899, 0.5, 0.0, Shortfall.ACCURACY),
        (0.8899, 1.5, 0.0, Shortfall.ACCURACY),
    ],
)
def test_met_means_accurate_enough_and_better_than_fp32_with_the_whole_interval(
    evaluation, accuracy, latency, reach, shortfall
):
    done = replace(evaluation(accuracy, latency), spread=(("latency", reach),))
    assert GOAL.shortfall(done) is shortfall
    assert GOAL.met(done) is (shortfall is None)


def test_an_evaluation_that_did_not_read_all_samples_never_meets_the_goal(evaluation):
    goal = replace(GOAL, samples=100)
    done = evaluation(0.9, 0.5)
    assert goal.met(replace(done, samples=100))
    assert goal.shortfall(replace(done, samples=99)) is Shortfall.SAMPLES


def test_each_objective_of_several_stands_at_the_worse_end_of_its_own_interval(evaluation):
    goal = Goal((CONSTRAINT,), (Objective("latency", 1.0), Objective("size", 1.0)))
    done = replace(evaluation(0.9, 0.9, 1.05), spread=(("latency", 0.1), ("size", 0.0)))
    assert goal.cost(done) == pytest.approx(0.975)
    assert goal.worst_cost(done) == pytest.approx((0.99 + 1.05) / 2)
    assert goal.shortfall(done) is Shortfall.OBJECTIVE
    assert goal.spread(done) == pytest.approx((0.99 + 1.05) / 2 / 0.975 - 1)
    assert Goal((CONSTRAINT,), (Objective("size", 1.0),)).spread(done) == 0.0
    assert GOAL.spread(done) == pytest.approx(0.1)


def test_what_meets_the_goal_comes_before_what_may(evaluation):
    may = replace(evaluation(0.9, 0.96), spread=(("latency", 0.1),))
    sure = replace(evaluation(0.895, 0.98), spread=(("latency", 0.01),))
    assert GOAL.better(sure, may)
    assert not GOAL.better(may, sure)
    assert GOAL.best([trial(1, may), trial(2, sure)]).number == 2


def test_cost_is_the_weighted_mean_of_the_objectives(evaluation):
    goal = Goal((CONSTRAINT,), (Objective("latency", 3.0), Objective("size", 1.0, 0.0)))
    assert goal.cost(evaluation(0.9, 0.5, 0.3)) == pytest.approx((3 * 0.5 + 0.3) / 4)
    assert goal.cost(evaluation(0.9, 1.0, 1.0)) == 1.0


def test_a_size_without_tie_is_told_apart_to_the_last_byte(evaluation):
    goal = Goal((CONSTRAINT,), (Objective("size", tie=0.0),))
    small, large = evaluation(0.89, size=0.5), evaluation(0.9, size=0.500001)
    assert goal.better(small, large)
    assert goal.best([trial(1, large), trial(2, small)]).number == 2


def test_violations_of_several_constraints_add_up_in_shares_of_fp32(evaluation):
    goal = Goal((CONSTRAINT, Constraint("accuracy", 0.95, 0.9)), (Objective("latency"),))
    assert goal.violation(evaluation(0.88)) == pytest.approx((0.01 + 0.07) / 0.9)
    assert not goal.feasible(evaluation(0.9))
    assert goal.loss(evaluation(0.88)) == pytest.approx(0.02)


def test_a_metric_where_lower_is_better_turns_the_order_round(evaluation):
    goal = Goal((Constraint.from_baseline("accuracy", 1.0, False, "relative", 0.1),), (Objective("latency"),))
    assert goal.feasible(evaluation(1.1))
    assert not goal.feasible(evaluation(1.11))
    assert goal.better(evaluation(1.2), evaluation(1.3))


def test_only_a_trial_that_was_measured_completely_keeps_the_goal(evaluation):
    kept, missed = evaluation(0.89), evaluation(0.88)
    assert GOAL.kept_by(trial(1, kept))
    assert not GOAL.kept_by(trial(1, missed))
    assert not GOAL.kept_by(trial(1, kept, TrialState.PRUNED))
    assert not GOAL.kept_by(trial(1, None, TrialState.FAILED))


def test_a_trial_is_slower_than_fp32_if_it_was_measured_to_cost_more(evaluation):
    costs = (1.01, 1.0, 0.5)
    assert [GOAL.slower(trial(1, evaluation(0.89, cost))) for cost in costs] == [True, False, False]
    assert not GOAL.slower(trial(1, None, TrialState.FAILED))
