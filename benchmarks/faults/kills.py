"""kill -9 at random moments, over strategies and engines, each run resumed to its end.

    python benchmarks/faults/kills.py --count 60

On the toy engine, whose latencies are exact, the interrupted run must end with the configuration of the uninterrupted
one. On real engines, whose latencies are noisy, the journal must lose no line, hold no configuration twice, and the run
must end well.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "faults")]

from lab import MEASURE, Lab, kill_and_resume  # noqa: E402

from nc_strategies import samples  # noqa: E402

REAL = ("onnxruntime", "tensorflow")


def small(folder: Path) -> Path:
    """A few of the sample's pictures, so that a trial is short."""
    path = folder / "few.npz"
    if not path.exists():
        data = np.load(samples.evaluation_images())
        np.savez(path, x=data["x"][:200], y=data["y"][:200])
    return path


def arguments(lab: Lab, strategy: str, engine: str) -> list[str]:
    """Of a run on an engine."""
    own = ["strategy.driver=local"] if strategy == "sigopt" else []
    if engine == "toy":
        return lab.toy(f"strategy={strategy}", *own, "tuning.max_trials=25", "backend.trial_seconds=0.03")
    return [
        f"backend={engine}",
        f"strategy={strategy}",
        *own,
        "model=sample",
        "data=npz",
        f"data.path={small(lab.folder)}",
        "data.calibration_samples=20",
        "data.preprocess.scale=0.00784313725490196",
        "data.preprocess.offset=-1",
        *MEASURE,
        "tuning.max_trials=8",
    ]


def main() -> None:
    """Run all, print a line each and a sum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=60, help="kills in all, at least")
    parser.add_argument("--strategies", default="basic,random,sigopt,ilp")
    parser.add_argument("--engines", default="toy,onnxruntime,tensorflow")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    kinds = [(s, e) for e in options.engines.split(",") for s in options.strategies.split(",")]
    kills = runs = 0
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        lab = Lab(Path(place))
        whole: dict[str, dict[str, object]] = {}
        while kills < options.count:
            strategy, engine = kinds[runs % len(kinds)]
            given, name = arguments(lab, strategy, engine), f"run{runs}"
            if engine == "toy" and strategy not in whole:
                code, out, err = lab.run(*given, f"run_dir=whole-{strategy}", timeout=900)
                assert code in (0, 3), (out, err)
                whole[strategy] = lab.result(f"whole-{strategy}")["tuned"]["config"]
            done = kill_and_resume(lab, given, name, rng, most=5)
            result = lab.result(name)
            same = result["tuned"]["config"] == whole[strategy] if engine == "toy" else None
            assert same is not False, f"{strategy} on {engine}: another configuration than without kills"
            kills, runs = kills + done, runs + 1
            print(
                f"{strategy:7} {engine:12} {done} kills, {len(lab.journal(name))} trials, "
                f"{result['trials']['resumed']} resumed, {result['status']}"
                f"{', the same configuration' if same else ''}",
                flush=True,
            )
    print(f"{kills} kills in {runs} runs, {time.monotonic() - begin:.0f} s: no line lost, none twice, no worker left")


if __name__ == "__main__":
    main()
