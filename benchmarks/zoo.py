"""Published models: ours beside ONNX Runtime's own tools, judged in one process.

    python benchmarks/zoo.py --models FOLDER                    # every case whose files are in FOLDER
    python benchmarks/zoo.py --models FOLDER --only minilm      # one case
    python benchmarks/zoo.py --report outputs/zoo/zoo.json      # the table again

FOLDER holds one folder a model with ``model.onnx`` (or ``saved_model``), ``calib.npz`` and ``eval.npz``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from zoo.cases import CASES, Arrays, Case  # noqa: E402

from nc_strategies.runtime.machine import processor_name  # noqa: E402

METHODS = ("static", "static_u8s8", "dynamic", "dynamic7")
MEBI = 1024.0


def main() -> None:
    """Prepare, tune, quantize with the peers, judge; one JSON file with all, and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--timeout", type=float, default=150.0, help="time box of each run in seconds")
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--work", type=Path, default=Path("outputs/zoo"))
    parser.add_argument("--report", type=Path)
    arguments = parser.parse_args()
    if arguments.report:
        print(table(json.loads(arguments.report.read_text())))
        return
    if arguments.models is None:
        raise SystemExit("--models FOLDER is missing")
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    target = work / "zoo.json"
    found: dict[str, Any] = json.loads(target.read_text()) if target.is_file() else {}
    for case in CASES:
        model = (arguments.models / case.model).resolve()
        if (arguments.only and case.name not in arguments.only) or not model.exists():
            continue
        folder = work / case.name
        folder.mkdir(exist_ok=True)
        prepare(case, model, arguments.models.resolve(), folder)
        found[case.name] = cell(case, model, folder, arguments.timeout, arguments.runs)
        target.write_text(json.dumps(found, indent=2) + "\n")
        print(table({case.name: found[case.name]}), flush=True)


def prepare(case: Case, model: Path, models: Path, folder: Path) -> None:
    """Data files with the names of the model's inputs and with labels."""
    source = models / case.model.split("/")[0]
    for name in ("calib", "eval"):
        with np.load(source / f"{name}.npz") as stored:
            data: Arrays = {k: stored[v][: case.samples] for k, v in case.arrays.items()}
            if name == "eval" and not case.reference:
                data["y"] = stored["y"][: case.samples]
        if name == "eval" and case.reference:
            import onnxruntime as ort

            session = ort.InferenceSession(str(source / "model.onnx"), providers=["CPUExecutionProvider"])
            (inputs,) = data.values()
            feed = session.get_inputs()[0].name
            data["y"] = np.concatenate(
                [session.run([case.reference], {feed: inputs[i : i + 10]})[0] for i in range(0, len(inputs), 10)]
            )
        np.savez(folder / f"{name}.npz", **data)  # type: ignore[arg-type]


def cell(case: Case, model: Path, folder: Path, timeout: float, runs: int) -> dict[str, Any]:
    """One case: our run, the peers, the judge."""
    run_dir = folder / "run"
    subprocess.run(["rm", "-rf", str(run_dir)], check=True)
    command = [sys.executable, "-m", "nc_strategies"]
    command += case.command(model, folder, ROOT / "benchmarks" / "zoo" / "metrics.py", timeout)
    command.append(f"run_dir={run_dir}")
    begun = time.monotonic()
    with (folder / "answer.txt").open("w") as answer:
        process = subprocess.Popen(command, stdout=answer, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
    found: dict[str, Any] = {
        "processor": processor_name(),
        "command": [str(c) for c in command[1:]],
        "status": os.waitstatus_to_exitcode(status),
        "seconds": time.monotonic() - begun,
        "peak_mib": usage.ru_maxrss / MEBI,
        "model_mib": sum(p.stat().st_size for p in ([model] if model.is_file() else model.rglob("*")) if p.is_file())
        / MEBI**2,
        "answer": (folder / "answer.txt").read_text()[-2000:],
    }
    if (run_dir / "result.json").is_file():
        found["result"] = json.loads((run_dir / "result.json").read_text())
    if case.backend != "onnxruntime":
        return found
    files, found["peers"] = {"fp32": str(model)}, {}
    for method in METHODS:
        output = folder / f"{method}.onnx"
        task = {"model": str(model), "case": case.name, "data": str(folder / "calib.npz"), "method": method}
        done, seconds = child("peers.py", folder / f"{method}.json", {**task, "output": str(output)})
        found["peers"][method] = {"seconds": seconds, "error": done}
        if not done:
            files[method] = str(output)
    saved = sorted((run_dir / "model").glob("*.onnx")) if (run_dir / "model").is_dir() else []
    if saved:
        files["ours"] = str(saved[0])
    judged = folder / "judged.json"
    task = {"case": case.name, "models": files, "evaluation": str(folder / "eval.npz"), "runs": runs}
    error, _ = child("judge.py", folder / "judge.json", {**task, "output": str(judged)})
    found["judge"] = {"error": error} if error else json.loads(judged.read_text())
    return found


def child(script: str, place: Path, task: dict[str, Any]) -> tuple[str, float]:
    """Error of a script of this folder (empty if it succeeded), and its seconds."""
    place.write_text(json.dumps(task))
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "zoo" / script), str(place)],
        check=False,
        capture_output=True,
        text=True,
    )
    last = done.stderr.strip().splitlines()[-1:] if done.returncode else []
    return (last[0][:300] if last else f"status {done.returncode}" if done.returncode else ""), time.monotonic() - begun


def table(found: dict[str, Any]) -> str:
    """A table in Markdown: one row a case and model; time is relative to fp32's."""
    lines = ["| case | model | metric | latency / fp32 | int8 | seconds | peak MiB |", "|---|---|---|---|---|---|---|"]
    for name, entry in found.items():
        result, judge = entry.get("result") or {}, entry.get("judge") or {}
        tuned = result.get("tuned") or {}
        case = next(c for c in CASES if c.name == name)
        for model in ("fp32", *METHODS, "ours"):
            ratio = (judge.get("ratio") or {}).get(model, {}).get("fp32")
            time_of = f"{ratio[0]:.3f} ({ratio[1]:.3f}-{ratio[2]:.3f})" if ratio else "1" if model == "fp32" else "-"
            value = (judge.get("accuracy") or {}).get(model)
            error = (entry.get("peers") or {}).get(model, {}).get("error") or (judge.get("refused") or {}).get(model)
            if model == "ours":
                operators = (
                    f"{tuned.get('int8_ops', '-')} of {(tuned.get('int8_ops') or 0) + (tuned.get('fp32_ops') or 0)}"
                )
                rest = f"{operators} | {entry['seconds']:.0f} | {entry['peak_mib']:.0f}"
                if not judge:
                    value, time_of = tuned.get("accuracy"), f"1 / {result.get('speedup')}"
                label = f"ours, status {entry['status']}"
            else:
                seconds = (entry.get("peers") or {}).get(model, {}).get("seconds")
                rest, label = f"| {seconds:.0f} | " if seconds else "| |", model
            if judge or model == "ours":
                shown = error or ("-" if value is None else f"{value:.4f}")
                by_length = (judge.get("ratio_by_length") or {}).items()
                parts = [(length, each.get(model, {}).get("fp32")) for length, each in by_length]
                at = [f"{length}: {one[0]:.3f} ({one[1]:.3f}-{one[2]:.3f})" for length, one in parts if one]
                time_of = "; ".join(at) or time_of
                lines.append(f"| {name} ({case.metric}) | {label} | {shown} | {time_of} | {rest} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
