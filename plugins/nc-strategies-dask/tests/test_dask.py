"""A real scheduler and real workers in processes of their own, the real engine, the bundled sample."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from nc_strategies.app import target as targets
from nc_strategies.app.settings import run_config
from nc_strategies.errors import InputError
from nc_strategies.measuring import shares
from nc_strategies.measuring.extent import Allowance
from nc_strategies.space import Space

STARTED = 60.0
"""Seconds that a scheduler or worker may take to start."""


@contextlib.contextmanager
def cluster(folder, workers):
    """A scheduler and workers; yields the address, the scheduler's process and those of the workers."""
    environment = {**os.environ, "DASK_DISTRIBUTED__WORKER__DAEMON": "False"}
    with contextlib.ExitStack() as stack:

        def start(*arguments):
            log = stack.enter_context((folder / f"{arguments[0]}-{len(list(folder.iterdir()))}.log").open("w+"))
            command = [sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:]]
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process, log.name

        def line(log, pattern):
            until = time.monotonic() + STARTED
            while time.monotonic() < until:
                with open(log) as file:
                    if found := re.search(pattern, file.read()):
                        return found.group(1)
                time.sleep(0.1)
            with open(log) as file:
                pytest.fail(f"nothing like {pattern} within {STARTED:g} s: {file.read()[-2000:]}")

        scheduler, log = start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        address = line(log, r"Scheduler at:\s+(tcp://\S+)")
        started = [
            start("dask_worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny") for _ in range(workers)
        ]
        for _, log in started:
            line(log, r"(Registered to)")
        yield address, scheduler, [process for process, _ in started]


def opened(executor):
    settings = run_config(
        {
            "strategy": {"name": "random"},
            "backend": {"name": "onnxruntime", "recovery": "none", "modes": "static"},
            "model": {"name": "sample"},
            "data": {"name": "sample", "calibration_samples": 20},
            "executor": executor,
            "measure": {"latency_runs": 20},
        }
    )
    target = targets.build(settings)
    target.load()
    target.allow(Allowance())
    space = Space(target.calibrate())
    target.baseline(space)
    return target, space


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Share evaluations that take less than a second, in small portions."""
    monkeypatch.setattr(shares, "SHARING_RULES", replace(shares.SHARING_RULES, least_seconds=0.0, portion_seconds=0.01))
    monkeypatch.setattr(shares.Sharing, "_pays", staticmethod(lambda spent, gain: True))


@pytest.fixture
def killing(monkeypatch):
    """Kill a process in mid-trial, once."""

    def arrange(process):
        run, done = shares._Evaluation._run, []

        def killed(self, runs):
            if not done:
                done.append(process)
                process.send_signal(signal.SIGKILL)
            return run(self, runs)

        monkeypatch.setattr(shares._Evaluation, "_run", killed)

    return arrange


def test_workers_scheduler_and_their_loss(tmp_path, killing, caplog):
    serial, space = opened({"name": "serial"})
    expected = serial.measure(space.default())
    with cluster(tmp_path, 2) as (address, scheduler, workers):
        target, _ = opened({"name": "dask", "address": address})
        # Both workers and this process evaluate, and find what one process finds.
        assert target.measure(space.default()).metrics == expected.metrics
        assert len(target.workers()["batches"]) == 3
        assert sum(target.workers()["batches"].values()) == 30

        # One worker is killed in mid-trial: nothing lost, nothing twice.
        target.measurer._graphs.clear()
        killing(workers[0])
        found = target.measure(space.default())
        assert (found.metrics, found.samples) == (expected.metrics, 3000)

        # The scheduler is killed: the run goes on alone, and says so in one line.
        target.measurer._graphs.clear()
        killing(scheduler)
        with caplog.at_level(logging.WARNING, "nc_strategies"):
            found = target.measure(space.default())
        assert (found.metrics, found.samples) == (expected.metrics, 3000)
        lines = [record.getMessage() for record in caplog.records if record.name.startswith("nc_strategies")]
        assert len([text for text in lines if "evaluates alone" in text]) == 1, lines
        target.close()


def test_a_run_on_a_cluster_of_this_machine_ends_it(tmp_path):
    command = [sys.executable, "-m", "nc_strategies", "backend=onnxruntime", "strategy=random", "executor=dask"]
    command += ["executor.workers=1", "backend.recovery=none", "tuning.max_trials=1", f"run_dir={tmp_path / 'run'}"]
    command += ["measure.latency_runs=20", "measure.final_runs=20"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode in (0, 3), done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["executor"]["name"] == "dask"
    assert result["executor"]["workers"] == 2
    assert "Dask's dashboard: http://127.0.0.1" in (tmp_path / "run" / "nc_strategies.log").read_text()
    mark = str(tmp_path)
    assert not [p.pid for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == mark], "a process of the run is left"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"address": "tcp://127.0.0.1:9", "timeout": 1.0}, r"executor\.address: no Dask scheduler answers at"),
        ({"workers": -1}, r"executor\.workers: is -1"),
        ({"timeout": 0.0}, r"executor\.timeout: is 0"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(settings, message):
    with pytest.raises(InputError, match=message) as caught:
        targets.sharing(targets.TARGET, None, run_config({
            "strategy": {"name": "random"}, "backend": {"name": "onnxruntime"}, "model": {"name": "sample"},
            "data": {"name": "sample"}, "executor": {"name": "dask", **settings},
        }))  # fmt: skip
    assert "\n" not in str(caught.value)
