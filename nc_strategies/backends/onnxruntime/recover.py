"""Recovery on calibration data, before any configuration is built; see `nc_strategies.calibration.recovery`."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from nc_strategies.backends.collection import LIMITS as MEMORY
from nc_strategies.backends.collection import plan_runs
from nc_strategies.backends.onnxruntime.calibrate import OrtObserver
from nc_strategies.backends.onnxruntime.session import OrtExecutable
from nc_strategies.calibration.noise import noise_to_signal, signal_of
from nc_strategies.calibration.recovery import (
    BIAS_CORRECTION,
    EVERYTHING,
    LIMITS,
    ROUNDING,
    WEIGHTS,
    Attempt,
    RecoveryRecord,
    tried,
)
from nc_strategies.calibration.rounding import Rows, output_noise
from nc_strategies.errors import EngineError
from nc_strategies.models.info import Batch, ModelInfo
from nc_strategies.onnx_graph.graph import FusedOp, Graph
from nc_strategies.onnx_graph.operands import as_matrices, has_matrix, row_size, rows_of
from nc_strategies.onnx_graph.recovery import WeightRecovery, can_be_corrected
from nc_strategies.onnx_graph.rounded_model import GRANULARITY, rounded_model
from nc_strategies.onnx_graph.weights import WeightCache

log = logging.getLogger(__name__)
HELD_OUT_EVERY = 4
"""Every fourth sample, or batch where a batch cannot be cut, is held out."""
READING_SHARE = 0.3
"""Share of the time of all methods that reading the data they are fitted on may take."""


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
    graph: Graph, ops: Sequence[FusedOp], pieces: Pieces, info: ModelInfo, threads: int, seconds: float
) -> dict[str, Rows]:
    """Rows that operators multiply by their weights, at random places of the calibration data.

    Args:
        graph: The model.
        ops: The operators, see `has_matrix`.
        pieces: Calibration data.
        info: The model's inputs, with the axes that count samples.
        threads: Threads per run.
        seconds: Seconds after which no further feeds are read.

    Raises:
        EngineError: the engine refuses a feed.
    """
    begin = time.perf_counter()
    rng = np.random.default_rng(0)
    observer = OrtObserver(graph, threads)
    observer.names = sorted({op.inputs[0] for op in ops})
    readers: dict[str, list[FusedOp]] = {}
    for op in ops:
        readers.setdefault(op.inputs[0], []).append(op)
    bytes_per_row = np.dtype(np.float32).itemsize * sum(row_size(graph, op) for op in ops)
    most = min(LIMITS.most_rows, max(1, LIMITS.row_bytes // max(1, bytes_per_row)))
    sizes = {
        name: 4 * math.prod(shape) // max(1, info.samples(pieces.fit[0]))
        for name, shape in observer.shapes(pieces.fit[0]).items()
    }
    largest = max(info.samples(feed) for feed in (*pieces.fit, *pieces.held_out))
    plan = plan_runs({name: size * largest for name, size in sizes.items()}, 1, MEMORY)
    found: dict[str, tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]] = {op.name: ([], []) for op in ops}
    for names in plan.groups:
        read = observer.reader(names)
        for place, feeds, share in ((1, pieces.held_out, HELD_OUT_EVERY), (0, pieces.fit, 1)):
            for number, feed in enumerate(feeds):
                if number and time.perf_counter() - begin > seconds:
                    break
                count = max(1, -(-most // (len(feeds) * share)))
                for name, values in zip(names, read(feed), strict=True):
                    for op in readers[name]:
                        found[op.name][place].append(rows_of(graph, op, values, count, rng))
    return {name: Rows(*(np.concatenate(parts, 1) for parts in both)) for name, both in found.items()}


class Judge:
    """Measures the noise of models beside the floating-point one, on data that nothing was fitted on.

    Args:
        graph: The floating-point model.
        feeds: The data.
        info: The model's inputs, with the axes that count samples.
        threads: Threads per run.

    Raises:
        EngineError: the engine refuses the model or the data.
    """

    def __init__(self, graph: Graph, feeds: Sequence[Batch], info: ModelInfo, threads: int) -> None:
        self._feeds, self._info, self._threads = feeds, info, threads
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
        session = OrtExecutable(model.SerializeToString(), self._threads)
        try:
            return [np.array(signal_of(session.predict(feed))) for feed in self._feeds]
        finally:
            session.close()


class WeightMethods:
    """Bias correction and rounding on the weights of a graph.

    Args:
        graph: The model.
        weights: Its quantized weights, which are changed.
        ops: Operators with weights of their own.
        rows: The rows that they multiply by their weights.
        reduce_range: Whether weights have 7 bits by default.
    """

    def __init__(
        self,
        graph: Graph,
        weights: WeightCache,
        ops: Sequence[FusedOp],
        rows: Mapping[str, Rows],
        reduce_range: bool,
    ) -> None:
        self.graph, self.weights, self.ops, self.reduce_range = graph, weights, ops, reduce_range
        self.rounded: set[str] = set()
        self.corrected: set[str] = set()
        self.recovery = WeightRecovery(rows, self.rounded, self.corrected)
        weights.recover(self.recovery)

    def model(self) -> onnx.ModelProto:
        """The floating-point model with the weights as they are now."""
        return rounded_model(self.graph, self.weights, self.ops, self.reduce_range)

    def correct_biases(self, seconds: float) -> int:
        """Correct the operators whose own output then has less noise on unseen rows; return their number."""
        begin = time.perf_counter()
        for op in self.ops:
            if time.perf_counter() - begin > seconds:
                break
            if not can_be_corrected(self.graph, op):
                continue
            weight = self.weights.original(op)
            used = self.weights.dequantized(op, GRANULARITY, self.reduce_range)
            correction = self.recovery.correction(op, weight, used)
            matrices, rounded = as_matrices(op, weight), as_matrices(op, used)
            held_out = self.recovery.rows[op.name].held_out
            before = output_noise(matrices, rounded, held_out)
            after = output_noise(matrices, rounded, held_out, correction.reshape(len(matrices), -1))
            if after <= LIMITS.max_noise_ratio * before and before > 0:
                self.corrected.add(op.name)
        return len(self.corrected)

    def leave_biases(self) -> None:
        """Correct no bias."""
        self.corrected.clear()

    def round_weights(self, seconds: float) -> int:
        """Round the weights of operators whose own output then has less noise; return their number."""
        begin = time.perf_counter()
        for op in self.ops:
            if time.perf_counter() - begin > seconds:
                break
            if self.recovery.rows[op.name].fit.shape[2] > LIMITS.most_depth:
                continue
            nearest = self.weights.plain(op, GRANULARITY, self.reduce_range)[0]
            self.rounded.add(op.name)
            self.weights.forget(op)
            if np.array_equal(nearest, self.weights.plain(op, GRANULARITY, self.reduce_range)[0]):
                self.rounded.discard(op.name)
        return len(self.rounded)

    def leave_weights(self) -> None:
        """Round all weights to the nearest again."""
        for op in self.ops:
            if op.name in self.rounded:
                self.weights.forget(op)
        self.rounded.clear()


def recovered(
    graph: Graph,
    weights: WeightCache,
    pieces: Pieces,
    info: ModelInfo,
    threads: int,
    methods: Sequence[str],
    reduce_range: bool,
    int8: Callable[[], onnx.ModelProto],
    seconds: float,
    always: bool,
) -> tuple[RecoveryRecord, ...]:
    """Try the methods on a calibrated model; those that leave less noise are in use afterwards.

    Args:
        graph: The model.
        weights: Its quantized weights.
        pieces: Calibration data.
        info: The model's inputs, with the axes that count samples.
        threads: Threads per run.
        methods: The methods to try, the cheapest first.
        reduce_range: Whether weights have 7 bits by default.
        int8: Builds the all-int8 model.
        seconds: Seconds that everything may take.
        always: Whether to try them even if int8 everywhere has next to no noise.
    """
    begin = time.perf_counter()

    def refused(note: str, noise: float | None = None) -> tuple[RecoveryRecord, ...]:
        log.info("recovery is not tried: %s", note)
        spent = (time.perf_counter() - begin) / len(methods)
        return tuple(RecoveryRecord(name, 0, noise, None, EVERYTHING, spent, False, note) for name in methods)

    if not pieces.fit or not pieces.held_out:
        return refused("there are too few calibration samples to hold some out")
    ops = [op for op in graph.fused_ops.values() if has_matrix(graph, op)]
    if not ops:
        return refused("no operator has a weight of its own")
    try:
        judge = Judge(graph, pieces.held_out, info, threads)
        if not always:
            noise = judge.noise(int8())
            if noise <= LIMITS.negligible_noise:
                return refused(f"int8 everywhere has a noise-to-signal ratio of {noise:.1g} only", noise)
        rows = read_rows(graph, ops, pieces, info, threads, READING_SHARE * seconds)
    except EngineError as error:
        return refused(f"the model does not run: {error}")
    own = WeightMethods(graph, weights, ops, rows, reduce_range)
    attempts = {
        BIAS_CORRECTION: Attempt(BIAS_CORRECTION, WEIGHTS, own.correct_biases, own.leave_biases),
        ROUNDING: Attempt(ROUNDING, WEIGHTS, own.round_weights, own.leave_weights),
    }

    def measure(what: str) -> float:
        return judge.noise(int8() if what == EVERYTHING else own.model())

    left = seconds - (time.perf_counter() - begin)
    return tuple(tried([attempts[name] for name in methods if name in attempts], measure, left))
