"""What int8 does to the output of each operator: alone, and with the errors of all operators before it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nc_strategies.backends.collection import LIMITS, MemoryLimits, plan_runs
from nc_strategies.backends.layers import Layer, LayerReader, LayerValues
from nc_strategies.calibration.layers import NoiseSum, TensorFacts, TensorStatistics, WeightFacts
from nc_strategies.data.dataset import Dataset
from nc_strategies.errors import InputError
from nc_strategies.models.info import Batch

RUN_SAMPLES = 16
"""Most samples of a run; fewer where memory is short."""
ARRAYS_PER_OUTPUT = 4
"""Arrays of an output's size that are read of an operator: fp32's twice, its own in int8, the configuration's."""


@dataclass(frozen=True)
class LayerDiagnosis:
    """One operator.

    Args:
        name: Its name.
        type: Its type.
        scheme: The scheme in which it ran alone, as text.
        granularity: Granularity of its weight's scales in it; empty without a weight.
        alone_db: Signal-to-quantization-noise ratio of its output in dB, with this operator alone in int8.
        alone_channel_db: The same of the median channel; None if all channels are zero.
        accumulated_db: The ratio of its output in the configuration; None where the engine's graph does not have it.
        tensors: Its activations; those without any value are left out.
        weight: Facts about its weight.
    """

    name: str
    type: str
    scheme: str
    granularity: str
    alone_db: float
    alone_channel_db: float | None
    accumulated_db: float | None
    tensors: tuple[TensorFacts, ...]
    weight: WeightFacts | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, rounded to what the figures can tell."""
        found = asdict(self)
        for tensor in found["tensors"]:
            tensor["bars"] = [_rounded(share) for share in tensor["bars"]]
        return {key: _plain(value) for key, value in found.items()}


@dataclass(frozen=True)
class Diagnosis:
    """All operators of a model.

    Args:
        layers: The operators that could be read, in execution order.
        samples: Number of samples that were run.
        data: ``evaluation`` or ``calibration``: where the samples are from.
    """

    layers: tuple[LayerDiagnosis, ...]
    samples: int
    data: str


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return _rounded(value)
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


class _Sums:
    """What is summed up over the runs: of operators their errors, of activations their statistics."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = {layer.name: layer for layer in layers}
        self.alone = {layer.name: NoiseSum(layer.axis) for layer in layers}
        self.accumulated = {layer.name: NoiseSum(layer.axis) for layer in layers}
        # A tensor that several operators read in the same range is counted once, at the first of them.
        self.tensors = {(t.name, t.range): TensorStatistics(t.axis, t.range) for lay in layers for t in lay.tensors}
        self.owner: dict[Any, str] = {}
        for layer in layers:
            for tensor in layer.tensors:
                self.owner.setdefault((tensor.name, tensor.range), layer.name)

    def update(self, name: str, values: LayerValues) -> None:
        self.alone[name].update(values.reference, values.alone)
        if values.accumulated is not None:
            self.accumulated[name].update(values.signal, values.accumulated)
        for tensor, array in zip(self.layers[name].tensors, values.tensors, strict=True):
            key = (tensor.name, tensor.range)
            if self.owner[key] != name:
                continue
            try:
                self.tensors[key].update(np.asarray(array))
            except ValueError:
                problem = f"the fp32 model computes NaN in tensor {tensor.name!r} on these samples"
                raise InputError("data", problem) from None

    def result(self) -> tuple[LayerDiagnosis, ...]:
        """The operators whose output held a value."""
        found = []
        for name, layer in self.layers.items():
            alone, weight = self.alone[name].db(), layer.scheme.weight
            if alone is None:
                continue
            facts = [self.tensors[t.name, t.range].facts(t.name, t.role) for t in layer.tensors]
            found.append(
                LayerDiagnosis(
                    name,
                    layer.type,
                    str(layer.scheme),
                    "" if weight is None or weight.is_float else weight.granularity,
                    alone,
                    self.alone[name].median_channel_db(),
                    self.accumulated[name].db(),
                    tuple(fact for fact in facts if fact is not None),
                    layer.weight,
                )
            )
        return tuple(found)


def diagnose(
    reader: LayerReader,
    batches: Callable[[int], Iterator[tuple[Batch, int]]],
    largest_batch: int | None,
    divisible: bool = True,
    check: Callable[[], None] = lambda: None,
    limits: MemoryLimits = LIMITS,
) -> tuple[tuple[LayerDiagnosis, ...], int]:
    """Compare each operator's output with fp32's.

    The ratio of an operator is that of the sums of squares over all samples. Operators are read in groups whose
    activations fit into `limits`; each group takes a pass over the samples.

    Args:
        reader: Reads the operators.
        batches: Pairs (batch, number of its samples) for a largest number of samples per batch; the same ones in every
            call with the same number.
        largest_batch: See `Backend.largest_batch`.
        divisible: Whether a batch may have any number of samples.
        check: Called before each run.
        limits: Limits of memory.

    Returns:
        The operators, and the number of samples.

    Raises:
        InputError: there are no samples, or fp32 computes NaN on them.
        EngineError: the engine refuses a batch.
    """
    size = min(RUN_SAMPLES, largest_batch or RUN_SAMPLES)
    first = next(iter(batches(size)), None)
    if first is None:
        raise InputError("data", "holds no samples")
    batch, count = first
    shapes = reader.shapes(batch)
    each = 1 if not divisible else max(1, count)
    sizes = {layer.name: _bytes(layer, shapes) // each for layer in reader.layers}
    plan = plan_runs(sizes, size if divisible else 1, limits)
    sums, samples = _Sums(reader.layers), 0
    for names in filter(None, plan.groups):
        read, samples = reader.reader(names), 0
        for batch, count in batches(plan.samples if divisible else size):
            check()
            for name, values in read(batch):
                sums.update(name, values)
            samples += count
    return sums.result(), samples


def _bytes(layer: Layer, shapes: Mapping[str, tuple[int, ...]]) -> int:
    itemsize = np.dtype(np.float32).itemsize
    elements = [math.prod(shapes[tensor.name]) for tensor in layer.tensors]
    return itemsize * (sum(elements[:-1]) + ARRAYS_PER_OUTPUT * elements[-1])


def first_samples(data: Dataset, count: int) -> Callable[[int], Iterator[tuple[Batch, int]]]:
    """The first samples of a data set, in batches of like length if they differ in it.

    Args:
        data: The data set.
        count: Number of samples; a model with a fixed batch size gets whole batches.

    Returns:
        A function from the largest number of samples of a batch to the batches.
    """

    def batches(size: int) -> Iterator[tuple[Batch, int]]:
        if data.lengths is not None:
            for run in data.first_runs(min(count, len(data))):
                rows = len(run.positions)
                if data.batch_size is not None:
                    yield run.batch, rows
                    continue
                for start in range(0, rows, size):
                    stop = min(start + size, rows)
                    yield {name: array[start:stop] for name, array in run.batch.items()}, stop - start
            return
        size = data.batch_size or size
        for start in itertools.count(0, size):
            left = min(count, len(data)) - start
            if left <= 0:
                return
            yield data.batch(start, size if data.batch_size else min(size, left)), min(size, left)

    return batches
