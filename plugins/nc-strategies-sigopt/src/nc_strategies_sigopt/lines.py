"""An append-only file of JSON lines, each on disk before the call returns."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from nc_strategies.api import InputError

log = logging.getLogger("nc_strategies.sigopt")
Record = dict[str, Any]


class Lines:
    """Records in the order in which they were written.

    A process that is killed while it writes leaves a torn last line, which is dropped when the file is opened.

    Args:
        path: The file; made with the first record. None keeps the records in memory.

    Raises:
        InputError: a line other than the last cannot be read.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.records: list[Record] = self._read(path) if path is not None and path.exists() else []

    @staticmethod
    def _read(path: Path) -> list[Record]:
        data = path.read_bytes()
        *whole, torn = data.split(b"\n")
        if torn:
            log.warning("%s: the last line is incomplete and dropped", path)
            with path.open("r+b") as stream:
                stream.truncate(len(data) - len(torn))
        records = []
        for number, line in enumerate(whole, 1):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                raise InputError(f"run_dir ({path}, line {number})", "cannot be read", "use another run_dir")
            records.append(record)
        return records

    def append(self, record: Record) -> None:
        """Keep a record."""
        text = json.dumps(record, allow_nan=False)
        if self.path is not None:
            with self.path.open("ab") as stream:
                stream.write(text.encode() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
        self.records.append(record)
