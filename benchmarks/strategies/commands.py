"""Each strategy's command, on both samples and both backends: exit status and files."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

MODELS = ("sample", "sample_text")
BACKENDS = ("onnxruntime", "tensorflow")
FILES = ("result.json", "trials.jsonl", "config.yaml", "report.html", "nc_strategies.log", "model")
ARGUMENTS = {"sigopt": ("driver=local",), "exhaustive": (f"limit={10**60}",)}
"""Settings of strategies without which they would need a server, or would refuse the space of a whole model."""
NO_GRADIENTS = ("hawq_v2", "onnxruntime")
"""A strategy and a backend that refuses it before anything is measured."""
REFUSED, MET, MISSED = 2, 0, 3


@dataclass(frozen=True)
class Ran:
    """One command.

    Args:
        strategy: The strategy.
        model: The sample.
        backend: The backend.
        status: Exit status.
        result: ``status`` of ``result.json``; empty without that file.
        trials: Number of trials.
        speedup: Speed-up of the saved model; 0 without one.
        missing: Files of a run that are not there.
        seconds: Seconds of the command.
        problem: What is wrong, in one line; empty if nothing is.
    """

    strategy: str
    model: str
    backend: str
    status: int
    result: str
    trials: int
    speedup: float
    missing: tuple[str, ...]
    seconds: float
    problem: str


def command(strategy: str, model: str, backend: str, trials: int, folder: Path) -> list[str]:
    """The command of a run."""
    settings = [f"strategy.{argument}" for argument in ARGUMENTS.get(strategy, ())]
    return [
        sys.executable, "-m", "nc_strategies", f"strategy={strategy}", *settings, f"backend={backend}",
        f"model={model}", f"data={model}", f"tuning.max_trials={trials}", f"run_dir={folder}",
    ]  # fmt: skip


def judged(strategy: str, model: str, backend: str, status: int, folder: Path, trials: int, seconds: float) -> Ran:
    """What a command has left, and what is wrong with it."""
    path = folder / "result.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    missing = tuple(name for name in FILES if not (folder / name).exists())
    ran = int(found.get("trials", {}).get("total", 0))
    problem = ""
    if (strategy, backend) == NO_GRADIENTS:
        if status != REFUSED or folder.exists():
            problem = f"status {status} instead of {REFUSED}, or a folder is left"
    elif {MET: "met", MISSED: "missed"}.get(status, "a verdict") != found.get("status"):
        problem = f"status {status}, result {found.get('status')!r}"
    elif missing:
        problem = f"no {', '.join(missing)}"
    elif not 0 < ran <= trials:
        problem = f"{ran} trials of {trials}"
    speedup = float(found.get("speedup") or 0.0)
    return Ran(strategy, model, backend, status, str(found.get("status", "")), ran, speedup, missing, seconds, problem)


def run(names: Sequence[str], work: Path, trials: int, seconds: float) -> list[Ran]:
    """Run all commands until the seconds have passed; what has run before in this folder is not run again."""
    work.mkdir(parents=True, exist_ok=True)
    journal = work / "commands.jsonl"
    done: dict[tuple[str, str, str], Ran] = {}
    if journal.is_file():
        for line in journal.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            ran = Ran(**{**entry, "missing": tuple(entry["missing"])})
            done[ran.strategy, ran.model, ran.backend] = ran
    end = time.monotonic() + seconds
    for strategy, model, backend in ((s, m, b) for s in names for m in MODELS for b in BACKENDS):
        if (strategy, model, backend) in done or time.monotonic() > end:
            continue
        folder = work / f"{strategy}-{model}-{backend}"
        start = time.monotonic()
        called = subprocess.run(
            command(strategy, model, backend, trials, folder),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        took = time.monotonic() - start
        ran = done[strategy, model, backend] = judged(strategy, model, backend, called.returncode, folder, trials, took)
        with journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(ran)) + "\n")
        (work / f"{strategy}-{model}-{backend}.txt").write_text(called.stdout + called.stderr, encoding="utf-8")
    return list(done.values())


def table(found: Sequence[Ran], names: Sequence[str]) -> str:
    """The table of all commands of some strategies."""
    cases = [(model, backend) for model in MODELS for backend in BACKENDS]
    lines = ["| strategy | " + " | ".join(f"{m}, {b}" for m, b in cases) + " |", "| --- |" + " --- |" * len(cases)]
    for strategy in names:
        cells = {(ran.model, ran.backend): ran for ran in found if ran.strategy == strategy}
        lines.append(f"| `{strategy}` | " + " | ".join(_cell(cells.get(case)) for case in cases) + " |")
    return "\n".join(lines)


def _cell(ran: Ran | None) -> str:
    if ran is None:
        return "not run"
    if ran.problem:
        return f"**wrong: {ran.problem}**"
    if ran.status == REFUSED:
        return f"{ran.status}, refused"
    return f"{ran.status}, {ran.result}, {ran.trials} trials, {ran.speedup:.2f}x"
