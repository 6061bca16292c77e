"""The measured Pareto front of a run: its points, its limits, and what a resumed run measures again."""

import itertools
import json
from collections import Counter

import pytest

from nc_strategies.config import TuningConfig
from nc_strategies.errors import EngineError, InputError
from nc_strategies.problem import Evaluation
from nc_strategies.study import front_search
from nc_strategies.study.front import FrontPoint, non_dominated, spread
from nc_strategies.study.front_search import FrontRules
from nc_strategies.testing import ToyOp

# Every operator saves as much time; their losses double from one to the next, so that each subset has its own loss.
OPS = tuple(ToyOp(name, loss=0.006 * 2**place, time_us=60, int8_time_us=15) for place, name in enumerate("abcdef"))
SETTINGS = {"ops": OPS, "max_trials": 4, "criterion": "absolute", "tolerable_loss": 0.1, "front": 6}


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


def noisy(cost, loss, graph, **kwargs):
    done = Evaluation((), graph=graph).with_loss_ci95((loss - 0.003, loss + 0.003))
    return FrontPoint(done, cost, 0.0, loss, **{"trial": 1, **kwargs})


def test_losses_too_near_to_tell_apart_leave_slower_points_in_the_room_that_is_left():
    chosen = noisy(0.5, -0.001, "chosen", chosen=True)
    slower = [noisy(0.7, 0.002, "within"), noisy(0.8, 0.009, "beyond"), noisy(0.505, 0.001, "as fast")]
    found = spread([FP32, chosen, *slower], 6, 0.01, 0.015)
    assert [(p.cost, p.dominated, p.within_noise) for p in found] == [
        (1.0, False, True),
        (0.7, False, True),
        (0.5, False, False),
    ]
    assert costs(spread([FP32, chosen, noisy(0.4, 0.02, "fast"), *slower], 3, 0.01, 0.015)) == [1.0, 0.5, 0.4]


def test_fp32_and_the_chosen_model_stay_and_are_marked_if_they_are_dominated():
    kept = non_dominated([FP32, point(0.4, -0.01), point(0.6, 0.02, chosen=True)], 0.015)
    assert [(p.cost, p.dominated) for p in kept] == [(0.4, False), (1.0, True), (0.6, True)]


def test_points_are_spread_on_both_sides_of_the_tolerated_loss():
    crowd = [point(0.5 - i * 0.001, 0.010 + i * 1e-4) for i in range(10)]
    chosen, far = point(0.51, 0.0095, chosen=True), [point(0.8, 0.003), point(0.3, 0.05)]
    assert costs(spread([FP32, chosen, *crowd, *far], 4, 0.01, 0.015)) == [1.0, 0.8, 0.51, 0.3]


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
    decided = [p for p in points if not p["within_noise"]]
    assert all(fast["loss"] > slow["loss"] for slow, fast in itertools.pairwise(decided))
    assert not any(p["dominated"] for p in points)
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


def watch(one, interrupt_trial=0, interrupt_timing=0, broken=()):
    """Records what a run measures for its front; interrupts a call, or lets the engine fail for some graphs."""
    target = one.setup.target
    measure, time_front = target.measure, target.time_front
    one.filled, one.timings = [], []

    def measured(config, partial=False, complete=False):
        if complete:
            one.filled.append(config.fingerprint)
            if len(one.filled) == interrupt_trial:
                raise KeyboardInterrupt
        return measure(config, partial, complete)

    def timed(trials, runs):
        one.timings.append([trial.config.fingerprint for trial in trials])
        if len(one.timings) == interrupt_timing:
            raise KeyboardInterrupt
        if any(trial.number in broken for trial in trials):
            raise EngineError("no memory left")
        return time_front(trials, runs)

    target.measure, target.time_front = measured, timed
    return one


def test_all_points_are_timed_in_one_interleaved_run(run):
    one = watch(run(**SETTINGS))
    points = front_of(one())["points"]
    assert len(one.timings[0]) == 5
    assert {p["fingerprint"] for p in points[1:]} <= set(itertools.chain(*one.timings))


