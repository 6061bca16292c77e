"""Evaluation of one model by several processes, each of which runs a part of the batches.

The model is built once, by the process that measures, and saved. Other processes open the saved model and run batches
of the same evaluation data in the same order, so that they need no calibration, and the graph that is evaluated is the
one that is timed. Outputs come back in the order of the batches: metrics, early stopping and the journal do not differ
from an evaluation by one process. Nothing is timed while other processes run.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import logging
import math
import os
import pickle
import socket
import tempfile
import threading
import time
import uuid
import zipfile
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, wait
from concurrent.futures import TimeoutError as NotYetError
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from nc_strategies.backends.base import Backend, Executable
from nc_strategies.data.dataset import Dataset, DataView, Run
from nc_strategies.errors import NcsError, first_line
from nc_strategies.measuring.deadline import Check
from nc_strategies.measuring.worker.messages import error_from, error_message
from nc_strategies.runtime.scratch import ScratchFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SharingRules:
    """When an evaluation is shared, and in what portions."""

    least_seconds: float = 1.0
    """Seconds of fp32's evaluation below which other processes save less than it takes to open the model in them."""
    portion_seconds: float = 0.05
    """Least seconds of engine time of the batches that are sent together; sending them takes about a millisecond."""
    portions_ahead: int = 2
    """Portions that a process has at a time: it runs one while the other is sent."""
    poll_seconds: float = 0.2
    """Seconds between two checks of the deadline while outputs are awaited."""
    preparation_seconds: float = 600.0
    """Seconds after which the run goes on without processes that have not opened the data."""
    watch_seconds: float = 1.0
    """Least seconds between two messages on the state of an evaluation; a person reads them."""


SHARING_RULES = SharingRules()


@dataclass(frozen=True)
class Origin:
    """From what another process makes a target with the same model and data.

    Args:
        factory: ``module:function`` that returns a `nc_strategies.measuring.local_target.LocalTarget`.
        settings: Argument of the factory; it can be pickled and contains no secrets.
    """

    factory: str
    settings: Any

    @property
    def key(self) -> str:
        """Hash of both, by which a process recognizes what it holds already."""
        return hashlib.sha256(pickle.dumps((self.factory, self.settings))).hexdigest()


class EvaluationPool(Protocol):
    """Processes that run batches, and the only thing that an executor has to offer for it.

    Attributes:
        workers: Number of processes.
        same_files: Whether these processes see the files of this one.

    A pool may also have an attribute ``dashboard``, the address of a page that shows its processes, without secrets.
    """

    workers: int
    same_files: bool

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """Call a function in one of the processes.

        Raises:
            Exception: the processes are lost; of any class.
        """

    def share(self, data: bytes) -> Any:
        """An argument for `submit` that stands for `data`, which should travel to each process once."""

    def alive(self) -> bool:
        """Whether calls still get an answer. It is asked while one is awaited that no error has ended."""

    def restart(self) -> None:
        """Start new processes where some are lost.

        Raises:
            Exception: that is not possible; of any class.
        """

    def close(self) -> None:
        """End the processes."""


@dataclass(frozen=True)
class Portion:
    """What a process returns.

    Args:
        outputs: Outputs of each batch, in the model's order; None for one that no metric reads.
        seconds: The engine's seconds per batch.
        worker: Host and process number.
        error: See `nc_strategies.measuring.worker.messages.error_message`; None if there was none.
    """

    outputs: tuple[tuple[NDArray[Any] | None, ...], ...] = ()
    seconds: tuple[float, ...] = ()
    worker: str = ""
    error: Any = None


@dataclass
class _Held:
    """What a process holds between two calls: a target with its data, and the model of the trial."""

    key: str
    backend: Backend
    data: Dataset
    view: DataView | None = None
    model: str = ""
    executable: Executable | None = None
    folder: ScratchFolder | None = None

    def use(self, view: DataView) -> None:
        if self.view != view:
            self.data.use(view)
            self.view = view

    def open(self, model: str, packed: bytes | None, path: Path) -> Executable:
        if self.executable is None or self.model != model:
            self.close()
            if packed is not None:
                self.folder = ScratchFolder("ncs-evaluated-")
                with zipfile.ZipFile(BytesIO(packed)) as archive:
                    archive.extractall(self.folder.path)
                path = self.folder.path / path
            self.model, self.executable = model, self.backend.open_to_time(path)
        return self.executable

    def close(self) -> None:
        if self.executable is not None:
            self.executable.close()
            self.executable = None
        if self.folder is not None:
            self.folder.remove()
            self.folder = None


