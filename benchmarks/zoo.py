"""Published models: ours beside what a user would pick instead, judged in one process.

    python benchmarks/zoo.py all --folder outputs/zoo                # everything that is missing
    python benchmarks/zoo.py all --folder outputs/zoo --case minilm  # one case
    python benchmarks/zoo.py all --folder outputs/zoo --only peers   # ours, peers or judge
    python benchmarks/zoo.py fetch --folder outputs/zoo              # models, data and environments only
    python benchmarks/zoo.py inspect --folder outputs/zoo            # what this project says of each model
    python benchmarks/zoo.py report --folder outputs/zoo             # the tables again
    python benchmarks/zoo.py report --folder outputs/zoo --docs      # keep them: zoo.json, and docs/benchmarks.md
    python benchmarks/zoo.py report --docs                           # the docs again, from zoo.json

Each tool's result on each case is one JSON file below FOLDER/results; a finished one is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from zoo import prepare, report, tools  # noqa: E402  the path comes first: this script runs from a checkout
from zoo.cases import CASES, Case, case_of  # noqa: E402
from zoo.driver import is_quantized  # noqa: E402
from zoo.prepare import Places  # noqa: E402
from zoo.tools import BLIND, OURS, PEERS, Terms  # noqa: E402

from nc_strategies.report.result import write_json  # noqa: E402
from nc_strategies.runtime.machine import processor_name  # noqa: E402

JUDGE = "judge"
PREPARE_S, JUDGE_S, ONCE_S = 5.0, 15.0, 5.0
"""Usual seconds of preparing and judging a case, and of a tool without a search; the limit bounds all others."""
ONCE = ("static", "static_u8s8", "dynamic", "dynamic7")
SHARE = {"inc": 0.4, "nncf": 0.5, "olive": 0.9, "optuna": 1.0, OURS: 1.05}
"""Usual share of the limit that a tool with a search takes, with start and saving."""
TERMINATED = 128 + signal.SIGTERM
DOCS = ROOT / "docs" / "benchmarks.md"
KEPT = Path(__file__).with_suffix(".json")
"""What the tables of the docs say, in the form of `report.kept`."""
BEGIN, END = (f"<!-- zoo tables: {word}, written by benchmarks/zoo.py report --docs -->" for word in ("begin", "end"))
JUDGE_LIMIT = 600.0
"""Seconds after which a judge is ended: it runs every model of a case hundreds of times."""


def main() -> None:
    """Do what the command line says; a case that fails is told, and the next one follows."""
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # SIGTERM must end the running tool too.
    places = Places(arguments.folder.resolve(), arguments.shared.resolve())
    places.folder.mkdir(parents=True, exist_ok=True)
    terms = Terms(limit=arguments.limit, cpu=arguments.cpu, runs=arguments.runs)
    cases = [case_of(name) for name in arguments.case] if arguments.case else list(CASES)
    begun, failed = time.monotonic(), list[str]()
    if arguments.what == "all":
        seconds = estimate(cases, places, terms, arguments)
        print(f"about {seconds / 60:.0f} minutes for what is missing, without making environments", flush=True)
    for case in cases if arguments.what != "report" else []:
        try:
            one(case, places, terms, arguments)
        except (SystemExit, Exception) as error:  # An hour of measurements goes on, and ends with status 1.
            if isinstance(error, SystemExit) and error.code == TERMINATED:
                raise
            failed.append(case.name)
            print(f"{case.name}: failed: {type(error).__name__}: {error}", flush=True)
    if arguments.what in ("all", "report"):
        results = collected(places)
        if results["cases"]:
            write_json(places.folder / "zoo.json", results)
            results = report.kept(results)
        else:
            results = json.loads(KEPT.read_text())
        print("\n".join([*report.table(results), "", *report.summary(results)]))
        if arguments.docs:
            keep(results)
    print(f"total time: {(time.monotonic() - begun) / 60:.1f} minutes")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("all", "fetch", "inspect", "report"))
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "zoo", help="everything that is kept")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared" / "models", help="reference models")
    parser.add_argument("--case", nargs="+", default=[], metavar="NAME", help=", ".join(c.name for c in CASES))
    parser.add_argument("--only", choices=("ours", "peers", "judge"), help="a part of `all`")
    parser.add_argument("--tools", nargs="+", default=list(PEERS), choices=list(PEERS), metavar="PEER", help="peers")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds of a tool on a case")
    parser.add_argument("--runs", type=int, default=300, help="timed runs of each model")
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)), help="processor that all run on")
    parser.add_argument("--together", type=int, default=2, help="peers at a time, of those that measure no latency")
    parser.add_argument("--python", default=sys.executable, help="Python 3.11 that environments are made with")
    parser.add_argument("--force", action="store_true", help="run finished ones again")
    parser.add_argument("--retry", action="store_true", help="run failed ones again")
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/benchmarks.md")
    return parser.parse_args()


def one(case: Case, places: Places, terms: Terms, arguments: argparse.Namespace) -> None:
    """Prepare a case, run what is missing of it, judge it if a model changed."""
    folder = prepare.prepare(case, places)
    if arguments.what == "fetch":
        for tool in arguments.tools if case.peers else []:
            tools.python_of(tool, places, arguments.python)
        print(
            f"{case.name}: {sum(p.stat().st_size for p in folder.glob('*') if p.is_file()) / 2**20:.1f} MiB", flush=True
        )
    elif arguments.what == "inspect":
        command = [sys.executable, "-m", "nc_strategies", "inspect", str(places.model(case)), "--backend", case.backend]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        print(f"== {case.name}: status {done.returncode}\n{done.stdout}{done.stderr}", flush=True)
    else:
        missing = [t for t in wanted(case, arguments) if not fresh(stored(places, case, t), terms.of(t), arguments)]
        for tool in missing:
            tools.python_of(tool, places, arguments.python)
        for tool in [t for t in missing if t not in BLIND]:
            run(tool, case, places, terms, arguments)
        side_by_side([t for t in missing if t in BLIND], case, places, terms, arguments)
        if arguments.only in (None, "judge") and case.peers:
            judge(case, places, terms, arguments.force)


def side_by_side(missing: list[str], case: Case, places: Places, terms: Terms, arguments: argparse.Namespace) -> None:
    """Run tools that do not measure latency, as many at a time as `--together` says, each on a processor of its own."""
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    for cpu in sorted(os.sched_getaffinity(0))[-arguments.together :]:
        free.put(cpu)

    def on_its_own(tool: str) -> None:
        cpu = free.get()
        try:
            run(tool, case, places, replace(terms, cpu=cpu), arguments)
        finally:
            free.put(cpu)

    with ThreadPoolExecutor(free.qsize()) as pool:
        list(pool.map(on_its_own, missing))


def wanted(case: Case, arguments: argparse.Namespace) -> list[str]:
    """The tools that are to run on a case."""
    ours = [OURS] if arguments.only in (None, "ours") else []
    return ours + (list(arguments.tools) if case.peers and arguments.only in (None, "peers") else [])


def place_of(places: Places, case: Case, tool: str) -> Path:
    """The result of a tool, or of the judge, on a case."""
    return places.folder / "results" / case.name / f"{tool}.json"


def stored(places: Places, case: Case, tool: str) -> dict[str, Any] | None:
    """A result that was kept; None if there is none."""
    place = place_of(places, case, tool)
    found: dict[str, Any] | None = json.loads(place.read_text()) if place.is_file() else None
    return found


def fresh(cell: dict[str, Any] | None, terms: dict[str, Any], arguments: argparse.Namespace) -> bool:
    """Whether a kept result stands: of the same terms, and not one to run again."""
    if cell is None or cell["terms"] != terms or arguments.force:
        return False
    return not (arguments.retry and cell["ended"] != "finished")


def run(tool: str, case: Case, places: Places, terms: Terms, arguments: argparse.Namespace) -> None:
    """Run a tool and keep what came of it, also if it failed."""
    cell = tools.run(tool, case, places, terms, arguments.python)
    write_json(
        ready(place_of(places, case, tool)),
        {**cell, "tool": tool, "case": case.name, "terms": terms.of(tool), "processor": processor_name()},
    )
    goal = "goal not met" if cell["goal_seconds"] is None else f"goal after {cell['goal_seconds']:.0f} s"
    error = f"; {cell['error']}" if cell["error"] and cell["ended"] == "failed" else ""
    print(f"{case.name}: {tool}: {cell['ended']}, {cell['seconds']:.0f} s, {goal}{error}", flush=True)


def judge(case: Case, places: Places, terms: Terms, force: bool) -> None:
    """Judge all models of a case together, unless that was done with the same ones."""
    models = {"fp32": str(places.model(case))}
    kept = {tool: stored(places, case, tool) for tool in (OURS, *PEERS)}
    models |= {tool: str(places.folder / cell["model"]) for tool, cell in kept.items() if cell and cell["model"]}
    stamp = {n: [Path(p).stat().st_size, int(Path(p).stat().st_mtime)] for n, p in models.items() if Path(p).is_file()}
    before = stored(places, case, JUDGE)
    if before is not None and before["models"] == stamp and before["runs_asked"] == terms.runs and not force:
        return
    folder = places.of(case) / JUDGE
    folder.mkdir(exist_ok=True)
    output = folder / "judged.json"
    output.unlink(missing_ok=True)
    task = {"case": case.name, "models": models, "data": str(places.of(case)), "runs": terms.runs}
    (folder / "task.json").write_text(json.dumps({**task, "output": str(output)}, indent=2) + "\n")
    script = ROOT / "benchmarks" / "zoo" / "judge.py"
    longer = Terms(JUDGE_LIMIT, 0.0, terms.cpu, terms.runs)
    command = [sys.executable, str(script), str(folder / "task.json")]
    _, seconds, status, _ = tools.watch(command, folder, longer, {"PYTHONPATH": str(ROOT)}, lambda: None)
    if status != 0 or not output.is_file():
        raise SystemExit(f"the judge ended with status {status}: {tools.tail(folder)}")
    found = json.loads(output.read_text())
    kept_by = {"models": stamp, "runs_asked": terms.runs, "seconds": seconds, "processor": processor_name()}
    write_json(ready(place_of(places, case, JUDGE)), {**found, **kept_by})
    print(f"{case.name}: judged, {seconds:.0f} s", flush=True)


def ready(place: Path) -> Path:
    """The same path, whose folder exists."""
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def estimate(cases: list[Case], places: Places, terms: Terms, arguments: argparse.Namespace) -> float:
    """Seconds that what is missing will take."""
    total = 0.0
    for case in cases:
        missing = [t for t in wanted(case, arguments) if not fresh(stored(places, case, t), terms.of(t), arguments)]
        for tool in missing:
            seconds = ONCE_S if tool in ONCE else SHARE[tool] * terms.limit
            total += seconds / (min(arguments.together, len(os.sched_getaffinity(0))) if tool in BLIND else 1)
        total += 0.0 if (places.of(case) / "eval.npz").is_file() else PREPARE_S
        total += JUDGE_S if case.peers and arguments.only in (None, "judge") and missing else 0.0
    return total


def collected(places: Places) -> report.Results:
    """All results in one mapping."""
    cases, processors = {}, set()
    for case in CASES:
        cells = {tool: cell for tool in (OURS, *PEERS) if (cell := stored(places, case, tool))}
        judged = stored(places, case, JUDGE)
        for cell in cells.values():
            cell["quantized"] = _quantized(places.folder / cell["model"]) if cell["model"] else None
        if cells:
            processors |= {cell["processor"] for cell in cells.values()}
            cases[case.name] = {
                "kind": case.kind,
                "metric": case.metric,
                "tolerable_loss": case.tolerable_loss,
                "cells": cells,
                "judged": judged,
            }
    return {"processor": ", ".join(sorted(processors)), "cases": cases}


def _quantized(model: Path) -> bool | None:
    """Whether anything in an ONNX model is quantized; None of another format, and of a model that is gone."""
    return is_quantized(str(model)) if model.suffix == ".onnx" and model.is_file() else None


def keep(results: report.Results) -> None:
    """Keep what was measured with the project, a case a line, and write the tables of the docs from it."""
    cases = ",\n".join(f"{json.dumps(name)}: {json.dumps(case)}" for name, case in results["cases"].items())
    KEPT.write_text(f'{{"processor": {json.dumps(results["processor"])}, "cases": {{\n{cases}\n}}}}\n')
    DOCS.write_text(page(DOCS.read_text(), results))


def page(text: str, results: report.Results) -> str:
    """The page with its tables replaced.

    Raises:
        SystemExit: the marks around the tables are not there.
    """
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{DOCS} lacks the lines {BEGIN} and {END}")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    body = "\n".join([prepare.listed(), "", *report.table(results), "", *report.summary(results)])
    return f"{before}{BEGIN}\n\n{body}\n\n{END}{after}"


if __name__ == "__main__":
    main()
