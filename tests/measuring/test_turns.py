"""Timing models of several engines by turns, with engines that take a known time."""

from __future__ import annotations

import numpy as np
import pytest

from nc_strategies.errors import EngineError
from nc_strategies.measuring.turns import Entry, TurnRules, take_turns
from nc_strategies.report import engines


class Timer:
    """A bench whose sessions run at known speeds.

    Args:
        seconds: Seconds of a run in each session, by turns.
        fails: Number of turns after which it fails; 0 for never.
        log: Gets the keys of opened and run models.
    """

    def __init__(self, *seconds, fails=0, log=None):
        self.seconds, self.fails, self.log = seconds, fails, [] if log is None else log
        self.opened, self.turns = 0, 0

    def open(self, key):
        self.log.append(("open", key))
        self.opened += 1

    def turn(self, key, untimed, timed):
        self.log.append((key, untimed, timed))
        self.turns += 1
        if self.fails and self.turns > self.fails:
            raise EngineError("it broke\nin two lines")
        return self.seconds[(self.opened - 1) % len(self.seconds)]


def turns(*benches, rules=None, clock=lambda: 0.0):
    entries = [Entry(bench, f"m{number}") for number, bench in enumerate(benches)]
    return take_turns(entries, np.random.default_rng(0), rules or TurnRules(), clock)


def test_each_round_gives_every_model_a_turn_in_shuffled_order():
    log = []
    rules = TurnRules(sessions=4, rounds=5)
    found = turns(Timer(1.0, log=log), Timer(2.0, log=log), Timer(3.0, log=log), rules=rules)
    runs = [entry[0] for entry in log if entry[0] != "open"]
    rounds = [runs[place : place + 3] for place in range(0, len(runs), 3)]
    assert len(rounds) == 20
    assert all(sorted(each) == ["m0", "m1", "m2"] for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1
    assert found.timing.seconds.shape == (20, 3)
    assert found.timing.ratio(2, 0) == pytest.approx(3)


def test_the_interval_holds_what_differs_between_sessions():
    steady = turns(Timer(1.0), Timer(1.5)).timing.ratio_interval(1, 0)
    varied = turns(Timer(1.0), Timer(1.3, 1.5, 1.7)).timing.ratio_interval(1, 0)
    assert steady == pytest.approx((1.5, 1.5))
    assert varied[0] < 1.4
    assert varied[1] > 1.6


def test_a_model_that_fails_is_left_out_and_the_others_go_on():
    found = turns(Timer(1.0), Timer(2.0, fails=7), Timer(4.0))
    assert found.timed == (0, 2)
    assert found.failed == {1: "it broke"}
    assert (found.column(0), found.column(1), found.column(2)) == (0, None, 1)
    assert found.timing.ratio(1, 0) == pytest.approx(4)
    assert found.timing.runs == TurnRules().sessions * TurnRules().rounds


def test_without_any_model_that_runs_there_is_no_timing():
    found = turns(Timer(1.0, fails=1), Timer(1.0, fails=1))
    assert (found.timing, set(found.failed)) == (None, {0, 1})


def test_slow_models_get_fewer_rounds():
    now = [0.0]

    def clock():
        now[0] += 1.0
        return now[0]

    rules = TurnRules(sessions=4, rounds=50, least_rounds=3, seconds=0.1)
    assert turns(Timer(1.0), Timer(1.0), rules=rules, clock=clock).timing.runs == 4 * 3


def line(run, status="met", accuracy=0.9):
    result = {
        "backend": f"engine{run}",
        "strategy": "basic",
        "status": status,
        "goal": {"metric": "top1", "higher_is_better": True},
        "tuned": {"accuracy": accuracy, "int8_ops": 3, "fp32_ops": 1, "size_bytes": 1000},
    }
    return engines.row(str(run), result, "")


def chosen(lines, *benches, fp32=()):
    timing = turns(*benches, *fp32).timing
    plain = [len(lines) + place if fp32 else None for place in range(len(lines))]
    found = engines.add_timing(lines, timing, list(range(len(lines))), plain)
    return found["choice"], found["equal"], found["note"]


def test_the_fastest_run_that_meets_its_goal_is_chosen():
    lines = [line(0), line(1, "missed"), line(2)]
    choice, equal, note = chosen(lines, Timer(2.0), Timer(1.0), Timer(3.0))
    assert (choice, equal) == ("0", [])
    assert note.startswith("choose engine0 (run 0): the fastest that meets its goal; engine2 (run 2) takes 1.50 times")
    assert [each["ratio"] for each in lines] == pytest.approx([2, 1, 3])


def test_of_runs_that_are_equally_fast_the_most_accurate_is_chosen():
    noisy = (1.0, 1.2, 0.9, 1.1, 1.05)
    choice, equal, note = chosen([line(0), line(1, accuracy=0.92)], Timer(1.0), Timer(*noisy))
    assert (choice, equal) == ("1", ["0"])
    assert "engine0 (run 0) is as fast within the noise, and not more accurate" in note
    note = chosen([line(0), line(1)], Timer(1.0), Timer(*noisy))[2]
    assert note == "choose engine0 (run 0) or engine1 (run 1): they are equally fast within the noise"


def test_where_no_run_meets_its_goal_none_is_chosen():
    choice, _, note = chosen([line(0, "missed"), line(1, "missed")], Timer(1.0), Timer(2.0))
    assert choice is None
    assert "no run that was timed meets its goal: keep fp32" in note


def test_fp32_of_another_engine_that_is_faster_is_told():
    lines = [line(0), line(1, "missed")]
    note = chosen(lines, Timer(2.0), Timer(3.0), fp32=(Timer(4.0), Timer(1.0)))[2]
    assert note.endswith("; fp32 of one of these engines is faster than it")
    assert [each["fp32_latency_ms"] for each in lines] == pytest.approx([4000, 1000])
