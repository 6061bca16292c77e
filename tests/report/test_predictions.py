"""Predicted against measured cost: what is compared, what is counted, what is said and drawn."""

from dataclasses import replace

import pytest

from nc_strategies.problem import Evaluation, Prediction, Trial, TrialState
from nc_strategies.report import explain, predictions
from nc_strategies.report.run_files import RunFiles
from nc_strategies.space import Config

GOAL = {"threshold": 0.9, "baseline": 0.95, "higher_is_better": True, "criterion": "absolute", "tolerable_loss": 0.05}
BASE = {"accuracy": 0.95, "latency_ms": 2.0, "size_bytes": 1000}


def trial(number, measured, predicted=None, state=TrialState.OK):
    done = Evaluation((("accuracy", 0.95),), (("latency_ms", 2 * measured),), (("latency", measured),))
    return Trial(number, Config(()), state, None if state is TrialState.FAILED else done, predicted=predicted)


@pytest.fixture
def run(tmp_path):
    trials = (
        trial(1, 0.5),
        trial(2, 0.6, Prediction(0.5, 0.1)),
        trial(3, 0.8, Prediction(0.5, 0.1)),
        trial(4, 0.5, Prediction(0.5, 0.0)),
        trial(5, 0.5, Prediction(0.5, 0.1), TrialState.FAILED),
    )
    return RunFiles(tmp_path, {"goal": {**GOAL, "metric": "top1"}, "baseline": BASE}, trials=trials)


def test_trials_with_a_prediction_and_a_measurement_are_compared(run):
    rows = predictions.compared(run.goal, run.trials)
    assert [(r.trial, r.within) for r in rows] == [(2, True), (3, False), (4, True)]
    assert rows[0].interval == pytest.approx((0.304, 0.696))
    assert predictions.coverage(rows) == pytest.approx(2 / 3)
    assert predictions.scatter(rows) == pytest.approx(((0.2**2 + 0.6**2) / 3) ** 0.5)


def test_an_explanation_states_how_many_predictions_held(run):
    assert predictions.remarks(run)[0] in explain.why(run, [])
    assert "3 trials" in predictions.remarks(run)[0]
    assert "2 lie in their 95 % intervals" in predictions.remarks(run)[0]


def test_nothing_is_said_or_drawn_of_a_strategy_that_predicts_nothing(run):
    plain = replace(run, trials=tuple(replace(t, predicted=None) for t in run.trials))
    assert predictions.remarks(plain) == []
    assert predictions.chart(plain) is None
    assert predictions.coverage([]) is None


def test_too_few_predictions_are_drawn_but_not_judged(run):
    few = replace(run, trials=run.trials[:3])
    assert predictions.remarks(few) == []
    assert len(predictions.chart(few)["data"]["values"]) == 2


def test_the_chart_shows_the_interval_and_what_was_measured(run):
    values = predictions.chart(run)["data"]["values"]
    assert values[0] == {
        "trial": 2,
        "predicted": 0.5,
        "low": 0.304,
        "high": 0.696,
        "measured": 0.6,
        "state": predictions.WITHIN,
    }
    assert [v["state"] for v in values] == [predictions.WITHIN, predictions.OUTSIDE, predictions.WITHIN]


def test_the_verdict_says_why_the_strategy_ended(run):
    result = {
        **run.result,
        "stop_reason": "finished",
        "seconds": {"total": 3.0},
        "speedup": 2.0,
        "speedup_ci95": [1.9, 2.1],
        "tuned": {"accuracy": 0.95, "size_bytes": 500, "int8_ops": 1, "fp32_ops": 1},
    }
    assert "the strategy had nothing left to try" in explain.verdict(replace(run, result=result))[-1]
    noted = {**result, "stop_note": "remaining differences (0.4%) are below the timing noise (6.0%)"}
    assert explain.verdict(replace(run, result=noted))[-1].endswith(
        "because remaining differences (0.4%) are below the timing noise (6.0%)."
    )
