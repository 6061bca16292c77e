"""Which axis of a model's outputs counts samples, found by running fp32, and the outputs of each sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.base import Executable
from nc_strategies.data.dataset import Dataset
from nc_strategies.errors import EngineError
from nc_strategies.models.info import Batch, TensorSpec

Array = NDArray[Any]
FLOAT_TOLERANCE = 1e-3
"""Maximum difference of two fp32 outputs that count as equal, relative to the larger of 1 and the largest output."""


@dataclass(frozen=True)
class ProbeRules:
    """Rules of the runs that find the axes of the samples."""

    sizes: tuple[int, int] = (2, 3)
    """Two batch sizes above 1: at a size of 1 an axis of length 1 says nothing."""
    single_samples: int = 16
    """Samples that a model with batches of 1 is run on where the declared shape leaves the axis open: an output with
    one row per object rarely has exactly one row for all of them."""
    examples: int = 30
    """Samples whose outputs are looked at where a model has several outputs."""
    flipped_share: float = 0.01
    """Share of whole numbers, such as class numbers, that rounding may change between two runs in float."""
    rounding_share: float = 0.05
    """Of the noise of int8, what a saved model's outputs may differ from the measured one's. Values that float noise
    moved between two int8 steps made 0.002 to 0.008 of it (22 convolutions behind logarithms and roots)."""


PROBE_RULES = ProbeRules()


class AxisError(EngineError):
    """An output's shape does not follow the batch, although it did in the runs that found its axis.

    Args:
        place: Position of the output among the model's outputs.
        layout: Its layout.
        shape: Its shape in this run.
        size: Samples in this run.
    """

    def __init__(self, place: int, layout: OutputLayout, shape: tuple[int, ...], size: int) -> None:
        super().__init__(
            f"output {layout.name!r} of the model has shape {shape} for {size} samples: no axis for the samples"
        )
        self.place = place


@dataclass(frozen=True)
class OutputLayout:
    """What is known of one output.

    Args:
        name: Its name.
        axis: The axis that counts samples; None if no axis does, so that an output belongs to a run as a whole.
        shape: Its shape for display, with ``N`` for the axis that counts samples and ``any`` for lengths that vary.
        dtype: Its numpy type; of the type object for what is no array.
        length_axes: Axes that have the length of the batch, where that follows from the samples; counted with the
            samples on axis 0.
    """

    name: str
    axis: int | None = 0
    shape: tuple[int | str, ...] = ()
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float32))
    length_axes: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Name and shape, such as ``scores (N, 10)``."""
        kind = "" if self.dtype.kind == "f" else f" {'text' if self.dtype.kind in 'OUS' else self.dtype}"
        return f"{self.name} ({', '.join(map(str, self.shape))}){kind}"

    def samples(self, place: int, output: Any, size: int) -> Array:
        """One run's outputs of its samples, shape (samples, ...), or (1, ...) without a sample axis; a view.

        Args:
            place: Position of the output, for the error.
            output: The output.
            size: Samples in the run.

        Raises:
            AxisError: the length of the sample axis is not the number of samples.
        """
        array = np.asarray(output)
        if self.axis is None:
            return array[None]
        if array.ndim <= self.axis or array.shape[self.axis] != size:
            raise AxisError(place, self, array.shape, size)
        return np.moveaxis(array, self.axis, 0)


@dataclass(frozen=True)
class Layouts:
    """Layouts of all outputs, and the outputs of a few samples.

    Args:
        outputs: Layout of each output, in the model's order.
        examples: Outputs of a few samples, per output: each an array without a sample axis.
        single: Whether the model runs on one sample at a time only.
        batch_size: The fixed batch size of the model; None if it is free.
    """

    outputs: tuple[OutputLayout, ...]
    examples: tuple[tuple[Array, ...], ...]
    single: bool
    batch_size: int | None

    def __str__(self) -> str:
        """All outputs, for messages."""
        return ", ".join(map(str, self.outputs))

    def whole(self, place: int) -> Layouts:
        """The same with an output that has no sample axis."""
        changed = replace(self.outputs[place], axis=None)
        return replace(self, outputs=(*self.outputs[:place], changed, *self.outputs[place + 1 :]))


def find_layouts(model: Executable, data: Dataset, specs: Sequence[TensorSpec]) -> Layouts:
    """Find the axis of each output that counts samples by running a model.

    Where the batch size is free, the length of the axis must be that of two batches of different sizes. Where it is
    fixed, it must be the batch size. In both cases samples in another order must give outputs in that order along the
    axis. A model with batches of 1 has its declared shape as evidence; where the declared length is free, the axis
    must have length 1 for all of `ProbeRules.single_samples` samples.

    Args:
        model: fp32.
        data: Samples.
        specs: The declared outputs, in the model's order.

    Raises:
        EngineError: the engine cannot run the model.
    """
    return _with_lengths(model, data, _layouts(model, data, specs))


