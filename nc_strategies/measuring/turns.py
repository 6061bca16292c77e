"""Latency of models of several engines, each engine in a process of its own, side by side by taking turns.

Two engines cannot always live in one process. Models in different processes are therefore timed turn by turn: one
process runs its model while all others wait. The time of a turn is taken inside the process, so that messages between
the processes do not count.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nc_strategies.backends.adapted import adapt
from nc_strategies.backends.base import Backend, Executable
from nc_strategies.config import MeasureConfig
from nc_strategies.data.dataset import Dataset, cut, with_masks
from nc_strategies.data.matching import match
from nc_strategies.errors import EngineError, NcsError, first_line
from nc_strategies.measuring.latency import TIMING_RULES, Timing
from nc_strategies.measuring.lengths import TimedBatch, heeds_mask, timed_batches
from nc_strategies.measuring.local_target import TargetParts
from nc_strategies.measuring.phases import phase_batches

log = logging.getLogger(__name__)
FP32 = ""
"""Key of the model as given among the models of a bench; the others are the paths of saved models."""


@dataclass(frozen=True)
class TurnRules:
    """Numbers of sessions, rounds and runs.

    Args:
        sessions: Times that every model is opened: latency varies by a few percent between sessions of one graph, and
            the interval of a ratio comes from its ratios in the sessions.
        rounds: Rounds of a session, each of which gives every model a turn, in shuffled order.
        least_rounds: Rounds of a session that are made even when its time is over.
        untimed_runs: Runs at the start of a turn that are not timed: the turn before was another process's, which left
            its own data in the caches.
        timed_runs: Timed runs of a turn; their median counts.
        seconds: Seconds after which a session's rounds end, multiplied by the number of models.
    """

    sessions: int = 5
    rounds: int = 10
    least_rounds: int = 2
    untimed_runs: int = 2
    timed_runs: int = 3
    seconds: float = 0.6


TURN_RULES = TurnRules()


class Bench(Protocol):
    """One engine with models that are open."""

    def open(self, key: str) -> None:
        """Open a model, or open it again in a new session, and warm it up.

        Args:
            key: Path of a saved model; `FP32` for the model as given.

        Raises:
            NcsError: the engine cannot open or run it.
        """

    def turn(self, key: str, untimed: int, timed: int) -> float:
        """Seconds of a run: the median of some runs in a row.

        Args:
            key: An open model.
            untimed: Runs before those that are timed.
            timed: Timed runs.

        Raises:
            NcsError: the engine cannot run it.
        """


@dataclass(frozen=True)
class Entry:
    """A model that takes part in a comparison.

    Args:
        bench: Its engine.
        key: See `Bench.open`.
    """

    bench: Bench
    key: str


@dataclass(frozen=True)
class Turns:
    """Latencies of the models that could be timed.

    Args:
        timing: Its columns are the models of `timed`, in this order; None where none could be timed.
        timed: Positions of the timed models among those given.
        failed: Position of each other model to the reason.
    """

    timing: Timing | None
    timed: tuple[int, ...] = ()
    failed: Mapping[int, str] = field(default_factory=dict)

    def column(self, position: int) -> int | None:
        """Column of a model in `timing`; None if it could not be timed."""
        return self.timed.index(position) if position in self.timed else None


def take_turns(
    entries: Sequence[Entry],
    rng: np.random.Generator,
    rules: TurnRules = TURN_RULES,
    clock: Callable[[], float] = time.monotonic,
) -> Turns:
    """Time models turn by turn, in a new random order per round, over several sessions.

    A model that fails is left out, and the others go on.

    Args:
        entries: The models.
        rng: Shuffles the order.
        rules: Extent of the timing.
        clock: Seconds that count for `TurnRules.seconds`.
    """
    failed: dict[int, str] = {}
    seconds: dict[int, list[list[float]]] = {position: [] for position in range(len(entries))}

    def attempt(position: int, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except NcsError as error:
            log.warning("model %s cannot be timed: %s", entries[position].key or "as given", first_line(error))
            failed[position] = first_line(error)
            return None

    for _ in range(rules.sessions):
        for position, entry in enumerate(entries):
            if position not in failed:
                attempt(position, lambda entry=entry: entry.bench.open(entry.key))  # type: ignore[misc]
        alive = [position for position in seconds if position not in failed]
        for position in alive:
            seconds[position].append([])
        begin, limit = clock(), rules.seconds * len(alive)
        for number in range(rules.rounds):
            if number >= rules.least_rounds and clock() - begin > limit:
                break
            for position in (alive[place] for place in rng.permutation(len(alive))):
                if position not in failed:
                    entry = entries[position]
                    found = attempt(position, lambda entry=entry: _turn(entry, rules))  # type: ignore[misc]
                    seconds[position][-1].append(found)
    timed = tuple(position for position in seconds if position not in failed)
    if not timed:
        return Turns(None, (), failed)
    sessions = [np.array([seconds[p][session] for p in timed]).T for session in range(rules.sessions)]
    return Turns(Timing.joined([Timing(session) for session in sessions]), timed, failed)


def _turn(entry: Entry, rules: TurnRules) -> float:
    return entry.bench.turn(entry.key, rules.untimed_runs, rules.timed_runs)


class EngineBench:
    """A `Bench` in this process.

    Args:
        parts: Engine, fp32 model and data; neither is calibrated.
        measure: Configuration section ``measure``.
    """

    def __init__(self, parts: TargetParts, measure: MeasureConfig) -> None:
        self._parts, self._measure = parts, measure
        self._models: dict[str, Executable] = {}
        self._backend: Backend | None = None
        self._timed: tuple[TimedBatch, ...] = ()
        # A thread of its own for all runs, for the reason given in `nc_strategies.measuring.latency.interleave`.
        self._thread = ThreadPoolExecutor(1)

    def until(self, deadline: float) -> None:
        """Nothing: its calls are short, and the process is killed if one is not."""

    def prepare(self) -> dict[str, Any]:
        """Load the fp32 model, and prepare the samples that latency is measured with.

        Returns:
            ``lengths``: the lengths of the batches that are timed.

        Raises:
            InputError: model and data do not fit each other.
        """
        parts, rules, measure = self._parts, self._parts.rules, self._measure
        info = parts.backend.load(parts.model)
        raw = parts.evaluation.for_model(info, (*rules.constants, *rules.state))
        given = with_masks(cut(raw, info, rules.lengths), info, rules.constants)
        feeds = match(info, given, parts.preprocess, rules).feeds
        self._backend = adapt(parts.backend, feeds)
        # In the stored order, so that all engines get the same samples.
        data = Dataset(given, parts.preprocess, feeds.info, None, feeds, measure.evaluation_batch_size, rules.pad)
        if not heeds_mask(self._backend, data):
            data.distrust_mask()  # Samples are timed at their full length then, as a run times them.
        if measure.context_lengths is None:
            self._timed = timed_batches(data, measure.batch_size, measure.lengths)
        else:
            self._timed = phase_batches(data, measure.batch_size, measure.context_lengths)
        return {"lengths": [timed.length for timed in self._timed]}

    @property
    def _engine(self) -> Backend:
        if self._backend is None:
            raise EngineError("the model is not loaded")
        return self._backend

    def open(self, key: str) -> None:
        """See `Bench.open`."""
        self._thread.submit(self._open, key).result()

    def _open(self, key: str) -> None:
        earlier = self._models.pop(key, None)
        if earlier is not None:
            earlier.close()
        try:
            model = self._engine.reference() if key == FP32 else self._engine.open_to_time(Path(key))
            self._models[key] = model
            for _ in range(TIMING_RULES.warm_up_runs):
                self._run(model)
        except NcsError:
            raise
        except Exception as error:  # engines raise exceptions of any class for a file that they cannot open
            log.exception("%s cannot be opened", key or "the model as given")
            raise EngineError(
                f"the engine cannot open or run it ({type(error).__name__}: {first_line(error)})"
            ) from error

    def turn(self, key: str, untimed: int, timed: int) -> float:
        """See `Bench.turn`: the weighted sum over the batches that are timed, per token where they state tokens."""
        return self._thread.submit(self._turn, key, untimed, timed).result()

    def _turn(self, key: str, untimed: int, timed: int) -> float:
        model, clock, total = self._models[key], self._engine.clock, 0.0
        for part in self._timed:
            for _ in range(untimed):
                model.predict(part.batch)
            seconds = []
            for _ in range(timed):
                before = clock()
                model.predict(part.batch)
                seconds.append(clock() - before)
            total += part.weight * float(np.median(seconds)) / part.tokens
        return total

    def _run(self, model: Executable) -> None:
        for part in self._timed:
            model.predict(part.batch)
