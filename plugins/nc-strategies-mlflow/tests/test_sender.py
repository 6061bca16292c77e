"""The thread that sends: in order, again after failures, never for ever."""

import threading
import time

import pytest
from nc_strategies_mlflow import sender as module
from nc_strategies_mlflow.sender import Sender


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)


def test_jobs_are_done_in_order_and_again_until_they_succeed():
    seen, errors = [], []

    def shaky(number):
        seen.append(number)
        if seen.count(number) < 3:
            raise OSError(f"no {number}")

    sender = Sender(lambda error: not errors.append(str(error)))
    for number in range(3):
        sender.put(lambda number=number: shaky(number))
    while len(seen) < 9:
        time.sleep(0.001)
    assert sender.finish(60) == 0
    assert seen == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert errors == ["no 0", "no 0", "no 1", "no 1", "no 2", "no 2"]


def test_what_is_refused_is_left_out_and_the_rest_is_done():
    seen = []

    def refused():
        raise ValueError("never")

    sender = Sender(lambda error: isinstance(error, OSError))
    sender.put(refused)
    sender.put(lambda: seen.append(1))
    assert sender.finish(60) == 1
    assert seen == [1]


def test_at_the_end_the_first_failure_ends_it():
    tried = []

    def gone():
        tried.append(1)
        raise OSError("gone")

    sender = Sender(lambda _: True)
    for _ in range(5):
        sender.put(gone)
    while not tried:
        time.sleep(0.001)
    before = len(tried)
    assert sender.finish(60) == 5
    assert len(tried) <= before + 2


def test_the_end_waits_no_longer_than_it_may():
    never = threading.Event()
    sender = Sender(lambda _: True)
    sender.put(lambda: bool(never.wait(60)))
    sender.put(lambda: None)
    start = time.monotonic()
    unsent = sender.finish(0.2)
    assert time.monotonic() - start < 50
    assert unsent >= 2
    never.set()


def test_a_full_queue_makes_nobody_wait(monkeypatch):
    monkeypatch.setattr(module, "LONGEST_QUEUE", 2)
    never, busy = threading.Event(), threading.Event()
    sender = Sender(lambda _: True)
    sender.put(lambda: bool(busy.set() or never.wait(60)))
    busy.wait(60)
    for _ in range(5):
        sender.put(lambda: None)
    never.set()
    assert sender.finish(60) == 3