def _layouts(model: Executable, data: Dataset, specs: Sequence[TensorSpec]) -> Layouts:
    fixed = data.batch_size
    if fixed == 1:
        return _single(model, data, specs, fixed)
    if fixed is not None:
        return _batched(model, data, specs, (fixed,), fixed)
    try:
        return _batched(model, data, specs, PROBE_RULES.sizes, None)
    except EngineError:
        # An operator inside may fix the batch to 1, such as a Reshape to (1, -1).
        return _single(model, data, specs, None)


def _with_lengths(model: Executable, data: Dataset, layouts: Layouts) -> Layouts:
    """The layouts with the axes that have the length of the batch, from runs of the same samples at two lengths."""
    lengths = data.lengths
    if lengths is None or lengths.mask is None or lengths.fixed is not None:
        return layouts
    shortest = int(lengths.values.min())
    sizes = (lengths.width, shortest if shortest < lengths.width else max(1, shortest - 1))
    count = 1 if layouts.single else layouts.batch_size or PROBE_RULES.sizes[0]
    index = lengths.nearest(shortest, count)
    runs = [[np.shape(output) for output in model.predict(data.padded(index, size))] for size in sizes]
    found = []
    for layout, *shapes in zip(layouts.outputs, *runs, strict=True):
        axes = tuple(
            axis + 1 if layout.axis is None else axis + (axis < layout.axis)
            for axis, own in enumerate(zip(*shapes, strict=False))
            if own == sizes and axis != layout.axis and len(shapes[0]) == len(shapes[1])
        )
        found.append(replace(layout, length_axes=axes if sizes[0] != sizes[1] else ()))
    return replace(layouts, outputs=tuple(found))


def _batched(
    model: Executable, data: Dataset, specs: Sequence[TensorSpec], sizes: Sequence[int], fixed: int | None
) -> Layouts:
    size = sizes[-1]
    batch = data.batch(0, size)
    first = _run(model, batch)
    rolled = _run(model, {name: np.roll(array, -1, 0) for name, array in batch.items()})
    others = [(other, _run(model, data.batch(0, other))) for other in sizes[:-1]]
    runs = [(size, first), (size, rolled), *others]
    starts = range(size, min(PROBE_RULES.examples, len(data)) - size + 1, size) if len(first) > 1 else ()
    shown = [first, *(_run(model, data.batch(start, size)) for start in starts)]
    layouts, examples = [], []
    for place, name in enumerate(_names(specs, len(first))):
        seen = [(count, outputs[place]) for count, outputs in runs]
        axis = _axis(seen)
        if (declared := _declared(specs, place, len(first))) is not None and declared.sample_axis is None:
            axis = None
        layouts.append(_layout(name, axis, [array for _, array in seen]))
        along = [] if axis is None else [np.moveaxis(outputs[place], axis, 0) for outputs in shown]
        examples.append(tuple(np.asarray(sample) for array in along for sample in array))
    if fixed is None and not all(examples):
        single = [_run(model, data.batch(start, 1)) for start in range(min(size, len(data)))]
        for place, layout in enumerate(layouts):
            if layout.axis is None:
                own = [outputs[place] for outputs in single]
                layouts[place], examples[place] = _layout(layout.name, None, own), tuple(own)
    return Layouts(tuple(layouts), tuple(examples), False, fixed)


def _axis(seen: Sequence[tuple[int, Array]]) -> int | None:
    """The first axis that follows the batch; the first two entries are the same samples in another order."""
    (size, first), (_, rolled), *_ = seen
    if len({array.ndim for _, array in seen}) != 1:
        return None
    for axis in range(first.ndim):
        lengths = all(array.shape[axis] == count for count, array in seen)
        if lengths and size and first.shape == rolled.shape and close(np.roll(first, -1, axis), rolled):
            return axis
    return None


