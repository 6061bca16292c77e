"""Logging: quiet on the terminal, everything in the run's log file, secrets nowhere."""

from __future__ import annotations

import logging
import logging.handlers
import os
import re
from pathlib import Path

SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|API_KEY)", re.IGNORECASE)
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
LEAST_LENGTH = 6


def redact(text: str) -> str:
    """The text without the values of environment variables whose names say that they are secret."""
    for name, value in os.environ.items():
        if SECRET_NAME.search(name) and len(value) >= LEAST_LENGTH:
            text = text.replace(value, "***")
    return text


class RedactingFormatter(logging.Formatter):
    """Formats a record, its traceback included, and masks secrets in what comes out."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        return redact(super().format(record))


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
        self._file = logging.FileHandler(path, encoding="utf-8")
        self._file.setFormatter(RedactingFormatter(FORMAT))
        self._memory.setTarget(self._file)
        self._memory.close()
        self._logger.removeHandler(self._memory)
        self._memory = None
        self._logger.addHandler(self._file)

    def close(self) -> None:
        """Stop; records that never got a folder are gone."""
        for handler in (self._memory, self._file):
            if handler is not None:
                self._logger.removeHandler(handler)
                handler.setTarget(None) if isinstance(handler, logging.handlers.MemoryHandler) else None
                handler.close()
