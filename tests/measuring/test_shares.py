"""Evaluation shared among processes: real processes, the real engine, the bundled sample."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from nc_strategies import config as configs
from nc_strategies.app import target as targets
from nc_strategies.app.settings import run_config
from nc_strategies.measuring import shares
from nc_strategies.measuring.extent import Allowance
from nc_strategies.space import Space

GROUPS = {
    "strategy": {"name": "random"},
    "backend": {"name": "onnxruntime", "recovery": "none", "modes": "static"},
    "model": {"name": "sample"},
    "data": {"name": "sample", "calibration_samples": 20},
    "executor": {"name": "processes", "workers": 2},
}


def opened(workers: int, **tuning):
    """A target with its baseline, and the space."""
    executor = {"name": "processes", "workers": workers} if workers > 1 else {"name": "serial"}
    settings = run_config({**GROUPS, "executor": executor, "tuning": tuning, "measure": {"latency_runs": 20}})
    target = targets.build(settings)
    target.load()
    target.allow(Allowance())
    space = Space(target.calibrate())
    target.baseline(space)
    return target, space


def running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Share evaluations that take less than a second, in small portions."""
    monkeypatch.setattr(shares, "SHARING_RULES", replace(shares.SHARING_RULES, least_seconds=0.0, portion_seconds=0.01))
    monkeypatch.setattr(shares.Sharing, "_pays", staticmethod(lambda spent, gain: True))


@pytest.fixture(scope="module")
def alone():
    return opened(1)


@pytest.fixture(scope="module")
def shared():
    target, space = opened(2)
    yield target, space
    target.close()


def test_two_processes_give_the_metrics_of_one(alone, shared):
    (one, space), (two, _) = alone, shared
    config = space.default()
    serial, both = one.measure(config), two.measure(config)
    assert both.metrics == serial.metrics
    assert both.samples == serial.samples == 3000
    assert both.graph == serial.graph
    usage = two.workers()
    assert usage["workers"] == 2
    assert "evaluation" not in usage
    assert set(usage["idle_shares"]) == set(usage["batches"])
    assert all(0 <= share < 1 for share in usage["idle_shares"].values())
    assert set(usage["batches"]) - {shares.HERE}, "the other process ran nothing"
    assert sum(usage["batches"].values()) == 30
    assert 0 <= usage["idle_share"] < 1
    assert one.workers() == {}


def test_what_each_process_does_is_told_during_an_evaluation_and_at_its_end(shared, monkeypatch):
    target, space = shared
    monkeypatch.setattr(shares, "SHARING_RULES", replace(shares.SHARING_RULES, watch_seconds=0.0))
    target.measurer._graphs.clear()
    told = []
    target.watch(told.append)
    target.measure(space.default())
    monkeypatch.setattr(target.sharing, "watch", None)
    *during, last = told
    states = [usage["evaluation"] for usage in during]
    assert states, "nothing was told during the evaluation"
    assert [state["done"] for state in states] == sorted(state["done"] for state in states)
    assert all(state["batches"] == 30 for state in states)
    assert max(number for state in states for number in state["latest"].values()) <= 30
    assert states[-1]["done"] > states[0]["done"]
    assert "evaluation" not in last
    assert last["shared_seconds"] > during[-1]["shared_seconds"] - 0.01
    target.measurer._graphs.clear()


def test_what_was_evaluated_before_an_engine_was_started_anew_counts():
    first, second = shares.Usage(), shares.Usage()
    first.add("a", [0, 1], [1.0, 1.0])
    second.add("a", [0], [1.0])
    second.add("b", [1, 2], [1.0, 0.0])
    first.elapsed, second.elapsed, second.lost = 2.0, 2.0, 1
    found = shares.summed(first.to_dict(2), second.to_dict(2))
    assert found["batches"] == {"a": 3, "b": 2}
    assert found["busy_seconds"] == {"a": 3.0, "b": 1.0}
    assert found["idle_shares"] == {"a": 0.25, "b": 0.75}
    assert (found["shared_seconds"], found["idle_share"], found["lost"]) == (4.0, 0.5, 1)
    assert shares.summed({}, second.to_dict(2)) == second.to_dict(2)


def test_early_stopping_reads_the_samples_that_one_process_reads(alone, shared):
    (one, space), (two, _) = alone, shared
    worst = space.default()

    def stopping(target, monkeypatch):
        monkeypatch.setattr(target.measurer, "limit", lambda value: -0.2)  # a gain of 0.2 is asked for: hopeless
        target.measurer._graphs.clear()
        return target.measure(worst)

    with pytest.MonkeyPatch.context() as patch:
        serial, both = stopping(one, patch), stopping(two, patch)
    assert serial.samples == both.samples < 3000
    assert serial.metrics == both.metrics
    one.measurer._graphs.clear()
    two.measurer._graphs.clear()


def test_nothing_runs_elsewhere_while_a_model_is_timed(shared, monkeypatch):
    target, space = shared
    target.measurer._graphs.clear()
    # Large portions, and a trial that stops in the first one: the next is then under way in the other process.
    monkeypatch.setattr(shares, "SHARING_RULES", replace(shares.SHARING_RULES, portion_seconds=10.0))
    monkeypatch.setattr(target.measurer, "limit", lambda value: -0.2)
    other, drain = target.sharing.pool.submit(os.getpid).result(), shares._Evaluation.drain

    def halted(self):
        os.kill(other, signal.SIGSTOP)  # as if its batch took half a second longer
        threading.Timer(0.5, os.kill, (other, signal.SIGCONT)).start()
        left.append(len(self._parts))
        drain(self)

    left = []
    monkeypatch.setattr(shares._Evaluation, "drain", halted)
    under_way = []
    futures, submit = [], target.sharing.pool.submit

    def watched(*arguments):
        futures.append(submit(*arguments))
        return futures[-1]

    monkeypatch.setattr(target.sharing.pool, "submit", watched)
    time_them = target.measurer._time

    def timed(*arguments, **options):
        under_way.append(sum(not future.done() for future in futures))
        return time_them(*arguments, **options)

    monkeypatch.setattr(target.measurer, "_time", timed)
    assert target.measure(space.default()).samples < 3000
    target.measurer._graphs.clear()
    assert left, "the trial was not shared"
    assert under_way
    assert not any(under_way)