def _single(model: Executable, data: Dataset, specs: Sequence[TensorSpec], fixed: int | None) -> Layouts:
    runs = [_run(model, data.batch(0, 1))]
    open_axis = any(_declared_length(specs, place, runs[0]) != 1 for place in range(len(runs[0])))
    count = PROBE_RULES.single_samples if open_axis else PROBE_RULES.sizes[-1]
    runs += [_run(model, data.batch(start, 1)) for start in range(1, min(count, len(data)))]
    layouts, examples = [], []
    for place, name in enumerate(_names(specs, len(runs[0]))):
        own = [outputs[place] for outputs in runs]
        length, declared = _declared_length(specs, place, runs[0]), _declared(specs, place, len(runs[0]))
        ones = all(array.ndim and array.shape[0] == 1 for array in own)
        axis = 0 if ones and length in (1, None) and not (declared and declared.sample_axis is None) else None
        layouts.append(_layout(name, axis, own))
        examples.append(tuple(own if axis is None else (np.asarray(array[0]) for array in own)))
    return Layouts(tuple(layouts), tuple(examples), True, fixed)


def _declared(specs: Sequence[TensorSpec], place: int, count: int) -> TensorSpec | None:
    return specs[place] if len(specs) == count else None


def _declared_length(specs: Sequence[TensorSpec], place: int, outputs: Sequence[Array]) -> int | None:
    """Declared length of an output's first axis; None if it is free, or declared with another number of axes."""
    spec = _declared(specs, place, len(outputs))
    if spec is None or len(spec.shape) != outputs[place].ndim or not spec.shape:
        return None
    return spec.shape[0]


def _names(specs: Sequence[TensorSpec], count: int) -> list[str]:
    return [spec.name for spec in specs] if len(specs) == count else [str(place) for place in range(count)]


def _run(model: Executable, batch: Batch) -> list[Array]:
    """One run's outputs; copies, because an engine may reuse its buffers."""
    return [np.array(output) for output in model.predict(batch)]


def _layout(name: str, axis: int | None, seen: Sequence[Array]) -> OutputLayout:
    first = seen[0]
    if any(array.ndim != first.ndim for array in seen):
        return OutputLayout(name, axis, ("any", "..."), first.dtype)
    shape: list[int | str] = [
        length if all(array.shape[place] == length for array in seen) else "any"
        for place, length in enumerate(first.shape)
    ]
    if axis is not None:
        shape[axis] = "N"
    return OutputLayout(name, axis, tuple(shape), first.dtype)


def close(expected: Any, output: Any, tolerance: float = FLOAT_TOLERANCE) -> bool:
    """Whether two outputs are equal but for rounding.

    Args:
        expected: An output.
        output: The other model's, or that of another run.
        tolerance: Maximum difference, relative to the larger of 1 and the largest expected value. Of whole numbers, a
            share of `ProbeRules.flipped_share` may differ.
    """
    one, other = np.asarray(expected), np.asarray(output)
    if one.shape != other.shape:
        return False
    if one.dtype.kind not in "fc":
        return bool(np.mean(one != other) <= PROBE_RULES.flipped_share) if one.size else True
    finite = np.abs(one[np.isfinite(one)])
    scale = max(1.0, float(finite.max(initial=0.0)))
    return bool(np.allclose(one, other, atol=tolerance * scale, rtol=0, equal_nan=True))


def within_noise(expected: Any, output: Any, fp32: Any) -> bool:
    """Whether two outputs of one int8 model differ by much less than int8 changes them.

    Float noise in front of a rounding to int8 moves a few values to the next step. Wrong scales or weights differ by
    about as much as int8 does from fp32, or more.

    Args:
        expected: An output of the model.
        output: The same output in another run.
        fp32: That of the fp32 model on the same samples.

    Returns:
        Whether the root mean square of the difference is at most `ProbeRules.rounding_share` of that between `expected`
        and `fp32`.
    """
    one, other, exact = (np.asarray(value, np.float64) for value in (expected, output, fp32))
    if not one.shape == other.shape == exact.shape or not np.isfinite([one, other, exact]).all():
        return False
    difference, noise = (float(np.sqrt(np.mean(np.square(one - value)))) for value in (other, exact))
    return difference <= PROBE_RULES.rounding_share * noise


def joined(parts: Sequence[Array], ragged: bool = False) -> Array:
    """The outputs of all samples from those of their batches.

    Args:
        parts: Outputs of each batch, shape (samples, ...).
        ragged: Give an array of arrays, whatever the shapes.

    Returns:
        Shape (N, ...) if all samples have outputs of one shape; otherwise an array of objects, shape (N,): the output
        of each sample.
    """
    if not ragged and len({part.shape[1:] for part in parts}) == 1:
        return np.concatenate(parts)
    samples = [sample for part in parts for sample in part]
    whole = np.empty(len(samples), object)
    for place, sample in enumerate(samples):
        whole[place] = sample
    return whole
