"""A run's use of another machine: connects, sends what is missing there, and connects again when that is lost."""

from __future__ import annotations

import hashlib
import logging
import math
import secrets
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.base import Backend
from nc_strategies.backends.ceiling import Ceiling
from nc_strategies.errors import EngineError, MissingEngineError, TargetError, first_line
from nc_strategies.measuring.deadline import Check, unlimited
from nc_strategies.measuring.latency import Timing
from nc_strategies.measuring.lengths import TimedBatch
from nc_strategies.measuring.remote import frames
from nc_strategies.measuring.remote.connection import Connection, LostError, Target
from nc_strategies.measuring.remote.store import BATCH, Parcel, pack
from nc_strategies.models.info import Batch
from nc_strategies.runtime.turns import waited

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class RetryRules:
    """When a lost connection is given up.

    Args:
        first_pause: Seconds before the first further attempt to connect; each pause is twice the one before.
        longest_pause: Seconds of the longest pause.
        poll_seconds: Seconds between two looks at the run's deadline during a pause.
        most_losses: Losses during the same call, each after a connection in order, after which the model is at fault:
            the engine's process dies of it.
    """

    first_pause: float = 0.5
    longest_pause: float = 30.0
    poll_seconds: float = 0.2
    most_losses: int = 3


RULES = RetryRules()


def pauses(seconds: float) -> Iterator[float]:
    """Seconds before each attempt to connect, which add up to `seconds`; nothing precedes the first."""
    pause, left = 0.0, seconds
    while True:
        yield pause
        if left <= 0:
            return
        pause = min(left, RULES.longest_pause, 2 * pause or RULES.first_pause)
        left -= pause


@dataclass(frozen=True)
class Engine:
    """A backend that is opened on the other machine, by the names of its class and settings.

    Args:
        backend: Module and name of its class.
        settings: Module and name of the dataclass of its settings, and their values; empty names for no settings.
        threads: Threads per run.
    """

    backend: tuple[str, str]
    settings: tuple[str, str, Mapping[str, Any]]
    threads: int

    @staticmethod
    def of(backend: Backend) -> Engine:
        """The engine of a backend of this process."""
        kind, settings = type(backend), backend.settings
        values = asdict(settings) if is_dataclass(settings) and not isinstance(settings, type) else None
        return Engine(
            (kind.__module__, kind.__qualname__),
            ("", "", {}) if values is None else (type(settings).__module__, type(settings).__qualname__, values),
            backend.threads,
        )

    @staticmethod
    def named(target: str, schema: type | None, threads: int) -> Engine:
        """The engine of a backend with its default settings, which need not be installed here.

        Args:
            target: ``module:Class`` of the backend.
            schema: Dataclass of its settings.
            threads: Threads per run.
        """
        module, _, name = target.partition(":")
        settings = ("", "") if schema is None else (schema.__module__, schema.__qualname__)
        return Engine((module, name), (*settings, {}), threads)


@dataclass(frozen=True)
class RemoteModel:
    """A model on the other machine, which opens it when it is first used.

    Args:
        token: Names the session; another one of the same model has another token.
        parcel: The model's files.
    """

    token: str
    parcel: Parcel

    def asked(self) -> dict[str, Any]:
        """The model in a call."""
        return {"token": self.token, "key": self.parcel.key, "path": self.parcel.path}


