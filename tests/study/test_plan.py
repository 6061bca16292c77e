"""A plan: what a run would do, told without doing it."""

import pytest

from nc_strategies.report.plan import duration, magnitude
from nc_strategies.study.plan import plan
from nc_strategies.study.study import StudyListener


@pytest.fixture
def planned(run):
    def make(**tuning):
        one = run(**{"max_trials": 30, **tuning})
        return one, plan(one.setup, StudyListener())

    return make


def test_it_tells_operators_and_size_and_leaves_nothing(planned):
    one, found = planned()
    assert found.types == {"Conv": (2, 5), "MatMul": (1, 5)}
    assert found.configurations == 125
    assert found.trials == found.expected_trials == 30
    assert not one.folder.exists()


def test_the_seconds_of_a_trial_are_those_that_trials_take(planned, run):
    _, found = planned()
    assert set(found.trial) == {"build", "accuracy", "latency"}
    study = run(max_trials=30)()
    measured = [sum(dict(t.evaluation.seconds).values()) for t in study.trials]
    assert found.trial_seconds == pytest.approx(sorted(measured)[len(measured) // 2], rel=1.0)


def test_a_small_space_and_a_short_timeout_limit_the_trials(planned):
    assert planned(max_trials=1000)[1].trials == 125
    _, short = planned(max_trials=0, timeout=1e-3)
    assert short.expected_trials == 0
    assert short.seconds == pytest.approx(short.preparation, abs=0.01)


def test_large_numbers_can_be_read():
    assert [magnitude(n) for n in (125, 10**6, 13**400)] == ["125", "1.0e6", "3.7e445"]
    assert [duration(s) for s in (5, 600, 36000)] == ["5 s", "10 min", "10.0 h"]
