"""The run's folder: whose it is, whether it can be written, what it says of an earlier run."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from nc_strategies.errors import InputError, first_line
from nc_strategies.runtime.files import PARTIAL, write_atomically

log = logging.getLogger(__name__)
CONFIG, RESULT, LOG = "config.yaml", "result.json", "nc_strategies.log"
IDENTITY, VERSIONS = "identity", "versions"
LOCK = ".lock"


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
        self._lock = FileLock(path / LOCK, timeout=0)
        self._read()
        self._check_writable()

    def _read(self) -> None:
        path = self.path
        try:
            if path.exists() and not path.is_dir():
                raise InputError("run_dir", f"{path} is not a folder")
            if path.exists() and any(not _is_leftover(p) for p in path.iterdir()):
                self.config = self._earlier()
        except OSError as error:
            raise InputError("run_dir", f"{path} cannot be read ({error.strerror})") from None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other runs out of the folder; a folder made for this and still empty at the end is removed.

        Raises:
            InputError: another run is at work in it.
        """
        if self._lock.is_locked:
            yield
            return
        made = self._make()
        try:
            self._lock.acquire()
        except Timeout:
            raise InputError(
                "run_dir", f"another run is at work in {self.path}", "wait for its end, or use another run_dir"
            ) from None
        except OSError as error:
            raise InputError("run_dir", f"{self.path} cannot be locked ({error.strerror})") from None
        try:
            # Between the first look and the lock, another run may have been here.
            self._read()
            yield
        finally:
            self._unlock(made)

    def _unlock(self, made: list[Path]) -> None:
        try:
            # While it is held: who opened this file meanwhile will find that it has no name any more.
            (self.path / LOCK).unlink(missing_ok=True)
            for folder in reversed(made):
                folder.rmdir()
        except OSError as error:
            log.debug("%s: %s", self.path, error)  # not empty: a run left its files, as it should
        finally:
            self._lock.release()

    def _make(self) -> list[Path]:
        made: list[Path] = []
        try:
            for folder in reversed([p for p in (self.path, *self.path.parents) if not p.exists()]):
                folder.mkdir(exist_ok=True)
                made.append(folder)
        except OSError as error:
            raise InputError("run_dir", f"{self.path} cannot be written ({error.strerror})") from None
        return made

    @property
    def resumes(self) -> bool:
        """Whether an earlier run left its files here."""
        return bool(self.config)

    def _earlier(self) -> dict[str, Any]:
        file = self.path / CONFIG
        try:
            found = read_yaml(file) if file.is_file() else None
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise InputError("run_dir", f"{file} cannot be read ({first_line(error)})", "use another folder") from None
        if not isinstance(found, dict) or not isinstance(found.get(IDENTITY), dict):
            raise InputError(
                "run_dir",
                f"{self.path} holds files that are not of an earlier run",
                "an empty or new folder, or that of the run to resume",
            )
        return found

    def _check_writable(self) -> None:
        made = self._make()
        try:
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise InputError("run_dir", f"{self.path} cannot be written ({error.strerror})") from None
        finally:
            for folder in reversed(made):
                folder.rmdir()

    def changed_versions(self, versions: Mapping[str, str]) -> dict[str, str]:
        """Versions an earlier run here had of what has another one now.

        Not a reason to refuse: a version changes more often than what it measures, and the last word is a measurement
        side by side with fp32 in any case. It is told, and noted in the result.
        """
        before = self.config.get(VERSIONS) or {}
        return {name: str(old) for name, old in before.items() if name in versions and str(old) != versions[name]}

    def check(self, identity: Mapping[str, Any]) -> None:
        """See that an earlier run here was of the same problem.

        Raises:
            InputError: it was not; the message names what differs.
        """
        before = self.config.get(IDENTITY, {})
        differing = [key for key in {**before, **identity} if before.get(key) != identity.get(key)]
        if self.resumes and differing:
            key = differing[0]
            raise InputError(
                "run_dir",
                f"{self.path} holds a run with other settings: {', '.join(differing)} "
                f"({key} was {_short(before.get(key))}, is {_short(identity.get(key))})",
                "use another run_dir, or the same settings to resume",
            )

    def result(self) -> dict[str, Any] | None:
        """The result of an earlier run here, or None."""
        try:
            found = read_json(self.path / RESULT)
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def start(
        self, config: Mapping[str, Any], identity: Mapping[str, Any], versions: Mapping[str, str] | None = None
    ) -> None:
        """Make the folder and write what the run was told."""
        self.path.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump({**config, IDENTITY: dict(identity), VERSIONS: dict(versions or {})}, sort_keys=False)
        write_atomically(self.path / CONFIG, text)


def read_yaml(path: Path) -> Any:
    """What a run's YAML file holds.

    Raises:
        OSError, ValueError, yaml.YAMLError: it cannot be read.
    """
    # The parser in C, where PyYAML has it, takes a tenth of the time.
    return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def read_json(path: Path) -> Any:
    """What a run's JSON file holds.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    return json.loads(path.read_text(encoding="utf-8"))


def _is_leftover(path: Path) -> bool:
    """Whether a file is one that `write_atomically` did not live to move to its place."""
    return path.name == LOCK or (path.name.startswith(".") and path.name.endswith(PARTIAL))


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
