"""Accuracy of the latency model: predicted against measured latency of configurations it was not fitted to.

Each pair of a model and a backend runs in its own child process, because an engine sets its threads once per process.
``--data`` is a folder with the reference models (``*.keras``) and ``cifar10_calib.npz``. ``--onnx`` is a folder with
their exports by export_onnx.py; without it, the backend exports them itself.

    python benchmarks/latency_model.py
    python benchmarks/latency_model.py --data ../shared/data --models mobilenet_v1 resnet50_v1 mobilenet_v3_small
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies import samples
from nc_strategies.backends.base import Backend, Executable
from nc_strategies.measuring.latency import interleave
from nc_strategies.measuring.latency_model import fit_latency
from nc_strategies.models import ModelSource
from nc_strategies.models.info import Batch
from nc_strategies.models.source import sample
from nc_strategies.registry import registry
from nc_strategies.space import FLOAT, Config, OpScheme, Space

PIXELS = {"mobilenet_v1": 64, "mobilenet_v3_small": 64, "resnet50_v1": 32}
BACKENDS = ("onnxruntime", "tensorflow")
CALIBRATION, SIDE_BY_SIDE = 50, 1
MAX_MEAN_ERROR, MIN_RANK_CORRELATION = 0.04, 0.95
"""Requirements on every model and backend: largest mean relative error, least rank correlation."""
SESSIONS = 4
"""Sessions of each configuration. Per-session bias is averaged out only by reopening the graph."""
FAST_MODEL_SECONDS = 1.0
"""Seconds of fp32's timed runs per configuration of a fast model, with at most five times `--runs`."""
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.thread_time}


def source(name: str, data: Path | None, onnx: Path | None) -> tuple[ModelSource, NDArray[Any]]:
    """A model, and images for its calibration."""
    if name == "sample":
        pictures = np.load(samples.calibration_images())["x"][:CALIBRATION]
        return sample(), pictures.astype(np.float32) * samples.SCALE + samples.OFFSET
    if data is None:
        raise SystemExit(f"{name} needs --data")
    files = {"keras": data / f"{name}.keras"}
    if onnx is not None and (onnx / f"{name}.onnx").is_file():
        files["onnx"] = onnx / f"{name}.onnx"
    pictures = np.load(data / "cifar10_calib.npz")["x"][:CALIBRATION]
    times = PIXELS[name] // pictures.shape[1]
    return ModelSource(name, files), pictures.repeat(times, 1).repeat(times, 2).astype(np.float32) / 127.5 - 1


def draw(space: Space, wanted: int, rng: np.random.Generator) -> dict[str, Config]:
    """Draw configurations: random ones, half of them with random schemes, and four with blocks of operators in fp32."""
    groups = {g: [s for s in space.schemes(g) if not s.is_float] for g in space.groups}
    groups = {g: schemes for g, schemes in groups.items() if schemes}
    found: dict[str, Config] = {}
    for index in range(wanted - 4):
        share, any_scheme = rng.uniform(0.1, 0.95), index % 2 == 1
        name = f"{'any scheme' if any_scheme else 'default scheme'} {share:.2f}"
        found[name] = random_config(space, groups, share, any_scheme, rng)
    return found | blocks_in_float(space, [g for g in groups if not space.default().schemes[g[0]].is_float])


def random_config(
    space: Space,
    groups: Mapping[tuple[str, ...], Sequence[OpScheme]],
    share: float,
    any_scheme: bool,
    rng: np.random.Generator,
) -> Config:
    """A configuration with a share of the groups in int8, with random schemes or the default ones."""
    default, chosen = space.default(), {}
    for group, schemes in groups.items():
        scheme = schemes[int(rng.integers(len(schemes)))] if any_scheme else default.schemes[group[0]]
        chosen.update(dict.fromkeys(group, scheme if rng.random() < share else FLOAT))
    return space.all_float().with_ops(chosen)


