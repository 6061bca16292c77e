"""A thread that does what may fail or take long, so that a run never waits for it but at its end."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable

LONGEST_QUEUE = 10_000
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between attempts at a job that fails: the first, and the most it grows to by doubling."""

Job = Callable[[], None]


class Sender:
    """Does jobs in order, each until it succeeds or is refused. A job must bear being done twice.

    Args:
        on_error: Told of every failure, in the sender's thread; says whether to try again.
    """

    def __init__(self, on_error: Callable[[Exception], bool]) -> None:
        self._on_error = on_error
        self._jobs: queue.Queue[Job | None] = queue.Queue(LONGEST_QUEUE)
        self._closing = threading.Event()
        self._given_up = threading.Event()
        self._unsent = 0
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        """Have a job done; dropped, and counted, when the queue is full."""
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self._unsent += 1

    def finish(self, seconds: float) -> int:
        """Wait until all is done; the first failure from now on ends it.

        Args:
            seconds: To wait at most.

        Returns:
            How many jobs were not done.
        """
        self._closing.set()
        with contextlib.suppress(queue.Full):  # then there is enough in it that will see the end
            self._jobs.put_nowait(None)
        end = time.monotonic() + seconds
        self._thread.join(max(0.0, end - time.monotonic()))
        self._given_up.set()
        return self._unsent + sum(job is not None for job in list(self._jobs.queue)) + self._thread.is_alive()

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=None if not self._closing.is_set() else 0.0)
            except queue.Empty:
                return
            if job is None or self._given_up.is_set():
                self._unsent += job is not None
                return
            if not self._done(job):
                self._unsent += 1
                return

    def _done(self, job: Job) -> bool:
        """Whether to go on with the next: the job is done, or will never be."""
        pause = FIRST_PAUSE
        while not self._given_up.is_set():
            last = self._closing.is_set()
            try:
                job()
            except Exception as error:  # noqa: BLE001 - whatever the client raises must not end the run
                if not self._on_error(error):
                    self._unsent += 1
                    return True
            else:
                return True
            if last:
                return False
            self._closing.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        return False
