"""The worker process: a target, and a loop that answers calls.

Started by `nc_strategies.measuring.worker.target` as
``python -P -m nc_strategies.measuring.worker.server CONNECTION LIFELINE PARENT``. The first two arguments are inherited
file descriptors. The factory and its settings arrive over the connection.
"""

from __future__ import annotations

import faulthandler
import importlib
import logging
import os
import pickle
import signal
import sys
import threading
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

from nc_strategies.measuring.worker import messages
from nc_strategies.measuring.worker.messages import Kind, Request
from nc_strategies.runtime import turns
from nc_strategies.runtime.process import be_expendable, die_with_parent


class Server:
    """Answers the calls of a run, one after another.

    Args:
        connection: Connection to the run.
    """

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._busy = self._shielded = self._asked = False

    def send(self, kind: Kind, body: Any = None, acknowledged: bool = False) -> None:
        """Send a complete message, from any thread; an interrupt takes effect only after it is sent.

        Args:
            kind: Type of the message.
            body: Its content.
            acknowledged: Wait until the run has handled it. Only for the thread that answers calls.
        """
        data = messages.dumps((str(kind), body))
        main = threading.current_thread() is threading.main_thread()
        self._shielded = self._shielded or main
        try:
            with self._sending:
                self._connection.send_bytes(data)
                if acknowledged:
                    self._connection.recv_bytes()
        finally:
            if main:
                self._shielded = False
        if main and self._asked and self._busy:
            self._asked = False
            raise KeyboardInterrupt

    def interrupt(self, _: int, __: FrameType | None) -> None:
        """Signal handler: end the current call, if there is one."""
        if self._busy and self._shielded:
            self._asked = True
        elif self._busy:
            raise KeyboardInterrupt

    def serve(self) -> None:
        """Create the target at the first call, and answer calls until the run closes the connection."""
        factory, settings = pickle.loads(self._connection.recv_bytes())
        target: Any = None
        while True:
            request: Request = pickle.loads(self._connection.recv_bytes())
            self._asked = False
            try:
                self._busy = True
                try:
                    target = target or self._made(factory, settings)
                    target.until(request.deadline)
                    answer = (Kind.OK, getattr(target, request.method)(*request.args, **request.kwargs))
                except Exception as error:  # noqa: BLE001 - every error is sent to the caller
                    answer = (Kind.ERROR, messages.error_message(error))
                finally:
                    self._busy = False
            except KeyboardInterrupt:
                answer = (Kind.INTERRUPTED, None)
            try:
                self.send(*answer)
            except (pickle.PicklingError, TypeError, AttributeError) as error:
                self.send(Kind.ERROR, messages.error_message(error))

    def _made(self, factory: str, settings: Any) -> Any:
        """The target, which tells the run what the processes do that share its evaluations.

        It waits until the run has shown that, which could disturb the timing that comes next.
        """
        target = _resolve(factory)(settings)
        if hasattr(target, "watch"):
            target.watch(lambda usage: self.send(Kind.USAGE, usage, acknowledged=True))
        return target


class Forward(logging.Handler):
    """Forwards log records to the run.

    Args:
        server: Sends the records.
    """

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        try:
            self._server.send(Kind.LOG, messages.record_fields(record))
        except OSError:
            self.handleError(record)


def main() -> None:
    """Run the worker process."""
    connection, lifeline, parent = (int(text) for text in sys.argv[1:4])
    if parent:
        die_with_parent(parent)
    be_expendable()
    faulthandler.enable()
    threading.Thread(target=_follow, args=(lifeline,), daemon=True).start()
    server = Server(Connection(connection))
    signal.signal(signal.SIGINT, server.interrupt)
    # Ignore SIGTERM: whoever stops the whole process group wants the run to save its results with this worker.
    signal.signal(signal.SIGTERM, lambda *_: None)
    turns.on_wait(lambda seconds: server.send(Kind.WAITED, seconds))
    logger = logging.getLogger("nc_strategies")
    logger.setLevel(logging.INFO)
    logger.addHandler(Forward(server))
    logger.propagate = False
    try:
        server.serve()
    except (EOFError, OSError):
        # The run has closed the connection. Exit at once, because engines take long to unload.
        os._exit(0)


def _follow(lifeline: int) -> None:
    """Kill this process and its children when the run's end of the pipe closes, however the run ended."""
    os.read(lifeline, 1)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _resolve(factory: str) -> Any:
    module, _, name = factory.partition(":")
    return getattr(importlib.import_module(module), name)


if __name__ == "__main__":
    main()
