"""Comparison with other tools: time to a model that meets the goal, its accuracy and its latency.

    python benchmarks/peers.py --data ../shared/data                  # everything: hours
    python benchmarks/peers.py --cases uneven/free --tools nncf basic --samples 500
    python benchmarks/peers.py --report outputs/peers/runs/.../results.json

Finished cells are kept in the work folder, so that the same command resumes after a stop. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from peers import report  # noqa: E402  the path comes first: this script runs from a checkout
from peers.cells import Case, Terms, run_ours, run_peer  # noqa: E402
from peers.environments import PEERS  # noqa: E402
from peers.prepare import MODELS, prepare  # noqa: E402

GRANULARITIES = ("free", "per_tensor")
TOOLS = (*PEERS, "basic", "sigopt", "ilp", "basic@25", "sigopt@25", "ilp@25")
TIMED_RUNS = 600


def main() -> None:
    """Run the missing cells, judge the changed cases, print the report."""
    arguments = parse()
    if arguments.report:
        print(report.markdown(json.loads(arguments.report.read_text())))
        return
    # SIGTERM must end the running tool too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    terms = Terms(
        arguments.samples,
        arguments.calibration_samples,
        arguments.tolerable_loss,
        arguments.batch_size,
        arguments.limit,
        arguments.cpu,
    )
    work = arguments.work.resolve()
    folder = (
        work
        / "runs"
        / (f"{terms.samples}-{terms.calibration_samples}-{terms.tolerable_loss:g}-{terms.batch_size}-{terms.limit:g}")
    )
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "results.json"
    results = json.loads(store.read_text()) if store.is_file() else {"terms": asdict(terms), "cases": {}}
    results |= {"machine": machine(), "versions": versions()}
    for name in arguments.cases:
        model, _, granularity = name.partition("/")
        case = Case(name, *prepare(model, granularity, arguments.data.resolve(), work, terms))
        part = results["cases"].setdefault(name, {"cells": {}})
        for tool in usable(arguments.tools):
            done = part["cells"].get(tool)
            if done is not None and not arguments.force and not (arguments.retry and done["ended"] == "failed"):
                continue
            print(f"{name}: {tool}", end=" ", flush=True)
            place = folder / name / tool
            part["cells"][tool] = {
                **(
                    run_peer(tool, case, terms, place, work, arguments.python)
                    if tool in PEERS
                    else run_ours(tool, case, terms, place)
                ),
                "revision": revision(),
                "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            part.pop("judged", None)
            write(store, results)
            cell = part["cells"][tool]
            print(
                f"{cell['ended']}, {cell['wall_s']:.1f} s, {cell['evaluations']} evaluations"
                + (f"; {cell['error']}" if cell["error"] else ""),
                flush=True,
            )
        if part.get("judged", {}).get("runs") != arguments.runs or "sessions" not in part["judged"]:
            part["judged"] = judge(case, part["cells"], folder / name, terms, arguments.runs)
            write(store, results)
        print("\n".join(report.table(results, name)), flush=True)
    print("\n" + report.markdown(results))
    print(f"results: {store}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    cases = [f"{model}/{granularity}" for model in MODELS for granularity in GRANULARITIES]
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder with the models")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "peers", help="environments, models, results")
    parser.add_argument("--cases", nargs="+", default=cases, choices=cases, metavar="CASE", help=", ".join(cases))
    parser.add_argument(
        "--tools",
        nargs="+",
        default=list(TOOLS),
        metavar="TOOL",
        help=f"{', '.join(PEERS)}, or a strategy, with @N for a whole budget of N trials",
    )
    parser.add_argument("--samples", type=int, default=5000, help="evaluation samples")
    parser.add_argument("--calibration-samples", type=int, default=200)
    parser.add_argument("--tolerable-loss", type=float, default=0.01, help="relative")
    parser.add_argument("--batch-size", type=int, default=100, help="of evaluations")
    parser.add_argument("--limit", type=float, default=900, help="seconds a tool and case")
    parser.add_argument("--runs", type=int, default=TIMED_RUNS, help="timed runs of each model")
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)), help="processor that all run on")
    parser.add_argument("--python", default=sys.executable, help="Python 3.11 that environments are made with")
    parser.add_argument("--force", action="store_true", help="run finished cells again")
    parser.add_argument("--retry", action="store_true", help="run failed cells again")
    parser.add_argument("--report", type=Path, metavar="JSON", help="print the Markdown of a results file, run nothing")
    return parser.parse_args()


def usable(tools: list[str]) -> list[str]:
    """The tools without strategies that are not installed; each of these is reported."""
    from nc_strategies.registry import registry

    strategies = registry().names("strategy")
    for tool in tools:
        if tool not in PEERS and tool.partition("@")[0] not in strategies:
            print(f"skipped: {tool} is neither a peer nor a strategy that is installed")
    return [t for t in tools if t in PEERS or t.partition("@")[0] in strategies]


def judge(case: Case, cells: dict[str, Any], folder: Path, terms: Terms, runs: int) -> dict[str, Any]:
    """Accuracy and latency of fp32 and of every tool's model."""
    models = {"fp32": str(case.model), **{tool: cell["model"] for tool, cell in cells.items() if cell["model"]}}
    task, output = folder / "judge.json", folder / "judged.json"
    task.write_text(
        json.dumps(
            {
                "models": models,
                "evaluation": str(case.evaluation),
                "output": str(output),
                "batch_size": terms.batch_size,
                "runs": runs,
            },
            indent=2,
        )
        + "\n"
    )
    script = ROOT / "benchmarks" / "peers" / "judge.py"
    subprocess.run(
        [sys.executable, str(script), str(task)],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: os.sched_setaffinity(0, {terms.cpu}),
    )
    judged: dict[str, Any] = json.loads(output.read_text())
    return judged


def write(path: Path, results: report.Results) -> None:
    """Write the results atomically."""
    from nc_strategies.report.result import write_json

    write_json(path, results)


def machine() -> str:
    """Processor and Python version."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    names = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    flags = next((line for line in info.splitlines() if line.startswith("flags")), "")
    vnni = "with VNNI" if "vnni" in flags else "without VNNI"
    return f"{names[0] if names else platform.machine()} {vnni}, Python {platform.python_version()}"


def versions() -> dict[str, str]:
    """Versions of the compared packages."""
    found = {"nc-strategies": metadata.version("nc-strategies"), "onnxruntime": metadata.version("onnxruntime")}
    for peer in PEERS.values():
        if peer.packages:
            name, _, version = peer.packages[0].partition("==")
            found[name] = version
    return found


def revision() -> str:
    """The commit of this checkout, with a + when tracked files have changed."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


if __name__ == "__main__":
    main()
