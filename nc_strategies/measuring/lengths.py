"""The lengths that latency is measured at, and outputs of batches of different lengths."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.base import Backend, Executable
from nc_strategies.data.dataset import Dataset
from nc_strategies.data.lengths import Lengths
from nc_strategies.errors import EngineError, InputError
from nc_strategies.measuring.deadline import Check, unlimited
from nc_strategies.measuring.latency import TIMING_RULES, Timing, interleave
from nc_strategies.measuring.outputs import FLOAT_TOLERANCE, close
from nc_strategies.models.info import Batch
from nc_strategies.problem.evaluation import LengthLatency

log = logging.getLogger(__name__)
KEY = "measure.lengths"


@dataclass(frozen=True)
class LengthRules:
    """Lengths at which latency is measured where the user names none."""

    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)
    """Quantiles of the lengths in the data."""
    weights: tuple[float, ...] = (0.3, 0.4, 0.3)
    """Their weights: Swanson's rule, by which these three quantiles estimate the mean of a skewed distribution (Hurst,
    Brown and Swanson, "Swanson's 30-40-30 rule", AAPG Bulletin 84 (2000))."""


LENGTH_RULES = LengthRules()


@dataclass(frozen=True)
class TimedBatch:
    """A batch that latency is measured with.

    Args:
        batch: The inputs.
        weight: Share of its latency in the objective; the weights of all batches add up to 1.
        length: Length of its samples; 0 where all samples have one shape. Context length of a decoder's phase.
        phase: Phase of a decoder, see `phases`; empty for other models.
        tokens: Number of tokens of which it is the time: latency is given per token. 1 for the time of the run itself.
    """

    batch: Batch
    weight: float = 1.0
    length: int = 0
    phase: str = ""
    tokens: int = 1


def timed_batches(data: Dataset, size: int, asked: Sequence[int] | None = None) -> tuple[TimedBatch, ...]:
    """The batches that latency is measured with, from the shortest to the longest.

    Their samples are those nearest to a length, cut or filled up to it.

    Args:
        data: Evaluation samples.
        size: Samples per run.
        asked: Lengths, with equal weights; None for `LengthRules.quantiles` of the lengths in the data.

    Raises:
        InputError: the model does not take one of these lengths, or its inputs have no length.
    """
    lengths = data.lengths if asked is None else data.lengths or data.free_length()
    if asked is not None:
        _check(asked, lengths)
    if lengths is None:
        return (TimedBatch(data.batch(0, size)),)
    if lengths.fixed is not None:
        return (TimedBatch(data.batch(0, size), 1.0, lengths.fixed),)
    weights: dict[int, float] = {}
    if asked is not None:
        weights = {length: 1 / len(asked) for length in sorted(asked)}
    else:
        found = np.quantile(lengths.values, LENGTH_RULES.quantiles, method="inverted_cdf").astype(int).tolist()
        for length, weight in zip(found, LENGTH_RULES.weights, strict=True):
            weights[length] = weights.get(length, 0.0) + weight
    batches = []
    for length, weight in weights.items():
        index = lengths.nearest(length, size)
        batches.append(TimedBatch(data.padded(index, length if lengths.single else None, lengths), weight, length))
    return tuple(batches)


def _check(asked: Sequence[int], lengths: Lengths | None) -> None:
    if lengths is None:
        raise InputError(
            KEY,
            f"is {list(asked)}, but no length of the model's inputs is known to be free",
            "samples of different shapes, a mask among the inputs, or one free axis beside that of the samples",
        )
    if not lengths.single:
        raise InputError(KEY, f"is {list(asked)}, but samples differ in more than one axis", "leave it out")
    if lengths.fixed is not None and set(asked) != {lengths.fixed}:
        raise InputError(KEY, f"is {list(asked)}", f"the model takes a length of {lengths.fixed} only")


def middle(batches: Sequence[TimedBatch]) -> TimedBatch:
    """The batch of the middle length, which stands for all where one run must do."""
    return batches[(len(batches) - 1) // 2]


def rounds(runs: int, batches: int) -> int:
    """Rounds of a timing in which each of several batches is run once, for about as many runs of a model in all."""
    return runs if batches == 1 else max(TIMING_RULES.least_blocks, math.ceil(runs / batches))


def interleave_batches(
    models: Sequence[Executable],
    batches: Sequence[TimedBatch],
    runs: int,
    rng: np.random.Generator,
    limit: float = 0.0,
    clock: Callable[[], float] | None = None,
    check: Check = unlimited,
) -> Timing:
    """Time models side by side, each with each batch in turn; see `interleave`.

    Args:
        models: Models to time.
        batches: What they run on.
        runs: Timed runs of each model, over all batches.
        rng: Shuffles the order.
        limit: See `interleave`.
        clock: See `interleave`.
        check: See `interleave`.

    Returns:
        The weighted sum of each round, and the timing of each batch as `Timing.parts`; both per token, see
        `TimedBatch.tokens`.
    """

    def run(model: Executable, batch: Batch) -> Callable[[], object]:
        return lambda: model.predict(batch)

    calls = [run(model, timed.batch) for timed in batches for model in models]
    least = rounds(TIMING_RULES.least_runs, len(batches))
    found = interleave(calls, rounds(runs, len(batches)), rng, limit, clock, check, least)
    if len(batches) == 1:
        return found
    seconds = found.seconds.reshape(found.runs, len(batches), len(models))
    seconds = seconds / np.array([timed.tokens for timed in batches])[:, None]
    weights = np.array([timed.weight for timed in batches])
    parts = tuple(Timing(seconds[:, place]) for place in range(len(batches)))
    return Timing(np.einsum("rbm,b->rm", seconds, weights), parts=parts)


def by_length(timing: Timing, batches: Sequence[TimedBatch], model: int, reference: int) -> tuple[LengthLatency, ...]:
    """Latency of a model and of fp32 at each length; empty where all samples have one shape."""
    if len(batches) == 1 and not batches[0].length:
        return ()
    return tuple(
        LengthLatency(timed.length, timed.weight, part.median_ms(reference), part.median_ms(model), timed.phase)
        for timed, part in zip(batches, timing.parts or (timing,), strict=True)
    )


def heeds_mask(backend: Backend, data: Dataset) -> bool:
    """Whether fp32 gives the same outputs for samples that are filled up as for the samples alone.

    Args:
        backend: The engine, with its model loaded.
        data: The samples. Where none of them are filled up by their mask, nothing is run and the answer is yes.
    """
    lengths = data.lengths
    if lengths is None or lengths.mask is None or lengths.fixed is not None:
        return True
    model = backend.reference()
    heeded = _heeds_mask(model, data, lengths, max(backend.float_tolerance, FLOAT_TOLERANCE))
    model.close()
    return heeded


def _heeds_mask(model: Executable, data: Dataset, lengths: Lengths, tolerance: float) -> bool:
    order = np.argsort(lengths.values, kind="stable")
    for place in {int(order[0]), int(order[len(order) // 2])}:
        own = int(lengths.values[place])
        if own == lengths.width:
            continue
        # A fixed batch size is filled up with the same sample.
        index = np.full(data.batch_size or 1, place)
        try:
            alone = [np.array(output) for output in model.predict(data.padded(index, own))]
            filled = model.predict(data.padded(index, lengths.width))
        except EngineError as error:
            log.info("samples are not cut to their lengths: %s", error)
            return False
        for expected, output in zip(alone, filled, strict=True):
            if expected.dtype.kind not in "fiub" or expected.ndim != np.ndim(output):
                continue
            if not close(expected, np.asarray(output)[tuple(map(slice, expected.shape))], tolerance):
                return False
    return True


def widened(array: NDArray[Any], axes: Sequence[int], lengths: NDArray[np.int64], width: int) -> NDArray[Any]:
    """Outputs of a batch as those of all others: zeros in the places beyond each sample's length, up to `width`.

    Args:
        array: Shape (samples, ...).
        axes: The axes that have the length of the batch.
        lengths: Length of each of the first samples, shape (n,); further ones do not count and stay as they are.
        width: Length of these axes in the result.
    """
    sizes = [width if axis in axes else size for axis, size in enumerate(array.shape)]
    whole = np.zeros(sizes, array.dtype)
    for place, sample in enumerate(array):
        length = int(lengths[place]) if place < len(lengths) else width
        own = tuple(
            slice(min(length, size)) if axis in axes else slice(None) for axis, size in enumerate(array.shape[1:], 1)
        )
        whole[place][own] = sample[own]
    return whole
