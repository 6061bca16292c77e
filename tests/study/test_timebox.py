"""What fits into a run's time, by arithmetic on given seconds."""

import math

import pytest

from nc_strategies.config import MeasureConfig
from nc_strategies.problem import Evaluation
from nc_strategies.study.timebox import BoxRules, TimeBox


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def measured(build=2.0, accuracy=20.0, latency=10.0, latency_ms=46.0, samples=1000):
    return Evaluation(
        (("accuracy", 0.9),),
        (("latency_ms", latency_ms),),
        (("latency", 1.0),),
        (("latency", 0.0),),
        samples,
        0,
        0,
        (("build", build), ("accuracy", accuracy), ("latency", latency)),
        "graph",
    )


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def box(clock):
    def make(timeout, prepared=30.0, fp32=None, **measure):
        made = TimeBox(timeout, MeasureConfig(**measure), 3, 5, clock)
        clock.now += prepared
        made.fp32_measured(fp32 or measured())
        return made

    return make


def test_without_a_limit_everything_fits(box):
    free = box(0.0)
    assert (free.limited, free.left, free.end, free.deadline) == (False, math.inf, 0.0, 0.0)
    assert free.trial_fits(True)
    assert free.shortage() is None
    assert free.estimate_seconds_left() == free.spare_seconds == math.inf
    assert free.trials_that_fit(7) == 7
    assert free.after(free.estimate_seconds_left()) == 0.0


def test_fp32_stands_for_a_trial_until_one_was_measured(box):
    made = box(600)
    assert made.trial == {"build": 1.0, "accuracy": 20.0, "latency": 10.0}
    made.trial_measured(measured(build=1.5, accuracy=8.0, latency=5.0))
    assert made.trial_seconds == 14.5


def test_the_dearest_of_the_recent_trials_stands_for_the_next(box):
    made = box(600)
    for accuracy in (50.0, *[5.0] * (BoxRules().recent_trials - 1)):
        made.trial_measured(measured(accuracy=accuracy))
    assert made.trial["accuracy"] == 50.0
    made.trial_measured(measured(accuracy=6.0))
    assert made.trial["accuracy"] == 6.0


@pytest.mark.parametrize(
    "partial",
    [
        measured(accuracy=1.0, samples=100),
        Evaluation((), (), (), (), 1000, 0, 0, (("build", 1.0),), "known"),
    ],
)
def test_a_trial_that_stopped_early_or_was_known_says_nothing_of_the_next(box, partial):
    made = box(600)
    made.trial_measured(partial)
    assert made.trial["accuracy"] == 20.0


def test_the_first_trial_needs_the_shortest_end_only(box, clock):
    made = box(60.0, prepared=30.0)
    # Build 1, evaluate 20, time (5 + 2 * 20) runs of two models of 46 ms; build and save 4 (fp32 is built twice in 2).
    assert made.least_trial == pytest.approx(21 + 45 * 2 * 0.046)
    assert made.trial_fits(any_measured=False)
    assert not made.trial_fits(any_measured=True)
    clock.now += 5
    assert not made.trial_fits(any_measured=False)


def test_a_new_worker_is_counted_where_one_is_needed(box):
    made = box(85.0)
    assert made.trial_fits(any_measured=False)
    assert not made.trial_fits(any_measured=False, prepared=False)


def test_a_box_that_is_too_small_says_what_it_needs(box):
    shortage = box(40.0).shortage()
    now = 30 + 21 + 45 * 2 * 0.046 + 4
    # A larger budget uses more samples, for up to 10 % of it in fp32's measurement and in the trial.
    assert shortage.needed == pytest.approx(now + 0.2 / 0.8 * (now - 40))
    assert "at least 64 s are needed here" in shortage.text()
    assert box(40.0).shortage(any_measured=True) is None
    assert box(33.0).shortage(any_measured=True).needed == pytest.approx(34 + 0.25)


def test_the_end_shrinks_with_the_time_that_is_left(box, clock):
    made = box(600.0)
    seen = []
    while (ending := made.ending(5)) is not None:
        # Whatever is measured, the model can be saved after it.
        assert ending.seconds + made.least_end <= made.left
        seen.append(ending)
        clock.now += 1.0
    assert (seen[0].finalists, seen[0].runs, seen[0].compare, seen[0].preselect) == (3, 300, True, True)
    assert (seen[-1].finalists, seen[-1].runs, seen[-1].compare, seen[-1].preselect) == (1, 20, False, False)
    assert [e.finalists for e in seen] == sorted((e.finalists for e in seen), reverse=True)
    assert [e.runs for e in seen] == sorted((e.runs for e in seen), reverse=True)
    assert made.left >= made.least_end
    assert made.settling_fits(prepared=True)