class RemoteSession:
    """A run's use of another machine. `close` it: nothing stays there.

    Args:
        target: The machine.
        engine: The backend that opens models there; None for `machine` alone.
        take_turns: Whether timings there wait for those of other runs.
        reconnect_seconds: See ``measure.reconnect_seconds``.
    """

    def __init__(
        self, target: Target, engine: Engine | None, take_turns: bool = True, reconnect_seconds: float = 0.0
    ) -> None:
        self.target, self.engine, self._take_turns = target, engine, take_turns
        self._reconnect_seconds = reconnect_seconds
        self._run = secrets.token_hex(8)
        self._connection: Connection | None = None
        self._began = False
        self._released: list[str] = []
        self._there: set[str] = set()
        self._batches: dict[str, Parcel] = {}
        self.versions: dict[str, str] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="ncs-target-"))
        self._remove = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def connect(self) -> None:
        """Connect, and import the engine there.

        Raises:
            TargetError: that cannot be done; the first connection is not tried again.
        """
        try:
            self._connect()
        except LostError as error:
            raise self.target.error(f"cannot be reached ({first_line(error)})") from None

    def _connect(self) -> None:
        if self._connection is not None:
            return
        connection = Connection(self.target)
        try:
            connection.call("begin", run=self._run)
            self._choose_engine(connection)
        except BaseException:
            self._end(connection)
            raise
        self._connection, self._began = connection, True

    def _choose_engine(self, connection: Connection) -> None:
        engine = self.engine
        if engine is None:
            return
        answer, _ = connection.call("backend", backend=engine.backend, settings=engine.settings, threads=engine.threads)
        if "missing" in answer:
            install = f"install it: {self.target.install}"
            raise self.target.error(f"has no {frames.plain(answer['missing'])}", install, MissingEngineError)
        self.versions = {
            frames.plain(name): frames.plain(version) for name, version in dict(answer["versions"]).items()
        }

    def _attempt(self, work: Callable[[Connection], T], check: Check = unlimited) -> T:
        """Do something over the connection, again after a new one when it is lost on the way.

        Raises:
            TargetError: the machine could not be reached again.
            EngineError: the connection was lost several times at this.
        """
        losses, why = 0, ""
        for pause in pauses(self._reconnect_seconds):
            self._pause(pause, check)
            try:
                self._connect() if self._began else self.connect()
            except LostError as error:
                why = first_line(error)
                continue
            assert self._connection is not None
            try:
                return work(self._connection)
            except LostError as error:
                why = first_line(error)
                self._drop()
                losses += 1
                log.warning("the connection to %s was lost (%s): once more", self.target.address.machine, why)
            except BaseException:
                if self._connection.closed:
                    self._drop()
                raise
            if losses >= RULES.most_losses:
                raise EngineError(f"the engine's process on {self.target.address.machine} ended {losses} times ({why})")
        raise self.target.error(
            f"cannot be reached any more ({why}); what was measured is kept", "the same command resumes the run"
        )

    def _pause(self, seconds: float, check: Check) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            check()
            part = min(left, RULES.poll_seconds)
            time.sleep(part)
            waited(part)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._released.clear()  # a new process there has no models open
        self._there.clear()
        if connection is not None:
            connection.close()

    def model(self, parcel: Parcel) -> RemoteModel:
        """A new session of a model."""
        return RemoteModel(secrets.token_hex(8), parcel)

    def release(self, model: RemoteModel) -> None:
        """Close a session, before the next call."""
        self._released.append(model.token)

    def time(
        self,
        models: Sequence[RemoteModel],
        batches: Sequence[TimedBatch],
        runs: int,
        seed: int,
        limit: float,
        check: Check,
        left: Callable[[], float],
    ) -> Timing:
        """Time models there; see `Timer.time`."""
        parcels = [self._batch(timed.batch) for timed in batches]

        def work(connection: Connection) -> bytes:
            self._send(connection, [*(model.parcel for model in models), *parcels], check)
            rest = left()
            return connection.call(
                "time",
                models=[model.asked() for model in models],
                batches=[
                    {
                        "key": parcel.key,
                        "names": list(timed.batch),
                        "kept": True,
                        "weight": timed.weight,
                        "length": timed.length,
                        "phase": timed.phase,
                        "tokens": timed.tokens,
                    }
                    for timed, parcel in zip(batches, parcels, strict=True)
                ],
                runs=runs,
                seed=seed,
                limit=limit,
                left=rest if math.isfinite(rest) else None,
                turns=self._take_turns,
                release=self._take_released(),
            )[1]

        arrays = _checked(self._attempt(work, check), len(models), len(batches))
        return Timing(arrays[0], (), tuple(Timing(part) for part in arrays[1:]))

    def send(self, parcels: Sequence[Parcel], check: Check = unlimited) -> None:
        """Send parcels that are not there."""
        self._attempt(lambda connection: self._send(connection, parcels, check), check)

    def predict(self, model: RemoteModel, batch: Batch) -> list[NDArray[Any]]:
        """Run a model there once."""
        parcel = self._batch(batch)

        def work(connection: Connection) -> bytes:
            self._send(connection, [model.parcel, parcel])
            asked = {"key": parcel.key, "names": list(batch), "kept": False}
            return connection.call("predict", model=model.asked(), batch=asked, release=self._take_released())[1]

        try:
            return frames.unpack_arrays(self._attempt(work))
        except frames.FrameError as error:
            raise EngineError(f"on the target: {error}") from error

    def peak_bytes(self, parcel: Parcel, batch: Batch) -> int:
        """Peak memory of a model's run there, in bytes."""
        sent = self._batch(batch)

        def work(connection: Connection) -> int:
            self._send(connection, [parcel, sent])
            asked = {"key": sent.key, "names": list(batch), "kept": True}
            model = {"key": parcel.key, "path": parcel.path}
            return int(connection.call("peak", model=model, batch=asked, release=self._take_released())[0]["bytes"])

        return self._attempt(work)

    def ceiling(self, again: bool = False) -> Ceiling | None:
        """The int8 ceiling of the engine there; see `Backend.ceiling`."""
        found = self._attempt(lambda connection: connection.call("ceiling", again=again)[0]["ceiling"])
        try:
            return Ceiling.from_dict(found) if found is not None else None
        except ValueError as error:
            raise EngineError(f"on the target: {error}") from None

    def machine(self) -> dict[str, Any]:
        """Processor, instruction sets, number of cores, and versions, as plain data."""
        found = self._attempt(lambda connection: connection.call("machine")[0])
        try:
            return {
                "processor": frames.plain(found["processor"]),
                "instruction_sets": [frames.plain(name) for name in found["instruction_sets"]],
                "cores": int(found["cores"]),
                "engine": {
                    **self.versions,
                    "numpy": frames.plain(found["numpy"]),
                    "python": frames.plain(found["python"]),
                },
            }
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(
                f"on the target: the machine's description cannot be read ({first_line(error)})"
            ) from None

    def close(self) -> None:
        """Remove what was sent, and end the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._end(connection)
        self._remove()

    @staticmethod
    def _end(connection: Connection) -> None:
        if not connection.closed:
            try:
                connection.call("end")
            except (LostError, EngineError, TargetError) as error:
                log.info("files may stay on the target for a day: %s", first_line(error))
        connection.close()

    def _take_released(self) -> list[str]:
        taken, self._released = self._released, []
        return taken

    def _batch(self, batch: Batch) -> Parcel:
        """A batch as a parcel."""
        digest = hashlib.sha256()
        for array in batch.values():
            digest.update(f"{array.dtype.str} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).data)
        name = digest.hexdigest()
        if name not in self._batches:
            self._batches[name] = self._packed_batch(batch)
        return self._batches[name]

    def _packed_batch(self, batch: Batch) -> Parcel:
        data = frames.pack_arrays(list(batch.values()))
        place = self.folder / f"batch-{secrets.token_hex(4)}"
        place.mkdir()
        try:
            (place / BATCH).write_bytes(data)
            return pack(place / BATCH, place, place.with_suffix(".zip"))
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _send(self, connection: Connection, parcels: Sequence[Parcel], check: Check = unlimited) -> None:
        """Send the parcels that are not there."""
        unique = {parcel.key: parcel for parcel in parcels}
        if unique.keys() <= self._there:
            return
        lacking = connection.call("has", keys=list(unique))[0]["lacking"]
        for key, parcel in unique.items():
            if key in lacking:
                size, sent = parcel.archive.stat().st_size, 0
                with parcel.archive.open("rb") as stream:
                    while sent < size:
                        check()
                        part = stream.read(frames.CHUNK_BYTES)
                        first, sent = sent == 0, sent + len(part)
                        answer, _ = connection.call("put", part, key=key, first=first, last=sent >= size)
                        self._there.difference_update(map(str, answer.get("removed", ())))
            self._there.add(key)


def _checked(data: bytes, models: int, batches: int) -> list[NDArray[np.float64]]:
    """The seconds of a timing; the other machine may send anything.

    Raises:
        EngineError: it is not what was asked for.
    """
    try:
        arrays = [np.asarray(array, np.float64) for array in frames.unpack_arrays(data)]
    except (frames.FrameError, ValueError, TypeError) as error:
        raise EngineError(f"on the target: the timing cannot be read ({first_line(error)})") from error
    count = 1 if batches == 1 else 1 + batches
    alike = len(arrays) == count and all(a.shape == (len(arrays[0]), models) for a in arrays)
    if not alike or not len(arrays[0]) or not all(np.isfinite(a).all() and (a > 0).all() for a in arrays):
        raise EngineError("on the target: the timing is not that of the models asked for")
    return arrays