def test_models_that_are_too_large_together_are_timed_in_groups(run, monkeypatch):
    # A toy model has at most 600 bytes, and two fp32 models are open in each group.
    monkeypatch.setattr(front_search, "FRONT_RULES", FrontRules(open_bytes=2 * 600 + 1000))
    one = watch(run(**SETTINGS))
    front = front_of(one())
    check(front, 6)
    assert len(front["points"]) == 6
    assert max(map(len, one.timings)) < 5
    assert len(set(itertools.chain(*one.timings))) == sum(map(len, one.timings))


def test_a_resumed_run_measures_no_point_again(run):
    first = watch(run(**SETTINGS))
    before = front_of(first())
    again = watch(run(**SETTINGS))
    study = again()
    assert (again.filled, again.timings) == ([], [])
    assert [p["cost"] for p in front_of(study)["points"]] == [p["cost"] for p in before["points"]]
    assert first.journal() == again.journal()


def test_a_larger_front_measures_none_of_the_smaller_ones_points_again(run):
    first = watch(run(**{**SETTINGS, "front": 4}))
    smaller = front_of(first())
    larger = watch(run(**{**SETTINGS, "front": 8}))
    front = front_of(larger())
    check(front, 8)
    assert len(front["points"]) > len(smaller["points"])
    assert not set(first.filled) & set(larger.filled)
    assert not set(itertools.chain(*first.timings)) & set(itertools.chain(*larger.timings))


def test_a_front_that_is_asked_for_later_is_measured_from_the_trials_of_the_run(run):
    plain = run(**{**SETTINGS, "front": 0})
    plain()
    before = plain.journal()
    later = watch(run(**SETTINGS))
    front = front_of(later())
    check(front, 6)
    assert later.journal()[:4] == before
    assert len(front["points"]) == 6


def test_an_interrupt_while_gaps_are_filled_saves_the_best_and_loses_no_trial(run):
    first = watch(run(**{**SETTINGS, "max_trials": 2}), interrupt_trial=3)
    study = first()
    assert (study.stop_reason, study.front) == ("interrupted", None)
    assert study.model_path.is_file()
    kept = [line["fingerprint"] for line in first.journal()]
    assert kept[2:] == first.filled[:2]
    again = watch(run(**{**SETTINGS, "max_trials": 2}))
    check(front_of(again()), 6)
    assert not set(again.filled) & set(kept)


def test_an_interrupt_of_the_timing_keeps_the_model_and_what_was_timed(run, monkeypatch):
    monkeypatch.setattr(front_search, "FRONT_RULES", FrontRules(open_bytes=2 * 600 + 1000))
    first = watch(run(**SETTINGS), interrupt_timing=2)
    study = first()
    assert study.stop_reason == "interrupted"
    assert study.model_path.is_file()
    timed = {p["fingerprint"] for p in front_of(study)["points"] if p["role"] != "fp32"}
    assert timed == set(first.timings[0])
    again = watch(run(**SETTINGS))
    check(front_of(again()), 6)
    assert not timed & set(itertools.chain(*again.timings))
    assert again.filled == []


def test_a_point_that_the_engine_cannot_time_is_left_out_and_named(run):
    plain = run("plain", **SETTINGS)
    lost = next(p for p in front_of(plain())["points"] if not p["role"])
    one = watch(run(**SETTINGS), broken={lost["trial"]})
    study = one()
    front = front_of(study)
    check(front, 6)
    assert lost["trial"] not in {p["trial"] for p in front["points"]}
    said = f"trial {lost['trial']} could not be timed beside fp32 again: no memory left"
    assert said in front["notes"]
    assert said in study.notices


def test_a_strategys_own_front_is_measured(run):
    one = watch(run(**{**SETTINGS, "max_trials": 1}))
    default = one.make

    def offering(problem):
        strategy = default(problem)
        strategy.front = lambda count: [problem.space.default().with_op("f", "e"), problem.space.all_float()]
        return strategy

    one.make = offering
    study = one()
    notes = [trial.note for trial in study.trials if trial.config.float_ops == ("e", "f")]
    assert "front: by the strategy's own front" in notes
    assert study.space.all_float().fingerprint not in one.filled
