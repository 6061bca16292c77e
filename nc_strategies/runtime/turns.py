"""Turns of the runs that time on one machine, so that two timings do not disturb each other.

A lock file in the user's cache says who times. The system releases it when its process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import platform
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from nc_strategies.runtime import cache

log = logging.getLogger(__name__)
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""What tells one running Linux from another: home folders may be shared by several machines."""


@dataclass(frozen=True)
class TurnRules:
    """How a run waits for its turn.

    Args:
        poll_seconds: Seconds between two looks at the lock.
        most_seconds: Seconds after which a run times without its turn: a process that was stopped holds its lock for as
            long as it is stopped. A timing of another run takes at most 20 s by default.
    """

    poll_seconds: float = 0.05
    most_seconds: float = 600.0


RULES = TurnRules()
_process = threading.RLock()
_depth = 0
_said = False
_listener: Callable[[float], None] | None = None


def on_wait(listener: Callable[[float], None] | None) -> None:
    """Set the function that gets the seconds of each wait, in parts: a limit on a call's time should not count them."""
    global _listener
    _listener = listener


def waited(seconds: float) -> None:
    """Tell the listener of seconds in which a timing waited."""
    if _listener is not None:
        _listener(seconds)


@contextlib.contextmanager
def turn(check: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Wait until no other thread or process of this user times on this machine, and keep them out meanwhile.

    Turns may be nested. Without a cache that can be written to, only threads of this process take turns.

    Args:
        check: Called while waiting; what it raises ends the wait.
    """
    global _depth
    wait = _Wait(check)
    while not _process.acquire(timeout=RULES.poll_seconds):
        wait.on()
    try:
        _depth += 1
        lock = _file_lock(wait) if _depth == 1 else None
        try:
            yield
        finally:
            if lock is not None:
                lock.release()
    finally:
        _depth -= 1
        _process.release()


class _Wait:
    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._begin = self._reported = time.monotonic()

    def on(self) -> bool:
        """Go on waiting; False if it has taken too long."""
        global _said
        self._check()
        now = time.monotonic()
        waited(now - self._reported)
        self._reported = now
        if not _said:
            _said = True
            log.info("another run is timing on this machine: this one waits for its turn")
        return now - self._begin < RULES.most_seconds


def _file_lock(wait: _Wait) -> FileLock | None:
    """The lock, held; None where it cannot be had."""
    try:
        folder = cache.folder()
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"timing-{_machine()}.lock", thread_local=False)
    except (OSError, RuntimeError) as error:
        log.info("runs do not take turns: the cache cannot be written (%s)", error)
        return None
    while True:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not wait.on():
                log.warning("another run has kept its turn for %g s: this one times beside it", RULES.most_seconds)
                return None
            time.sleep(RULES.poll_seconds)
        except (OSError, NotImplementedError) as error:
            log.info("runs do not take turns: the lock file cannot be used (%s)", error)
            return None
        else:
            return lock


def _machine() -> str:
    try:
        name = BOOT_ID.read_text().strip()
    except OSError:
        name = platform.node()
    return hashlib.sha256(name.encode()).hexdigest()[:16]
