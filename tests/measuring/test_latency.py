"""Latency: side by side, and an interval of the ratio that can be believed."""

import threading
import time

import numpy as np
import pytest

from nc_strategies.errors import EngineError
from nc_strategies.measuring.latency import TIMING_RULES, Timing, interleave

SIMULATIONS = 200


class Simulated:
    """A clock that callables move on by about the seconds they should take."""

    def __init__(self, rng):
        self.now, self.rng = 0.0, rng

    def __call__(self):
        return self.now

    def busy(self, seconds):
        def run():
            self.now += seconds * self.rng.lognormal(0, 0.05)

        return run


def test_all_runs_are_made_in_one_thread_that_is_not_the_callers():
    made, before = [], set(threading.enumerate())
    interleave([lambda: made.append(threading.get_ident())] * 2, 3, np.random.default_rng(0))
    assert set(made) != {threading.get_ident()}
    assert len(set(made)) == 1
    assert set(threading.enumerate()) <= before


def test_what_a_run_raises_is_raised():
    def fails():
        raise EngineError("no more memory")

    with pytest.raises(EngineError, match="no more memory"):
        interleave([fails], 3, np.random.default_rng(0))


def shared_drift(rng, runs):
    """The machine's speed: an autocorrelated factor which both models see, and now and then a hiccup."""
    noise = rng.normal(0, 0.05, runs)
    for i in range(1, runs):
        noise[i] += 0.95 * noise[i - 1]
    return np.exp(noise)


def simulate(rng, runs, ratio, drift):
    own = rng.lognormal(0, 0.05, (runs, 2))
    own[rng.random((runs, 2)) < 0.03] *= 3.0
    speed = shared_drift(rng, runs)[:, None] if drift else 1.0
    return Timing(1e-3 * np.array([1.0, ratio]) * own * speed)


def coverage(runs, ratio, drift):
    rng = np.random.default_rng(11)
    hits = 0
    for _ in range(SIMULATIONS):
        low, high = simulate(rng, runs, ratio, drift).ratio_interval(1, 0)
        hits += low <= ratio <= high
    return hits / SIMULATIONS


@pytest.mark.parametrize("ratio", [1.0, 0.6])
@pytest.mark.parametrize("runs", [TIMING_RULES.least_runs, 100, 300])
def test_the_interval_covers_the_true_ratio_nine_times_in_ten(runs, ratio):
    assert coverage(runs, ratio, drift=False) >= 0.9


@pytest.mark.parametrize("runs", [TIMING_RULES.least_runs, 100, 300])
def test_the_interval_covers_also_where_both_models_see_the_machine_drift(runs):
    assert coverage(runs, 0.6, drift=True) >= 0.9


@pytest.mark.parametrize("drift", [False, True], ids=["independent", "shared drift"])
def test_the_interval_is_narrow_enough_to_tell_a_tenth(drift):
    rng = np.random.default_rng(12)
    told = [simulate(rng, 100, 0.9, drift).ratio_interval(1, 0)[1] < 1.0 for _ in range(100)]
    assert np.mean(told) > 0.9


def test_more_runs_make_the_interval_narrower():
    def width(runs):
        rng = np.random.default_rng(13)
        return np.mean([np.subtract(*simulate(rng, runs, 1.0, False).ratio_interval(1, 0)[::-1]) for _ in range(50)])

    assert width(1000) < 0.5 * width(100)


def test_the_interval_of_the_median_covers_it():
    rng = np.random.default_rng(14)
    hits = 0
    for _ in range(SIMULATIONS):
        low, high = Timing(1e-3 * rng.lognormal(0, 0.2, (100, 1))).interval_ms(0)
        hits += low <= 1.0 <= high
    assert hits / SIMULATIONS >= 0.92


def test_medians_are_in_milliseconds_and_a_hiccup_does_not_move_the_ratio():
    seconds = np.tile([1e-3, 2e-3], (40, 1))
    seconds[[3, 17], [0, 1]] = 0.05
    timing = Timing(seconds)
    assert timing.runs == 40
    assert timing.median_ms(0) == pytest.approx(1.0)
    assert timing.ratio(1, 0) == pytest.approx(2.0)
    assert timing.ratio(0, 1) == pytest.approx(0.5)


