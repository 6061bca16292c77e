"""Memory of the engine's process and of the command over many trials.

    python benchmarks/memory.py --trials 300 --backend onnxruntime

Prints the resident memory during the trials. Its growth from the median of the second sixth, when caches are filled, to
the median of the last sixth must stay below a limit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from nc_strategies import samples

MAX_GROWTH = 0.05
"""Largest allowed relative growth."""
READING_INTERVAL = 0.5
"""Seconds between two readings."""


def watch(process: subprocess.Popen[bytes], journal: Path) -> list[tuple[int, float, float]]:
    """Readings (finished trials, the command's MB, its workers' MB) during the trials."""
    seen = []
    parent = psutil.Process(process.pid)
    while process.poll() is None:
        time.sleep(READING_INTERVAL)
        try:
            own = parent.memory_info().rss
            workers = sum(child.memory_info().rss for child in parent.children())
            done = journal.read_bytes().count(b"\n") if journal.exists() else 0
        except psutil.Error:
            continue
        if done:
            seen.append((done, own / 2**20, workers / 2**20))
    return seen


def growth(values: list[float]) -> float:
    """Relative growth from the median of the second sixth, when caches are filled, to that of the last sixth."""
    sixth = max(1, len(values) // 6)
    early, late = np.median(values[sixth : 2 * sixth + 1]), np.median(values[-sixth:])
    return float(late / early - 1)


def main() -> None:
    """Tune the sample for many trials, and check the growth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--backend", default="onnxruntime", choices=["onnxruntime", "tensorflow"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        data = np.load(samples.evaluation_images())
        np.savez(f"{place}/few.npz", x=data["x"][:200], y=data["y"][:200])
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "nc_strategies",
                f"backend={options.backend}",
                "strategy=random",
                "data=npz",
                f"data.path={place}/few.npz",
                "data.calibration_samples=20",
                "data.preprocess.scale=0.00784313725490196",
                "data.preprocess.offset=-1",
                "measure.latency_runs=20",
                "measure.final_runs=20",
                f"tuning.max_trials={options.trials}",
                f"run_dir={place}/run",
            ],
            stdout=subprocess.DEVNULL,
        )
        seen = watch(process, Path(place) / "run" / "trials.jsonl")
        if process.returncode not in (0, 3):
            sys.exit(f"the run ended with status {process.returncode}")
        result = json.loads((Path(place) / "run" / "result.json").read_text())
    for step in range(0, len(seen), max(1, len(seen) // 10)):
        print("{:4d} trials: command {:.0f} MB, worker {:.0f} MB".format(*seen[step]))
    # The final measurement holds several models at a time.
    passing = [s for s in seen if s[0] < options.trials]
    command, worker = growth([s[1] for s in passing]), growth([s[2] for s in passing])
    total = result["trials"]["total"]
    print(f"{options.backend}: {total} trials, growth: command {command:+.1%}, worker {worker:+.1%}")
    sys.exit(max(command, worker) > MAX_GROWTH)


if __name__ == "__main__":
    main()
