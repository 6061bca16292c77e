"""What was measured, read by name and kept in the journal."""

import json

import pytest

from nc_strategies.problem import Evaluation, Trial, TrialState
from nc_strategies.space import Config

FULL = Evaluation(
    (("accuracy", 0.9),),
    (("latency_ms", 1.25),),
    (("latency", 0.5),),
    (("latency", 0.01),),
    1000,
    7,
    2,
    (("build", 0.1), ("accuracy", 2.0)),
    "abc",
)


def test_values_are_read_by_name():
    assert (FULL.metric("accuracy"), FULL.value("latency_ms"), FULL.ratio("latency")) == (0.9, 1.25, 0.5)
    for read in (FULL.metric, FULL.value, FULL.ratio):
        with pytest.raises(KeyError):
            read("nothing")


def test_an_evaluation_survives_json():
    assert Evaluation.from_dict(json.loads(json.dumps(FULL.to_dict()))) == FULL


def test_only_a_trial_measured_completely_is_ok():
    states = {state: Trial(1, Config(()), state, FULL).ok for state in TrialState}
    assert states == {TrialState.OK: True, TrialState.FAILED: False, TrialState.PRUNED: False}
    assert not Trial(1, Config(()), TrialState.OK).ok
