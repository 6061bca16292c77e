"""One cell of the comparison: one tool on one case, in a process of its own that is watched and timed from outside."""

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

from peers.environments import PEERS, python_of, variables

ROOT = Path(__file__).resolve().parents[2]
GRACE = 300.0
"""Seconds after the limit for handing over a model that met the goal within it."""
POLL = 0.2
Cell = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A model with a granularity of weights, and the data prepared for it (paths)."""

    name: str
    model: Path
    granularity: str
    evaluation: Path
    calibration: Path


@dataclass(frozen=True)
class Terms:
    """What is equal for all tools.

    Args:
        samples: Evaluation samples.
        calibration_samples: Calibration samples.
        tolerable_loss: Relative loss of top-1 that is accepted.
        batch_size: Samples in one run of an evaluation.
        limit: Seconds from process start within which the goal must be met.
        cpu: The processor that everything is pinned to.
    """

    samples: int
    calibration_samples: int
    tolerable_loss: float
    batch_size: int
    limit: float
    cpu: int


def run_peer(name: str, case: Case, terms: Terms, folder: Path, work: Path, base: str) -> Cell:
    """Run another tool.

    Args:
        name: Key of `PEERS`.
        case: What to quantize.
        terms: What is equal for all.
        folder: The cell's own, emptied first.
        work: Folder that keeps environments.
        base: Interpreter that environments are made with.
    """
    python = sys.executable if not PEERS[name].packages else python_of(name, work, base)
    _empty(folder)
    output, events = folder / "model.onnx", folder / "events.jsonl"
    task = {
        "model": str(case.model),
        "evaluation": str(case.evaluation),
        "calibration": str(case.calibration),
        "output": str(output),
        "events": str(events),
        "granularity": case.granularity,
        "variant": PEERS[name].variant,
        "tolerable_loss": terms.tolerable_loss,
        "batch_size": terms.batch_size,
    }
    (folder / "task.json").write_text(json.dumps(task, indent=2) + "\n")
    driver = Path(__file__).with_name(PEERS[name].driver)

    def met_in_time(start: float) -> bool:
        return _from_events(lines_of(events), start, terms)["goal_s"] is not None

    start, wall, status = _watch([python, str(driver), str(folder / "task.json")], folder, terms, met_in_time, {})
    cell = _from_events(lines_of(events), start, terms)
    handed_over = any(e["event"] == "saved" for e in lines_of(events))
    ended = "capped" if status is None else "failed" if status else "finished"
    return {
        **cell,
        "ended": ended,
        "wall_s": wall,
        "model": str(output) if handed_over else None,
        "error": tail(folder) if status else None,
    }


def _from_events(events: list[Cell], start: float, terms: Terms) -> Cell:
    """Facts from a driver's log; the first evaluation on all samples is that of fp32."""
    prepared = next((e["time"] - start for e in events if e["event"] == "prepared"), None)
    evaluations = [e for e in events if e["event"] == "evaluation"]
    whole = [e for e in evaluations if e["samples"] >= terms.samples]
    fp32, trials = whole[:1], whole[1:]
    partial = [e for e in evaluations if e["samples"] < terms.samples]
    threshold = fp32[0]["accuracy"] * (1 - terms.tolerable_loss) if fp32 else 2.0
    goal = next((e["time"] - start for e in trials if e["accuracy"] >= threshold), None)
    return {
        "prepare_s": prepared,
        "goal_s": goal if goal is not None and goal <= terms.limit else None,
        "evaluations": len(trials),
        "partial": len(partial),
        "evaluated": sum(e["samples"] for e in (*trials, *partial)),
    }


def run_ours(tool: str, case: Case, terms: Terms, folder: Path) -> Cell:
    """Run this project's command line.

    Args:
        tool: A strategy, which runs until the goal is first met; with ``@N``, it spends a budget of N trials.
        case: What to quantize.
        terms: What is equal for all.
        folder: The cell's own, emptied first.
    """
    _empty(folder)
    run_dir = folder / "run"
    command = _our_command(tool, case, terms, run_dir)
    paths = os.pathsep.join([str(ROOT), *(str(p) for p in sorted(ROOT.glob("plugins/*/src")))])
    start, wall, status = _watch(command, folder, terms, lambda _: True, {"PYTHONPATH": paths})
    result = run_dir / "result.json"
    trials = lines_of(run_dir / "trials.jsonl")
    found = json.loads(result.read_text()) if result.is_file() else None
    cell: Cell = {
        "ended": "capped" if status is None else "finished" if found else "failed",
        "wall_s": wall,
        "prepare_s": None,
        "goal_s": None,
        "partial": 0,
        "model": None,
        "error": None,
        "evaluations": sum(t["samples"] >= terms.samples for t in trials),
        "evaluated": sum(t["samples"] for t in trials),
    }
    if found is None:
        return {**cell, "error": tail(folder)}
    return {**cell, **_from_result(found, run_dir, start, wall, terms)}


def _our_command(tool: str, case: Case, terms: Terms, run_dir: Path) -> list[str]:
    """The command line of a run, see `run_ours`."""
    strategy, _, budget = tool.partition("@")
    command = [
        sys.executable,
        "-m",
        "nc_strategies",
        f"strategy={strategy}",
        "backend=onnxruntime",
        "model=onnx",
        f"model.path={case.model}",
        "data=npz",
        f"data.path={case.evaluation}",
        f"data.calibration_path={case.calibration}",
        f"data.calibration_samples={terms.calibration_samples}",
        f"tuning.tolerable_loss={terms.tolerable_loss}",
        f"tuning.timeout={terms.limit:g}",
        "measure.threads=1",
        f"measure.evaluation_batch_size={terms.batch_size}",
        f"run_dir={run_dir}",
        f"tuning.max_trials={budget}" if budget else "tuning.stop_when=met",
    ]
    if case.granularity == "per_tensor":
        command.append('space.op_name_dict={".*": {weight: {granularity: [per_tensor]}}}')
    if strategy == "sigopt":
        command.append("strategy.driver=local")
    return command


def _from_result(found: Cell, run_dir: Path, start: float, wall: float, terms: Terms) -> Cell:
    """Facts from ``result.json``, and from when the journal was last written."""
    journal = run_dir / "trials.jsonl"
    # The journal is written after each trial and the run stopped at the one that met the goal.
    met = journal.stat().st_mtime - start if found["stop_reason"] == "met" and found["status"] == "met" else None
    return {
        "prepare_s": wall - found["seconds"]["total"],
        "stages": found["seconds"],
        "goal_s": met if met is not None and met <= terms.limit else None,
        "model": str(run_dir / found["model_path"]) if found["status"] == "met" and found["model_path"] else None,
    }


def _watch(
    command: list[str], folder: Path, terms: Terms, may_finish: Callable[[float], bool], extra: dict[str, str]
) -> tuple[float, float, int | None]:
    """Run a command pinned to one processor: when it started, how long it took, its exit status (None: killed)."""
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
            preexec_fn=lambda: os.sched_setaffinity(0, {terms.cpu}),
        )
        try:
            while True:
                try:
                    status = process.wait(POLL)
                    return start, time.time() - start, status
                except subprocess.TimeoutExpired:
                    passed = time.time() - start
                if passed > terms.limit + GRACE or (passed > terms.limit and not may_finish(start)):
                    return start, time.time() - start, None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def lines_of(path: Path) -> list[Cell]:
    """The whole lines of a JSON-lines file; a killed writer may have left half a one."""
    text = path.read_text() if path.is_file() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def tail(folder: Path) -> str:
    """The last line that a process wrote."""
    lines = [line for line in (folder / "log.txt").read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "ended without a word"
