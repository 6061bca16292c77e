"""Peak memory of a model's run, from a process that does nothing else. Needs Linux's /proc."""

from __future__ import annotations

import gc
import importlib
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from nc_strategies.backends.base import Backend
from nc_strategies.errors import EngineError, InputError, first_line
from nc_strategies.models.info import Batch
from nc_strategies.runtime.child import run_child, serve

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""Written to `CLEAR`, it sets the peak to what is used now (proc(5))."""
RUNS = 3


def available() -> bool:
    """Whether this system tells a process's peak."""
    return STATUS.is_file() and "VmHWM" in STATUS.read_text()


def peak_bytes(backend: Backend, path: Path, batch: Batch) -> int:
    """Peak resident memory that opening a saved model and running it takes, beyond the engine's own.

    In the tuning process itself it cannot be told: its peak is that of all it has done. So a process of its own imports
    the engine, notes what it uses, opens the model as a user would, runs it, and reads the kernel's peak.

    Args:
        backend: The engine.
        path: A model that it saved.
        batch: What to run it on.

    Raises:
        EngineError: the process could not open or run the model.
    """
    kind, settings = type(backend), backend.settings
    with tempfile.TemporaryDirectory(prefix="ncs-memory-") as folder:
        file = Path(folder) / "batch.npz"
        arrays: dict[str, Any] = {f"input_{i}": array for i, array in enumerate(batch.values())}
        np.savez(file, **arrays)
        request = {
            "backend": [kind.__module__, kind.__qualname__],
            "threads": backend.threads,
            "path": str(path),
            "settings": [type(settings).__module__, type(settings).__qualname__, asdict(settings)],
            "batch": str(file),
            "names": list(batch),
        }
        try:
            return int(run_child(__name__, request, "memory", "measuring memory")["bytes"])
        except InputError as error:
            raise EngineError(f"the memory of a run cannot be measured: {error.problem}") from error


def _measure(request: dict[str, Any]) -> dict[str, Any]:
    module, name, values = request["settings"]
    settings = getattr(importlib.import_module(module), name)(**values)
    module, name = request["backend"]
    backend: Backend = getattr(importlib.import_module(module), name)(settings, request["threads"])
    with np.load(request["batch"]) as archive:
        batch = {name: archive[f"input_{i}"] for i, name in enumerate(request["names"])}
    backend.versions()  # Imports the engine, whose own memory is not the model's.
    gc.collect()
    try:
        CLEAR.write_text(RESET_PEAK)
        before = _kibibytes("VmRSS")
    except OSError:
        before = _kibibytes("VmHWM")
    try:
        model = backend.open(Path(request["path"]))
        for _ in range(RUNS):
            model.predict(batch)
    except EngineError as error:
        raise InputError("memory", first_line(error)) from None
    return {"bytes": max(1, _kibibytes("VmHWM") - before) * 1024}


def _kibibytes(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])


if __name__ == "__main__":
    serve(_measure)
