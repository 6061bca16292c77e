"""``tuning.stop_when=met``: what meets the goal by its trial is measured as at the end before the run stops at it."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from nc_strategies.measuring.latency import Timing
from nc_strategies.problem import TrialState
from nc_strategies.strategies.base import Strategy
from nc_strategies.study.study import Status
from nc_strategies.testing import ToyOp

OPS = (ToyOp("a"), ToyOp("b", "MatMul"))


class Scripted(Strategy):
    """Proposes what it is told."""

    def __init__(self, problem, configs):
        super().__init__(None, problem)
        self.configs = iter(configs(problem.space))

    def propose(self):
        return next(self.configs, None)

    def observe(self, trial):
        pass


def three(space):
    return [space.default(), space.fall_back(space.default(), "b"), space.fall_back(space.default(), "a")]


@pytest.fixture
def timed(run, monkeypatch):
    """A run of three trials whose models have known latencies relative to fp32, by their int8 operators.

    `trial` is what each has in its trial, `final` what it has when it is measured among the finalists.
    """

    def make(trial, final, name="run", configs=three, **tuning):
        one = run(
            name,
            ops=OPS,
            make=lambda problem: Scripted(problem, configs),
            **{"stop_when": "met", "tolerable_loss": 0.5, **tuning},
        )
        finals = one.finals = []

        def timing(models, runs, patience=1.0):
            known = trial if len(models) == 2 else final
            ratios = [known["".join(m._config.int8_ops)] if m._config.int8_ops else 1.0 for m in models]
            if len(models) > 2:
                finals.append(["".join(m._config.int8_ops) for m in models[2:]])
            return Timing(np.repeat(1e-3 * np.array([ratios]), 40, axis=0))

        monkeypatch.setattr("nc_strategies.measuring.measurer.Measurer._time", lambda _, *args: timing(*args))
        return one

    return make


def test_a_trial_that_meets_the_goal_is_confirmed_and_not_measured_again_at_the_end(timed):
    one = timed({"ab": 0.8}, {"ab": 0.9})
    study = one()
    assert (study.stop_reason, len(study.trials), study.status) == ("met", 1, Status.MET)
    assert one.finals == [["ab"]]
    assert study.final.speedup == pytest.approx(1 / 0.9)


def test_the_search_goes_on_where_the_final_measurement_does_not_meet_the_goal(timed):
    one = timed({"ab": 0.8, "a": 0.7, "b": 0.6}, {"ab": 1.01, "a": 0.75})
    study = one()
    assert (study.stop_reason, len(study.trials), study.status) == ("met", 2, Status.MET)
    assert one.finals == [["ab"], ["a"]]
    assert study.final.trial.number == 2


def test_what_was_measured_again_is_never_measured_a_third_time_and_the_best_is_returned(timed):
    one = timed(
        {"ab": 0.8, "a": 0.79, "b": 1.2},
        {"ab": 1.05, "a": 1.02, "b": 1.2},
        configs=lambda space: [*three(space), space.default()],
    )
    study = one()
    assert (study.stop_reason, study.status) == ("finished", Status.MISSED)
    assert one.finals == [["ab"], ["a"]]
    assert (study.final.trial.number, study.final.speedup) == (2, pytest.approx(1 / 1.02))
    assert study.best.number == 2
    assert not study.goal.met(study.latest(study.best))


def test_a_trial_above_fp32_by_the_interval_or_by_itself_is_no_candidate(timed):
    one = timed({"ab": 1.0, "a": 1.1, "b": 0.9}, {"b": 0.9})
    assert (one().stop_reason, one.finals) == ("met", [["b"]])


def test_confirming_costs_no_trial_of_the_budget(timed):
    one = timed({"ab": 0.8, "a": 0.79, "b": 0.78}, {"ab": 1.05, "a": 1.02, "b": 1.01}, max_trials=3)
    study = one()
    assert (study.stop_reason, len(study.trials), study.status) == ("budget", 3, Status.MISSED)
    assert one.finals == [["ab"], ["a"], ["b"]]
    assert all(t.state is TrialState.OK for t in study.trials)


def test_a_run_that_spends_its_budget_measures_the_finalists_once_at_the_end(timed):
    one = timed({"ab": 0.8, "a": 0.79, "b": 0.78}, {"ab": 0.8, "a": 0.79, "b": 0.78}, stop_when="budget")
    assert (one().stop_reason, len(one.finals)) == ("finished", 1)


def test_a_finalist_that_meets_the_goal_is_preferred_to_one_that_may(timed, monkeypatch):
    ratios = {"ab": 0.98, "a": 0.985, "b": 1.5}
    one = timed(ratios, ratios, stop_when="budget")

    def wide(models, runs, patience=1.0):
        # The fastest is timed so unsteadily that its interval holds fp32.
        blocks = np.exp(np.repeat([0.1, -0.1, 0.1, -0.1], 10))
        columns = [
            1e-3
            * ratios.get("".join(m._config.int8_ops), 1.0)
            * (blocks if len(m._config.int8_ops) == 2 else np.ones(40))
            for m in models
        ]
        return Timing(np.array(columns).T)

    monkeypatch.setattr("nc_strategies.measuring.measurer.Measurer._time", lambda _, *args: wide(*args))
    study = one()
    assert (study.status, study.final.trial.number) == (Status.MET, 2)


def test_noise_in_latency_adds_no_finalists_where_the_objective_is_size(timed, monkeypatch):
    one = timed({}, {}, stop_when="budget")
    one.config.metrics.objectives[:] = ["size"]

    def wide(models, runs, patience=1.0):
        if len(models) > 2:
            one.finals.append(["".join(m._config.int8_ops) for m in models[2:]])
        return Timing(np.exp(np.random.default_rng(len(models)).normal(-7, 4, (40, len(models)))))

    monkeypatch.setattr("nc_strategies.measuring.measurer.Measurer._time", lambda _, *args: wide(*args))
    study = one()
    assert all(dict(trial.evaluation.spread)["latency"] > 1.5 for trial in study.trials)
    smallest = min(study.trials, key=lambda trial: study.goal.cost(trial.evaluation))
    assert one.finals == [["".join(smallest.config.int8_ops)]]


class Threads(ThreadPoolExecutor):
    workers = 2

    def __init__(self):
        super().__init__(2)


def test_nothing_is_confirmed_while_another_trial_is_under_way(timed):
    with Threads() as executor:
        one = timed({"ab": 0.8, "a": 0.9, "b": 0.95}, {"ab": 1.05, "a": 0.9, "b": 0.95}, executor=executor)
        target, under_way, seen = one.setup.target, [], []
        measure, finish = target.measure, target.finish

        def measuring(config):
            under_way.append(config)
            time.sleep(0.02 if config.int8_ops == ("a", "b") else 0.2)
            done = measure(config)
            under_way.remove(config)
            return done

        def finishing(*arguments):
            seen.append(len(under_way))
            return finish(*arguments)

        target.measure, target.finish = measuring, finishing
        study = one()
    assert study.stop_reason == "met"
    assert seen
    assert set(seen) == {0}


def test_an_interrupt_after_a_failed_confirmation_keeps_its_figures(timed):
    one = timed({"ab": 0.8, "a": 0.9, "b": 0.9}, {"ab": 1.05})
    # fp32 as given and all-float, the trial, then fp32 and the finalist: the next to be built is the second trial.
    count = 1 + 1 + 2 + 1
    one.backend.interrupt_at = count + 1
    study = one()
    assert (study.stop_reason, study.status) == ("interrupted", Status.MISSED)
    assert study.final.speedup == pytest.approx(1 / 1.05)
    assert study.baseline.value("latency_ms") / study.final.evaluation.value("latency_ms") == pytest.approx(1 / 1.05)
