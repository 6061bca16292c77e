"""Quantization mode by matrix product: what the search chooses, beside measuring every mode of every product by itself.

The model is a stack of products with LayerNormalization between them, and random weights. The goal allows any loss, so
that latency alone decides. At each number of rows the search runs as a user's would. Then, one product after the other,
each of its modes is timed with the others as chosen so far, and the fastest one is kept. Both configurations are timed
side by side in one process.

    python benchmarks/mode_choice.py
    python benchmarks/mode_choice.py --rows 16 --strategy ilp --trials 30
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nc_strategies.backends.base import Backend, Executable
from nc_strategies.measuring.latency import Timing, interleave
from nc_strategies.models import ModelSource
from nc_strategies.models.info import Batch
from nc_strategies.registry import registry
from nc_strategies.runtime.machine import processor_name
from nc_strategies.space import Config, OpScheme, Space
from nc_strategies.space.scheme import way

WIDTHS = (256, 1024, 256, 1024, 1024, 512, 128, 512, 10)
"""Inputs of each product, and the outputs of the last one."""
SAMPLES, CALIBRATION = 256, 64
SESSIONS = 3
"""Sessions of each configuration: latency differs by a few percent between sessions of one graph."""
MOST_OVER = 1.03
"""Largest ratio of the search's latency to that of the modes found one by one."""


def stack(place: Path) -> None:
    """Write the model."""
    rng = np.random.default_rng(0)
    nodes, weights, source = [], [], "x"
    for index, (inner, outer) in enumerate(itertools.pairwise(WIDTHS)):
        matrix = rng.normal(0, inner**-0.5, (inner, outer)).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{index}"))
        last = index == len(WIDTHS) - 2
        nodes.append(
            helper.make_node("MatMul", [source, f"w{index}"], ["y" if last else f"p{index}"], f"product{index}")
        )
        if not last:
            weights.append(numpy_helper.from_array(np.ones(outer, np.float32), f"scale{index}"))
            nodes.append(
                helper.make_node("LayerNormalization", [f"p{index}", f"scale{index}"], [f"n{index}"], f"norm{index}")
            )
        source = f"n{index}"
    graph = helper.make_graph(
        nodes,
        "stack",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", WIDTHS[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", WIDTHS[-1]])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(place))


def data(model: Path, folder: Path) -> None:
    """Write evaluation and calibration data; the labels are fp32's own classes."""
    import onnxruntime as ort

    rng = np.random.default_rng(1)
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    for name, count in (("eval", SAMPLES), ("calib", CALIBRATION)):
        x = rng.normal(size=(count, WIDTHS[0])).astype(np.float32)
        np.savez(folder / f"{name}.npz", x=x, y=session.run(None, {"x": x})[0].argmax(1))


def search(model: Path, folder: Path, rows: int, strategy: str, trials: int) -> tuple[Config, float]:
    """The configuration that a run returns, and its seconds."""
    run = folder / f"run{rows}"
    command = [sys.executable, "-m", "nc_strategies", f"strategy={strategy}", "backend=onnxruntime", "model=onnx"]
    command += [f"model.path={model}", "data=npz", f"data.path={folder / 'eval.npz'}"]
    command += [f"data.calibration_path={folder / 'calib.npz'}", "metrics.accuracy.name=top1", "backend.modes=all"]
    command += ["tuning.criterion=absolute", "tuning.tolerable_loss=1.0", f"tuning.max_trials={trials}"]
    command += [f"measure.batch_size={rows}", f"run_dir={run}"]
    begun = time.monotonic()
    status = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
    if status not in (0, 3):
        raise SystemExit(f"the run with {rows} rows ended with status {status}")
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    return Config.from_dict(result["tuned"]["config"]), time.monotonic() - begun


