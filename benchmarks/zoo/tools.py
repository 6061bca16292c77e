"""What runs on a case: this project, and each peer, in a process of its own that is watched and timed from outside."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers.cells import lines_of, tail
from peers.environments import PEERS as PICTURE_PEERS
from peers.environments import Peer, ensure, variables

from zoo.cases import Case
from zoo.prepare import Places

ROOT = Path(__file__).resolve().parents[2]
Cell = dict[str, Any]
OURS = "ours"
POLL = 0.1
"""Seconds between two looks at a running tool."""

PEERS = {
    "static": Peer("run_onnxruntime.py"),
    "static_u8s8": Peer("run_onnxruntime.py"),
    "dynamic": Peer("run_onnxruntime.py"),
    "dynamic7": Peer("run_onnxruntime.py"),
    "inc": PICTURE_PEERS["inc"],
    "nncf": PICTURE_PEERS["nncf"],
    # It imports requests without asking for it.
    "olive": Peer(
        "run_olive.py",
        (
            "olive-ai==0.13.0",
            "onnx==1.23.2",
            "onnxruntime==1.32.0",
            "numpy==2.4.6",
            "requests==2.32.5",
        ),
    ),
    "optuna": Peer("run_optuna.py", ("optuna==5.0.0", "onnx==1.23.2", "onnxruntime==1.32.0", "numpy==2.4.6")),
}
"""Other tools. Those without packages run in this project's environment, which holds onnxruntime anyway."""
BLIND = ("static", "static_u8s8", "dynamic", "dynamic7", "inc", "nncf")
"""Tools whose model does not depend on measured latency: two of them may run at a time, each on its processor.

Neural Compressor stops at the first model that keeps the goal, so that its own timing of evaluations decides nothing.
"""


@dataclass(frozen=True)
class Terms:
    """What is equal for all tools.

    Args:
        limit: Seconds that a tool may take, from process start; a tool that knows a time budget is given this one.
        grace: Seconds after the limit for handing over what was found.
        cpu: The processor that each process is pinned to.
        runs: Timed runs of each model when it is judged.
    """

    limit: float = 60.0
    grace: float = 20.0
    cpu: int = 0
    runs: int = 300

    def of(self, tool: str) -> dict[str, Any]:
        """What a result of a tool depends on; another value makes a finished one stale."""
        packages = list(PEERS[tool].packages) if tool in PEERS else []
        return {"limit": self.limit, "packages": packages}


def python_of(tool: str, places: Places, base: str) -> str:
    """Interpreter of a tool's environment, which is made when it is not there."""
    return ensure(tool, PEERS[tool].packages, places.folder / "environments", base) if tool in PEERS else sys.executable


def run(tool: str, case: Case, places: Places, terms: Terms, base: str) -> Cell:
    """Run a tool on a case whose files are prepared; never raises for what the tool does.

    Returns:
        ``ended`` (finished, capped: killed at the limit, failed), ``seconds`` (whole process), ``goal_seconds`` (from
        process start to the first quantized model that met the goal on all samples; None if none did),
        ``evaluations``, ``model`` (file), ``error`` (last line of the log), ``peak_mib``, and ours: ``result``.
    """
    folder = places.of(case) / tool
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if tool == OURS:
        return _ours(case, places, terms, folder)
    return _peer(tool, case, places, terms, folder, base)


def _peer(tool: str, case: Case, places: Places, terms: Terms, folder: Path, base: str) -> Cell:
    output, events = folder / "model.onnx", folder / "events.jsonl"
    task = {
        "case": case.name,
        "model": str(places.model(case)),
        "data": str(places.of(case)),
        "output": str(output),
        "events": str(events),
        "method": tool,
        "limit": terms.limit,
    }
    (folder / "task.json").write_text(json.dumps(task, indent=2) + "\n")
    python = python_of(tool, places, base)
    command = [python, str(Path(__file__).with_name(PEERS[tool].driver)), str(folder / "task.json")]
    start, seconds, status, peak = watch(command, folder, terms, {}, lambda: None)
    lines = lines_of(events)
    saved = any(e["event"] == "saved" for e in lines) and output.is_file()
    fp32 = next((e["accuracy"] for e in lines if e["event"] == "baseline"), None)
    evaluations = [e for e in lines if e["event"] == "evaluation" and e["quantized"] and e["all"]]
    threshold = None if fp32 is None else fp32 - case.tolerable_loss
    goal = None if threshold is None else next((e["time"] for e in evaluations if e["accuracy"] >= threshold), None)
    return {
        "ended": ended(status),
        "seconds": seconds,
        "goal_seconds": None if goal is None else goal - start,
        "evaluations": len(evaluations),
        "model": str(output.relative_to(places.folder)) if saved else None,
        "error": None if status == 0 else tail(folder),
        "peak_mib": peak,
    }


def _ours(case: Case, places: Places, terms: Terms, folder: Path) -> Cell:
    run_dir = folder / "run"
    metrics = ROOT / "benchmarks" / "zoo" / "metrics.py"
    command = [sys.executable, "-m", "nc_strategies"]
    command += case.command(places.model(case), places.of(case), metrics, terms.limit)
    command.append(f"run_dir={run_dir}")
    journal, seen = run_dir / "trials.jsonl", list[tuple[float, Cell]]()

    def look() -> None:
        # The journal is written after each trial and says when none.
        for line in lines_of(journal)[len(seen) :]:
            seen.append((time.time(), line))

    start, seconds, status, peak = watch(command, folder, terms, {"PYTHONPATH": str(ROOT)}, look)
    look()
    result = json.loads((run_dir / "result.json").read_text()) if (run_dir / "result.json").is_file() else None
    threshold = result["goal"]["threshold"] if result and result.get("goal") else None
    good = [at for at, t in seen if threshold is not None and t["state"] == "ok" and t["accuracy"] >= threshold]
    model = run_dir / result["model_path"] if result and result.get("model_path") else None
    return {
        "ended": "finished" if result and status in (0, 3) else ended(status),
        "seconds": seconds,
        "goal_seconds": good[0] - start if good else None,
        "evaluations": sum(t["state"] == "ok" for _, t in seen),
        "model": str(model.relative_to(places.folder)) if model is not None and model.exists() else None,
        "error": None if result else tail(folder),
        "peak_mib": peak,
        "status": status,
        "result": result,
    }


def ended(status: int | None) -> str:
    """How a process ended: its status is None where it was killed at the limit."""
    return "capped" if status is None else "failed" if status else "finished"


def watch(
    command: list[str], folder: Path, terms: Terms, extra: dict[str, str], look: Callable[[], object]
) -> tuple[float, float, int | None, float | None]:
    """Run a command pinned to one processor, with a limit.

    Returns:
        When it started, its seconds, its exit status (None: killed at the limit), its peak memory in MiB.
    """
    with (folder / "log.txt").open("wb") as log:
        start = time.time()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=variables(extra),
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            # Not in the child before it starts: that is unsafe where several threads start processes.
            os.sched_setaffinity(process.pid, {terms.cpu})
            while True:
                found, status, usage = os.wait4(process.pid, os.WNOHANG)
                if found:
                    process.returncode = os.waitstatus_to_exitcode(status)
                    return start, time.time() - start, process.returncode, usage.ru_maxrss / 1024
                look()
                if time.time() - start > terms.limit + terms.grace:
                    return start, time.time() - start, None, None
                time.sleep(POLL)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
