"""Cost of running the engine in a separate process: the same run with and without it, alternating.

    python benchmarks/isolation.py --pairs 3

On a machine with other load, processor time is more reliable than wall time. The measured latencies must agree.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def once(isolation: str, trials: int, folder: Path, backend: str) -> dict[str, float]:
    """Wall time, processor time and latencies of one run."""
    begin = time.monotonic()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "nc_strategies",
            f"isolation={isolation}",
            f"tuning.max_trials={trials}",
            f"backend={backend}",
            f"run_dir={folder}",
        ],
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 3):
        sys.exit(f"a run ended with status {process.returncode}")
    result = json.loads((folder / "result.json").read_text())
    return {
        "clock_s": time.monotonic() - begin,
        "processor_s": used.ru_utime + used.ru_stime,
        "fp32_ms": result["baseline"]["latency_ms"],
        "speedup": result["speedup"],
    }


def main() -> None:
    """Run pairs, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--backend", default="onnxruntime")
    options = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as place:
        for pair in range(options.pairs):
            order = ("none", "process") if pair % 2 else ("process", "none")
            found = {kind: once(kind, options.trials, Path(place) / f"{kind}{pair}", options.backend) for kind in order}
            print(
                {kind: {name: round(value, 3) for name, value in found[kind].items()} for kind in sorted(found)},
                flush=True,
            )
            ratios.append([found["process"][name] / found["none"][name] for name in found["none"]])
    names = ("clock", "processor", "fp32 latency", "speed-up")
    print(
        "process relative to none, median:",
        ", ".join(f"{name} {value:.3f}" for name, value in zip(names, np.median(ratios, axis=0), strict=True)),
    )


if __name__ == "__main__":
    main()
