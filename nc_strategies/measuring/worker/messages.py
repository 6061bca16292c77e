"""Messages between a run and its worker process.

The run sends requests; the worker sends answers, errors and log records. The worker has read untrusted files, so its
messages are unpickled with only classes of this package and of plain data.
"""

from __future__ import annotations

import importlib
import io
import logging
import pickle
import traceback
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from nc_strategies.errors import EngineError, InputError, NcsError, OutOfTimeError, TargetError, first_line

PATHS = {"Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath", "PureWindowsPath"}
PLAIN_DATA_CLASSES = {
    "builtins": {"complex", "frozenset", "set", "slice", "range", "bytearray"},
    "collections": {"Counter", "OrderedDict", "defaultdict", "deque"},
    "pathlib": PATHS,
    # Where Python 3.13 has the same classes.
    "pathlib._local": PATHS,
    "numpy": {"dtype", "ndarray"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.numeric": {"_frombuffer"},
    "numpy.core.numeric": {"_frombuffer"},
}
"""Modules of other packages to the names that may be unpickled from them."""
OWN_PACKAGE = "nc_strategies."


class Kind(StrEnum):
    """Type of a message from the worker."""

    OK = "ok"
    ERROR = "error"
    INTERRUPTED = "interrupted"
    LOG = "log"
    WAITED = "waited"
    USAGE = "usage"


@dataclass(frozen=True)
class Request:
    """A call of one of the target's methods, with its deadline on the clock of `time.monotonic` (0 for none)."""

    method: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    deadline: float = 0.0


class RemoteError(NcsError):
    """An unexpected error in the worker, under the name of its class, with the worker's traceback as a note."""


def dumps(message: Any) -> bytes:
    """Serialize a message."""
    return pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)


def loads(data: bytes) -> Any:
    """Deserialize a message from the worker.

    Raises:
        pickle.UnpicklingError: the message contains something other than plain data.
    """
    return _Plain(io.BytesIO(data)).load()


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in PLAIN_DATA_CLASSES.get(module, ()):
            return super().find_class(module, name)
        if module.startswith(OWN_PACKAGE) and "." not in name:
            found = getattr(importlib.import_module(module), name, None)
            if isinstance(found, type) and found.__module__.startswith(OWN_PACKAGE):
                return found
        raise pickle.UnpicklingError(f"the worker sent a {module}.{name}, which is not plain data")


def error_message(error: BaseException) -> tuple[str, tuple[str, ...], str]:
    """Convert an exception to plain text: the name of its class, its arguments, its traceback."""
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, TargetError):
        return "TargetError", (error.key, error.problem, error.allowed), trace
    if isinstance(error, InputError):
        return "InputError", (error.key, error.problem, error.allowed), trace
    if isinstance(error, EngineError):
        return "EngineError", (str(error),), trace
    if isinstance(error, OutOfTimeError):
        return "OutOfTimeError", (str(error),), trace
    return type(error).__name__, (first_line(error),), trace


def error_from(message: tuple[str, tuple[str, ...], str]) -> NcsError:
    """Rebuild an exception; one of any other class becomes a `RemoteError` under the same name."""
    name, arguments, trace = message
    error: NcsError
    if name == "InputError":
        error = InputError(*arguments)
    elif name == "TargetError":
        error = TargetError(*arguments)
    elif name == "EngineError":
        error = EngineError(*arguments)
    elif name == "OutOfTimeError":
        error = OutOfTimeError(*arguments)
    else:
        error = type(name, (RemoteError,), {})(*arguments)
    error.add_note(f"In the worker process:\n{trace}")
    return error


def record_fields(record: logging.LogRecord) -> dict[str, Any]:
    """Convert a log record to plain data, with its arguments and traceback formatted into the message."""
    fields = dict(record.__dict__)
    message = record.getMessage()
    if record.exc_info:
        message = f"{message}\n{logging.Formatter().formatException(record.exc_info)}"
    fields.update(msg=message, args=None, exc_info=None, exc_text=None, stack_info=None)
    return {name: value for name, value in fields.items() if isinstance(value, str | int | float | None)}
