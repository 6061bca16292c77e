"""Logging: no records on the terminal, all records in the run's log file, secrets masked."""

from __future__ import annotations

import logging
import logging.handlers
import sys
from contextlib import suppress
from pathlib import Path

from nc_strategies.runtime.secrets import redact, register_secret

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
__all__ = ["RedactingFormatter", "RunFile", "RunLog", "redact", "redact_error", "register_secret"]


def redact_error(error: BaseException) -> None:
    """Mask secrets in the texts of an exception and of its causes, before it reaches the caller."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        found = waiting.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        found.args = tuple(redact(part) if isinstance(part, str) else part for part in found.args)
        for name, value in vars(found).items():
            if isinstance(value, str):
                setattr(found, name, redact(value))
        if isinstance(found, OSError):
            # The text of an OSError comes from these attributes, not from its arguments.
            for name in ("strerror", "filename"):
                if isinstance(getattr(found, name), str):
                    setattr(found, name, redact(getattr(found, name)))
        waiting += [found.__cause__, found.__context__, *getattr(found, "exceptions", ())]


class RedactingFormatter(logging.Formatter):
    """Formats a record with its traceback, and masks secrets in the text."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        return redact(super().format(record))


class RunFile(logging.FileHandler):
    """The run's log file. It ignores a full disk, which the run reports once."""

    def handleError(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.handleError`."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class RunLog:
    """Keeps records in memory until the run's folder exists, then writes them there."""

    def __init__(self) -> None:
        self._logger = logging.getLogger("nc_strategies")
        self._logger.setLevel(logging.INFO)
        never = logging.CRITICAL + 1
        self._memory: logging.handlers.MemoryHandler | None = logging.handlers.MemoryHandler(100_000, never)
        self._logger.addHandler(self._memory)
        self._file: logging.Handler | None = None

    def open(self, path: Path) -> None:
        """Write to a file from now on, earlier records first."""
        if self._memory is None:
            return
        self._file = RunFile(path, encoding="utf-8")
        self._file.setFormatter(RedactingFormatter(FORMAT))
        self._memory.setTarget(self._file)
        self._memory.close()
        self._logger.removeHandler(self._memory)
        self._memory = None
        self._logger.addHandler(self._file)

    def close(self) -> None:
        """Stop logging; records without a log file are discarded."""
        for handler in (self._memory, self._file):
            if handler is not None:
                self._logger.removeHandler(handler)
                if isinstance(handler, logging.handlers.MemoryHandler):
                    handler.setTarget(None)
                # A full disk loses the last lines. The error that ended the run has reported it.
                with suppress(OSError):
                    handler.close()
