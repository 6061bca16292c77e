"""The run's folder: whose it is, whether it can be written, what it says of an earlier run."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nc_strategies.errors import InputError, first_line

CONFIG, RESULT, LOG = "config.yaml", "result.json", "nc_strategies.log"
IDENTITY = "identity"
PARTIAL = ".partial"


class RunFolder:
    """Checks a folder without leaving a trace, and writes into it without ever leaving half a file.

    Args:
        path: The folder; need not exist.

    Raises:
        InputError: it is a file, cannot be written, or holds files of something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config: dict[str, Any] = {}
        try:
            if path.exists() and not path.is_dir():
                raise InputError("run_dir", f"{path} is not a folder")
            if path.exists() and any(not _is_leftover(p) for p in path.iterdir()):
                self.config = self._earlier()
        except OSError as error:
            raise InputError("run_dir", f"{path} cannot be read ({error.strerror})") from None
        self._check_writable()

    @property
    def resumes(self) -> bool:
        """Whether an earlier run left its files here."""
        return bool(self.config)

    def _earlier(self) -> dict[str, Any]:
        file = self.path / CONFIG
        try:
            found = yaml.safe_load(file.read_text()) if file.is_file() else None
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise InputError("run_dir", f"{file} cannot be read ({first_line(error)})", "use another folder") from None
        if not isinstance(found, dict) or not isinstance(found.get(IDENTITY), dict):
            raise InputError("run_dir", f"{self.path} holds files that are not of an earlier run",
                             "an empty or new folder, or that of the run to resume")
        return found

    def _check_writable(self) -> None:
        made: list[Path] = []
        try:
            missing = [p for p in (self.path, *self.path.parents) if not p.exists()]
            for folder in reversed(missing):
                folder.mkdir()
                made.append(folder)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise InputError("run_dir", f"{self.path} cannot be written ({error.strerror})") from None
        finally:
            for folder in reversed(made):
                folder.rmdir()

    def check(self, identity: Mapping[str, Any]) -> None:
        """See that an earlier run here was of the same problem.

        Raises:
            InputError: it was not; the message names what differs.
        """
        before = self.config.get(IDENTITY, {})
        differing = [key for key in {**before, **identity} if before.get(key) != identity.get(key)]
        if self.resumes and differing:
            key = differing[0]
            raise InputError("run_dir", f"{self.path} holds a run with other settings: {', '.join(differing)} "
                             f"({key} was {_short(before.get(key))}, is {_short(identity.get(key))})",
                             "use another run_dir, or the same settings to resume")

    def result(self) -> dict[str, Any] | None:
        """The result of an earlier run here, or None."""
        try:
            found = json.loads((self.path / RESULT).read_text())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def start(self, config: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
        """Make the folder and write what the run was told."""
        self.path.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump({**config, IDENTITY: dict(identity)}, sort_keys=False)
        write_atomically(self.path / CONFIG, text)


def _is_leftover(path: Path) -> bool:
    """Whether a file is one that `write_atomically` did not live to move to its place."""
    return path.name.startswith(".") and path.name.endswith(PARTIAL)


def write_atomically(path: Path, text: str) -> None:
    """Write a file beside its place and move it there, so that it is never seen half-written."""
    beside = path.with_name(f".{path.name}{PARTIAL}")
    with beside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