_held: _Held | None = None
_one_at_a_time = threading.Lock()
"""A process holds one model, and a pool may call it from several threads, as a Dask worker does by default."""


def prepare(origin: Origin) -> Portion:
    """Runs in another process: open the model's description and the data."""
    try:
        with _one_at_a_time:
            _hold(origin)
    except Exception as error:  # noqa: BLE001 - sent to the caller as plain data
        return Portion(worker=_name(), error=error_message(error))
    return Portion(worker=_name())


def run_batches(
    origin: Origin,
    view: DataView,
    model: str,
    packed: bytes | None,
    path: Path,
    size: int,
    numbers: Sequence[int],
    read: Sequence[int],
) -> Portion:
    """Runs in another process: run some batches of the evaluation data.

    Args:
        origin: What the target is made of.
        view: Which samples are used, and how they are batched.
        model: Name of the model; a process opens each once.
        packed: The saved model as a zip file; None if `path` can be read.
        path: The saved model, in `packed` if that is given.
        size: Most samples of a batch.
        numbers: Numbers of the batches, in their order.
        read: Positions of the outputs to return.
    """
    try:
        outputs, seconds = [], []
        with _one_at_a_time:
            held = _hold(origin)
            held.use(view)
            executable = held.open(model, packed, path)
            for number, run in zip(numbers, some_runs(held.data, size, numbers), strict=True):
                assert run.batch, f"batch {number} is one of those that were asked for"
                before = time.perf_counter()
                found = executable.predict(run.batch)
                seconds.append(time.perf_counter() - before)
                # Copies, because an engine may reuse its buffers for the next batch.
                outputs.append(tuple(_copied(v) if place in read else None for place, v in enumerate(found)))
    except Exception as error:  # noqa: BLE001 - sent to the caller as plain data
        return Portion(worker=_name(), error=error_message(error))
    return Portion(tuple(outputs), tuple(seconds), _name())


def some_runs(data: Dataset, size: int, numbers: Sequence[int]) -> Iterator[Run]:
    """The batches with some numbers, in increasing order."""
    wanted = frozenset(numbers)
    for number, run in enumerate(data.runs(size, wanted.__contains__)):
        if number in wanted:
            yield run
        if number >= max(wanted):
            return


def _hold(origin: Origin) -> _Held:
    global _held
    if _held is None or _held.key != origin.key:
        if _held is not None:
            _held.close()
        module, _, name = origin.factory.partition(":")
        target = getattr(importlib.import_module(module), name)(origin.settings)
        _held = _Held(origin.key, *target.evaluation_data())
    return _held


def _name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


@dataclass(frozen=True)
class Executed:
    """Outputs of one model for one batch.

    Args:
        run: The batch.
        index: Place of the model.
        outputs: Outputs in the model's order; None for one that no metric reads and another process computed.
        seconds: The engine's seconds.
        last: Whether it is the last model to run this batch.
    """

    run: Run
    index: int
    outputs: Sequence[Any]
    seconds: float
    last: bool = True


Source = Callable[[Executable, Dataset, int, Check], Generator[Executed]]
"""Runs a model on all batches of some data of a size, and returns them in order."""


