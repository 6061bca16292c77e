"""The measured Pareto front of a run: its points, its limits, and what a resumed run measures again."""

import itertools
import json
from collections import Counter

import pytest

from nc_strategies.config import TuningConfig
from nc_strategies.errors import EngineError, InputError
from nc_strategies.problem import Evaluation, TrialState
from nc_strategies.study.front import FrontPoint, non_dominated, read_earlier, spread
from nc_strategies.testing import ToyOp

# Every operator saves as much time; their losses double from one to the next, so that each subset has its own loss.
OPS = tuple(ToyOp(name, loss=0.002 * 2**place, time_us=60, int8_time_us=15) for place, name in enumerate("abcdef"))
SETTINGS = {"ops": OPS, "max_trials": 4, "criterion": "absolute", "tolerable_loss": 0.02, "front": 6}


def point(cost, loss, reach=0.0, trial=1, chosen=False):
    return FrontPoint(Evaluation(()), cost, reach, loss, trial, chosen)


def costs(points):
    return [p.cost for p in points]


FP32 = point(1.0, 0.0, trial=None)


def test_a_slower_point_stays_only_with_less_loss():
    kept = non_dominated([FP32, point(0.5, 0.02), point(0.6, 0.02), point(0.7, 0.03), point(0.8, 0.01)], 0.015)
    assert costs(kept) == [1.0, 0.8, 0.5]


def test_of_equally_fast_points_the_more_accurate_one_stays():
    assert costs(non_dominated([FP32, point(0.5, 0.02), point(0.505, 0.01)], 0.015)) == [1.0, 0.505]
    assert costs(non_dominated([FP32, point(0.5, 0.02), point(0.505, 0.01)], 0.0)) == [1.0, 0.505, 0.5]


def test_points_whose_intervals_meet_are_equally_fast():
    slow, fast = point(0.53, 0.01, reach=0.05), point(0.5, 0.02, reach=0.05)
    assert costs(non_dominated([FP32, slow, fast], 0.015)) == [1.0, 0.53]


def test_the_chosen_model_stays_instead_of_an_equally_fast_one():
    other, chosen = point(0.505, 0.01), point(0.5, 0.02, chosen=True)
    kept = non_dominated([FP32, other, chosen], 0.015)
    assert costs(kept) == [1.0, 0.5]
    assert not kept[-1].dominated


def test_fp32_and_the_chosen_model_stay_and_are_marked_if_they_are_dominated():
    kept = non_dominated([FP32, point(0.4, -0.01), point(0.6, 0.02, chosen=True)], 0.015)
    assert [(p.cost, p.dominated) for p in kept] == [(0.4, False), (1.0, True), (0.6, True)]


def test_points_are_spread_on_both_sides_of_the_tolerated_loss():
    crowd = [point(0.5 - i * 0.001, 0.010 + i * 1e-4) for i in range(10)]
    chosen, far = point(0.51, 0.0095, chosen=True), [point(0.8, 0.003), point(0.3, 0.05)]
    assert costs(spread([FP32, chosen, *crowd, *far], 4, 0.01)) == [1.0, 0.8, 0.51, 0.3]


@pytest.mark.parametrize("front", [1, 2, -1])
def test_a_front_without_room_for_a_third_point_is_refused(front):
    with pytest.raises(InputError, match=f"tuning.front: is {front}; 0 for no front, or at least 3"):
        TuningConfig(front=front).validate()



def front_of(study):
    return json.loads((study.run_dir / "front.json").read_text())


def check(front, asked):
    """What holds for every front: its size, its order, and that no point is dominated."""
    points = front["points"]
    assert 3 <= len(points) <= asked
    assert points[0]["role"] == "fp32"
    assert [p["point"] for p in points] == list(range(1, len(points) + 1))
    assert Counter(p["role"] for p in points if p["role"]) == {"fp32": 1, "chosen": 1}
    for slow, fast in itertools.pairwise(points):
        assert fast["cost"] < slow["cost"]
        assert fast["loss"] > slow["loss"]
    for p in points:
        assert p["samples"] == 500
        assert p["loss_ci95"][0] <= p["loss"] <= p["loss_ci95"][1]
        assert p["speedup_ci95"][0] <= p["speedup"] <= p["speedup_ci95"][1]
        assert p["keeps_goal"] == (p["loss"] <= front["tolerated_loss"] + 1e-9)


def test_a_front_has_the_points_asked_for_on_both_sides_of_the_tolerated_loss(run):
    study = run(**SETTINGS)()
    front = front_of(study)
    check(front, 6)
    assert len(front["points"]) == front["asked"] == 6
    assert front["notes"] == []
    losses = [p["loss"] for p in front["points"]]
    assert sum(0 < loss < front["tolerated_loss"] for loss in losses) >= 1
    assert sum(loss > front["tolerated_loss"] for loss in losses) >= 1


@pytest.mark.parametrize("asked", [3, 4, 12])
def test_a_front_has_no_more_points_than_asked_for(run, asked):
    front = front_of(run(**{**SETTINGS, "front": asked})())
    check(front, asked)


def test_without_the_setting_no_front_is_measured(run):
    study = run(**{**SETTINGS, "front": 0})()
    assert study.front is None
    assert not (study.run_dir / "front.json").exists()
    assert len(study.trials) == 4


def test_points_beyond_the_goal_are_evaluated_on_all_samples_and_recorded_as_trials(run):
    one = run(**{**SETTINGS, "count": 500})
    study = one()
    lines = {line["number"]: line for line in one.journal()}
    added = [line for line in lines.values() if line["note"].startswith("front: ")]
    assert added
    assert {line["state"] for line in added} == {"ok"}
    for p in front_of(study)["points"][1:]:
        assert lines[p["trial"]]["fingerprint"] == p["fingerprint"]
    assert len(study.trials) == len(lines) == 4 + len(added)
