"""Damaged model and data files: each ends in one line with status 2, or is tuned.

    python benchmarks/faults/mutations.py --count 300 --formats onnx,npz,keras,saved_model

Files are mutated by bit flips, truncation, exchanged blocks and, inside archives, damaged members. One process feeds
them to workers, as the command line does; a worker is used again as long as it lives, because starting takes seconds.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks" / "faults")]

from mutation_worker import Case  # noqa: E402

from nc_strategies import samples  # noqa: E402
from nc_strategies.errors import EngineError, InputError, NcsError  # noqa: E402
from nc_strategies.measuring.worker.messages import Request  # noqa: E402
from nc_strategies.measuring.worker.process import DiedError, Limits, WorkerProcess  # noqa: E402

LIMIT = 60.0
FORMATS = ("onnx", "onnx_half", "onnx_external", "npz", "keras", "saved_model")


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bits changed."""
    changed = bytearray(data)
    for place in rng.integers(0, len(data), int(rng.integers(1, 30))):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def flip_head(data: bytes, rng: np.random.Generator) -> bytes:
    """Bits changed where the structure is, in the first or last 2 kB."""
    size = min(2048, len(data))
    if rng.random() < 0.5:
        return flip(data[:size], rng) + data[size:]
    return data[:-size] + flip(data[-size:], rng)


def truncate(data: bytes, rng: np.random.Generator) -> bytes:
    """The end is missing."""
    return data[: int(rng.integers(0, len(data)))]


def swap(data: bytes, rng: np.random.Generator) -> bytes:
    """Two blocks exchanged."""
    size = int(rng.integers(1, max(2, min(400, len(data) // 4))))
    a, b = sorted(int(v) for v in rng.integers(0, len(data) - size, 2))
    if b - a < size:
        return flip(data, rng)
    return data[:a] + data[b : b + size] + data[a + size : b] + data[a : a + size] + data[b + size :]


WAYS = (flip, flip_head, truncate, swap)


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One way or another."""
    return WAYS[int(rng.integers(len(WAYS)))](data, rng)


def damaged(kind: str, folder: Path, rng: np.random.Generator, saved_model: Path | None = None) -> Path:
    """A damaged file or folder of a format."""
    if kind == "saved_model":
        assert saved_model is not None
        path = folder / "model"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(saved_model, path)
        files = [p for p in path.rglob("*") if p.is_file() and p.stat().st_size > 8]
        # The graph more often than its weights: that is where there is something to parse.
        weights = [4.0 if p.name == "saved_model.pb" else 1.0 for p in files]
        chosen = files[int(rng.choice(len(files), p=np.array(weights) / sum(weights)))]
        chosen.write_bytes(mutate(chosen.read_bytes(), rng))
        return path
    if kind in ("onnx_half", "onnx_external"):
        return damaged_variant(kind, folder, rng)
    source = {"onnx": samples.onnx_model(), "keras": samples.keras_model(), "npz": samples.calibration_images()}[kind]
    path = folder / source.name
    if kind == "onnx" or rng.random() < 0.3:
        path.write_bytes(mutate(source.read_bytes(), rng))
        return path
    with zipfile.ZipFile(source) as old:
        members = {name: old.read(name) for name in old.namelist()}
    victim = list(members)[int(rng.integers(len(members)))]
    members[victim] = mutate(members[victim], rng) if members[victim] else b"\0"
    with zipfile.ZipFile(path, "w") as new:
        for name, content in members.items():
            new.writestr(name, content)
    return path


def damaged_variant(kind: str, folder: Path, rng: np.random.Generator) -> Path:
    """The sample in half precision, or with its weights in a file beside it; one of its files is damaged."""
    model = onnx.load(str(samples.onnx_model()))
    path = folder / "variant.onnx"
    if kind == "onnx_half":
        for weight in model.graph.initializer:
            if weight.data_type == onnx.TensorProto.FLOAT:
                values = onnx.numpy_helper.to_array(weight).astype(np.float16)
                weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
        del model.graph.value_info[:]
        path.write_bytes(mutate(model.SerializeToString(), rng))
        return path
    weights = folder / "variant.bin"
    weights.unlink(missing_ok=True)
    onnx.save(model, path, save_as_external_data=True, location=weights.name, size_threshold=1024)
    victim = path if rng.random() < 0.8 else weights
    victim.write_bytes(mutate(victim.read_bytes(), rng))
    return path


class Feeder:
    """Feeds files to a worker, a new one when the last has died."""

    def __init__(self) -> None:
        self._child: WorkerProcess | None = None
        self.died = 0

    def feed(self, case: Case) -> str:
        """What became of a file: ``tuned``, ``refused``, or what should not have happened."""
        if self._child is None:
            self._child = WorkerProcess("mutation_worker:MeasurementTarget", None, 6000.0)
        try:
            self._child.call(Request("tune", (case,)), Limits(LIMIT))
        except InputError as error:
            return "refused" if "\n" not in str(error) else f"several lines: {error}"
        except DiedError as error:
            self.close()
            self.died += 1
            return f"hung: {error}" if "gave no answer" in str(error) else f"died: {error}"
        except (EngineError, NcsError) as error:
            return f"{type(error).__name__}: {error}"
        return "tuned"

    def close(self) -> None:
        """End the worker."""
        if self._child is not None:
            self._child.kill()
            self._child = None


def run(kind: str, count: int, seed: int, feeder: Feeder, saved_model: Path | None = None) -> Counter[str]:
    """Feed a number of damaged files; returns how they ended."""
    rng = np.random.default_rng(seed)
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        for number in range(count):
            path = damaged(kind, Path(place), rng, saved_model)
            end = feeder.feed(Case("onnx" if kind.startswith("onnx") else kind, str(path)))
            ends[end if end in ("tuned", "refused") else end.partition(":")[0]] += 1
            if end not in ("tuned", "refused"):
                print(f"  {kind} {number}: {end}", flush=True)
    return ends


def main() -> None:
    """Run all formats; status 1 when a file hung or raised something unexpected."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as place:
        saved_model = Path(place) / "saved_model"
        for kind in options.formats.split(","):
            feeder, begin = Feeder(), time.monotonic()
            if kind == "saved_model":
                maker = WorkerProcess("mutation_worker:MeasurementTarget", None)
                maker.call(Request("make_saved_model", (str(saved_model),)), Limits())
                maker.kill()
            ends = run(kind, options.count, options.seed, feeder, saved_model)
            feeder.close()
            bad += sum(n for end, n in ends.items() if end not in ("tuned", "refused", "died"))
            print(f"{kind:12} {dict(ends)}, {time.monotonic() - begin:.0f} s", flush=True)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