def test_the_ratio_lies_inside_its_interval():
    rng = np.random.default_rng(15)
    for runs in (20, 37, 100, 301):
        timing = simulate(rng, runs, 0.7, True)
        low, high = timing.ratio_interval(1, 0)
        assert low < timing.ratio(1, 0) < high


def test_two_identical_callables_cannot_be_told_apart_and_different_ones_can():
    rng = np.random.default_rng(16)
    clock = Simulated(rng)
    timing = interleave([clock.busy(3e-4), clock.busy(3e-4), clock.busy(6e-4)], 60, rng, clock=clock)
    low, high = timing.ratio_interval(1, 0)
    assert low <= 1.0 <= high
    assert 1.9 < timing.ratio(2, 0) < 2.1
    assert timing.ratio_interval(2, 0)[0] > 1.0
    assert timing.median_ms(0) == pytest.approx(0.3, rel=0.05)


def test_what_is_timed_is_the_callable_alone():
    clock = Simulated(np.random.default_rng(17))
    timing = interleave([clock.busy(2e-3), lambda: None], 20, np.random.default_rng(17), clock=clock)
    assert timing.seconds[:, 1].tolist() == [0.0] * 20
    assert timing.median_ms(0) == pytest.approx(2.0, rel=0.05)


def test_without_a_clock_real_seconds_count():
    assert interleave([lambda: time.sleep(2e-3)], 20, np.random.default_rng(17)).median_ms(0) >= 2.0


def test_each_round_warms_and_times_every_callable_in_an_order_that_changes():
    calls = []
    interleave(
        [lambda: calls.append(0), lambda: calls.append(1), lambda: calls.append(2)], 50, np.random.default_rng(18)
    )
    warm_up = TIMING_RULES.warm_up_runs
    assert calls[: 3 * warm_up] == [0] * warm_up + [1] * warm_up + [2] * warm_up
    timed = calls[3 * warm_up :]
    assert timed[::2] == timed[1::2]
    rounds = [tuple(timed[i : i + 6 : 2]) for i in range(0, len(timed), 6)]
    assert len(rounds) == 50
    assert all(sorted(one) == [0, 1, 2] for one in rounds)
    assert len(set(rounds)) == 6


def test_a_limit_stops_timing_but_not_before_the_least_runs():
    limited = interleave([lambda: time.sleep(1e-3)], 1000, np.random.default_rng(19), limit=1e-6)
    assert limited.runs == TIMING_RULES.least_runs
    assert (limited.seconds > 0).all()


def test_no_limit_runs_all_rounds():
    assert interleave([lambda: None], 137, np.random.default_rng(20)).runs == 137


def test_a_limit_that_is_not_reached_changes_nothing():
    assert interleave([lambda: None], 137, np.random.default_rng(20), limit=60.0).runs == 137


def test_the_interval_over_sessions_holds_what_sets_them_apart():
    # Each session runs 5 % faster or slower for life, and is all but free of noise itself.
    rng, hits = np.random.default_rng(6), 0
    for _ in range(400):
        sessions = []
        for _ in range(5):
            true = np.array([1.0, 0.8]) * np.exp(rng.normal(0, 0.05, 2))
            sessions.append(Timing(true * rng.lognormal(0, 0.002, (60, 2))))
        low, high = Timing.joined(sessions).ratio_interval(1, 0)
        hits += low <= 0.8 <= high
    assert hits / 400 >= 0.92


def test_joined_timings_keep_all_runs_and_the_mean_of_the_sessions_ratios():
    one = Timing(np.tile([2.0, 1.0], (20, 1)))
    other = Timing(np.tile([4.0, 3.0], (40, 1)))
    both = Timing.joined([one, other, one, other])
    assert both.runs == 120
    assert both.ratio(1, 0) == pytest.approx(np.exp(np.mean(np.log([0.5, 0.75, 0.5, 0.75]))))
