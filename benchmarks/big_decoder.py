"""Peak memory of tuning a decoder of random weights with external data, as a multiple of its size.

    python benchmarks/big_decoder.py                                # above 2 GB; needs 6 GB of disk and 7 GB of memory
    python benchmarks/big_decoder.py --width 1024 --layers 3        # 260 MB

The command loads the model, runs two trials in the modes that the strategy chooses, measures the chosen
configuration beside fp32, saves it and opens it again. The largest process must stay below a multiple of its size.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from nc_strategies.testing import decoder

MAX_MULTIPLE = 3.0
"""Greatest allowed peak, as a multiple of the model's size."""
TOKENS, SAMPLES, CALIBRATION = 4, 4, 4
"""Length and number of the random samples."""
SETTINGS = ("tuning.max_trials=2", "measure.latency_runs=20", "measure.final_runs=20", "measure.latency_timeout=5")


def write_data(folder: Path, size: decoder.DecoderSize) -> None:
    """Samples of a Markov chain; their labels are the tokens themselves."""
    text = decoder.markov_text(size.vocabulary, SAMPLES + CALIBRATION, TOKENS)
    np.savez(folder / "evaluation.npz", input_ids=text[:SAMPLES], y=text[:SAMPLES])
    np.savez(folder / "calibration.npz", input_ids=text[SAMPLES:])


def command(folder: Path, model: Path, strategy: str, contexts: str, threads: int) -> list[str]:
    """The command line of the run."""
    return [
        sys.executable,
        "-m",
        "nc_strategies",
        "backend=onnxruntime",
        "backend.modes=all",
        f"strategy={strategy}",
        "model=onnx",
        f"model.path={model}",
        "data=npz",
        f"data.path={folder}/evaluation.npz",
        f"data.calibration_path={folder}/calibration.npz",
        "metrics.accuracy.name=perplexity",
        "metrics.allow_poor_baseline=true",  # random weights predict nothing
        f"measure.context_lengths={f'[{contexts}]' if contexts else 'null'}",
        f"measure.threads={threads}",
        *SETTINGS,
        f"run_dir={folder}/run",
    ]


def main() -> None:
    """Write the decoder, tune it, and check the peak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--strategy", default="basic")
    parser.add_argument("--contexts", default="8", help="context lengths, separated by commas; '' for none")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    size = decoder.DecoderSize(
        options.vocabulary, options.width, options.layers, 16, inner=3 * options.width, positions=2048
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        # In a process of its own: a child counts the memory of the process that starts it.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as maker:
            model = maker.submit(decoder.write, folder, size).result()
            maker.submit(write_data, folder, size).result()
        stored = sum(file.stat().st_size for file in folder.glob("decoder.onnx*"))
        print(f"decoder of {stored / 1e9:.2f} GB, {options.layers} layers of width {options.width}", flush=True)
        start = time.perf_counter()
        launched = command(folder, model, options.strategy, options.contexts, options.threads)
        process = subprocess.Popen(launched)
        _, ended, usage = os.wait4(process.pid, 0)
        status = os.waitstatus_to_exitcode(ended)
        if status not in (0, 3):
            sys.exit(f"the run ended with status {status}")
        result = json.loads((folder / "run" / "result.json").read_text())
    peak = usage.ru_maxrss * 1024
    print(", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in result["seconds"].items()))
    print(
        f"{result['trials']['total']} trials, {result['speedup']:.2f} times as fast as fp32, "
        f"{result['tuned']['size_bytes'] / stored:.2f} of its size, {time.perf_counter() - start:.0f} s"
    )
    print(f"peak memory of the largest process: {peak / 1e9:.2f} GB, {peak / stored:.2f} times the model's size")
    if peak > MAX_MULTIPLE * stored:
        sys.exit(f"above {MAX_MULTIPLE} times its size")


if __name__ == "__main__":
    main()
