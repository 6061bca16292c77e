"""The run's side of a worker process: start it, make one call at a time, kill it."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

from nc_strategies.errors import EngineError, NcsError
from nc_strategies.measuring.worker import messages
from nc_strategies.measuring.worker.messages import Kind, Request
from nc_strategies.runtime.process import child_environment
from nc_strategies.runtime.scratch import ScratchFolder

SERVER_MODULE = "nc_strategies.measuring.worker.server"
EXIT_STATUS_SECONDS = 5.0
"""Seconds to wait for the exit status of a process that has closed its connection."""
POLL_SECONDS = 0.2
"""Seconds between two checks of the worker's memory, if it is limited."""
OUTPUT_BYTES = 1 << 16
"""Bytes of the worker's output that are kept."""
MEGABYTE = 2**20
FAULT_HEADER = "Fatal Python error:"
"""Start of what `faulthandler` writes when the process crashes."""


@dataclass(frozen=True)
class Limits:
    """Time limits of one call.

    Args:
        seconds: Maximum seconds of the call; 0 for no limit.
        deadline: Deadline of the whole run on the clock of `time.monotonic`; 0 for none.
        grace: Seconds between asking the call to end and killing the worker.
        patience: Seconds between `deadline` and killing the worker; the call is asked to end after half of them.
        setting: Configuration key that `seconds` comes from, for the error message.
    """

    seconds: float = 0.0
    deadline: float = 0.0
    grace: float = 0.0
    patience: float = 0.0
    setting: str = ""


class DiedError(EngineError):
    """The worker has exited, or has to be killed because it did not answer or used too much memory.

    Args:
        reason: Reason, as the error text of a failed trial.
        by_deadline: The run's deadline has passed.
        crashed: The worker exited by itself.
    """

    def __init__(self, reason: str, by_deadline: bool = False, crashed: bool = False) -> None:
        super().__init__(reason)
        self.by_deadline, self.crashed = by_deadline, crashed


