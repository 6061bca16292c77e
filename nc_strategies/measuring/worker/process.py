"""The run's side of a worker process: start, one call at a time, end."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from nc_strategies.errors import EngineError, NcsError
from nc_strategies.measuring.worker import messages
from nc_strategies.measuring.worker.messages import Kind, Request
from nc_strategies.runtime.process import child_environment

MODULE = "nc_strategies.measuring.worker.server"
GONE = 5.0
"""Seconds to wait for the status of a process that has hung up."""
POLL = 0.2
"""Seconds between looks at the worker's memory, when it is limited."""
CHUNK = 1 << 16
MEGABYTE = 2**20
FAULT = "Fatal Python error:"


@dataclass(frozen=True)
class Limits:
    """Of one call.

    Args:
        seconds: It may take; 0 for no limit.
        deadline: Of the whole run, as `time.monotonic`; 0 for none.
        grace: Seconds it has to end by itself when asked to, before the worker is killed.
        patience: The same where `deadline` has passed; it may take half of them before it is asked to.
        setting: Where `seconds` comes from, for the message.
    """

    seconds: float = 0.0
    deadline: float = 0.0
    grace: float = 0.0
    patience: float = 0.0
    setting: str = ""


class DiedError(EngineError):
    """The worker is gone, or was ended because it did not answer or took too much memory.

    Args:
        reason: Why, as text for a failed trial.
        by_deadline: It was ended because the run's time was over.
        crashed: It ended by itself.
    """

    def __init__(self, reason: str, by_deadline: bool = False, crashed: bool = False) -> None:
        super().__init__(reason)
        self.by_deadline, self.crashed = by_deadline, crashed


class InterruptedCallError(NcsError):
    """The worker ended a call because it was asked to, and can be used again. See `DiedError`."""

    def __init__(self, reason: str, by_deadline: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.by_deadline = reason, by_deadline


class WorkerProcess:
    """A worker process, in a session of its own: a terminal's interrupt reaches the run, which decides.

    Args:
        factory: ``module:function`` which makes the target.
        settings: Its argument.
        memory_limit: Megabytes of resident memory; 0 for no limit.
    """

    def __init__(self, factory: str, settings: Any, memory_limit: float = 0.0) -> None:
        self._memory_limit = memory_limit
        self._output = bytearray()
        self.idle = True
        self._folder = tempfile.mkdtemp(prefix="ncs-worker-")
        ours, theirs = multiprocessing.Pipe()
        lifeline, self._lifeline = os.pipe()
        self._pipe, output = os.pipe()
        os.set_blocking(self._pipe, False)
        main = threading.current_thread() is threading.main_thread()
        command = [
            sys.executable,
            "-P",
            "-m",
            MODULE,
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
            env={**child_environment(), "TMPDIR": self._folder},
        )
        theirs.close()
        os.close(lifeline)
        os.close(output)
        self._connection = ours
        self._end = weakref.finalize(self, _end, self.process, ours, self._lifeline, self._pipe, self._folder)
        self._send((factory, settings))

    def call(self, request: Request, limits: Limits) -> Any:
        """Have the worker do something, and wait for its answer.

        Raises:
            DiedError: the worker is gone.
            InterruptedCallError: the call was too long, and ended when asked to.
            NcsError: what the call raised.
        """
        begin = time.monotonic()
        ends = [(begin + limits.seconds, False)] if limits.seconds else []
        ends += [(limits.deadline + limits.patience / 2, True)] if limits.deadline else []
        end, by_deadline = min(ends, default=(0.0, False))
        reason = f"gave no answer within {limits.seconds:g} seconds ({limits.setting})"
        self.idle = False
        try:
            self._send(request)
            answer = self._answer(end)
            if answer is None:
                answer = self._ask_to_end(limits.patience / 2 if by_deadline else limits.grace)
                if answer is None:
                    raise DiedError(f"the engine {reason}: its process was killed", by_deadline)
        except KeyboardInterrupt:
            # The user waits: what is under way is dropped, but a worker that can go on will save what there is.
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

    def _answer(self, end: float) -> tuple[Kind, Any] | None:
        """The worker's next answer; None when there is none until `end` (`time.monotonic`; 0: wait for ever)."""
        sources: list[Any] = [self._connection, self._pipe]
        while True:
            left = max(0.0, end - time.monotonic()) if end else None
            pause = min(POLL, POLL if left is None else left) if self._memory_limit else left
            ready = wait(sources, pause)
            if self._pipe in ready and not self._read_output():
                sources.remove(self._pipe)
            if self._connection in ready:
                message = self._receive()
                if message is not None:
                    return message
            elif self._memory_limit:
                self._check_memory()
            if end and time.monotonic() >= end:
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
        self.idle = True
        return Kind(kind), body

    def _read_output(self) -> bool:
        try:
            data = os.read(self._pipe, CHUNK)
        except BlockingIOError:
            return True
        self._output += data
        del self._output[:-CHUNK]
        return bool(data)

    def _check_memory(self) -> None:
        import psutil

        try:
            used = psutil.Process(self.process.pid).memory_info().rss / MEGABYTE
        except psutil.Error:
            return  # it has just ended: the connection will say so
        if used > self._memory_limit:
            raise DiedError(
                f"the engine took {used:.0f} MB, more than tuning.memory_limit={self._memory_limit:g}: "
                "its process was killed"
            )

    def _died(self) -> DiedError:
        try:
            status = self.process.wait(GONE)
        except subprocess.TimeoutExpired:
            return DiedError("the engine's process closed its connection", crashed=True)
        return DiedError(_reason(status, self.last_words()), crashed=True)

    def last_words(self) -> str:
        """The end of what the worker wrote to its standard output and error."""
        while wait([self._pipe], 0) and self._read_output():
            pass
        return self._output.decode(errors="replace").strip()

    def kill(self) -> None:
        """End it and whatever it started, at once."""
        self._end()


def _reason(status: int, output: str) -> str:
    if status >= 0:
        return f"the engine's process ended with status {status}"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
    if name == "SIGKILL":
        return "the engine's process was killed (SIGKILL), as the system does when memory runs out"
    said = [line.strip() for line in output.split(FAULT)[0].splitlines() if line.strip()]
    return f"the engine crashed ({name}){f': {said[-1][:200]}' if said else ''}"


def _end(process: subprocess.Popen[bytes], connection: Any, lifeline: int, pipe: int, folder: str) -> None:
    with contextlib.suppress(ProcessLookupError):  # it and its children may have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    connection.close()
    os.close(lifeline)
    os.close(pipe)
    shutil.rmtree(Path(folder), ignore_errors=True)
