"""The runs under a folder, found and read again only where their files have changed."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from nc_strategies.app.serve.files import UnreadableError, is_locked, opened_folder, read_file
from nc_strategies.errors import first_line
from nc_strategies.problem import Trial
from nc_strategies.report import analysis, overview
from nc_strategies.report.overview import MALFORMED, Row, malformed, unreadable
from nc_strategies.report.page import FILE as REPORT
from nc_strategies.report.run_files import RunFiles
from nc_strategies.study import journal
from nc_strategies.study.folder import CONFIG, IDENTITY, LOCK, RESULT, parse_yaml

READ = (RESULT, journal.FILE, CONFIG, analysis.FILE, LOCK, REPORT)
"""Files of a run that its row depends on."""
MODEL_FOLDER = "model"
"""Folder of a run's model, in which there is no run."""
Parts = tuple[str, ...]
"""Names of the folders from the folder that is served to another one."""
Stamp = tuple[int, int, int, int]
"""What changes when a file does: inode, size in bytes, time of change in ns, mode."""


@dataclass(frozen=True)
class ScanRules:
    """Extent and pace of the scans.

    Args:
        runs: Largest number of runs that are listed.
        folders: Largest number of folders that are looked into: the folder may be a whole disk.
        depth: Largest number of folders between the folder and a run.
        file_bytes: Largest size in bytes of a file that is read at once; a result has tens of kilobytes.
        report_bytes: Largest size in bytes of a run's page; one has about a megabyte.
        least_seconds: Least time between two scans.
        ask_again_seconds: Seconds after which a lock is asked for again that was found free and has not changed since.
            Asking takes it for some microseconds, in which a run that resumes there would be refused.
        time_share: Largest share of the time that is spent on scans: they must not disturb the timings of the runs.
    """

    runs: int = 2000
    folders: int = 50_000
    depth: int = 12
    file_bytes: int = 64 * 2**20
    report_bytes: int = 64 * 2**20
    least_seconds: float = 1.0
    ask_again_seconds: float = 5.0
    time_share: float = 0.03


@dataclass(frozen=True)
class Snapshot:
    """The runs at a moment.

    Args:
        rows: A row per run, see `nc_strategies.report.overview`, with ``name``, ``id``, ``updated`` and ``started``
            (both in seconds since 1970; ``started`` for a running run only) and ``report`` (whether it has a page).
        notes: Sentences on what is left out.
    """

    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class _Seen:
    """What is known of a run from earlier scans."""

    stamps: Mapping[str, Stamp]
    running: bool
    row: Row
    trials: _Journal | None = None


@dataclass
class _Journal:
    """The trials of a journal as far as it is read; a line that is being written is read once it is whole."""

    inode: int
    offset: int = 0
    lines: int = 0
    trials: list[Trial] = field(default_factory=list)

    def read(self, folder: int, most_bytes: int) -> None:
        """Read what was added.

        Raises:
            UnreadableError: it, or a line of it, cannot be read.
        """
        data = read_file(folder, journal.FILE, most_bytes, self.offset)
        *lines, torn = data.split(b"\n")
        for line in lines:
            self.lines += 1
            try:
                self.trials.append(journal.read_trial(line))
            except MALFORMED as error:
                raise UnreadableError(f"cannot be read in line {self.lines} ({first_line(error)})") from None
        self.offset += len(data) - len(torn)


