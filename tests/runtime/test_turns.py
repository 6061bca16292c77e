"""Runs that time on one machine take turns."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from nc_strategies.errors import OutOfTimeError
from nc_strategies.runtime import turns

HOLD = """
import sys, time
from nc_strategies.runtime.turns import turn
with turn():
    print("mine", flush=True)
    time.sleep(float(sys.argv[1]))
print(time.monotonic(), flush=True)
"""


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(turns, "_said", False)
    return tmp_path


@pytest.fixture
def hold():
    """Starts a process that has its turn for some seconds."""
    started = []

    def start(seconds):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(seconds)], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(process)
        assert process.stdout.readline() == "mine\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_timing_waits_for_that_of_another_process_and_says_so_once(hold, caplog):
    caplog.set_level("INFO")
    waits = []
    turns.on_wait(waits.append)
    try:
        other = hold(0.5)
        with turns.turn():
            mine = time.monotonic()
        hold(0.2)
        with turns.turn():
            pass
    finally:
        turns.on_wait(None)
    assert float(other.stdout.readline()) <= mine
    assert sum("waits for its turn" in text for text in caplog.messages) == 1
    assert sum(waits) == pytest.approx(0.6, abs=0.4)


def test_the_turn_of_a_process_that_dies_is_over(hold):
    other = hold(600)
    threading.Timer(0.5, os.kill, (other.pid, signal.SIGKILL)).start()
    with turns.turn():
        assert other.wait(0.2) == -signal.SIGKILL


def test_a_deadline_ends_the_wait(hold):
    hold(600)

    def check():
        raise OutOfTimeError("over")

    with pytest.raises(OutOfTimeError), turns.turn(check):
        raise AssertionError("it is not this one's turn")


def test_a_process_that_was_stopped_does_not_keep_its_turn_for_ever(hold, monkeypatch, caplog):
    monkeypatch.setattr(turns, "RULES", turns.TurnRules(most_seconds=0.2))
    os.kill(hold(600).pid, signal.SIGSTOP)
    with turns.turn():
        pass
    assert "times beside it" in caplog.text


def test_threads_of_a_process_take_turns_and_turns_may_be_nested():
    inside, most = [], []

    def work():
        for _ in range(20):
            with turns.turn(), turns.turn():
                inside.append(1)
                most.append(len(inside))
                time.sleep(1e-4)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert most == [1] * 80


def test_a_turn_ends_with_an_error(hold):
    with pytest.raises(KeyError), turns.turn():
        raise KeyError
    hold(0.0)


def test_without_a_cache_there_are_no_turns_but_no_error(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with turns.turn():
        pass


def test_a_turn_without_others_takes_no_time():
    start = time.perf_counter()
    for _ in range(100):
        with turns.turn():
            pass
    assert time.perf_counter() - start < 2.0
