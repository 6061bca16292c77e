"""Trials that are stopped early: pruned, kept, replayed, never returned without an evaluation of everything."""

import pytest

from nc_strategies.api import Metric, TrialState
from nc_strategies.report.result import as_dict
from nc_strategies.study.study import Status
from nc_strategies.testing import ToyOp

MIXED = (ToyOp("a", loss=0.001, time_us=60), ToyOp("b", "MatMul", loss=0.3, time_us=30), ToyOp("c", time_us=60))
HOPELESS = (ToyOp("a", loss=0.4, time_us=60), ToyOp("b", loss=0.3, time_us=60))


@pytest.fixture
def stopping(run):
    """A run that stops early, on 2,000 samples in batches of 100."""

    def make(name="run", **kwargs):
        return run(name, **{"early_stop": True, "count": 2000, **kwargs})

    return make


def test_hopeless_trials_are_pruned_and_the_rest_is_evaluated_on_everything(stopping):
    study = stopping(ops=MIXED, max_trials=12)()
    pruned = [t for t in study.trials if t.state is TrialState.PRUNED]
    assert pruned
    for trial in study.trials:
        hopeless = not trial.config.schemes["b"].is_float
        assert (trial.state is TrialState.PRUNED) == hopeless
        assert (trial.evaluation.samples <= 500) == hopeless
    assert all(t.evaluation.metric("accuracy") == pytest.approx(0.6, abs=0.2) for t in pruned)
    assert study.best.ok
    assert study.final.evaluation.samples == 2000
    assert study.status is Status.MET


def test_stopping_early_decides_as_evaluating_everything_does(stopping):
    early, whole = (
        stopping(name, ops=MIXED, max_trials=12, early_stop=stop)()
        for name, stop in (("early", True), ("whole", False))
    )
    assert [t.config for t in early.trials] == [t.config for t in whole.trials]
    assert [study.goal.feasible(t.evaluation) for study in (early,) for t in study.trials] == [
        whole.goal.feasible(t.evaluation) for t in whole.trials
    ]
    assert not any(t.state is TrialState.PRUNED for t in whole.trials)
    complete = {t.config: t.evaluation.metric("accuracy") for t in whole.trials}
    for trial in early.trials:
        if trial.ok:
            assert trial.evaluation.metric("accuracy") == pytest.approx(complete[trial.config])


@pytest.mark.parametrize("strategy", ["random", "basic"])
def test_a_run_of_only_pruned_trials_leaves_the_closest_evaluated_on_everything(stopping, strategy):
    one = stopping(ops=HOPELESS, strategy=strategy, max_trials=3)
    # All-float would meet the accuracy: only what is tried counts, and all of it is hopeless.
    one.config.space.op_type_dict = {"Conv": {"activation": {"dtype": ["uint8"]}, "weight": {"dtype": ["int8"]}}}
    study = one()
    assert {t.state for t in study.trials} == {TrialState.PRUNED}
    assert study.status is Status.MISSED
    assert study.final.evaluation.samples == 2000
    assert study.final.evaluation.metric("accuracy") == pytest.approx(0.2, abs=0.11)
    assert study.model_path.is_file()
    result = as_dict(study, one.setup)
    assert (result["trials"]["pruned"], result["trials"]["ok"]) == (3, 0)
    assert result["tuned"]["accuracy_loss_ci95"] is not None


def test_pruned_trials_are_no_failures(stopping):
    one = stopping(ops=HOPELESS, max_trials=5, max_consecutive_failures=2)
    one.config.space.op_type_dict = {"Conv": {"activation": {"dtype": ["uint8"]}, "weight": {"dtype": ["int8"]}}}
    assert one().stop_reason == "budget"


def test_a_resumed_run_takes_pruned_trials_as_they_were(stopping):
    stopping(ops=MIXED, max_trials=6)()
    again = stopping(ops=MIXED, max_trials=9)
    study = again()
    states = [(t.state, t.resumed) for t in study.trials]
    assert len(states) == 9
    assert states[:6] == [(t, True) for t, _ in states[:6]]
    assert [line["state"] for line in again.journal()] == [str(state) for state, _ in states]
    assert any(state is TrialState.PRUNED for state, resumed in states if resumed)


class Share(Metric):
    """Accuracy, but without scores of single samples."""

    def compute(self, outputs, labels):
        return float((outputs.argmax(1) == labels).mean())


def test_a_metric_without_scores_is_evaluated_on_everything(stopping):
    one = stopping(ops=MIXED, max_trials=4)
    one.parts.metric = Share()
    assert all(t.ok and t.evaluation.samples == 2000 for t in one().trials)