def blocks_in_float(space: Space, order: Sequence[tuple[str, ...]]) -> dict[str, Config]:
    """The default with blocks of its int8 groups in fp32."""
    count = len(order)
    blocks = {
        "first third": slice(0, count // 3),
        "last third": slice(2 * count // 3, None),
        "middle half": slice(count // 4, 3 * count // 4),
        "every fourth": slice(0, None, 4),
    }
    default = space.default()
    return {f"{name} fp32": default.with_op(*(n for g in order[part] for n in g)) for name, part in blocks.items()}


def faster(
    backend: Backend, space: Space, batch: Batch, runs: int, rng: np.random.Generator, clock: Callable[[], float]
) -> Executable:
    """The fp32 reference of trials: the faster of the model as given and the all-float graph."""
    both = [backend.reference(), backend.build(space.all_float())]
    timing = interleave([call(model, batch) for model in both], runs, rng, clock=clock)
    chosen = int(timing.ratio(1, 0) < 1)
    both[1 - chosen].close()
    return both[chosen]


def call(model: Executable, batch: Batch) -> Callable[[], object]:
    """A function that runs a model once."""
    return lambda: model.predict(batch)


def time_configs(
    backend: Backend,
    reference: Executable,
    batch: Batch,
    configs: dict[str, Config],
    runs: int,
    rng: np.random.Generator,
    clock: Callable[[], float],
) -> tuple[dict[str, float], float]:
    """Latencies relative to fp32's, geometric means over sessions, and the median relative range between sessions."""
    logs: dict[str, list[float]] = {name: [] for name in configs}
    seconds = interleave([call(reference, batch)], 20, rng, clock=clock).median_ms(0) / 1e3
    count = max(runs, min(5 * runs, int(FAST_MODEL_SECONDS / seconds)))
    for _ in range(SESSIONS):
        names = [str(name) for name in rng.permutation(list(configs))]
        for start in range(0, len(names), SIDE_BY_SIDE):
            part = names[start : start + SIDE_BY_SIDE]
            models = [backend.build(configs[name]) for name in part]
            timing = interleave([call(model, batch) for model in (reference, *models)], count, rng, clock=clock)
            for index, name in enumerate(part, 1):
                logs[name].append(float(np.log(timing.ratio(index, 0))))
            for model in models:
                model.close()
    spread = float(np.median([max(found) - min(found) for found in logs.values()]))
    return {name: float(np.exp(np.mean(found))) for name, found in logs.items()}, spread


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks, from 0; timings have no ties."""
    return np.argsort(np.argsort(values)).astype(np.float64)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one row: a model on a backend."""
    name, backend_name = arguments.child
    clock = CLOCKS[arguments.clock]
    model, pictures = source(name, arguments.data, arguments.onnx)
    backend: Backend = registry().create("backend", {"name": backend_name}, threads=1)
    info = backend.load(model)
    space = Space(backend.capabilities())
    backend.calibrate([{info.inputs[0].name: pictures}])
    batch = {info.inputs[0].name: pictures[:1]}
    rng = np.random.default_rng([arguments.seed, 1])
    reference = faster(backend, space, batch, arguments.runs, rng, clock)
    start, begin = time.perf_counter(), time.process_time()
    terms = fit_latency(
        backend, space, batch, np.random.default_rng([arguments.seed, 0]), clock=clock, reference=reference
    )
    seconds, processor = time.perf_counter() - start, time.process_time() - begin
    configs = draw(space, arguments.configs, rng)
    measured, noise = time_configs(backend, reference, batch, configs, arguments.runs, rng, clock)
    truth = np.array([measured[n] for n in configs])
    predicted = np.array([terms(config) for config in configs.values()])
    errors = np.abs(predicted / truth - 1)
    return {
        "model": name,
        "backend": backend_name,
        "operators": len(space.ops),
        "mean_error": float(errors.mean()),
        "max_error": float(errors.max()),
        "rank_correlation": float(np.corrcoef(ranks(truth), ranks(predicted))[0, 1]),
        "noise": noise,
        "claimed_error": terms.error,
        "fit_seconds": seconds,
        "fit_cpu_seconds": processor,
        "configs": [
            {"name": n, "measured": float(t), "predicted": float(p)}
            for n, t, p in zip(configs, truth, predicted, strict=True)
        ],
    }


def main() -> None:
    """Run one child per row, print a table, write JSON; exit with status 1 when a row misses a requirement."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["sample"], choices=["sample", *PIXELS])
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS), choices=BACKENDS)
    parser.add_argument("--data", type=Path, help="folder with the reference models and cifar10_calib.npz")
    parser.add_argument("--onnx", type=Path, help="folder with the reference models' ONNX exports")
    parser.add_argument("--configs", type=int, default=20)
    parser.add_argument("--runs", type=int, default=100, help="timed runs of a configuration in a session")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--clock",
        choices=list(CLOCKS),
        default="wall",
        help="cpu: this thread's processor time, for a machine that others use",
    )
    parser.add_argument("--output", type=Path, default=Path("latency_model.json"))
    parser.add_argument("--child", nargs=2, metavar=("MODEL", "BACKEND"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        arguments.output.write_text(json.dumps(measure(arguments)))
        return
    rows = []
    print(
        f"{'model':<20}{'backend':<13}{'ops':>4}{'mean err':>10}{'max err':>9}{'rank':>7}{'noise':>7}{'claimed':>9}"
        f"{'fit s':>7}{'cpu s':>7}"
    )
    for name in arguments.models:
        for backend in arguments.backends:
            part = arguments.output.with_suffix(".row.json")
            options = [
                a
                for pair in (("--data", arguments.data), ("--onnx", arguments.onnx))
                if pair[1] is not None
                for a in map(str, pair)
            ]
            subprocess.run(
                [
                    sys.executable,
                    __file__,
                    "--child",
                    name,
                    backend,
                    *options,
                    "--clock",
                    arguments.clock,
                    "--configs",
                    str(arguments.configs),
                    "--runs",
                    str(arguments.runs),
                    "--seed",
                    str(arguments.seed),
                    "--output",
                    str(part),
                ],
                check=True,
            )
            row = json.loads(part.read_text())
            part.unlink()
            rows.append(row)
            print(
                f"{name:<20}{backend:<13}{row['operators']:>4}{row['mean_error']:>10.3f}{row['max_error']:>9.3f}"
                f"{row['rank_correlation']:>7.3f}{row['noise']:>7.3f}{row['claimed_error']:>9.3f}"
                f"{row['fit_seconds']:>7.1f}{row['fit_cpu_seconds']:>7.1f}",
                flush=True,
            )
    arguments.output.write_text(
        json.dumps({"clock": arguments.clock, "runs": arguments.runs, "rows": rows}, indent=2) + "\n"
    )
    missed = [
        row for row in rows if row["mean_error"] > MAX_MEAN_ERROR or row["rank_correlation"] < MIN_RANK_CORRELATION
    ]
    for row in missed:
        print(
            f"{row['model']} on {row['backend']}: more than {MAX_MEAN_ERROR:.0%} off, "
            f"or ranks below {MIN_RANK_CORRELATION}"
        )
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
