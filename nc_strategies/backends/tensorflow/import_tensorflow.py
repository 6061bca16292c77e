"""TensorFlow, imported when first needed and told once how many threads to use."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from nc_strategies.errors import InputError, first_line
from nc_strategies.runtime.process import is_expendable

log = logging.getLogger(__name__)
UNUSED = ("matplotlib", "pandas", "sklearn")
"""What Keras imports where it finds it, for pictures, wrappers and data frames to train on; a third of the time that
importing it all takes, and more where it is not yet in the system's cache."""


@cache
def tensorflow() -> Any:
    """The TensorFlow module, its start-up messages kept off the terminal.

    Raises:
        InputError: TensorFlow is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with _quiet(), _lean(), _uncollected():
            import tensorflow as tf
    except ImportError as error:
        raise InputError(
            "backend", f"TensorFlow cannot be imported ({error})", "pip install 'nc-strategies[tensorflow]'"
        ) from error
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    return tf


@contextmanager
def _lean() -> Iterator[None]:
    """In a process that is a run's own, `UNUSED` cannot be imported for as long as this lasts."""
    hidden = [name for name in UNUSED if is_expendable() and name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection for as long as this lasts: an import makes only what stays, and is looked through often.

    In a process that is a run's own, nothing of it is looked at later either.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
    if is_expendable():
        gc.freeze()


@contextmanager
def _quiet() -> Iterator[None]:
    """Standard error closed to native code, which writes there before its log level can be set.

    TensorFlow's own import says that there is no GPU; a command that ends in one clear line must not say more.
    """
    if "tensorflow" in sys.modules:
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def use_threads(threads: int) -> None:
    """Fix the number of threads of every graph that this process runs.

    TensorFlow sizes its pools when it first executes anything, once a process; a session's own setting no longer
    counts after that.

    Raises:
        InputError: TensorFlow already runs with another number of threads in this process.
    """
    config = tensorflow().config.threading
    try:
        config.set_intra_op_parallelism_threads(threads)
        config.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        running = config.get_intra_op_parallelism_threads()
        if running == 0:
            log.warning(
                "TensorFlow was started before this backend, with threads of its own choosing: measure.threads=%d "
                "may not hold",
                threads,
            )
        elif running != threads:
            raise InputError(
                "measure.threads",
                f"TensorFlow already runs with {running} threads in this process",
                f"allowed here: {running}",
            ) from None


def onednn_rewrites() -> bool:
    """Whether TensorFlow runs floating-point operators by oneDNN here: by default on some processors only."""
    tensorflow()
    from tensorflow.python.util import _pywrap_util_port

    return bool(_pywrap_util_port.IsMklEnabled())


def reason(error: BaseException) -> str:
    """What went wrong, in one line; TensorFlow's own errors open with lines that say nothing."""
    lines = [line.strip() for line in str(getattr(error, "message", error)).splitlines()]
    said = [
        line
        for line in lines
        if line and not line.startswith(("Graph execution error", "Detected at", "<stack", "---"))
    ]
    return said[-1] if len(said) > 1 and said[0].startswith("File ") else (said[0] if said else first_line(error))
