"""The side of a run on the machine that it measures on: opens models with its engine, times them, and answers.

The run starts it over SSH with `BOOTSTRAP`. It reads calls from standard input and writes answers to what was standard
output; see `nc_strategies.measuring.remote.frames`. It ends with its connection.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nc_strategies.backends.base import Backend, Executable
from nc_strategies.errors import EngineError, first_line
from nc_strategies.measuring import memory
from nc_strategies.measuring.deadline import Deadline
from nc_strategies.measuring.lengths import TimedBatch
from nc_strategies.measuring.remote import frames
from nc_strategies.measuring.remote.store import BATCH, Store
from nc_strategies.measuring.timer import LocalTimer
from nc_strategies.models.info import Batch
from nc_strategies.runtime import machine, turns
from nc_strategies.runtime.process import be_expendable
from nc_strategies.runtime.version import own_version

BOOTSTRAP = f"""
import sys
sys.path[:] = [place for place in sys.path if place]
try:
    from {__name__} import main
except Exception as error:
    import json
    try:
        from nc_strategies import __version__ as version
    except Exception:
        version = None
    line = {{"version": version, "error": f"{{type(error).__name__}}: {{error}}"}}
    print({frames.GREETING!r} + json.dumps(line), flush=True)
else:
    main()
"""
"""What the interpreter runs first. It also runs where the package is missing or another version, and says so."""
STARTER = f"import sys; exec(sys.stdin.buffer.read({len(BOOTSTRAP.encode())}))"
"""What the interpreter is asked to run: it reads `BOOTSTRAP` from its input, as not every shell takes several lines."""
Answer = tuple[dict[str, Any], bytes]


@dataclass
class _Opened:
    """A model that is open, and the parcel that it came in."""

    key: str
    model: Executable


class Server:
    """Answers the calls of a run, one after another.

    Args:
        send: Sends an answer.
    """

    def __init__(self, send: Callable[[dict[str, Any], bytes], None]) -> None:
        self._send = send
        self._store: Store | None = None
        self._backend: Backend | None = None
        self._models: dict[str, _Opened] = {}
        self._batches: dict[str, Batch] = {}
        self._wanted: set[str] = set()
        turns.on_wait(lambda seconds: send({"waited": seconds}, b""))

    def answer(self, call: dict[str, Any], body: bytes) -> None:
        """Make a call, and send what it returns or raises."""
        try:
            for token in call.get("release", ()):
                self._release(token)
            header, data = getattr(self, f"_on_{call['call']}")(call, body)
        except Exception as error:  # noqa: BLE001 - every error is sent to the caller
            header, data = frames.error_header(error), b""
        self._send({"answer": call.get("call"), **header}, data)

    def _on_begin(self, call: dict[str, Any], _: bytes) -> Answer:
        """Take up a run, new or interrupted."""
        self._store = Store(call["run"])
        return {"memory": memory.available()}, b""

    def _on_machine(self, call: dict[str, Any], _: bytes) -> Answer:
        return {
            "processor": machine.processor_name(),
            "instruction_sets": list(machine.instruction_sets()),
            "cores": machine.cores(),
            "python": sys.version.split()[0],
            "numpy": np.__version__,
        }, b""

    def _on_backend(self, call: dict[str, Any], _: bytes) -> Answer:
        """Import an engine; ``missing`` names a module that is not installed."""
        try:
            module, name, values = call["settings"]
            settings = getattr(importlib.import_module(module), name)(**values) if module else None
            module, name = call["backend"]
            self._backend = getattr(importlib.import_module(module), name)(settings, call["threads"])
            return {"versions": self._engine.versions()}, b""
        except ImportError as error:
            return {"missing": error.name or first_line(error)}, b""

    @property
    def _engine(self) -> Backend:
        if self._backend is None:
            raise EngineError("no engine was chosen")
        return self._backend

    @property
    def _files(self) -> Store:
        if self._store is None:
            raise EngineError("no run has begun")
        return self._store

    def _on_has(self, call: dict[str, Any], _: bytes) -> Answer:
        self._wanted = set(call["keys"])
        return {"lacking": [key for key in call["keys"] if self._files.find(key) is None]}, b""

    def _on_put(self, call: dict[str, Any], body: bytes) -> Answer:
        used = self._wanted | {opened.key for opened in self._models.values()}
        return {"removed": self._files.add(call["key"], body, call["first"], call["last"], used)}, b""

    def _on_time(self, call: dict[str, Any], _: bytes) -> Answer:
        """Time models side by side; see `interleave_batches`."""
        left = call["left"]
        deadline = Deadline()
        if left is not None:
            deadline.at = time.monotonic() + left
        models = [self._open(asked) for asked in call["models"]]
        batches = [
            TimedBatch(self._batch(b), b["weight"], b["length"], b["phase"], b["tokens"]) for b in call["batches"]
        ]
        timing = LocalTimer(self._engine, call["turns"]).time(
            models,
            batches,
            call["runs"],
            np.random.default_rng(call["seed"]),
            call["limit"],
            deadline.check,
            lambda: deadline.left,
        )
        return {}, frames.pack_arrays([timing.seconds, *(part.seconds for part in timing.parts)])

    def _on_predict(self, call: dict[str, Any], _: bytes) -> Answer:
        return {}, frames.pack_arrays(self._open(call["model"]).predict(self._batch(call["batch"])))

    def _on_peak(self, call: dict[str, Any], _: bytes) -> Answer:
        return {"bytes": memory.peak_bytes(self._engine, self._path(call["model"]), self._batch(call["batch"]))}, b""

    def _on_ceiling(self, call: dict[str, Any], _: bytes) -> Answer:
        found = self._engine.ceiling(call["again"])
        return {"ceiling": found.to_dict() if found is not None else None}, b""

    def _on_end(self, call: dict[str, Any], _: bytes) -> Answer:
        """The run is over: nothing of it stays."""
        self._files.remove()
        return {}, b""

    def _path(self, asked: dict[str, Any]) -> Path:
        found = self._files.find(asked["key"])
        if found is None:
            raise EngineError("a model has not arrived")
        path: Path = (found / asked["path"]).resolve()
        if not path.is_relative_to(found.resolve()):
            raise EngineError("the path of a model leads out of its folder")
        return path

    def _open(self, asked: dict[str, Any]) -> Executable:
        """A model, which stays open until the run releases it: latency varies between sessions of the same graph."""
        token = asked["token"]
        if token not in self._models:
            self._models[token] = _Opened(asked["key"], self._engine.open_to_time(self._path(asked)))
        return self._models[token].model

    def _release(self, token: str) -> None:
        opened = self._models.pop(token, None)
        if opened is not None:
            opened.model.close()

    def _batch(self, asked: dict[str, Any]) -> Batch:
        key = asked["key"]
        if key not in self._batches:
            found = self._files.find(key)
            if found is None:
                raise EngineError("a batch has not arrived")
            arrays = frames.unpack_arrays((found / BATCH).read_bytes())
            batch = dict(zip(asked["names"], arrays, strict=True))
            if not asked["kept"]:
                return batch
            self._batches[key] = batch
        return self._batches[key]


def main() -> None:
    """Serve the run at the other end of standard input and output, until it closes them."""
    own = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what engines print must not get between the frames
    output = os.fdopen(own, "wb")
    be_expendable()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    greeting = {"version": own_version(), "protocol": frames.PROTOCOL}
    output.write(f"{frames.GREETING}{json.dumps(greeting)}\n".encode())
    output.flush()
    sending = threading.Lock()

    def send(header: dict[str, Any], body: bytes) -> None:
        with sending:
            frames.write_frame(output, header, body)

    calls: queue.SimpleQueue[tuple[dict[str, Any], bytes]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, calls), daemon=True).start()
    server = Server(send)
    while True:
        call, body = calls.get()
        try:
            server.answer(call, body)
        except OSError:
            os._exit(0)  # the run no longer listens


def _read(stream: BinaryIO, calls: queue.SimpleQueue[tuple[dict[str, Any], bytes]]) -> None:
    """Read calls, and end this process at once when the connection ends: its timing disturbs the next one."""
    while True:
        try:
            calls.put(frames.read_frame(stream))
        except (EOFError, OSError, frames.FrameError):
            os._exit(0)