@dataclass
class Usage:
    """How much each process of a run has evaluated, in batches and in the engine's seconds.

    Args:
        batches: Batches by process; `HERE` is the one that measures.
        seconds: Engine seconds by process.
        latest: The last batch that each process returned in the evaluation under way, counted from 1.
        elapsed: Seconds of the shared evaluations that have ended.
        started: When the evaluation under way began, on the clock of `time.perf_counter`; None between evaluations.
        done: Batches returned in the evaluation under way.
        total: Batches of the evaluation under way, if it is not stopped early.
        lost: Number of times that processes were lost.
    """

    batches: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    latest: dict[str, int] = field(default_factory=dict)
    elapsed: float = 0.0
    started: float | None = None
    done: int = 0
    total: int = 0
    lost: int = 0

    def begin(self, total: int) -> None:
        """Note the start of an evaluation of some batches."""
        self.started, self.total, self.done = time.perf_counter(), total, 0
        self.latest.clear()

    def end(self) -> None:
        """Note the end of an evaluation."""
        self.elapsed, self.started = self._elapsed(), None

    def add(self, worker: str, numbers: Sequence[int], seconds: Sequence[float]) -> None:
        """Count batches of a process.

        Args:
            worker: The process.
            numbers: Numbers of the batches, counted from 0.
            seconds: Engine seconds of each.
        """
        self.batches[worker] = self.batches.get(worker, 0) + len(seconds)
        self.seconds[worker] = self.seconds.get(worker, 0.0) + sum(seconds)
        self.done += len(seconds)
        self.total = max(self.total, self.done)
        if numbers:
            self.latest[worker] = numbers[-1] + 1

    def _elapsed(self) -> float:
        return self.elapsed + (0.0 if self.started is None else time.perf_counter() - self.started)

    def to_dict(self, workers: int) -> dict[str, Any]:
        """Plain data for ``result.json``; during an evaluation also its state, as ``evaluation``."""
        return {
            "workers": workers,
            "batches": dict(self.batches),
            **_shares(workers, self.seconds, self._elapsed()),
            "lost": self.lost,
            **({} if self.started is None else {"evaluation": self._state()}),
        }

    def _state(self) -> dict[str, Any]:
        return {"done": self.done, "batches": self.total, "latest": dict(self.latest)}


def _shares(workers: int, seconds: Mapping[str, float], elapsed: float) -> dict[str, Any]:
    """Busy seconds by process, and the shares of the shared evaluations' seconds in which they were idle."""

    def idle(busy: float, count: int) -> float | None:
        return round(max(0.0, 1 - busy / (count * elapsed)), 4) if elapsed else None

    return {
        "busy_seconds": {name: round(took, 3) for name, took in seconds.items()},
        "idle_shares": {name: idle(took, 1) for name, took in seconds.items()},
        "shared_seconds": round(elapsed, 3),
        "idle_share": idle(sum(seconds.values()), workers),
    }


def summed(before: Mapping[str, Any], after: Mapping[str, Any]) -> Mapping[str, Any]:
    """What processes evaluated before and after the engine was started anew, see `Usage.to_dict`."""
    if not before or not after:
        return after or before

    def sums(key: str) -> dict[str, Any]:
        return {
            name: before[key].get(name, 0) + after[key].get(name, 0)
            for name in dict.fromkeys([*before[key], *after[key]])
        }

    elapsed = before["shared_seconds"] + after["shared_seconds"]
    return {
        **after,
        "batches": sums("batches"),
        **_shares(after["workers"], sums("busy_seconds"), elapsed),
        "lost": before["lost"] + after["lost"],
    }


Watch = Callable[[Mapping[str, Any]], None]
"""Gets `Usage.to_dict` when it has changed."""
HERE = "this process"