def one_by_one(
    time_of: Callable[[Sequence[Config]], Timing], space: Space, say: Callable[[str], None]
) -> tuple[Config, int]:
    """Each product's fastest mode with the products before it as found; the number of timed configurations."""
    config, timed = space.all_float(), 0
    for group in space.groups:
        choices: dict[str, OpScheme] = {}
        for scheme in space.schemes(group):
            choices.setdefault(way(scheme) if not scheme.is_static else f"static {scheme.activation.dtype}", scheme)
        configs = [config.with_ops(dict.fromkeys(group, scheme)) for scheme in choices.values()]
        timing = time_of(configs)
        timed += len(configs)
        medians = [timing.median_ms(index) for index in range(len(configs))]
        config = configs[int(np.argmin(medians))]
        say(f"  {group[0]}: " + ", ".join(f"{name} {ms:.3f} ms" for name, ms in zip(choices, medians, strict=True)))
    return config, timed


def measure(folder: Path, rows: int, strategy: str, trials: int, runs: int) -> dict[str, Any]:
    """One row of the table."""
    model = folder / "stack.onnx"
    ours, seconds = search(model, folder, rows, strategy, trials)
    backend: Backend = registry().create("backend", {"name": "onnxruntime", "modes": "all"}, threads=1)
    info = backend.load(ModelSource("stack", {"onnx": model}))
    space = Space(backend.capabilities())
    backend.calibrate([{info.inputs[0].name: np.load(folder / "calib.npz")["x"]}])
    batch: Batch = {info.inputs[0].name: np.load(folder / "eval.npz")["x"][:rows]}
    rng = np.random.default_rng(rows)

    def call(one: Executable) -> Callable[[], object]:
        return lambda: one.predict(batch)

    def time_of(configs: Sequence[Config]) -> Timing:
        parts = []
        for _ in range(SESSIONS):
            models = [backend.build(config) for config in configs]
            parts.append(interleave([call(one) for one in models], -(-runs // SESSIONS), rng))
            for one in models:
                one.close()
        return Timing.joined(parts)

    begun = time.monotonic()
    found, timed = one_by_one(time_of, space, print)
    hand = time.monotonic() - begun
    timing = time_of([ours, found, space.all_float()])
    return {
        "processor": processor_name(),
        "rows": rows,
        "search_seconds": seconds,
        "one_by_one_seconds": hand,
        "one_by_one_configurations": timed,
        "ratio": [timing.ratio(0, 1), *timing.ratio_interval(0, 1)],
        "ours_to_fp32": [timing.ratio(0, 2), *timing.ratio_interval(0, 2)],
        "found_to_fp32": [timing.ratio(1, 2), *timing.ratio_interval(1, 2)],
        "modes": {g[0]: [named(ours, g[0]), named(found, g[0])] for g in space.groups},
    }


def named(config: Config, name: str) -> str:
    """Mode of an operator in a configuration."""
    scheme = config.schemes[name]
    return "fp32" if scheme.is_float else way(scheme) or scheme.mode


def main() -> None:
    """Print a table; write JSON; exit with status 1 where the search's choice costs more than is allowed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 16, 128])
    parser.add_argument("--strategy", default="ilp")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--runs", type=int, default=150, help="timed runs of a configuration")
    parser.add_argument("--work", type=Path, default=Path("outputs/mode_choice"))
    arguments = parser.parse_args()
    folder = arguments.work.resolve()
    os.makedirs(folder, exist_ok=True)
    stack(folder / "stack.onnx")
    data(folder / "stack.onnx", folder)
    rows = []
    for count in arguments.rows:
        row = measure(folder, count, arguments.strategy, arguments.trials, arguments.runs)
        rows.append(row)
        (folder / "mode_choice.json").write_text(json.dumps(rows, indent=2) + "\n")
        print(f"{count} rows: ours / one by one {row['ratio'][0]:.3f} ({row['ratio'][1]:.3f}-{row['ratio'][2]:.3f}),")
        print(f"  ours / fp32 {row['ours_to_fp32'][0]:.3f}, one by one / fp32 {row['found_to_fp32'][0]:.3f};")
        print(f"  search {row['search_seconds']:.0f} s, one by one {row['one_by_one_seconds']:.0f} s")
        for name, (a, b) in row["modes"].items():
            print(f"  {name}: {a}" + ("" if a == b else f" (one by one: {b})"))
    raise SystemExit(1 if any(row["ratio"][0] > MOST_OVER for row in rows) else 0)


if __name__ == "__main__":
    main()