def test_a_killed_process_loses_no_sample_and_is_replaced(alone, shared, monkeypatch, caplog):
    (one, space), (two, _) = alone, shared
    two.measurer._graphs.clear()
    victim = two.sharing.pool.submit(os.getpid).result()
    killed = []
    run = shares._Evaluation._run

    def killing(self, *arguments):
        if not killed:
            killed.append(victim)
            os.kill(victim, signal.SIGKILL)
        return run(self, *arguments)

    monkeypatch.setattr(shares._Evaluation, "_run", killing)
    with caplog.at_level(logging.WARNING):
        found = two.measure(space.default())
    assert found.metrics == one.measure(space.default()).metrics
    assert "a process that evaluates was lost" in caplog.text
    assert two.workers()["lost"] == 1
    two.measurer._graphs.clear()
    before = dict(two.workers()["batches"])
    again = two.measure(space.default())
    assert again.metrics == found.metrics
    new = set(two.workers()["batches"]) - set(before)
    assert new, "no new process took part"
    assert f":{victim}" not in str(new)


def test_a_process_that_cannot_open_the_data_leaves_this_one_alone(monkeypatch, caplog):
    settings = run_config({**GROUPS, "measure": {"latency_runs": 20}})
    target = targets.build(settings)
    target.sharing.origin = replace(target.sharing.origin, factory="nc_strategies.nothing:here")
    target.load()
    target.allow(Allowance())
    space = Space(target.calibrate())
    with caplog.at_level(logging.WARNING):
        target.baseline(space)
    assert "the other processes cannot evaluate" in caplog.text
    assert target.measure(space.default()).samples == 3000
    assert target.workers()["batches"] == {}
    target.close()


def test_calls_from_threads_of_one_process_wait_for_each_other(monkeypatch):
    inside, most = [], []

    def hold(origin):
        inside.append(origin)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()

    monkeypatch.setattr(shares, "_hold", hold)
    with ThreadPoolExecutor(4) as threads:
        assert all(portion.error is None for portion in threads.map(shares.prepare, range(4)))
    assert most == [1, 1, 1, 1]


def test_outputs_in_a_buffer_that_an_engine_reuses_are_copied(monkeypatch):
    buffer = np.zeros(1)

    def predict(batch):
        buffer[:] = batch
        return [buffer]

    held = SimpleNamespace(use=lambda view: None, open=lambda *model: SimpleNamespace(predict=predict), data=None)
    monkeypatch.setattr(shares, "_hold", lambda origin: held)
    monkeypatch.setattr(shares, "some_runs", lambda data, size, numbers: [SimpleNamespace(batch=n) for n in numbers])
    portion = shares.run_batches(None, None, "model", None, None, 1, [1, 2, 3], [0])
    assert [float(first[0]) for (first,) in portion.outputs] == [1.0, 2.0, 3.0]


def test_short_evaluations_are_not_shared(monkeypatch):
    monkeypatch.setattr(shares, "SHARING_RULES", replace(shares.SHARING_RULES, least_seconds=1e9))
    sharing = shares.Sharing(None, shares.Origin("a:b", 1))
    monkeypatch.setattr(shares.Sharing, "workers", 2)
    with sharing.source(lambda folder: folder, None, [0], 1.0, 100) as source:
        assert source is None


def test_processes_that_are_lost_between_two_evaluations_leave_this_one_alone(caplog):
    class Lost:
        workers, same_files = 2, False

        def share(self, data):
            raise ConnectionError("closed")

        def restart(self):
            raise ConnectionError("the scheduler does not answer")

    def save(folder):
        folder.write_bytes(b"model")
        return folder

    sharing = shares.Sharing(Lost(), shares.Origin("a:b", 1))
    with caplog.at_level(logging.WARNING), sharing.source(save, None, [0], 10.0, 100) as source:
        assert source is None
    assert len(caplog.records) == 1
    assert "(ConnectionError: the scheduler does not answer): this one evaluates alone" in caplog.text
    assert sharing.usage.lost == 1
    assert sharing.to_dict()["alone"]


def test_other_processes_get_no_secrets():
    settings = run_config({**GROUPS, "strategy": {"name": "random", "token": "secret"}})
    sharing = targets.sharing(targets.TARGET, settings, settings)
    assert sharing.origin.settings.strategy == {"name": "random"}
    assert sharing.origin.settings.executor == {"name": "serial"}
    sharing.close()


def test_processes_end_with_the_target():
    settings = run_config(GROUPS)
    sharing = targets.sharing(targets.TARGET, settings, settings)
    pid = sharing.pool.submit(os.getpid).result()
    sharing.close()
    until = time.monotonic() + 10
    while running(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not running(pid)


@pytest.mark.parametrize("workers", [-1])
def test_a_negative_number_of_workers_is_refused(workers):
    with pytest.raises(configs.InputError, match=r"executor\.workers: is -1"):
        targets.sharing(
            targets.TARGET, None, run_config({**GROUPS, "executor": {"name": "processes", "workers": workers}})
        )
