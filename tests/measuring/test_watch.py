"""What processes evaluate, as a run learns it from its worker: a real worker process, a target of a few lines."""

import time

import pytest

from nc_strategies.config import TuningConfig
from nc_strategies.errors import EngineError
from nc_strategies.measuring.shares import Usage
from nc_strategies.measuring.worker.target import WorkerTarget

MODULE = """
import os
import time
from nc_strategies.measuring.shares import Usage

class Target:
    def __init__(self):
        self.usage = Usage()

    def watch(self, listener):
        self.listener = listener

    def until(self, deadline):
        pass

    def workers(self):
        return self.usage.to_dict(2)

    def measure(self, config):
        self.usage.begin(4)
        self.usage.add("a", [0, 1], [1.0, 1.0])
        self.listener(self.usage.to_dict(2))
        if config == "crash":
            os._exit(3)
        self.usage.end()
        return time.monotonic()

def make(settings):
    return Target()
"""


@pytest.fixture
def target(tmp_path, monkeypatch):
    (tmp_path / "ncs_watched_target.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    made = WorkerTarget("ncs_watched_target:make", None, TuningConfig())
    yield made
    made.close()


def test_a_worker_tells_what_processes_do_during_a_call_and_a_crash_loses_no_count(target):
    told = []
    target.watch(told.append)
    target.measure("first")
    assert [usage["evaluation"]["latest"] for usage in told] == [{"a": 2}]
    with pytest.raises(EngineError):
        target.measure("crash")
    # Nothing is started for an answer that is known.
    assert target._child is None
    counted = target.workers()
    assert target._child is None
    assert counted["batches"] == {"a": 4}
    assert "evaluation" not in counted
    target.measure("after")
    assert target.workers()["batches"] == {"a": 6}
    assert told[-1]["batches"] == {"a": 6}
    assert target.workers()["busy_seconds"] == {"a": 6.0}
    assert set(counted) == set(Usage().to_dict(2))


def test_the_worker_goes_on_when_the_run_has_shown_what_it_told(target):
    shown = []

    def show(usage):
        time.sleep(0.2)
        shown.append(time.monotonic())

    target.watch(show)
    assert target.measure("first") >= shown[0]  # one clock for all processes of a machine
