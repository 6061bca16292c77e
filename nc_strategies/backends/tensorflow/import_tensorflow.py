"""Import of TensorFlow on first use, and its thread settings, which are fixed once per process."""

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
"""Optional packages that Keras imports if they are installed, for plots, wrappers and training on data frames. They
take a third of the import time, and more if the files are not in the system's page cache yet."""


@cache
def tensorflow() -> Any:
    """The TensorFlow module. Its start-up messages are suppressed.

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
    """Block the import of `UNUSED` inside this context, in a process that belongs to a run only."""
    hidden = [name for name in UNUSED if is_expendable() and name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Suspend garbage collection inside this context: an import creates many objects, and nearly all of them stay.

    In a process that belongs to a run only, the collector skips these objects later as well.
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
    """Redirect standard error to the null device, because native code writes there before its log level can be set.

    TensorFlow's import reports that there is no GPU. That must not precede the one line with which a command fails.
    """
    if "tensorflow" in sys.modules:
        yield
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


def use_threads(threads: int) -> None:
    """Fix the number of threads for every graph that this process runs.

    TensorFlow sizes its thread pools once per process, at its first execution. A session's own setting has no effect
    after that.

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
                "TensorFlow was started before this backend, with its default number of threads: measure.threads=%d "
                "may have no effect",
                threads,
            )
        elif running != threads:
            raise InputError(
                "measure.threads",
                f"TensorFlow already runs with {running} threads in this process",
                f"allowed here: {running}",
            ) from None


def onednn_rewrites() -> bool:
    """Whether TensorFlow uses oneDNN for floating-point operators here; by default it does on some processors only."""
    tensorflow()
    from tensorflow.python.util import _pywrap_util_port

    return bool(_pywrap_util_port.IsMklEnabled())


def reason(error: BaseException) -> str:
    """The cause of an error in one line. TensorFlow's errors begin with lines that do not name the cause."""
    lines = [line.strip() for line in str(getattr(error, "message", error)).splitlines()]
    causes = [
        line
        for line in lines
        if line and not line.startswith(("Graph execution error", "Detected at", "<stack", "---"))
    ]
    if len(causes) > 1 and causes[0].startswith("File "):
        return causes[-1]
    return causes[0] if causes else first_line(error)
