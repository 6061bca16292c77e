"""Accuracy over all samples, and the loss against fp32 with its interval."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.base import Executable
from nc_strategies.data.dataset import Dataset, Run
from nc_strategies.errors import EngineError, InputError
from nc_strategies.measuring.deadline import Check, unlimited
from nc_strategies.measuring.lengths import widened
from nc_strategies.measuring.outputs import OutputLayout, joined
from nc_strategies.measuring.selection import OutputReader
from nc_strategies.measuring.shares import Executed, Source
from nc_strategies.metrics.base import Keep, Metric, Outputs, rows

RESAMPLES = 200
LEAST_RESAMPLES = 20
Condense = Callable[[Outputs, NDArray[np.intp]], Outputs]
"""Reduces the outputs that a metric keeps of a batch, whose samples are at these positions of the data."""
Way = tuple[Keep, Condense | None]
"""How a metric's outputs of a batch are kept and reduced."""
Z_95 = 1.96


@dataclass(frozen=True)
class Predictions:
    """Outputs of a model on the evaluation samples that were read, and the engine's time for them.

    Args:
        outputs: Outputs that the first metric keeps, see `Metric.keep`: usually the first output, shape (N, ...).
        seconds: Time inside the engine for these samples.
        kept: Outputs that each metric keeps, in the order of the metrics.
    """

    outputs: Outputs
    seconds: float
    kept: tuple[Outputs, ...] = ()


def predict(
    models: Sequence[Executable],
    data: Dataset,
    batch_size: int,
    enough: Callable[[Outputs], bool] | None = None,
    keep: Sequence[Keep] = (Metric.keep,),
    check: Check = unlimited,
    layouts: Sequence[OutputLayout] | None = None,
    like: Sequence[Outputs] = (),
    condense: Sequence[Condense | None] = (),
    source: Source | None = None,
) -> list[Predictions]:
    """Run models on all samples, batch by batch in turn, so that a drift of the machine's speed affects all alike.

    Args:
        models: Models to run.
        data: Evaluation samples.
        batch_size: Samples per run, if the model does not fix its batch size; 1 if an output has no sample axis.
        enough: Called with the outputs that the first metric keeps of each batch of the first model, or of the samples
            of several batches in the order of the samples, see `Run.complete`. Once it returns True, the remaining
            samples are not read.
        keep: Functions that select the outputs that each metric keeps of a batch; equal functions are called once.
        check: Called before each batch of a model.
        layouts: Layout of each output; by default the first axis counts samples.
        like: Outputs that each function kept of fp32: where samples have arrays of different shapes there, all
            models' samples are given as such.
        condense: Functions that reduce each metric's kept outputs of a batch further; None, or nothing, to keep them.
        source: Runs the only model; by default, this process does.

    Raises:
        OutOfTimeError: `check` raised it.
        AxisError: the shape of an output that is read does not follow the batch.
        EngineError: an output is NaN or infinite.
    """
    ways = list(zip(keep, condense or [None] * len(keep), strict=True))
    unique = list(dict.fromkeys(ways))
    ragged = dict(zip(ways, like, strict=True)) if like else {}
    parts: list[list[list[Outputs]]] = [[[] for _ in unique] for _ in models]
    since: list[NDArray[np.intp]] = []
    seconds = [0.0] * len(models)
    executed = (
        _in_turn(models, data, batch_size, check) if source is None else source(models[0], data, batch_size, check)
    )
    with contextlib.closing(executed):
        for done in executed:
            run = done.run
            seconds[done.index] += done.seconds
            kept = {keeper: _kept(keeper, done.outputs, layouts, run, data) for keeper in dict.fromkeys(keep)}
            for part, way in zip(parts[done.index], unique, strict=True):
                part.append(_condensed(kept, way, run.positions))
            if not done.last:
                continue
            since.append(run.positions)
            if not run.complete:
                continue
            for part in (part for model in parts for part in model):
                part[-len(since) :] = [_ordered(part[-len(since) :], since)]
            since = []
            if enough is not None and enough(parts[0][0][-1]):
                break
    found = []
    for model, spent in zip(parts, seconds, strict=True):
        every = _of_ways(ways, dict(zip(unique, model, strict=True)), ragged)
        found.append(Predictions(every[0], spent, every))
    return found


def _in_turn(models: Sequence[Executable], data: Dataset, batch_size: int, check: Check) -> Generator[Executed]:
    """Run each batch on all models, in an order that changes from batch to batch."""
    for number, run in enumerate(data.runs(batch_size)):
        order = list(range(len(models))) if number % 2 else list(reversed(range(len(models))))
        for index in order:
            check()
            before = time.perf_counter()
            outputs = models[index].predict(run.batch)
            yield Executed(run, index, outputs, time.perf_counter() - before, index == order[-1])


def _of_ways(
    ways: Sequence[Way], parts: Mapping[Way, Sequence[Outputs]], ragged: Mapping[Way, Outputs]
) -> tuple[Outputs, ...]:
    """What each metric keeps of all batches."""
    by_way = {way: _joined(part, ragged.get(way)) for way, part in parts.items()}
    return tuple(by_way[way] for way in ways)


