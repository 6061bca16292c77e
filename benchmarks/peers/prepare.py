"""Cases: models exported to ONNX once, and samples preprocessed once, the same files for every tool."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx

from nc_strategies.data.preprocess import apply
from nc_strategies.data.settings import Preprocess
from peers.cells import ROOT, Terms

MODELS = ("mobilenet_v1", "resnet50_v1", "mobilenet_v3_small", "uneven")
UNEVEN_OF = "resnet50_v1"


def prepare(model: str, granularity: str, data: Path, work: Path, terms: Terms) -> tuple[Path, str, Path, Path]:
    """A case's model, granularity, evaluation and calibration files.

    Args:
        model: One of `MODELS`.
        granularity: ``free`` or ``per_tensor``.
        data: Folder with ``*.keras``, ``cifar10_eval.npz``, ``cifar10_calib.npz`` and ``make_uneven.py``.
        work: Folder that keeps what is made.
        terms: How many samples.

    Raises:
        SystemExit: the folder lacks a file, or has too few samples.
    """
    exported = work / "models" / f"{model}.onnx"
    exported.parent.mkdir(parents=True, exist_ok=True)
    if not exported.is_file():
        source = _uneven(data, exported.parent) if model == "uneven" else _there(data / f"{model}.keras")
        partial = exported.with_suffix(".partial")
        _run(ROOT / "benchmarks" / "export_onnx.py", source, partial)
        partial.rename(exported)
    shape = onnx.load(str(exported), load_external_data=False).graph.input[0].type.tensor_type.shape
    pixels = shape.dim[1].dim_value
    return (
        exported,
        granularity,
        _samples(data / "cifar10_eval.npz", terms.samples, pixels, work),
        _samples(data / "cifar10_calib.npz", terms.calibration_samples, pixels, work),
    )


def _uneven(data: Path, folder: Path) -> Path:
    made = folder / "uneven.keras"
    if not made.is_file():
        partial = folder / "uneven.partial.keras"
        _run(_there(data / "make_uneven.py"), _there(data / f"{UNEVEN_OF}.keras"), partial)
        partial.rename(made)
    return made


def _samples(source: Path, count: int, pixels: int, work: Path) -> Path:
    """Samples as the models take them, float32 in [-1, 1], so that no tool pays for preprocessing."""
    target = work / "samples" / f"{source.stem}-{count}-{pixels}.npz"
    if not target.is_file():
        with np.load(_there(source)) as stored:
            x, y = stored["x"][:count], stored["y"][:count]
        if len(x) < count:
            raise SystemExit(f"{source} has {len(x)} samples, {count} were asked for")
        resize = None if x.shape[1] == pixels else [pixels, pixels]
        parts = [
            apply(Preprocess(scale=1 / 127.5, offset=-1.0, resize=resize), x[i : i + 500]) for i in range(0, count, 500)
        ]
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial.npz")
        np.savez(partial, x=np.concatenate(parts), y=y)
        partial.rename(target)
    return target


def _there(path: Path) -> Path:
    if not path.is_file():
        raise SystemExit(f"{path} is missing; --data names the folder with the reference models")
    return path


def _run(script: Path, *arguments: Path) -> None:
    print(f"{script.name} {arguments[0].name}", flush=True)
    subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        check=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stderr=subprocess.DEVNULL,
    )
