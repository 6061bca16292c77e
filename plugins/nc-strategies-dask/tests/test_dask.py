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
from functools import partial

import psutil
import pytest
from nc_strategies_dask.executor import without_secrets

from nc_strategies.app import target as targets
from nc_strategies.app.settings import run_config
from nc_strategies.errors import InputError
from nc_strategies.measuring import shares
from nc_strategies.report import analysis
from nc_strategies.report import result as results
from nc_strategies.strategies.random import RandomStrategy
from nc_strategies.strategies.settings import RandomSettings
from nc_strategies.study.executor import SerialExecutor
from nc_strategies.study.folder import RunFolder
from nc_strategies.study.setup import Setup
from nc_strategies.study.tune import tune

STARTED = 60.0
"""Seconds that a scheduler or worker may take to start."""


@contextlib.contextmanager
def cluster(folder, workers):
    """``dask scheduler`` and ``dask worker``; yields the address, the scheduler's process and those of the workers."""
    environment = {**os.environ, "DASK_DISTRIBUTED__WORKER__DAEMON": "False"}
    with contextlib.ExitStack() as stack:

        def start(*arguments):
            log = stack.enter_context((folder / f"{arguments[0]}-{len(list(folder.iterdir()))}.log").open("w+"))
            command = [sys.executable, "-m", "dask", *arguments]
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

        scheduler, log = start("scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0")
        address = line(log, r"Scheduler at:\s+(tcp://\S+)")
        started = [start("worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny") for _ in range(workers)]
        for _, log in started:
            line(log, r"(Registered to)")
        yield address, scheduler, [process for process, _ in started]


def settings_of(executor, trials=1):
    return run_config(
        {
            "strategy": {"name": "random"},
            "backend": {"name": "onnxruntime", "recovery": "none", "modes": "static"},
            "model": {"name": "sample"},
            "data": {"name": "sample", "calibration_samples": 20},
            # The size of a model does not vary from run to run, so that the choice does not.
            "metrics": {"name": "accuracy_size", "objectives": ["size"]},
            "executor": executor,
            "tuning": {"max_trials": trials},
            "measure": {"latency_runs": 20, "final_runs": 20},
        }
    )


def tuned(folder, executor, trials):
    """A whole run in this process: its result."""
    settings = settings_of(executor, trials)
    target = targets.build(settings)
    setup = Setup(settings, target, partial(RandomStrategy, RandomSettings()), SerialExecutor())
    try:
        study = tune(setup, RunFolder(folder))
        analysis.write(study)
        return results.write(study, setup)
    finally:
        target.close()


def journal(folder):
    """Each trial without its timings."""
    trials = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    return [(t["number"], t["state"], t["config"], t["accuracy"], t["evaluation"]["samples"]) for t in trials]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Share evaluations that take less than a second, in small portions."""
    monkeypatch.setattr(shares, "SHARING_RULES", replace(shares.SHARING_RULES, least_seconds=0.0, portion_seconds=0.01))
    monkeypatch.setattr(shares.Sharing, "_pays", staticmethod(lambda spent, gain: True))


@pytest.fixture
def killing(monkeypatch):
    """Kill processes while this one runs its first batches of some evaluations, counted from 1."""

    def arrange(victims):
        run, evaluations = shares._Evaluation._run, []

        def killed(self, *arguments):
            if self not in evaluations:
                evaluations.append(self)
                if len(evaluations) in victims:
                    victims[len(evaluations)].send_signal(signal.SIGKILL)
            return run(self, *arguments)

        monkeypatch.setattr(shares._Evaluation, "_run", killed)

    return arrange


def test_a_run_that_loses_a_worker_and_the_scheduler_is_the_serial_one_and_resumes(tmp_path, killing, caplog):
    expected = tuned(tmp_path / "serial", {"name": "serial"}, 4)
    (tmp_path / "logs").mkdir()
    with cluster(tmp_path / "logs", 2) as (address, scheduler, workers), caplog.at_level(logging.INFO, "nc_strategies"):
        killing({2: workers[0], 3: scheduler})
        executor = {"name": "dask", "address": address, "timeout": 1.0}
        tuned(tmp_path / "dask", executor, 3)
        # Nothing is lost, nothing twice: the same configurations, accuracies and samples in the same order.
        assert journal(tmp_path / "dask") == journal(tmp_path / "serial")[:3]
        usage = json.loads((tmp_path / "dask" / "analysis.json").read_text())["workers"]
        assert usage["workers"] == len(usage["batches"]) == 3
        lines = [record.getMessage() for record in caplog.records if record.name.startswith("nc_strategies")]
        assert len([text for text in lines if ("evaluates" in text and "lost" in text) or "alone" in text]) == 1, lines
        assert f"Dask's dashboard: {usage['dashboard']}" in lines
        assert usage["dashboard"].startswith("http://127.0.0.1:")
        with pytest.raises(InputError, match=r"executor\.address: no Dask scheduler answers at") as caught:
            tuned(tmp_path / "dask", executor, 4)
        assert "\n" not in str(caught.value)
    resumed = tuned(tmp_path / "dask", {"name": "serial"}, 4)
    assert journal(tmp_path / "dask") == journal(tmp_path / "serial")
    assert resumed["trials"] == {**expected["trials"], "resumed": 3}
    for key in ("trial", "accuracy", "size_bytes", "config"):
        assert resumed["tuned"][key] == expected["tuned"][key]


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        ("http://10.0.0.1:8787/status", "http://10.0.0.1:8787/status"),
        ("https://user:pass@host:8787/proxy/status?token=abc#abc", "https://host:8787/proxy/status"),
        ("javascript:alert(1)", ""),
        ("", ""),
    ],
)
def test_the_dashboards_address_is_shown_without_secrets(link, shown):
    assert without_secrets(link) == shown


def test_a_run_on_a_cluster_of_this_machine_ends_it(tmp_path):
    command = [sys.executable, "-m", "nc_strategies", "backend=onnxruntime", "strategy=random", "executor=dask"]
    command += ["executor.workers=1", "backend.recovery=none", "tuning.max_trials=1", f"run_dir={tmp_path / 'run'}"]
    command += ["measure.latency_runs=20", "measure.final_runs=20", "data.calibration_samples=50"]
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
        targets.sharing(targets.TARGET, None, settings_of({"name": "dask", **settings}))
    assert "\n" not in str(caught.value)
