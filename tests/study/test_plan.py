"""A plan: what a run would do, told without doing it."""

import types

import pytest

from nc_strategies.errors import InputError
from nc_strategies.measuring import trial as measuring
from nc_strategies.measuring.extent import Allowance
from nc_strategies.report.plan import duration, magnitude
from nc_strategies.study.plan import plan
from nc_strategies.study.study import StudyListener
from nc_strategies.testing import ToyBackend, ToySettings


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


class Slow(ToyBackend):
    """Half a second for a graph, and a millisecond for a sample, by a clock that nothing else moves."""

    def __init__(self):
        super().__init__(ToySettings(simulated=True))
        self.now = 0.0

    def build(self, config):
        self.now += 0.5
        model = super().build(config)
        predict = model.predict

        def slowly(batch):
            self.now += 1e-3 * len(batch["x"])
            return predict(batch)

        model.predict = slowly
        return model


def test_the_seconds_of_a_trial_are_those_that_trials_take(run, monkeypatch):
    def counted(name):
        one = run(name, backend=Slow(), max_trials=3)
        monkeypatch.setattr(measuring, "time", types.SimpleNamespace(perf_counter=lambda: one.backend.now))
        return one

    found = plan(counted("planned").setup, StudyListener())
    assert set(found.trial) == {"build", "accuracy", "latency"}
    assert found.trial["build"] == pytest.approx(0.5)
    assert found.trial["accuracy"] == pytest.approx(0.5)
    for trial in counted("run")().trials:
        assert found.trial == pytest.approx(dict(trial.evaluation.seconds))


def test_a_small_space_and_a_short_timeout_limit_the_trials(planned, monkeypatch):
    assert planned(max_trials=1000)[1].trials == 125
    monkeypatch.setattr(Allowance, "evaluation_samples", lambda self, given, seconds: 20)
    _, short = planned(max_trials=0, timeout=1e-3)
    assert short.expected_trials == 0
    assert short.seconds == pytest.approx(short.preparation, abs=0.01)


def test_large_numbers_can_be_read():
    assert [magnitude(n) for n in (125, 10**6, 13**400)] == ["125", "1.0e6", "3.7e445"]
    assert [duration(s) for s in (5, 600, 36000)] == ["5 s", "10 min", "10.0 h"]


def test_a_few_samples_that_are_all_wrong_are_blamed_on_the_short_timeout(planned, monkeypatch):
    monkeypatch.setattr(Allowance, "evaluation_samples", lambda self, given, seconds: 2)
    with pytest.raises(
        InputError, match=r"^tuning\.timeout: it leaves time for 2 evaluation samples, on which fp32 has top1 0"
    ):
        planned(timeout=1e-3)


@pytest.mark.parametrize("count", range(3, 12))
def test_a_few_samples_that_a_short_timeout_leaves_call_no_model_poor(planned, monkeypatch, count):
    monkeypatch.setattr(Allowance, "evaluation_samples", lambda self, given, seconds: count)
    assert planned(timeout=1e-3)[1].samples == count
