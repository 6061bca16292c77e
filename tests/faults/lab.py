"""A command line to hurt: a toy problem, and a backend with faults, as a plugin that is found but not installed.

The toy backend keeps a clock of its own, which latency is measured with: the same configuration always has the same
latency, so that what an interrupted run ends with can be compared with what an uninterrupted one does.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np

from nc_strategies.testing import ToyOp

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SAMPLES = 1500
MEASURE = ["measure.latency_runs=20", "measure.final_runs=20"]


def toy_ops(count=12):
    rng = np.random.default_rng(3)
    losses = rng.lognormal(0, 1.5, count)
    times = rng.lognormal(0, 0.8, count)
    return [
        ToyOp(
            f"op{i}",
            ("Conv", "MatMul")[i % 2],
            loss=float(losses[i] / losses.sum() * 0.05),
            time_us=float(times[i] * 40),
            int8_time_us=float(times[i] * 16),
        )
        for i in range(count)
    ]


class Lab:
    """Writes a toy problem into a folder and runs the command line on it."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "model.toy").write_text(json.dumps([asdict(op) for op in toy_ops()]))
        labels = np.arange(SAMPLES) % 2
        np.savez(folder / "data.npz", x=labels + (np.arange(SAMPLES) * 0.618034) % 1.0, y=labels)
        found = folder / "site" / "ncs_faulty-0.dist-info"
        found.mkdir(parents=True)
        (found / "METADATA").write_text("Metadata-Version: 2.1\nName: ncs-faulty\nVersion: 0\n")
        (found / "entry_points.txt").write_text("[nc_strategies]\nfaulty = ncs_faulty\n")
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT), str(HERE / "plugin"), str(folder / "site"), os.environ.get("PYTHONPATH", "")]
            ),
        }

    def toy(self, *more):
        """Arguments of a run on the toy problem."""
        return [
            "backend=faulty",
            "model=toy",
            f"model.path={self.folder / 'model.toy'}",
            "data=npz",
            f"data.path={self.folder / 'data.npz'}",
            "data.calibration_samples=20",
            f"measure.evaluation_batch_size={SAMPLES}",
            *MEASURE,
            *more,
        ]

    def start(self, *arguments, env=None, **kwargs):
        return subprocess.Popen(
            [sys.executable, "-m", "nc_strategies", *arguments],
            cwd=self.folder,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**self.environment, **(env or {})},
            **kwargs,
        )

    def run(self, *arguments, env=None, timeout=300):
        process = self.start(*arguments, env=env)
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
        return process.returncode, out, err

    def journal(self, name="run"):
        path = self.folder / name / "trials.jsonl"
        return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []

    def result(self, name="run"):
        return json.loads((self.folder / name / "result.json").read_text())

    def errors(self, name="run"):
        return Counter(line["error"] for line in self.journal(name) if line["error"])

    def wait_until_stuck(self):
        """Until a fault of the kind that hangs has begun."""
        wait_for((self.folder / "stuck").exists)

    def log(self, name="run"):
        return (self.folder / name / "nc_strategies.log").read_text()


def wait_for(condition, seconds=120.0):
    """Wait until something holds.

    Raises:
        TimeoutError: it never did.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("waited in vain")
        time.sleep(0.01)


def workers(parent):
    """Process ids of a run's workers, by what /proc says."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                status = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if (
                b"nc_strategies.measuring.worker.server" in words
                and words[-2].decode() == str(parent)
                and status[0] != "Z"
            ):
                found.append(int(entry.name))
    return found


def _wait_for_more(process, path, size):
    wait_for(lambda: process.poll() is not None or (path.exists() and path.stat().st_size > size), 300)


def kill_and_resume(lab, arguments, name, rng, most=8):
    """Kill a run with SIGKILL at random moments until one gets to its end, looking at the journal each time.

    Args:
        lab: Where.
        arguments: Of the run, without its ``run_dir``.
        name: Its ``run_dir``.
        rng: Chooses the moments.
        most: Kills at most; then the run is left alone.

    Returns:
        The number of kills.

    Raises:
        AssertionError: a line was lost or changed, a configuration was measured twice, or the run ended badly.
        TimeoutError: a worker outlived its run.
    """
    before, path, kills = b"", lab.folder / name / "trials.jsonl", 0
    while True:
        process = lab.start(*arguments, f"run_dir={name}")
        if kills < most:
            # Most moments lie where trials are measured, the first in any case, before a fast machine is through; those
            # before the journal exists are tried now and then.
            if rng.random() < 0.8 or not kills:
                _wait_for_more(process, path, len(before))
                time.sleep(rng.exponential(0.3) if kills else 0.0)
            else:
                time.sleep(rng.uniform(0.2, 6.0))
        else:
            process.wait(600)
        if process.poll() is None:
            process.kill()
            kills += 1
        out, err = process.communicate(timeout=300)
        now = path.read_bytes() if path.exists() else b""
        whole = now[: now.rfind(b"\n") + 1]
        assert whole.startswith(before), "a line of the journal was lost or changed"
        before = whole
        lines = [json.loads(line) for line in whole.splitlines()]
        prints = [line["fingerprint"] for line in lines]
        assert len(set(prints)) == len(prints), "a configuration was measured twice"
        wait_for(lambda pid=process.pid: not workers(pid))
        if process.returncode != -9:
            assert process.returncode in (0, 3), (process.returncode, out, err)
            assert "Traceback" not in err, err
            return kills
