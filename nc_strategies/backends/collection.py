"""Collection of histograms within a limit of memory, whatever the engine is."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nc_strategies.calibration.histogram import Histogram
from nc_strategies.calibration.noise import noise_to_signal, signal_of
from nc_strategies.calibration.state import Look
from nc_strategies.errors import EngineError, InputError
from nc_strategies.models.info import Batch, ModelInfo
from nc_strategies.runtime import memory

log = logging.getLogger(__name__)
Predict = Callable[[Batch], Sequence[NDArray[Any]]]


@dataclass(frozen=True)
class MemoryLimits:
    """Limits of the memory that activations take, beside the model."""

    read_bytes: int = 128 * 2**20
    """Bytes of activations that are read in one run. The engine may hold them twice, as buffers and as arrays; with the
    buffers of the run and the engine itself, calibration stays below 512 MB and twice the model, or below what
    `free_share` allows."""
    run_bytes: int = 96 * 2**20
    """Bytes of activations that a run without observed tensors may hold at a time. Engines allocate up to twice as
    much, as they round their buffers up to powers of two."""
    free_share: float = 0.0
    """Part of the free memory that activations which are read in one run may take, where one sample's take more than
    `read_bytes`. Each group of tensors costs a run of its own."""
    live_tensors: int = 4
    """Number of tensors of the largest size that a run is assumed to hold at a time: the input and the output of an
    operator, in floating point and in the engine's own layout or in int8."""


LIMITS = MemoryLimits(free_share=1 / 32)


