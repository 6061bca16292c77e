"""Overhead of a run: time outside of calibrating, building, evaluating, timing and the strategy.

The seconds are those of `result.json`. There, measurements of fp32 and of the finalists count as evaluating and timing,
and estimates count as the strategy's. `outside the five` is the rest of a run. `between trials` is that rest without
loading the model (with the engine) and saving. Importing an engine takes the same few seconds in every run; its share
is largest on the sample, whose evaluation is short. `--data` is a folder with `mobilenet_v1.keras`,
`resnet50_v1.keras`, `cifar10_eval.npz` and `cifar10_calib.npz`, for three more runs on models of usual size.

usage: python benchmarks/overhead.py [--trials 50] [--data FOLDER] [--json FILE] [-- key=value ...]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FIVE_STAGES = ("calibrate", "build", "accuracy", "latency", "strategy")
LOAD_AND_SAVE_STAGES = ("load", "save")
RUNS = (
    ["backend=onnxruntime", "model=sample", "strategy=random"],
    ["backend=onnxruntime", "model=sample", "strategy=basic"],
    ["backend=tensorflow", "model=sample", "strategy=random"],
)
REFERENCE = (
    (["backend=tensorflow", "strategy=random"], "mobilenet_v1"),
    (["backend=tensorflow", "strategy=basic"], "mobilenet_v1"),
    (["backend=tensorflow", "strategy=random"], "resnet50_v1"),
)
PIXELS = {"mobilenet_v1": 64, "resnet50_v1": 32}


def reference(folder: Path, model: str) -> list[str]:
    """The overrides that select a reference model and its data."""
    folder = folder.resolve()
    return [
        "model=keras",
        f"model.path={folder}/{model}.keras",
        "data=npz",
        f"data.path={folder}/cifar10_eval.npz",
        f"data.calibration_path={folder}/cifar10_calib.npz",
        "data.preprocess.scale=0.00784313725",
        "data.preprocess.offset=-1",
        f"data.preprocess.resize=[{PIXELS[model]},{PIXELS[model]}]",
    ]


def run(label: str, overrides: list[str], trials: int) -> dict[str, Any]:
    """Run once in a separate process, and return the run's shares of time.

    Raises:
        SystemExit: the run failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "nc_strategies", *overrides, f"tuning.max_trials={trials}", f"run_dir={folder}/run"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        path = Path(folder, "run", "result.json")
        if not path.exists():
            raise SystemExit(f"{label}: {done.stderr}")
        result = json.loads(path.read_text())
    seconds = result["seconds"]
    total = seconds["total"]
    five = sum(seconds.get(stage, 0.0) for stage in FIVE_STAGES)
    around = sum(seconds.get(stage, 0.0) for stage in LOAD_AND_SAVE_STAGES)
    return {
        "run": label,
        "trials": result["trials"]["total"],
        "seconds": seconds,
        "outside_the_five": (total - five) / total,
        "between_trials": (total - five - around) / total,
    }


def main() -> None:
    """Run, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--data", type=Path, help="folder with the reference model and its data")
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", help="one run with these instead of the usual three")
    arguments = parser.parse_args()
    rows = []
    print(f"{'run':56}{'trials':>8}{'seconds':>9}{'outside the five':>18}{'between trials':>16}", flush=True)
    runs = [(" ".join(one), list(one)) for one in ([arguments.overrides] if arguments.overrides else RUNS)]
    if arguments.data is not None:
        runs += [(f"{' '.join(one)}, {model}", [*one, *reference(arguments.data, model)]) for one, model in REFERENCE]
    for label, overrides in runs:
        row = run(label, overrides, arguments.trials)
        rows.append(row)
        print(
            f"{row['run'][:55]:56}{row['trials']:8}{row['seconds']['total']:9.1f}{row['outside_the_five']:18.2%}"
            f"{row['between_trials']:16.2%}",
            flush=True,
        )
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
