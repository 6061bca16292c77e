"""The run's folder: the run it belongs to, whether it can be written, and the files of an earlier run."""

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
from nc_strategies.measuring.extent import Extent
from nc_strategies.runtime.files import PARTIAL, write_atomically

log = logging.getLogger(__name__)
CONFIG, RESULT, LOG = "config.yaml", "result.json", "nc_strategies.log"
IDENTITY, VERSIONS, EXTENT = "identity", "versions", "extent"
LOCK = ".lock"


class RunFolder:
    """Checks a folder without changing it, and writes files into it atomically.

    Args:
        path: The folder; it need not exist.

    Raises:
        InputError: the path is a file, cannot be written, or contains files that are not of a run.
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
        """Lock the folder against other runs; a folder that was created here and is empty at the end is removed.

        Raises:
            InputError: another run uses the folder.
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
            # Another run may have used the folder between the first check and the lock.
            self._read()
            yield
        finally:
            self._unlock(made)

    def _unlock(self, made: list[Path]) -> None:
        try:
            # Unlink while the lock is held: a process that has opened the file meanwhile then sees that it is deleted.
            (self.path / LOCK).unlink(missing_ok=True)
            for folder in reversed(made):
                folder.rmdir()
        except OSError as error:
            log.debug("%s: %s", self.path, error)  # not empty: the run has left its files, as expected
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
        """Whether the folder contains the files of an earlier run."""
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

    @property
    def extent(self) -> Extent | None:
        """Numbers of samples that an earlier run with a time limit used; None for any other."""
        return extent_of(self.config, self.path / CONFIG)

    def changed_versions(self, versions: Mapping[str, str]) -> dict[str, str]:
        """Earlier versions of the software that has another version now.

        Other versions are no reason to reject the run: most new versions do not change the measurements, and the final
        measurement is side by side with fp32 in any case. The run logs the difference and notes it in the result.
        """
        before = self.config.get(VERSIONS) or {}
        return {name: str(old) for name, old in before.items() if name in versions and str(old) != versions[name]}

    def check(self, identity: Mapping[str, Any]) -> None:
        """Check that an earlier run in this folder had the same identity.

        Raises:
            InputError: its identity differs; the message names the differences.
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
        """The result of an earlier run in this folder; None if there is none or it cannot be read."""
        try:
            found = read_json(self.path / RESULT)
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def start(
        self,
        config: Mapping[str, Any],
        identity: Mapping[str, Any],
        versions: Mapping[str, str] | None = None,
        extent: Extent | None = None,
    ) -> None:
        """Create the folder, and write the run's configuration, identity, versions and, with a time limit, extent."""
        self.path.mkdir(parents=True, exist_ok=True)
        facts: dict[str, Any] = {IDENTITY: dict(identity), VERSIONS: dict(versions or {})}
        if extent is not None:
            facts[EXTENT] = extent.to_dict()
        text = yaml.safe_dump({**config, **facts}, sort_keys=False)
        write_atomically(self.path / CONFIG, text)


def extent_of(config: Mapping[str, Any], file: Path) -> Extent | None:
    """Numbers of samples that a run with a time limit used; None for any other.

    Args:
        config: Content of the run's ``config.yaml``.
        file: Its path, for the message.

    Raises:
        InputError: the numbers are not those that a run writes.
    """
    found = config.get(EXTENT)
    try:
        return Extent(**{key: int(value) for key, value in found.items()}) if isinstance(found, dict) else None
    except (TypeError, ValueError):
        raise InputError("run_dir", f"{file} cannot be read ({EXTENT}: {found})", "use another folder") from None


def read_yaml(path: Path) -> Any:
    """Read a run's YAML file.

    Raises:
        OSError, ValueError, yaml.YAMLError: the file cannot be read.
    """
    return parse_yaml(path.read_text(encoding="utf-8"))


def parse_yaml(text: str) -> Any:
    """Parse YAML, with PyYAML's optional parser in C where it is there: it takes a tenth of the time.

    Raises:
        ValueError, yaml.YAMLError: the text is not YAML.
    """
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def read_json(path: Path) -> Any:
    """Read a run's JSON file.

    Raises:
        OSError, ValueError: the file cannot be read.
    """
    return json.loads(path.read_text(encoding="utf-8"))


def _is_leftover(path: Path) -> bool:
    """Whether a file is a lock, or a partial file of a `write_atomically` that was killed."""
    return path.name == LOCK or (path.name.startswith(".") and path.name.endswith(PARTIAL))


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
