"""Recovery on calibration data, before any configuration is built; see `nc_strategies.calibration.recovery`."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from nc_strategies.backends.collection import LIMITS as MEMORY
from nc_strategies.backends.collection import plan_runs
from nc_strategies.backends.onnxruntime.calibrate import OrtObserver
from nc_strategies.backends.onnxruntime.providers import CPU, Provider
from nc_strategies.backends.onnxruntime.session import OrtExecutable
from nc_strategies.calibration.noise import noise_to_signal, signal_of
from nc_strategies.calibration.recovery import (
    ADDED_SCALING,
    BIAS_CORRECTION,
    DYNAMIC,
    EVERYTHING,
    LIMITS,
    RESIDUAL,
    ROUNDING,
    SMOOTH_QUANT,
    WEIGHTS,
    Attempt,
    RecoveryRecord,
    tried,
)
from nc_strategies.calibration.rounding import Rows, output_noise
from nc_strategies.calibration.smoothing import Reader, Smoothing, searched
from nc_strategies.errors import EngineError
from nc_strategies.models.info import Batch, ModelInfo
from nc_strategies.onnx_graph.equalize import pairs
from nc_strategies.onnx_graph.graph import FusedOp, Graph
from nc_strategies.onnx_graph.operands import as_matrices, has_matrix, row_size, rows_of
from nc_strategies.onnx_graph.recovery import WeightRecovery, can_be_corrected
from nc_strategies.onnx_graph.rounded_model import GRANULARITY, rounded_model
from nc_strategies.onnx_graph.smooth import ChannelGroup, branch_groups, channel_groups, per_row, scaled, scaled_name
from nc_strategies.onnx_graph.weights import WeightCache
from nc_strategies.space import OpCapability, OpScheme
from nc_strategies.space.scheme import DYNAMIC as DYNAMIC_MODE

log = logging.getLogger(__name__)
HELD_OUT_EVERY = 4
"""Every fourth sample, or batch where a batch cannot be cut, is held out."""
READING_SHARE = 0.3
"""Share of the time of all methods that reading the data they are fitted on may take."""

ITEM_BYTES = np.dtype(np.float32).itemsize
LARGEST_VALUE = 1e12
"""Largest magnitude of the rows of an operator that is looked at: sums of products of larger ones are not finite."""
SAME_FUNCTION = 1e-8
"""Greatest noise of the floating-point model with scaled channels. Its outputs are equal to the bit, unless the engine
computes in another order."""


@dataclass(frozen=True)
class Pieces:
    """Calibration feeds.

    Args:
        fit: What methods are fitted on.
        held_out: What they are judged on.
    """

    fit: tuple[Batch, ...]
    held_out: tuple[Batch, ...]


def split(batches: Sequence[Batch], info: ModelInfo, largest: int) -> Pieces:
    """Divide calibration data: the last quarter of each batch, or every fourth batch of one sample, is held out.

    Args:
        batches: Feeds of the engine.
        info: The model's inputs, with the axes that count samples.
        largest: Most samples per feed that is returned.
    """
    fit: list[Batch] = []
    held_out: list[Batch] = []
    counts = {"fit": 0, "held_out": 0}

    def add(name: str, pieces: list[Batch], feed: Batch, most: int) -> None:
        size = info.samples(feed)
        step = size if info.batch_size is not None else largest
        for start in range(0, size, step):
            room = most - counts[name]
            if room <= 0:
                return
            # A feed of a fixed batch size stays whole.
            piece = info.rows(feed, start, min(start + step, start + room))
            pieces.append(piece)
            counts[name] += info.samples(piece)

    for number, batch in enumerate(batches):
        size = info.samples(batch)
        if size == 1 or info.batch_size is not None:
            if number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1:
                add("held_out", held_out, batch, LIMITS.held_out_samples)
            else:
                add("fit", fit, batch, LIMITS.fit_samples)
        else:
            cut = size - max(1, size // HELD_OUT_EVERY)
            add("fit", fit, info.rows(batch, 0, cut), LIMITS.fit_samples)
            add("held_out", held_out, info.rows(batch, cut, size), LIMITS.held_out_samples)
        if counts["fit"] >= LIMITS.fit_samples and counts["held_out"] >= LIMITS.held_out_samples:
            break
    return Pieces(tuple(fit), tuple(held_out))


def read_rows(
    graph: Graph,
    ops: Sequence[FusedOp],
    pieces: Pieces,
    info: ModelInfo,
    threads: int,
    seconds: float,
    provider: Provider = CPU,
) -> dict[str, Rows]:
    """Rows that operators multiply by their weights, at random places of the calibration data.

    Args:
        graph: The model.
        ops: The operators, see `has_matrix`.
        pieces: Calibration data.
        info: The model's inputs, with the axes that count samples.
        threads: Threads per run.
        seconds: Seconds after which no further feeds are read.
        provider: Execution provider of the sessions.

    Raises:
        EngineError: the engine refuses a feed.
    """
    begin = time.perf_counter()
    rng = np.random.default_rng(0)
    observer = OrtObserver(graph, threads, provider)
    observer.names = sorted({op.inputs[0] for op in ops})
    most = LIMITS.row_bytes // max(1, ITEM_BYTES * sum(row_size(graph, op) for op in ops))
    most = max(1, min(LIMITS.most_rows, most))
    found: dict[str, tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]] = {op.name: ([], []) for op in ops}
    for names in _groups(observer, pieces, info):
        read, readers = observer.reader(names), [op for op in ops if op.inputs[0] in names]
        for place, feeds, share in ((1, pieces.held_out, HELD_OUT_EVERY), (0, pieces.fit, 1)):
            count = max(1, -(-most // (len(feeds) * share)))
            for number, feed in enumerate(feeds):
                if number and time.perf_counter() - begin > seconds:
                    break
                values = dict(zip(names, read(feed), strict=True))
                for op in readers:
                    found[op.name][place].append(rows_of(graph, op, values[op.inputs[0]], count, rng))
    rows = {name: Rows(*(np.concatenate(parts, 1) for parts in both)) for name, both in found.items()}
    return {name: own for name, own in rows.items() if _moderate(own)}


def _groups(observer: OrtObserver, pieces: Pieces, info: ModelInfo) -> tuple[tuple[str, ...], ...]:
    """Observed tensors that are read in the same run."""
    first = pieces.fit[0]
    largest = max(info.samples(feed) for feed in (*pieces.fit, *pieces.held_out)) / max(1, info.samples(first))
    sizes = {name: math.ceil(ITEM_BYTES * math.prod(shape) * largest) for name, shape in observer.shapes(first).items()}
    return plan_runs(sizes, 1, MEMORY).groups


def _moderate(rows: Rows) -> bool:
    """Whether all values are finite and not so large that sums of their products are infinite."""
    return all(bool((np.abs(values) <= LARGEST_VALUE).all()) for values in (rows.fit, rows.held_out))


class Judge:
    """Measures the noise of models beside the floating-point one, on data that nothing was fitted on.

    Args:
        graph: The floating-point model.
        feeds: The data.
        info: The model's inputs, with the axes that count samples.
        threads: Threads per run.
        provider: Execution provider of the sessions.

    Raises:
        EngineError: the engine refuses the model or the data.
    """

    def __init__(
        self, graph: Graph, feeds: Sequence[Batch], info: ModelInfo, threads: int, provider: Provider = CPU
    ) -> None:
        self._feeds, self._info, self._threads, self._provider = feeds, info, threads, provider
        self._signals = self._outputs(graph.model)

    def noise(self, model: onnx.ModelProto) -> float:
        """Noise-to-signal ratio of a model's output; infinite if an output is not finite.

        Raises:
            EngineError: the engine refuses the model.
        """
        counts = [self._info.samples(feed) for feed in self._feeds]
        ratios = map(noise_to_signal, self._signals, self._outputs(model))
        return sum(count * ratio for count, ratio in zip(counts, ratios, strict=True)) / sum(counts)

    def _outputs(self, model: onnx.ModelProto) -> list[NDArray[Any]]:
        session = OrtExecutable(model.SerializeToString(), self._threads, provider=self._provider)
        try:
            return [np.array(signal_of(session.predict(feed))) for feed in self._feeds]
        finally:
            session.close()


def dynamic_scheme(op: OpCapability) -> OpScheme | None:
    """The first dynamic scheme that an operator offers; None if it offers none."""
    return next((scheme for scheme in op.schemes if scheme.mode == DYNAMIC_MODE), None)


class Recoverable(Protocol):
    """The calibrated model of a backend, as recovery sees and changes it."""

    @property
    def graph(self) -> Graph:
        """The model in use."""

    @property
    def weights(self) -> WeightCache:
        """Its quantized weights."""

    @property
    def offered(self) -> frozenset[str]:
        """Operators that can be quantized."""

    @property
    def scales_pairs(self) -> bool:
        """Whether channels between two operators with weights may be scaled, as cross-layer equalization does."""

    @property
    def offers_dynamic(self) -> bool:
        """Whether matrix products can be quantized at run time."""

    @property
    def reduce_range(self) -> bool:
        """Whether weights have 7 bits by default."""

    def quantized(self, what: str) -> onnx.ModelProto:
        """The model in int8: `EVERYTHING` or `DYNAMIC`."""

    def use_scaled(self, graph: Graph, tensors: Collection[str]) -> Callable[[], None]:
        """Put a graph into use that differs in the values of some tensors; return what puts the last one back.

        Raises:
            InputError: the engine refuses the data.
        """


class Methods:
    """All methods on one model.

    Args:
        model: The model.
        judge: Measures noise on held-out data.
        rows: Operator to the rows that it multiplies by its weight.
    """

    def __init__(self, model: Recoverable, judge: Judge, rows: Mapping[str, Rows]) -> None:
        self.model, self.judge = model, judge
        self.rounded: set[str] = set()
        self.corrected: set[str] = set()
        self._undo: dict[str, tuple[Callable[[], None], Mapping[str, Rows]]] = {}
        self._take(rows)

    def _take(self, rows: Mapping[str, Rows]) -> None:
        """Use rows for the weights of the graph in use."""
        self.recovery = WeightRecovery(rows, self.rounded, self.corrected)
        self.model.weights.recover(self.recovery)
        self.ops = [op for name, op in self.model.graph.fused_ops.items() if name in rows]

    def release(self) -> None:
        """Keep the rows of operators that are rounded or corrected only; other weights need none."""
        kept = self.rounded | self.corrected
        self.recovery.rows = {name: rows for name, rows in self.recovery.rows.items() if name in kept}

    def attempts(self) -> dict[str, Attempt]:
        """The methods by name."""
        int8 = DYNAMIC if self.model.offers_dynamic else EVERYTHING
        found = [
            Attempt(BIAS_CORRECTION, WEIGHTS, self.correct_biases, self.corrected.clear),
            Attempt(ROUNDING, WEIGHTS, self.round_weights, self.leave_weights),
        ]
        for name in (SMOOTH_QUANT, RESIDUAL, ADDED_SCALING):
            fit, undo = partial(self.scale_channels, name), partial(self.restore_channels, name)
            found.append(Attempt(name, int8, fit, undo))
        return {attempt.method: attempt for attempt in found}

    def noise(self, what: str) -> float:
        """Noise-to-signal ratio of the model as it is now, see `RecoveryRecord`."""
        if what != WEIGHTS:
            return self.judge.noise(self.model.quantized(what))
        rounded = rounded_model(self.model.graph, self.model.weights, self.ops, self.model.reduce_range)
        return self.judge.noise(rounded)

    def correct_biases(self, seconds: float) -> int:
        """Correct the operators whose own output then has less noise on unseen rows; return their number."""
        begin = time.perf_counter()
        weights = self.model.weights
        for op in self.ops:
            if time.perf_counter() - begin > seconds:
                break
            if not can_be_corrected(self.model.graph, op):
                continue
            weight = weights.original(op)
            used = weights.dequantized(op, GRANULARITY, self.model.reduce_range)
            correction = self.recovery.correction(op, weight, used)
            matrices, rounded = as_matrices(op, weight), as_matrices(op, used)
            held_out = self.recovery.rows[op.name].held_out
            before = output_noise(matrices, rounded, held_out)
            after = output_noise(matrices, rounded, held_out, correction.reshape(len(matrices), -1))
            if before > 0 and after <= LIMITS.max_noise_ratio * before:
                self.corrected.add(op.name)
        return len(self.corrected)

    def round_weights(self, seconds: float) -> int:
        """Round the weights of operators whose own output then has less noise; return their number."""
        begin = time.perf_counter()
        weights, reduce_range = self.model.weights, self.model.reduce_range
        for op in self.ops:
            if time.perf_counter() - begin > seconds:
                break
            if self.recovery.rows[op.name].fit.shape[2] > LIMITS.most_depth:
                continue
            nearest = weights.plain(op, GRANULARITY, reduce_range)[0]
            self.rounded.add(op.name)
            weights.forget(op)
            if np.array_equal(nearest, weights.plain(op, GRANULARITY, reduce_range)[0]):
                self.rounded.discard(op.name)
        return len(self.rounded)

    def leave_weights(self) -> None:
        """Round all weights to the nearest again."""
        for op in self.ops:
            if op.name in self.rounded:
                self.model.weights.forget(op)
        self.rounded.clear()

    def scale_channels(self, name: str, seconds: float) -> int:
        """Scale the channels of groups whose readers then have less noise; return the number of these readers.

        Args:
            name: The method, which says which groups.
            seconds: Seconds after which no further group is looked at.

        Raises:
            EngineError: the engine refuses the scaled model, or it computes something else.
        """
        graph, rows = self.model.graph, dict(self.recovery.rows)
        chosen = []
        for group, readers, found in self._smoothings(name, seconds):
            chosen.append((group, found.factors))
            for op_name, reader in readers.items():
                by = found.factors[reader.channels][:, None].astype(np.float32)
                rows[op_name] = Rows(reader.rows.fit / by, reader.rows.held_out / by)
        if not chosen:
            return 0
        before = self.recovery.rows
        tensors = {tensor for group, _ in chosen for tensor in group.tensors}
        tensors |= {scaled_name(graph, group) for group, _ in chosen if group.added}
        undo = self.model.use_scaled(scaled(graph, chosen), tensors)
        self._undo[name] = (undo, before)
        self._take(rows)
        changed = self.judge.noise(self.model.graph.model)
        if changed > SAME_FUNCTION:
            self.restore_channels(name)
            raise EngineError(f"scaled channels change the floating-point outputs (noise {changed:.1g})")
        return len({op for group, _ in chosen for op in group.readers if op in rows})

    def _smoothings(self, name: str, seconds: float) -> Iterator[tuple[ChannelGroup, dict[str, Reader], Smoothing]]:
        """The groups of a method that gain on held-out rows, with their readers and factors."""
        begin = time.perf_counter()
        graph, rows = self.model.graph, self.recovery.rows
        left_alone = frozenset() if self.model.scales_pairs else {pair.tensor for pair in pairs(graph)}
        for group in branch_groups(graph) if name == ADDED_SCALING else channel_groups(graph):
            if time.perf_counter() - begin > seconds:
                return
            if group.residual is not (name == RESIDUAL) or group.tensors & left_alone:
                continue
            count = group.channels(graph)
            readers = {op.name: self._reader(graph, op, count) for op in group.readers.values() if op.name in rows}
            found = searched(list(readers.values()), count) if readers else None
            if found is not None and found.after <= LIMITS.max_noise_ratio * found.before:
                yield group, readers, found

    def _reader(self, graph: Graph, op: FusedOp, channels: int) -> Reader:
        weight = self.model.weights.original(op)
        order = per_row(op, weight.shape, np.arange(channels)).astype(np.int64)
        return Reader(as_matrices(op, weight), self.recovery.rows[op.name], order)

    def restore_channels(self, name: str) -> None:
        """Put the graph and the rows before a method back."""
        undo, rows = self._undo.pop(name)
        undo()
        self._take(rows)


def recovered(
    model: Recoverable,
    pieces: Pieces,
    info: ModelInfo,
    threads: int,
    methods: Sequence[str],
    seconds: float,
    always: bool,
    provider: Provider = CPU,
) -> tuple[RecoveryRecord, ...]:
    """Try the methods on a calibrated model; those that leave less noise are in use afterwards.

    Args:
        model: The model.
        pieces: Calibration data.
        info: The model's inputs, with the axes that count samples.
        threads: Threads per run.
        methods: The methods to try, the cheapest first.
        seconds: Seconds that everything may take.
        always: Whether to try them even if int8 everywhere has next to no noise.
        provider: Execution provider of the sessions.
    """
    begin = time.perf_counter()

    def refused(note: str, noise: float | None = None) -> tuple[RecoveryRecord, ...]:
        log.info("recovery is not tried: %s", note)
        spent = (time.perf_counter() - begin) / len(methods)
        return tuple(RecoveryRecord(name, 0, noise, None, EVERYTHING, spent, False, note) for name in methods)

    if not pieces.fit or not pieces.held_out:
        return refused("there are too few calibration samples to hold some out")
    ops = [op for op in model.graph.fused_ops.values() if op.name in model.offered and has_matrix(model.graph, op)]
    if not ops:
        return refused("no operator that can be quantized has a weight of its own")
    if seconds <= 0:
        return refused("no time left")
    try:
        judge = Judge(model.graph, pieces.held_out, info, threads, provider)
        if not always and time.perf_counter() - begin < seconds:
            noise = judge.noise(model.quantized(EVERYTHING))
            if noise <= LIMITS.negligible_noise:
                return refused(f"int8 everywhere has a noise-to-signal ratio of {noise:.1g} only", noise)
        if time.perf_counter() - begin >= seconds:
            return refused("no time left")
        rows = read_rows(model.graph, ops, pieces, info, threads, READING_SHARE * seconds, provider)
    except EngineError as error:
        return refused(f"the model does not run: {error}")
    own = Methods(model, judge, rows)
    attempts = own.attempts()
    left = seconds - (time.perf_counter() - begin)
    records = tuple(tried([attempts[name] for name in methods], own.noise, left))
    own.release()
    return records