class Sharing:
    """Shares the evaluations of a run among processes; each evaluation falls back to this process.

    Args:
        pool: The other processes.
        origin: What they make their target of.
    """

    def __init__(self, pool: EvaluationPool, origin: Origin) -> None:
        self.pool, self.origin = pool, origin
        self.usage = Usage()
        self.watch: Watch | None = None
        self._told = -math.inf
        self._preparing: list[Future[Portion]] = []
        self._off = ""

    @property
    def workers(self) -> int:
        """Number of processes that evaluate, this one included."""
        return self.pool.workers + 1

    def to_dict(self) -> dict[str, Any]:
        """See `Usage.to_dict`; also the pool's ``dashboard``, and the reason why this process evaluates ``alone``."""
        dashboard = str(getattr(self.pool, "dashboard", ""))
        return {
            **self.usage.to_dict(self.workers),
            **({"dashboard": dashboard} if dashboard else {}),
            **({"alone": self._off} if self._off else {}),
        }

    def tell(self, now: bool = False) -> None:
        """Tell the watch what the processes do, unless it was told a moment ago.

        Args:
            now: Tell it in any case.
        """
        clock = time.monotonic()
        if self.watch is not None and (now or clock - self._told >= SHARING_RULES.watch_seconds):
            self._told = clock
            self.watch(self.to_dict())

    def start(self) -> None:
        """Let the processes open model and data while this one calibrates."""
        if self._off:
            return
        try:
            self._preparing = [self.pool.submit(prepare, self.origin) for _ in range(self.pool.workers)]
        except Exception as error:  # noqa: BLE001 - a pool loses its processes with errors of any class
            self._give_up(error)

    def ready(self) -> bool:
        """Wait for `start` to end, before anything is timed; False if the processes cannot be used."""
        preparing, self._preparing = self._preparing, []
        late = wait(preparing, SHARING_RULES.preparation_seconds).not_done
        for future in preparing:
            try:
                if future in late:
                    future.cancel()
                    raise NotYetError(f"they took more than {SHARING_RULES.preparation_seconds:g} s to open the data")
                if (error := future.result().error) is not None:
                    raise error_from(error)
            except Exception as error:  # noqa: BLE001 - a pool loses its processes with errors of any class
                self._give_up(error)
                break
        self.tell(now=True)
        return not self._off

    def close(self) -> None:
        """End the processes."""
        self.pool.close()

    @contextlib.contextmanager
    def source(
        self, save: Callable[[Path], Path], view: DataView, read: Sequence[int], expected_seconds: float, batches: int
    ) -> Iterator[Source | None]:
        """A source that shares one model's evaluation; None where that does not pay.

        Args:
            save: Saves the model into a folder, and returns the path to open.
            view: Which samples are used, and how they are batched.
            read: Positions of the outputs that metrics read.
            expected_seconds: Engine seconds of the whole evaluation, as far as fp32's show.
            batches: Number of its batches.
        """
        if self._off or expected_seconds < SHARING_RULES.least_seconds or batches < 2 * self.workers:
            yield None
            return
        gain = expected_seconds * (1 - 1 / self.workers)
        with tempfile.TemporaryDirectory(prefix="ncs-shared-") as folder:
            start = time.perf_counter()
            path = save(Path(folder) / "model")
            packed = None
            if not self.pool.same_files:
                data, path = _packed(Path(folder)), path.relative_to(folder)
                try:
                    packed = self.pool.share(data)
                except Exception as error:  # noqa: BLE001 - a pool loses its processes with errors of any class
                    self.lost(error)
                    yield None
                    return
            spent = time.perf_counter() - start
            portion = max(1, math.ceil(SHARING_RULES.portion_seconds * batches / expected_seconds))
            portion = min(portion, max(1, batches // (2 * self.workers)))
            model = _SharedModel(self, view, uuid.uuid4().hex, packed, path, read, portion, batches)
            yield model.executed
        if not self._pays(spent, gain):
            self._off = f"saving the model takes {spent:.2f} s, and other processes save {gain:.2f} s at most"
            log.info("evaluations are not shared any more: %s", self._off)

    @staticmethod
    def _pays(spent: float, gain: float) -> bool:
        """Whether saving a model, in seconds, takes less than half of what other processes save at most."""
        return spent <= gain / 2

    def lost(self, error: BaseException) -> None:
        """Note that processes were lost, in one line; new ones are started for the next evaluation."""
        self.usage.lost += 1
        try:
            self.pool.restart()
        except Exception as failed:  # noqa: BLE001 - a pool loses its processes with errors of any class
            self._give_up(failed)
        else:
            log.warning("a process that evaluates was lost (%s): its samples are evaluated here", _text(error))

    def stop(self, reason: str) -> None:
        """Share no further evaluation."""
        self._off = reason
        log.info("evaluations are not shared: %s", reason)

    def _give_up(self, error: BaseException) -> None:
        self._off = _text(error)
        log.warning("the other processes cannot evaluate (%s): this one evaluates alone", self._off)


def _text(error: BaseException) -> str:
    kind = "" if isinstance(error, NcsError) else f"{type(error).__name__}: "
    return f"{kind}{first_line(error)}"


@dataclass
class _Part:
    """Consecutive batches, here or in another process."""

    numbers: list[int]
    runs: list[Run]
    future: Future[Portion] | None = None
    found: Portion | None = None


@dataclass
class _SharedModel:
    """One model's evaluation; see `run_batches` for the arguments."""

    sharing: Sharing
    view: DataView
    name: str
    packed: Any
    path: Path
    read: Sequence[int]
    portion: int
    batches: int

    def executed(self, model: Executable, data: Dataset, size: int, check: Check) -> Generator[Executed]:
        """See `Source`."""
        evaluation = _Evaluation(self, model, data, size, check)
        self.sharing.usage.begin(self.batches)
        try:
            yield from evaluation.executed()
        finally:
            evaluation.drain()
            self.sharing.usage.end()
            self.sharing.tell(now=True)


class _Evaluation:
    """The state of one shared evaluation: the parts in order, those under way, and what is left of the batches."""

    def __init__(self, shared: _SharedModel, model: Executable, data: Dataset, size: int, check: Check) -> None:
        self._shared, self._model, self._data, self._size, self._check = shared, model, data, size, check
        self._runs = enumerate(data.runs(size, lambda _: self._here))
        self._here, self._ended, self._alone = True, False, False
        self._parts: deque[_Part] = deque()

    def executed(self) -> Iterator[Executed]:
        """Outputs of all batches in order."""
        while True:
            self._check()
            self._send()
            self._shared.sharing.tell()
            part = None if self._ended else self._next(here=True)
            if part is not None:
                part.found = self._run(part.runs, part.numbers)
                self._parts.append(part)
            elif self._parts:
                self._await(self._parts[0])
            else:
                return
            while self._parts and self._done(self._parts[0]):
                part = self._parts.popleft()
                assert part.found is not None
                for run, outputs, seconds in zip(part.runs, part.found.outputs, part.found.seconds, strict=True):
                    yield Executed(run, 0, outputs, seconds)

    def drain(self) -> None:
        """Wait until no other process runs a batch, so that nothing disturbs what is timed next."""
        futures = [part.future for part in self._parts if part.future is not None]
        for future in futures:
            future.cancel()
        running = {future for future in futures if not future.done()}
        while running and self._shared.sharing.pool.alive():
            running = wait(running, SHARING_RULES.poll_seconds).not_done
        self._parts.clear()

    def _send(self) -> None:
        """Give the other processes as many parts as they take at a time."""
        pool = self._shared.sharing.pool
        most = pool.workers * SHARING_RULES.portions_ahead
        while not (self._ended or self._alone):
            under_way = sum(part.future is not None and not part.future.done() for part in self._parts)
            if under_way >= most:
                return
            part = self._next(here=False)
            if part is None:
                return
            self._parts.append(part)
            shared = self._shared
            arguments = (shared.sharing.origin, shared.view, shared.name, shared.packed, shared.path, self._size)
            try:
                part.future = pool.submit(run_batches, *arguments, part.numbers, shared.read)
            except Exception as error:  # noqa: BLE001 - a pool loses its processes with errors of any class
                self._lose(part, error)

    def _next(self, here: bool) -> _Part | None:
        """The next batches; None after the last."""
        self._here = here
        part = _Part([], [])
        for number, run in self._runs:
            part.numbers.append(number)
            part.runs.append(run)
            if len(part.runs) >= self._shared.portion:
                return part
        self._ended = True
        return part if part.runs else None

    def _run(self, runs: Sequence[Run], numbers: Sequence[int]) -> Portion:
        """Run batches in this process."""
        outputs, seconds = [], []
        for run in runs:
            self._check()
            before = time.perf_counter()
            # A copy, because an engine may reuse its buffers and the outputs may wait for those of earlier batches.
            outputs.append(tuple(_copied(value) for value in self._model.predict(run.batch)))
            seconds.append(time.perf_counter() - before)
        self._shared.sharing.usage.add(HERE, numbers, seconds)
        return Portion(tuple(outputs), tuple(seconds), HERE)

    def _await(self, part: _Part) -> None:
        """Wait a little for another process."""
        if part.future is None or wait([part.future], SHARING_RULES.poll_seconds).done:
            return
        if not self._shared.sharing.pool.alive():
            self._lose(part, ConnectionError("the connection to them is lost"))

    def _done(self, part: _Part) -> bool:
        """Whether a part has its outputs; those of a lost process are computed here."""
        if part.found is not None:
            return True
        assert part.future is not None
        if not part.future.done():
            return False
        try:
            found = part.future.result()
        except (Exception, CancelledError) as error:  # noqa: BLE001 - a pool loses its processes with errors of any class
            self._lose(part, error)
            return True
        if found.error is not None:
            raise error_from(found.error)
        self._shared.sharing.usage.add(found.worker, part.numbers, found.seconds)
        part.found = found
        return True

    def _lose(self, part: _Part, error: BaseException) -> None:
        """Compute a part here whose process is lost, and send no further ones in this evaluation."""
        if not self._alone:
            self._alone = True
            self._shared.sharing.lost(error)
        runs = list(some_runs(self._data, self._size, part.numbers))
        part.future, part.found = None, self._run(runs, part.numbers)


def _copied(value: Any) -> Any:
    return value.copy() if hasattr(value, "copy") else value


def _packed(folder: Path) -> bytes:
    """The files of a folder as a zip file."""
    data = BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
    return data.getvalue()