class Scanner:
    """Finds the runs under a folder. It may be used by several threads.

    Args:
        root: The folder; absolute and without symbolic links.
        identify: Makes the identifier of a run from the bytes of its path below the folder.
        rules: Extent and pace.
    """

    def __init__(self, root: Path, identify: Callable[[bytes], str], rules: ScanRules | None = None) -> None:
        self.root, self.rules = root, rules or ScanRules()
        self._identify = identify
        self._lock = threading.Lock()
        self._seen: dict[Parts, _Seen] = {}
        self._free: dict[Parts, tuple[Stamp, float]] = {}
        # Replaced as a whole by each scan, and never changed: what reads it need not wait for a scan.
        self._places: Mapping[str, Parts] = {}
        self._snapshot = Snapshot()
        self._next = 0.0

    def snapshot(self) -> Snapshot:
        """The runs now, or those of the last scan if that was a moment ago."""
        with self._lock:
            begin = time.monotonic()
            if begin >= self._next:
                self._snapshot = self._scan()
                end = time.monotonic()
                self._next = end + max(self.rules.least_seconds, (end - begin) / self.rules.time_share)
            return self._snapshot

    def identifiers(self) -> tuple[str, ...]:
        """Identifiers of the runs that were found."""
        return tuple(self._places)

    def report(self, identifier: str) -> bytes:
        """A run's ``report.html``.

        Args:
            identifier: One of `identifiers`.

        Raises:
            KeyError: there is no such run.
            UnreadableError: it has no page, or the page cannot be read.
        """
        parts = self._places[identifier]
        with opened_folder(self.root, parts) as folder:
            return read_file(folder, REPORT, self.rules.report_bytes)

    def _scan(self) -> Snapshot:
        found: dict[Parts, Row] = {}
        seen: dict[Parts, _Seen] = {}
        notes: list[str] = []
        waiting: list[Parts] = [()]
        looked = 0
        while waiting:
            parts = waiting.pop()
            looked += 1
            if looked > self.rules.folders or len(found) >= self.rules.runs:
                notes.append(
                    f"The search ended after {looked - 1:,} folders and {len(found):,} runs. "
                    "Serve a folder further down to see the others."
                )
                break
            try:
                with opened_folder(self.root, parts) as folder:
                    names, inner = _entries(folder)
                    row = self._look(folder, parts, names, seen)
            except UnreadableError as error:
                row, inner = unreadable(f"the folder {error}"), []
            if row is not None:
                found[parts] = row
            if len(parts) < self.rules.depth:
                waiting += [
                    (*parts, name) for name in sorted(inner, reverse=True) if row is None or name != MODEL_FOLDER
                ]
        self._seen = seen
        self._free = {parts: free for parts, free in self._free.items() if parts in seen}
        places = {self._identify(os.fsencode("/".join(parts))): parts for parts in found}
        self._places = places
        rows = (
            {"id": identifier, "name": "/".join(parts) or self.root.name, **found[parts]}
            for identifier, parts in places.items()
        )
        return Snapshot(tuple(rows), tuple(notes))

    def _look(self, folder: int, parts: Parts, names: Sequence[str], seen: dict[Parts, _Seen]) -> Row | None:
        """The row of the run in a folder; None if it holds none."""
        stamps = {name: stamp for name in READ if name in names and (stamp := _stamp(folder, name)) is not None}
        running = self._is_running(folder, parts, stamps)
        # A run that has just started has its lock and nothing else.
        started = running and all(name.startswith(".") for name in names)
        if not started and not any(name in stamps for name in (RESULT, journal.FILE, CONFIG)):
            return None
        earlier = self._seen.get(parts)
        if earlier is not None and earlier.stamps == stamps and earlier.running == running:
            seen[parts] = earlier
            return earlier.row or None
        trials = earlier.trials if earlier else None
        made = _Seen(stamps, running, {}, trials)
        try:
            row = self._row(folder, made)
        except UnreadableError as error:
            row = unreadable(str(error))
        if row is not None:
            made.row = {**row, **_times(stamps, running), "report": _is_page(stamps.get(REPORT))}
        seen[parts] = made
        return made.row or None

    def _is_running(self, folder: int, parts: Parts, stamps: Mapping[str, Stamp]) -> bool:
        """Whether a run holds its lock. The lock of a run that was killed stays, and is free."""
        stamp, now = stamps.get(LOCK), time.monotonic()
        if stamp is None:
            return False
        free, since = self._free.get(parts, (None, 0.0))
        if free == stamp and now < since + self.rules.ask_again_seconds:
            return False
        try:
            held = is_locked(folder, LOCK)
        except UnreadableError:
            return False
        if not held:
            self._free[parts] = stamp, now
        return held

    def _row(self, folder: int, run: _Seen) -> Row | None:
        """A run's row; None for a folder with a ``config.yaml`` that is not of a run.

        Raises:
            UnreadableError: a file cannot be read; the text names it.
        """
        if RESULT in run.stamps and not run.running:
            run.trials = None
            result = self._mapping(folder, RESULT, json.loads)
            return _made(RESULT, lambda: overview.ended(result))
        config = self._mapping(folder, CONFIG, parse_yaml) if CONFIG in run.stamps else {}
        if (
            run.stamps.keys() <= {CONFIG, LOCK, REPORT}
            and not run.running
            and not isinstance(config.get(IDENTITY), dict)
        ):
            return None
        known = self._mapping(folder, analysis.FILE, json.loads) if analysis.FILE in run.stamps else {}
        trials = tuple(self._trials(folder, run))
        files = RunFiles(self.root, {}, known, config, trials, run.running)
        return _made(analysis.FILE, lambda: overview.under_way(files))

    def _trials(self, folder: int, run: _Seen) -> list[Trial]:
        stamp = run.stamps.get(journal.FILE)
        if stamp is None:
            run.trials = None
            return []
        if run.trials is None or run.trials.inode != stamp[0] or run.trials.offset > stamp[1]:
            run.trials = _Journal(stamp[0])
        try:
            run.trials.read(folder, self.rules.file_bytes)
        except UnreadableError as error:
            run.trials = None
            raise UnreadableError(f"{journal.FILE} {error}") from None
        return run.trials.trials

    def _mapping(self, folder: int, name: str, parse: Callable[[str], Any]) -> dict[str, Any]:
        """Content of a file that holds a mapping.

        Raises:
            UnreadableError: it cannot be read; the text names it.
        """
        try:
            found = parse(read_file(folder, name, self.rules.file_bytes).decode())
        except UnreadableError as error:
            raise UnreadableError(f"{name} {error}") from None
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            raise UnreadableError(f"{name} cannot be read ({first_line(error)})") from None
        if not isinstance(found, dict):
            raise UnreadableError(f"{name} does not hold a mapping")
        return found


def _made(name: str, make: Callable[[], Row]) -> Row:
    try:
        return make()
    except MALFORMED as error:
        raise UnreadableError(malformed(name, error)) from None


def _entries(folder: int) -> tuple[list[str], list[str]]:
    """Names in a folder, and those of its folders that may hold runs: no hidden ones, no symbolic links."""
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error.strerror})") from None
    inner = [entry.name for entry in found if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)]
    return [entry.name for entry in found], inner


def _stamp(folder: int, name: str) -> Stamp | None:
    """What changes when a file does; None where it is gone, or is a folder."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
    if stat.S_ISDIR(found.st_mode):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode


def _is_page(stamp: Stamp | None) -> bool:
    """Whether a run's page is there, as a file and not as a link."""
    return stamp is not None and stat.S_ISREG(stamp[3])


def _times(stamps: Mapping[str, Stamp], running: bool) -> Row:
    """When a run's files were last written, and when a running run was started: it has taken its lock then."""
    latest = max(stamp[2] for name, stamp in stamps.items() if name != REPORT or len(stamps) == 1)
    return {"updated": latest / 1e9, "started": stamps[LOCK][2] / 1e9 if running else None}
