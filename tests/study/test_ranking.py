"""The best of a growing list of trials is the one that a look at all of them finds."""

from dataclasses import replace

import numpy as np
import pytest

from nc_strategies.problem import Constraint, Evaluation, Goal, Objective, Trial, TrialState
from nc_strategies.study.ranking import Ranking, best_of
from nc_strategies.testing import ToyOp, toy_space

CONFIG = toy_space([ToyOp("a")]).default()
GOAL = Goal((Constraint.from_baseline("accuracy", 0.9, True, "absolute", 0.02),), (Objective("latency"),), 100)
STATES = [TrialState.OK] * 8 + [TrialState.PRUNED, TrialState.FAILED]


def drawn(rng, number, near):
    """A trial; many have equal values, or costs within the tie of each other."""
    state = STATES[int(rng.integers(len(STATES)))]
    if state is TrialState.FAILED:
        return Trial(number, CONFIG, state, error="no")
    accuracy = round(0.9 - float(rng.choice([0.0, 0.005, 0.01, 0.02, 0.03, 0.05])) * (1 if near else rng.random()), 4)
    ratio = round(float(rng.choice([0.5, 0.505, 0.51, 0.52, 0.53, 0.7, 1.1])) * (1 if near else rng.random() + 0.5), 4)
    samples = 100 if state is TrialState.OK else 50
    done = Evaluation((("accuracy", accuracy),), (), (("latency", ratio),), (("latency", 0.02),), samples)
    return Trial(number, CONFIG, state, replace(done, graph=f"g{number % 17}"))


def told(trial):
    return None if trial is None else trial.number


@pytest.mark.parametrize("seed", range(30))
def test_the_best_is_found_after_every_trial(seed):
    rng, trials, latest, ranking = np.random.default_rng(seed), [], {}, Ranking(GOAL)
    for number in range(1, 80):
        trials.append(drawn(rng, number, seed % 2))
        if rng.random() < 0.05:
            latest[f"g{rng.integers(17)}"] = drawn(np.random.default_rng(3), 1, near=True).evaluation
        assert told(ranking.best(trials, latest)) == told(best_of(GOAL, trials, latest))
        own = [t for t in trials if t.ok and GOAL.met(t.evaluation)]
        assert list(ranking.met(trials, latest)) == own


def test_another_list_of_trials_is_judged_anew():
    rng, ranking = np.random.default_rng(0), Ranking(GOAL)
    first, second = ([drawn(rng, number, near=True) for number in range(1, 20)] for _ in range(2))
    for trials in (first, second, second[:5], first):
        assert told(ranking.best(trials, {})) == told(best_of(GOAL, trials, {}))
    first[-1] = drawn(rng, 99, near=True)
    assert told(ranking.best(first, {})) == told(best_of(GOAL, first, {}))


def test_an_accuracy_that_is_no_number_does_not_hide_the_others():
    rng, ranking = np.random.default_rng(0), Ranking(GOAL)
    trials = [drawn(rng, number, near=True) for number in range(1, 20)]
    bad = replace(trials[0].evaluation, metrics=(("accuracy", float("nan")),))
    trials.insert(3, Trial(50, CONFIG, TrialState.OK, bad))
    assert told(ranking.best(trials, {})) == told(best_of(GOAL, trials, {})) != 50


def test_each_trial_is_judged_once(monkeypatch):
    judged = []
    violation = Goal.violation
    monkeypatch.setattr(Goal, "violation", lambda self, done: (judged.append(1), violation(self, done))[1])
    rng, trials, ranking = np.random.default_rng(0), [], Ranking(GOAL)
    for number in range(1, 201):
        trials.append(drawn(rng, number, near=False))
        ranking.best(trials, {})
        ranking.met(trials, {})
    assert len(judged) <= 4 * len(trials)