def test_pruned_finalists_are_evaluated_in_any_end(box):
    made = box(100.0)
    assert made.ending(1).compare
    full = made.ending(1, pruned=True)
    assert full is None or not full.compare or full.seconds > made.ending(1).seconds


def test_the_end_holds_back_a_share_of_the_time_at_most(box):
    made = box(400.0)
    assert made.least_end <= made.end_seconds(3) <= BoxRules().end_share * 400
    assert box(40.0).end_seconds(3) == pytest.approx(box(40.0).least_end)


def test_a_trial_has_to_end_while_a_model_can_still_be_saved(box, clock):
    made = box(300.0)
    assert made.deadline + made.patience + made.least_end == pytest.approx(made.end)
    # A batch of 100 of 1000 samples takes 2 s: a call looks at the time that often.
    assert made.patience == pytest.approx(4.0)
    assert box(20.0).patience == pytest.approx(20.0 * BoxRules().patience_share)


def test_a_function_that_evaluates_models_is_waited_for_as_a_whole(box):
    made = box(300.0, fp32=measured(samples=0))
    assert made.sample_seconds == pytest.approx(0.046)
    assert made.patience == pytest.approx(300 * BoxRules().patience_share)


def test_an_estimate_leaves_time_for_a_trial_and_the_end(box):
    made = box(400.0)
    room = made.estimate_seconds_left()
    assert made.spare_seconds == made.left - made.trial_seconds - made.end_seconds(3)
    assert 0 < room <= BoxRules().estimate_share * made.spare_seconds
    assert (box(62.0).estimate_seconds_left(), box(62.0).spare_seconds) == (0.0, 0.0)


def test_what_saving_took_replaces_its_estimate(box):
    made = box(300.0)
    assert made.save_seconds == 3.0
    made.saved(0.5)
    assert made.least_end == 1.5


def test_saving_early_takes_a_share_of_the_time_of_trials(box):
    made = box(300.0)
    assert not made.may_save(spent=0.0, since=30.0)
    assert made.may_save(spent=0.0, since=41.0)
    assert not made.may_save(spent=4.0, since=41.0)


def test_what_remains_is_limited_by_trials_or_by_time(box):
    made = box(300.0)
    assert made.remaining(None) == made.left == 270
    assert made.remaining(1) == pytest.approx(31 + made.end_seconds(3))
    assert made.remaining(100) == 270
    assert made.remaining(0) == made.end_seconds(1)


def test_trials_that_fit_leave_time_for_the_end(box):
    made = box(300.0)
    fit = made.trials_that_fit(100)
    assert fit * 31 + made.end_seconds(3) <= 270 < (fit + 1) * 31 + made.end_seconds(3)
    assert made.trials_that_fit(2) == 2
    assert box(60.0).trials_that_fit(100) == 1
    assert box(40.0).trials_that_fit(100) == 0


def test_the_used_share_of_the_time_for_trials_grows_to_one(box, clock):
    made = box(200.0)
    assert made.used == 0.0  # fp32 has just been measured
    room = 200.0 - made.restart - made.end_seconds(3)
    clock.now += room / 2
    assert made.used == pytest.approx(0.5)
    clock.now += room
    assert made.used == 1.0


def test_without_a_limit_no_share_of_time_is_used(box):
    assert box(0.0).used == 0.0


def test_after_trials_that_stopped_early_a_complete_one_needs_only_the_shortest_end(box, clock):
    made = box(200.0)
    made.trial_measured(measured(build=1.0, accuracy=2.0, latency=2.0, samples=100))
    assert made.next_seconds == 5.0
    assert made.trial_seconds == 31.0  # as fp32: no complete trial was measured
    usual, complete = 5.0 + made.end_seconds(3), 31.0 + made.least_end + made.patience
    clock.now = made.end - max(usual, complete) - 0.1
    assert made.trial_fits(any_measured=True)
    assert made.left < 31.0 + made.end_seconds(3)
    clock.now += 0.2
    assert not made.trial_fits(any_measured=True)