def _ordered(parts: Sequence[Outputs], positions: Sequence[NDArray[np.intp]]) -> Outputs:
    """The outputs of several batches in the order of their samples."""
    if len(parts) == 1 and (np.diff(positions[0]) > 0).all():
        return parts[0]
    return rows(_joined(parts, None), np.argsort(np.concatenate(positions)))


def _kept(
    keeper: Keep, outputs: Sequence[Any], layouts: Sequence[OutputLayout] | None, run: Run, data: Dataset
) -> Outputs:
    """What a metric keeps of a batch's samples that count."""
    kept = keeper(_of_samples(outputs, keeper, layouts, run, data))
    return _checked(kept, len(run.positions), run.size, _finite_only(keeper))


def _of_samples(
    outputs: Sequence[Any], keeper: Keep, layouts: Sequence[OutputLayout] | None, run: Run, data: Dataset
) -> Sequence[Any]:
    """Outputs with the samples on their first axis; those that the keeper does not read are left as they are.

    Axes that have the length of the batch get that of all samples, so that batches do not differ in it.
    """
    read = keeper.positions if isinstance(keeper, OutputReader) else range(len(outputs))
    own = layouts or [OutputLayout(str(place)) for place in range(len(outputs))]
    found = list(outputs)
    for place in read:
        found[place] = own[place].samples(place, outputs[place], run.size)
        if own[place].length_axes and run.lengths is not None and data.lengths is not None:
            found[place] = widened(found[place], own[place].length_axes, run.lengths, data.lengths.width)
    return found


def _condensed(kept: Mapping[Keep, Outputs], way: Way, samples: NDArray[np.intp]) -> Outputs:
    """What one metric keeps of a batch."""
    keeper, reduce = way
    return kept[keeper] if reduce is None else reduce(kept[keeper], samples)


def _finite_only(keeper: Keep) -> bool:
    return not (isinstance(keeper, OutputReader) and keeper.accepts_nonfinite)


def _checked(kept: Outputs, count: int, size: int, finite: bool) -> Outputs:
    """A copy of the first `count` of `size` samples: an engine may reuse its buffers."""
    if isinstance(kept, tuple):
        return tuple(_checked(part, count, size, finite) for part in kept)
    if kept.ndim == 0 or len(kept) != size:
        raise EngineError(f"the metric keeps an array of shape {kept.shape} of {size} samples: no axis for the samples")
    if finite and kept.dtype.kind == "f" and not np.isfinite(kept[:count]).all():
        raise EngineError("the model's output holds NaN or infinity")
    return np.array(kept[:count])


def _joined(parts: Sequence[Outputs], like: Outputs | None) -> Outputs:
    if isinstance(parts[0], tuple):
        likes = like if isinstance(like, tuple) else (None,) * len(parts[0])
        return tuple(_joined(part, one) for part, one in zip(zip(*parts, strict=True), likes, strict=True))
    return joined(parts, like is not None and like.dtype.kind == "O")


def loss_interval(
    metric: Metric,
    reference: Outputs,
    outputs: Outputs,
    labels: NDArray[Any],
    higher_is_better: bool,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """95 % interval of the loss against fp32, in the metric's unit; positive is worse than fp32.

    Both models saw the same samples, so the interval is that of the paired difference. It is a normal interval if the
    metric is a mean over samples. Otherwise it is a percentile bootstrap over samples (Efron and Tibshirani, "An
    Introduction to the Bootstrap", ch. 13).

    For bounded scores that are not `Metric.graded`, half a sample is added to each cell of the 2 x 2 table of the two
    models' correct answers (Agresti and Min, "Simple improved confidence intervals for comparing matched proportions",
    Statistics in Medicine 24 (2005)). Two models that answer all samples alike thus get an interval of nonzero width.
    """
    sign = 1.0 if higher_is_better else -1.0
    before, after = metric.scores(reference, labels), metric.scores(outputs, labels)
    if before is not None and after is not None:
        difference = sign * (before - after)
        width = metric.hit_range[1] - metric.hit_range[0]
        if np.isfinite(width):
            difference = np.concatenate([difference, [width / np.sqrt(2), -width / np.sqrt(2)]])
        spread = difference.std(ddof=1) if len(difference) > 1 else 0.0
        centre, reach = difference.mean(), Z_95 * spread / np.sqrt(len(difference))
        return float(centre - reach), float(centre + reach)
    first, second = metric.resampler(reference, labels), metric.resampler(outputs, labels)
    losses: list[float] = []
    refused: InputError | None = None
    for _ in range(RESAMPLES):
        index = rng.integers(len(labels), size=len(labels))
        try:
            losses.append(sign * (first(index) - second(index)))
        except InputError as error:
            # A resample may contain no sample of a rare class, for which the metric is undefined.
            refused = error
    if refused is not None and len(losses) < LEAST_RESAMPLES:
        raise refused
    low, high = np.quantile(losses, [0.025, 0.975])
    return float(low), float(high)
