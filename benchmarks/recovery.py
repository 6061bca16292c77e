"""What each recovery method brings on a model: noise before and after, and the seconds that it takes.

    python benchmarks/recovery.py --model model.onnx --calibration calib.npz --evaluation eval.npz

Each method is tried alone, after rows without any, one of them without cross-layer equalization. The first two noise
columns are what a run decides by: calibration samples that the method was not fitted on. The further columns are
noise-to-signal ratios on evaluation samples, with int8 everywhere and, where they are offered, all matrix products in
dynamic int8 or with 4-bit weights. Arrays of the files are inputs by name; ``x`` is the input of a model that has one.
A method that does not gain is not in use, so that its row equals that without any.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.api import FLOAT, Config, ModelSource, OpCapability, OpScheme
from nc_strategies.backends.onnxruntime.backend import OnnxRuntimeBackend
from nc_strategies.backends.onnxruntime.settings import OnnxRuntimeSettings
from nc_strategies.calibration.noise import noise_to_signal, signal_of
from nc_strategies.calibration.recovery import METHODS, NONE

Feed = dict[str, NDArray[Any]]
Choice = Callable[[OpCapability], OpScheme]


def feed(backend: OnnxRuntimeBackend, path: Path, options: argparse.Namespace, samples: int) -> Feed:
    """The first samples of a file as a feed of the model."""
    inputs = backend.graph.info.inputs
    with np.load(path) as data:
        names = {spec.name: "x" if len(inputs) == 1 and spec.name not in data else spec.name for spec in inputs}
        found = {name: data[key][:samples] for name, key in names.items()}
    for spec in inputs:
        values = found[spec.name]
        if spec.dtype.kind == "f" and (options.scale != 1 or options.offset):
            values = values * options.scale + options.offset
        found[spec.name] = values.astype(spec.dtype)
    return found


def first(op: OpCapability) -> OpScheme:
    """Int8 by default."""
    return op.schemes[0]


def dynamic(op: OpCapability) -> OpScheme:
    """Dynamic int8 where it is offered."""
    return next((s for s in op.schemes if s.mode == "dynamic"), FLOAT)


def four_bits(op: OpCapability) -> OpScheme:
    """4-bit weights where they are offered."""
    return next((s for s in op.schemes if s.weight is not None and s.weight.dtype == "int4"), FLOAT)


COLUMNS: dict[str, Choice] = {"int8 everywhere": first, "dynamic": dynamic, "4 bits": four_bits}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calibration", "evaluation"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--calibration-samples", type=int, default=100)
    parser.add_argument("--evaluation-samples", type=int, default=100)
    parser.add_argument("--equalize", default="auto", help="as backend.equalize, which comes before")
    parser.add_argument("--output", type=int, help="output to judge; the first with fractions by default")
    parser.add_argument("--scale", type=float, default=1.0, help="floating-point inputs are multiplied by it")
    parser.add_argument("--offset", type=float, default=0.0, help="and this is added")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print("| method | operators | noise of | before | after | seconds | in use |", " | ".join(COLUMNS), "|")
    print("| --- |" + " ---: |" * (6 + len(COLUMNS)))
    cases = [("never", NONE), (options.equalize, NONE), *((options.equalize, name) for name in options.methods)]
    for equalize, method in dict.fromkeys(cases):
        settings = OnnxRuntimeSettings(equalize=equalize, recovery=method)
        backend = OnnxRuntimeBackend(settings, options.threads)
        backend.load(ModelSource(options.model.stem, {"onnx": options.model}))
        backend.capabilities()
        backend.calibrate([feed(backend, options.calibration, options, options.calibration_samples)])
        shown = ["", "", "", "", "", ""]
        for record in backend.recovery:
            before, after = (f"{v:.2g}" if v is not None else "" for v in (record.noise_before, record.noise_after))
            use = "yes" if record.adopted else f"no: {record.note}".rstrip(": ")
            shown = [str(record.operators), record.noise_of, before, after, f"{record.seconds:.1f}", use]
        noise = " | ".join(evaluated(backend, options))
        label = f"{method}, equalize={equalize}" if method == NONE else method
        print(f"| {label} | {' | '.join(shown)} | {noise} |", flush=True)


def evaluated(backend: OnnxRuntimeBackend, options: argparse.Namespace) -> list[str]:
    """Noise of each of `COLUMNS` on evaluation data, as text; empty where nothing is quantized so."""
    able = backend.capabilities()
    data = feed(backend, options.evaluation, options, options.evaluation_samples)
    reference = backend.reference().predict(data)
    found = []
    for choice in COLUMNS.values():
        ops = tuple((op.name, choice(op)) for op in able.ops)
        if all(scheme.is_float for _, scheme in ops):
            found.append("")
            continue
        outputs = backend.build(Config(ops, (("reduce_range", backend.reduce_range),))).predict(data)
        signal, output = (
            values[options.output] if options.output is not None else signal_of(values)
            for values in (reference, outputs)
        )
        found.append(f"{noise_to_signal(signal, output):.2g}")
    return found


if __name__ == "__main__":
    main()
