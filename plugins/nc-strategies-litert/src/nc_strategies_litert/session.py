"""Models that are loaded into LiteRT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.api import Batch, EngineError, Executable, ExecutedOps, Profile
from nc_strategies_litert.executed import assign, count, delegated_ops
from nc_strategies_litert.graph import Graph
from nc_strategies_litert.interpreter import ResizedInterpreter
from nc_strategies_litert.node_timing import read_times
from nc_strategies_litert.profiler import KernelEvent, ProfiledModel

MAX_INTERPRETERS = 4
"""Interpreters that a model keeps, one per shape of its inputs: of an evaluation's batches and of a few timed lengths.
To resize one between two timed runs would add to their latency."""


class LiteRtExecutable(Executable):
    """A model with an interpreter per shape of its inputs.

    Args:
        content: A ``.tflite`` file.
        threads: Threads per run.
        fingerprint: Hash of the model.
        profiled: Whether the library's profiler can be used, see `probe.profiler_works`.

    Raises:
        EngineError: the engine refuses the model.
    """

    def __init__(self, content: bytes, threads: int, fingerprint: str, profiled: bool) -> None:
        self.fingerprint, self.size_bytes = fingerprint, len(content)
        self._content, self._threads, self._profiled = content, threads, profiled
        self._interpreters: dict[tuple[tuple[int, ...], ...], ResizedInterpreter] = {}
        self._first: ResizedInterpreter | None = ResizedInterpreter(content, threads)
        self._names = tuple(self._first.inputs)
        self._fed: tuple[Batch, dict[str, NDArray[Any]]] | None = None
        self._executed: ExecutedOps | None = None
        self._open = True

    def predict(self, batch: Batch) -> Sequence[NDArray[Any]]:
        """See `Executable.predict`."""
        interpreter = self._for(batch)
        interpreter.run_fed(self._feed(interpreter, batch))
        return interpreter.results()

    def _for(self, batch: Batch) -> ResizedInterpreter:
        if not self._open:
            raise EngineError("the model was closed")
        shapes = tuple(np.shape(batch[name]) for name in self._names)
        found = self._interpreters.pop(shapes, None)
        if found is None:
            if self._first is not None:
                found, self._first = self._first, None
            elif len(self._interpreters) >= MAX_INTERPRETERS:
                found = self._interpreters.pop(next(iter(self._interpreters)))
            else:
                found = ResizedInterpreter(self._content, self._threads)
        self._interpreters[shapes] = found
        return found

    def _feed(self, interpreter: ResizedInterpreter, batch: Batch) -> dict[str, NDArray[Any]]:
        """The arrays that the engine takes. Those of the last batch are kept: a timed batch is converted once."""
        if self._fed is None or self._fed[0] is not batch:
            self._fed = batch, interpreter.feed(batch)
        return self._fed[1]

    def executed(self) -> ExecutedOps:
        """See `Executable.executed`: types in the file, checked against the kernels that the delegate ran."""
        if self._executed is None:
            graph = Graph(self._content)
            interpreter = self._any()
            found = []
            if self._profiled:
                events = self._one_run(interpreter)
                found = assign(graph, _parts(interpreter), events)
            self._executed = count(graph, found)
        return self._executed

    def _one_run(self, interpreter: ResizedInterpreter) -> list[KernelEvent]:
        """Events of a run of one sample, or of as many as were run last where the model refuses one."""
        try:
            return self._events(_zeros(interpreter, True), 1)[0]
        except EngineError:
            return self._events(_zeros(interpreter, False), 1)[0]

    def delegated(self) -> frozenset[str]:
        """Names of the operators that the delegate executes."""
        graph = Graph(self._content)
        parts = _parts(self._any())
        return frozenset(graph.ops[index].name for part in parts for index in part)

    def profile(self, batch: Batch, runs: int) -> Profile | None:
        """See `Executable.profile`: the delegate's own times."""
        if not self._profiled:
            return None
        events = self._events(batch, runs + 1)
        return read_times(Graph(self._content), _parts(self._any()), events[1:])

    def _events(self, batch: Batch, runs: int) -> list[list[KernelEvent]]:
        interpreter = self._for(batch)
        fed = interpreter.feed(batch)
        interpreter.run_fed(fed)
        outputs = [array.shape for array in interpreter.results()]
        with ProfiledModel(self._content, self._threads) as model:
            return model.run([fed[name] for name in interpreter.inputs], outputs, runs)

    def _any(self) -> ResizedInterpreter:
        if not self._open:
            raise EngineError("the model was closed")
        return self._first or next(reversed(self._interpreters.values()))

    def close(self) -> None:
        """See `Executable.close`."""
        self._open, self._first, self._fed = False, None, None
        self._interpreters.clear()


def open_file(path: Path, threads: int, profiled: bool) -> LiteRtExecutable:
    """Open a saved model.

    Raises:
        EngineError: there is no such file, or the engine refuses it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error.strerror}") from error
    return LiteRtExecutable(content, threads, "saved", profiled)


def _parts(interpreter: ResizedInterpreter) -> list[list[int]]:
    return delegated_ops(interpreter.inner._get_ops_details())


def _zeros(interpreter: ResizedInterpreter, one: bool) -> dict[str, NDArray[Any]]:
    """A batch of the shape that the interpreter has now, or of one sample where the first axis is free."""
    made = {}
    for name, detail in interpreter.inputs.items():
        shape = interpreter.shape(name)
        if one and len(detail["shape_signature"]) and detail["shape_signature"][0] == -1:
            shape = (1, *shape[1:])
        made[name] = np.zeros(shape, detail["dtype"])
    return made
