"""Overhead of a trial over its bare work: the evaluation of the data and the timed runs.

A trial is `MeasurementTarget.measure` of a random configuration with a complete evaluation. The bare work is a loop
that feeds the same session with the same prepared batches, and runs it and fp32's session as often as the trial's
timing did. Both alternate in one process; the table shows the median of their ratios. Each row has its own process.

usage: python benchmarks/trial_cost.py [--data DIR] [--trials 5] [--samples N] [--json FILE]

DIR holds mobilenet_v1.keras and resnet50_v1.keras, cifar10_eval.npz and cifar10_calib.npz; without it, only the bundled
sample is measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

MAX_RATIO = 1.25
"""Ratio of a trial to its bare work above which a row is marked."""
PIXELS = {"mobilenet_v1": 64, "resnet50_v1": 32}
BACKENDS = ("onnxruntime", "tensorflow")


def settings(backend: str, model: str, folder: str, samples: int, work: str) -> Any:
    """The configuration of a run on a model in the folder, or on the bundled sample."""
    from nc_strategies import samples as bundled
    from nc_strategies.config import RunConfig

    if model == "sample":
        kind = "keras" if backend == "tensorflow" else "onnx"
        path = bundled.keras_model() if kind == "keras" else bundled.onnx_model()
        return RunConfig(
            strategy={"name": "random"},
            backend={"name": backend},
            model={"name": kind, "path": str(path)},
            data={"name": "sample"},
            executor={"name": "serial"},
        )
    data = np.load(Path(folder, "cifar10_eval.npz"))
    evaluation = Path(work, "evaluation.npz")
    np.savez(evaluation, x=data["x"][: samples or None], y=data["y"][: samples or None])
    size = PIXELS[model]
    preprocess = {"scale": 1 / 127.5, "offset": -1.0, "resize": [size, size] if size != data["x"].shape[1] else None}
    return RunConfig(
        strategy={"name": "random"},
        backend={"name": backend},
        model={"name": "keras", "path": str(Path(folder, f"{model}.keras"))},
        data={
            "name": "npz",
            "path": str(evaluation),
            "preprocess": preprocess,
            "calibration_path": str(Path(folder, "cifar10_calib.npz")),
        },
        executor={"name": "serial"},
    )


def measure(backend: str, model: str, folder: str, samples: int, trials: int) -> dict[str, Any]:
    """Measure the row of a backend and a model."""
    from nc_strategies.app.target import build
    from nc_strategies.measuring.latency import TIMING_RULES
    from nc_strategies.space import Space

    with tempfile.TemporaryDirectory() as work:
        target = build(settings(backend, model, folder, samples, work))
        space = Space(target.load())
        target.calibrate()
        target.baseline(space)
        measurer, config = target.measurer, target.config.measure
        batches = [batch for batch, _, _ in measurer.data.batches(config.evaluation_batch_size)]
        one, reference = measurer.data.batch(0, config.batch_size), measurer.baseline.reference
        rng = np.random.default_rng(0)
        rows = []
        for _ in range(trials):
            chosen = space.sample(rng)
            start = time.perf_counter()
            found = target.measure(chosen)
            whole = time.perf_counter() - start
            session = target.parts.backend.build(chosen)
            session.predict(one)
            start = time.perf_counter()
            for batch in batches:
                session.predict(batch)
            evaluation = time.perf_counter() - start
            # As many runs as in the trial: warm-up, and one untimed run before each timed run.
            runs = round(TIMING_RULES.warm_up_runs + 2 * config.latency_runs)
            start = time.perf_counter()
            for _ in range(runs):
                session.predict(one)
            for _ in range(runs):
                reference.predict(one)
            latency = time.perf_counter() - start
            session.close()
            rows.append(
                {
                    "trial": whole,
                    "evaluation": evaluation,
                    "latency": latency,
                    "ratio": whole / (evaluation + latency),
                    **dict(found.seconds),
                }
            )
        target.close()
    return {
        "backend": backend,
        "model": model,
        "trials": rows,
        "ratio": statistics.median(row["ratio"] for row in rows),
    }


def main() -> None:
    """Measure each row in its own process, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="")
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--samples", type=int, default=0, help="evaluation samples at most; 0 for all")
    parser.add_argument("--backends", nargs="+", default=BACKENDS)
    parser.add_argument("--models", nargs="+", default=None)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(measure(*arguments.row, arguments.data, arguments.samples, arguments.trials)))
        return
    models = arguments.models or ["sample", *(PIXELS if arguments.data else [])]
    rows = []
    print(f"{'backend':14}{'model':16}{'trial s':>9}{'bare s':>9}{'median ratio':>14}", flush=True)
    for backend in arguments.backends:
        for model in models:
            command = [
                sys.executable,
                __file__,
                "--row",
                backend,
                model,
                "--data",
                arguments.data,
                "--samples",
                str(arguments.samples),
                "--trials",
                str(arguments.trials),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{backend} {model}: {done.stderr}")
            row = json.loads(done.stdout.splitlines()[-1])
            rows.append(row)
            trial, bare = (
                statistics.median(values)
                for values in (
                    [r["trial"] for r in row["trials"]],
                    [r["evaluation"] + r["latency"] for r in row["trials"]],
                )
            )
            over = "" if row["ratio"] <= MAX_RATIO else f"  over {MAX_RATIO}"
            print(f"{backend:14}{model:16}{trial:9.2f}{bare:9.2f}{row['ratio']:14.2f}{over}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