class Observer(Protocol):
    """An engine's floating-point graph whose tensors can be read."""

    def shapes(self, feed: Batch) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the observed tensors in a run, which does not hold all of them at a time.

        Raises:
            EngineError: the engine refuses the feed.
        """

    def reader(self, names: Sequence[str]) -> Callable[[Batch], Sequence[NDArray[Any]]]:
        """A function that runs a feed and returns the values of some of the observed tensors.

        Earlier readers are not used any more. The function raises an `EngineError` if the engine refuses a feed.
        """


@runtime_checkable
class InTime(Protocol):
    """Batches of which as many are read as there is time for."""

    def expect_passes(self, count: int) -> None:
        """Divide the time among so many passes over the batches; called before the first one."""

    def leaves(self, seconds: float) -> bool:
        """Whether there is time for so many seconds of further work; the answer stays the same in a repetition."""


def leaves(batches: Sequence[Batch], seconds: float) -> bool:
    """Whether the time for batches leaves some seconds for further work; see `InTime.leaves`."""
    return not isinstance(batches, InTime) or batches.leaves(seconds)


@dataclass(frozen=True)
class RunPlan:
    """How calibration data is run.

    Args:
        groups: Tensors that are read in the same run; each group takes a pass of its own.
        samples: Samples per run.
        largest_batch: Largest number of samples of a run without observed tensors.
    """

    groups: tuple[tuple[str, ...], ...]
    samples: int
    largest_batch: int


def plan_runs(sizes: Mapping[str, int], most: int, limits: MemoryLimits = LIMITS) -> RunPlan:
    """Choose the samples per run, and split the tensors into groups if even one sample has too large activations.

    The samples do not depend on the free memory, because an engine's results may depend on them.

    Args:
        sizes: Bytes of each observed tensor for one sample.
        most: Largest number of samples per run.
        limits: Limits of memory.
    """
    samples = max(1, min(most, limits.read_bytes // max(1, sum(sizes.values()))))
    room = limits.read_bytes
    if limits.free_share and sum(sizes.values()) * samples > room:
        room = max(room, int(limits.free_share * memory.free_bytes()))
    groups: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if groups[-1] and (used + size) * samples > room:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    live = limits.live_tensors * max(sizes.values(), default=1)
    return RunPlan(tuple(map(tuple, groups)), samples, max(1, limits.run_bytes // max(1, live)))


def collect(
    observer: Observer, batches: Sequence[Batch], info: ModelInfo, look: Look, limits: MemoryLimits = LIMITS
) -> tuple[dict[str, Histogram], int]:
    """Collect a histogram per tensor over all batches.

    Batches are cut into smaller ones where memory is short, and into single samples where the engine refuses more than
    one.

    Args:
        observer: The floating-point graph.
        batches: Feeds of the engine.
        info: The model's inputs, with the axes that count samples.
        look: Called with the name and the values of each tensor, per run.
        limits: Limits of memory.

    Returns:
        The histograms by tensor, and the largest number of samples that a run of the model should get.

    Raises:
        InputError: there is no data, the engine refuses it, or a value is NaN.
    """
    if not len(batches):
        raise InputError("data.calibration_samples", "there is no calibration data")
    first = batches[0]
    most = info.samples(first)
    try:
        single, shapes = 1, observer.shapes(info.rows(first, 0, 1))
    except EngineError as error:
        # A model may be exported for another batch size than 1 inside.
        log.info("the model does not run on one sample: %s", error)
        single, shapes = most, _refused(lambda: observer.shapes(first))
    itemsize = np.dtype(np.float32).itemsize
    sizes = {name: itemsize * math.prod(shape) // single for name, shape in shapes.items()}
    plan = plan_runs(sizes, most, limits)
    if single > 1 or info.batch_size is not None:
        # The batch cannot be cut: only the tensors can be split.
        plan = plan_runs({name: size * most for name, size in sizes.items()}, 1, limits)
        return _refused(lambda: _pass(observer, batches, info, plan, most, look)), most
    if plan.samples > 1:
        try:
            return _pass(observer, batches, info, plan, plan.samples, look), plan.largest_batch
        except EngineError as error:
            log.info("calibration runs one sample at a time, because the model refuses %d: %s", plan.samples, error)
            plan = RunPlan(plan_runs(sizes, 1, limits).groups, 1, 1)
    elif most > 1:
        try:  # whether the model takes more than one sample decides how it is evaluated
            observer.shapes(info.rows(first, 0, 2))
        except EngineError as error:
            log.info("the model is run on one sample at a time, because it refuses two: %s", error)
            plan = RunPlan(plan.groups, 1, 1)
    return _refused(lambda: _pass(observer, batches, info, plan, 1, look)), plan.largest_batch


def _refused(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except EngineError as error:
        raise InputError("data", f"the model does not accept the calibration data: {error}") from error


def _pass(
    observer: Observer, batches: Sequence[Batch], info: ModelInfo, plan: RunPlan, samples: int, look: Look
) -> dict[str, Histogram]:
    """Run all batches once per group of tensors."""
    histograms: dict[str, Histogram] = {}
    if isinstance(batches, InTime):
        batches.expect_passes(len(plan.groups))
    for names in plan.groups:
        read = observer.reader(names)
        found = {name: Histogram() for name in names}
        for batch in batches:
            for start in range(0, info.samples(batch), samples):
                values = list(read(info.rows(batch, start, start + samples)))
                for place, name in enumerate(names):
                    _count(found[name], name, values[place])
                    look(name, values[place])
                    values[place] = np.zeros(0)  # free the memory before the next tensor is counted
                if info.batch_size is not None:
                    break
        histograms |= found
    return histograms


def _count(histogram: Histogram, name: str, values: NDArray[Any]) -> None:
    try:
        histogram.update(values)
    except ValueError:
        raise InputError("data", f"the fp32 model computes NaN in tensor {name!r} on calibration data") from None


def noise_in_pieces(reference: Predict, model: Predict, feed: Batch, info: ModelInfo, samples: int) -> float:
    """Noise-to-signal ratio of one of a model's outputs, in runs of a limited number of samples.

    Args:
        reference: Runs the fp32 model.
        model: Runs the other model.
        feed: A feed of the engine.
        info: The model's inputs, with the axes that count samples.
        samples: Largest number of samples per run; the whole feed is run if the batch size is fixed.

    Raises:
        EngineError: an engine could not run it.
    """
    count = info.samples(feed)
    step = count if info.batch_size is not None else samples
    total = 0.0
    for start in range(0, count, step):
        piece = info.rows(feed, start, start + step)
        total += min(step, count - start) * noise_to_signal(signal_of(reference(piece)), signal_of(model(piece)))
    return total / count