class InterruptedCallError(NcsError):
    """The worker ended a call on request, and remains usable. See `DiedError` for the arguments."""

    def __init__(self, reason: str, by_deadline: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.by_deadline = reason, by_deadline


class WorkerProcess:
    """A worker process in its own session: a terminal's interrupt reaches only the run, which decides what to do.

    Args:
        factory: ``module:function`` that creates the target.
        settings: Argument of the factory.
        memory_limit: Megabytes of resident memory; 0 for no limit.
        watch: Gets what the processes do that share the target's evaluations, during a call.
    """

    def __init__(
        self,
        factory: str,
        settings: Any,
        memory_limit: float = 0.0,
        watch: Callable[[Mapping[str, Any]], None] = lambda _: None,
    ) -> None:
        self._memory_limit, self._watch = memory_limit, watch
        self._output = bytearray()
        self._waited = 0.0
        self.idle = True
        self._folder = ScratchFolder("ncs-engine-")
        ours, theirs = multiprocessing.Pipe()
        lifeline, self._lifeline = os.pipe()
        self._pipe, output = os.pipe()
        os.set_blocking(self._pipe, False)
        main = threading.current_thread() is threading.main_thread()
        command = [
            sys.executable,
            "-P",
            "-m",
            SERVER_MODULE,
            str(theirs.fileno()),
            str(lifeline),
            str(os.getpid() if main else 0),
        ]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=(theirs.fileno(), lifeline),
            env={**child_environment(), "TMPDIR": str(self._folder.path)},
        )
        theirs.close()
        os.close(lifeline)
        os.close(output)
        self._connection = ours
        self._end = weakref.finalize(self, _end, self.process, ours, self._lifeline, self._pipe, self._folder)
        self._send((factory, settings))

    def call(self, request: Request, limits: Limits) -> Any:
        """Send a request to the worker, and wait for its answer.

        Raises:
            DiedError: the worker has exited, or did not end the call on request.
            InterruptedCallError: the call took too long, and ended on request.
            NcsError: error that the call raised.
        """
        begin = time.monotonic()
        ends = [(begin + limits.seconds, False)] if limits.seconds else []
        ends += [(limits.deadline + limits.patience / 2, True)] if limits.deadline else []
        end, by_deadline = min(ends, default=(0.0, False))
        reason = f"gave no answer within {limits.seconds:g} seconds ({limits.setting})"
        self.idle, self._waited = False, 0.0
        try:
            self._send(request)
            answer = self._answer(end, not by_deadline)
            if answer is None:
                answer = self._ask_to_end(limits.patience / 2 if by_deadline else limits.grace)
                if answer is None:
                    raise DiedError(f"the engine {reason}: its process was killed", by_deadline)
        except KeyboardInterrupt:
            # The user is waiting: drop the current call, but try to keep the worker, which saves the best model.
            if limits.grace:
                self._ask_to_end(limits.grace)
            raise
        kind, body = answer
        if kind == Kind.INTERRUPTED:
            raise InterruptedCallError(f"the engine {reason}: it was stopped", by_deadline)
        if kind == Kind.ERROR:
            raise messages.error_from(body)
        return body

    def _ask_to_end(self, grace: float) -> tuple[Kind, Any] | None:
        if not grace:
            return None
        try:
            self.process.send_signal(signal.SIGINT)
            return self._answer(time.monotonic() + grace)
        except DiedError:
            return None

    def _send(self, message: Any) -> None:
        try:
            self._connection.send_bytes(messages.dumps(message))
        except OSError:
            raise self._died() from None

    def _answer(self, limit: float, extends: bool = False) -> tuple[Kind, Any] | None:
        """Next answer of the worker; None if there is none until `limit` (`time.monotonic`; 0 waits indefinitely).

        Args:
            limit: The point in time.
            extends: Whether the seconds in which the worker waits for its turn, or for a connection, do not count.
        """
        sources: list[Any] = [self._connection, self._pipe]
        while True:
            end = limit + self._waited if limit and extends else limit
            left = max(0.0, end - time.monotonic()) if end else None
            pause = min(POLL_SECONDS, POLL_SECONDS if left is None else left) if self._memory_limit else left
            ready = wait(sources, pause)
            if self._pipe in ready and not self._read_output():
                sources.remove(self._pipe)
            if self._connection in ready:
                message = self._receive()
                if message is not None:
                    return message
            elif self._memory_limit:
                self._check_memory()
            if end and time.monotonic() >= (limit + self._waited if extends else limit):
                return None

    def _receive(self) -> tuple[Kind, Any] | None:
        try:
            kind, body = messages.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            raise self._died() from None
        if kind == Kind.LOG:
            record = logging.makeLogRecord(body)
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
            return None
        if kind == Kind.WAITED:
            self._waited += float(body)
            return None
        if kind == Kind.USAGE:
            self._watch(body)
            self._send(None)  # the worker waits for it
            return None
        self.idle = True
        return Kind(kind), body

    def _read_output(self) -> bool:
        try:
            data = os.read(self._pipe, OUTPUT_BYTES)
        except BlockingIOError:
            return True
        self._output += data
        del self._output[:-OUTPUT_BYTES]
        return bool(data)

    def _check_memory(self) -> None:
        import psutil

        try:
            used = psutil.Process(self.process.pid).memory_info().rss / MEGABYTE
        except psutil.Error:
            return  # the process has just exited: the connection reports it
        if used > self._memory_limit:
            raise DiedError(
                f"the engine took {used:.0f} MB, more than tuning.memory_limit={self._memory_limit:g}: "
                "its process was killed"
            )

    def _died(self) -> DiedError:
        try:
            status = self.process.wait(EXIT_STATUS_SECONDS)
        except subprocess.TimeoutExpired:
            return DiedError("the engine's process closed its connection", crashed=True)
        return DiedError(_reason(status, self.last_words()), crashed=True)

    def last_words(self) -> str:
        """The end of the worker's standard output and error."""
        while wait([self._pipe], 0) and self._read_output():
            pass
        return self._output.decode(errors="replace").strip()

    def kill(self) -> None:
        """Kill the worker and all processes that it started."""
        self._end()


def _reason(status: int, output: str) -> str:
    if status >= 0:
        return f"the engine's process ended with status {status}"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
    if name == "SIGKILL":
        return "the engine's process was killed (SIGKILL), as the system does when memory runs out"
    said = [line.strip() for line in output.split(FAULT_HEADER)[0].splitlines() if line.strip()]
    return f"the engine crashed ({name}){f': {said[-1][:200]}' if said else ''}"


def _end(process: subprocess.Popen[bytes], connection: Any, lifeline: int, pipe: int, folder: ScratchFolder) -> None:
    with contextlib.suppress(ProcessLookupError):  # the process and its children may have exited
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    connection.close()
    os.close(lifeline)
    os.close(pipe)
    folder.remove()
