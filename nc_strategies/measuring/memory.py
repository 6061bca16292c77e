"""Peak memory of a model's run, measured in a separate process. Requires Linux's /proc."""

from __future__ import annotations

import gc
import importlib
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from nc_strategies.backends.adapted import AdaptedBackend
from nc_strategies.backends.base import Backend
from nc_strategies.errors import EngineError, InputError, first_line
from nc_strategies.models.info import Batch
from nc_strategies.runtime.child import run_child, serve

PROC_STATUS, PROC_CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""Value that resets the peak to the current usage when it is written to `PROC_CLEAR_REFS` (proc(5))."""
PREDICT_RUNS = 3
"""Runs of the model before the peak is read."""


def available() -> bool:
    """Whether this system reports the peak memory of a process."""
    return PROC_STATUS.is_file() and "VmHWM" in PROC_STATUS.read_text()


def peak_bytes(backend: Backend, path: Path, batch: Batch) -> int:
    """Peak resident memory in bytes of opening and running a saved model, without the memory of the engine itself.

    The tuning process cannot measure it, because its own peak covers everything that it has done. A separate process
    imports the engine, reads its memory usage, opens the model as a user would, runs it, and reads the kernel's peak.

    Args:
        backend: The engine.
        path: Model that the backend saved.
        batch: Input of the runs.

    Raises:
        EngineError: the process could not open or run the model.
    """
    if isinstance(backend, AdaptedBackend):
        batch = backend.feeds.engine(batch)
        backend = backend.inner
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
    backend.versions()  # Imports the engine: its memory does not count as the model's.
    gc.collect()
    try:
        PROC_CLEAR_REFS.write_text(RESET_PEAK)
        before = _kibibytes("VmRSS")
    except OSError:
        before = _kibibytes("VmHWM")
    try:
        model = backend.open(Path(request["path"]))
        for _ in range(PREDICT_RUNS):
            model.predict(batch)
    except EngineError as error:
        raise InputError("memory", first_line(error)) from None
    return {"bytes": max(1, _kibibytes("VmHWM") - before) * 1024}


def _kibibytes(field: str) -> int:
    line = next(line for line in PROC_STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])


if __name__ == "__main__":
    serve(_measure)
