"""Samples of different shapes in two arrays of numbers, without arrays of objects."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from nc_strategies.errors import InputError

VALUES, OFFSETS, SHAPES, AXIS = ".values", ".offsets", ".shapes", ".axis"
"""Endings of the names of the arrays that hold a ragged one, see `gathered`."""
ALLOWED = (
    "NAME.values beside NAME.offsets (first 0, never falling, last the length of the values), or beside NAME.shapes"
)
IGNORED = -100
"""Label of the places that fill up ragged whole-numbered labels; PyTorch's losses and token metrics ignore it."""


class Ragged:
    """Samples of one rank and type, whose shapes differ; a sequence of arrays.

    It answers the questions that are asked of an array of samples (length, type, slices and index arrays of samples),
    and copies no values when samples are selected.

    Args:
        values: The samples' values one after the other, each sample in C order, shape (total,).
        shapes: Shape of each sample, shape (N, rank).
        starts: Position of each sample's first value, shape (N,); by default the samples are stored in their order.
    """

    def __init__(self, values: NDArray[Any], shapes: NDArray[Any], starts: NDArray[Any] | None = None) -> None:
        self.values = values
        self.shapes: NDArray[np.int64] = np.asarray(shapes, np.int64)
        sizes = self.shapes.prod(1)
        self.starts: NDArray[np.int64] = np.cumsum(sizes) - sizes if starts is None else np.asarray(starts, np.int64)

    @staticmethod
    def of(samples: Sequence[Any]) -> Ragged:
        """Samples from a list of arrays, or of nested lists.

        Raises:
            ValueError: there is none, or they differ in their rank.
        """
        arrays = [np.asarray(sample) for sample in samples]
        if len({array.ndim for array in arrays}) != 1 or not arrays[0].ndim:
            raise ValueError(f"samples with {sorted({array.ndim for array in arrays})} axes, one number of axes needed")
        return Ragged(np.concatenate([array.ravel() for array in arrays]), np.array([array.shape for array in arrays]))

    @staticmethod
    def concatenated(values: NDArray[Any], offsets: NDArray[Any], axis: int = 0) -> Ragged:
        """Samples that were concatenated along the axis in which they differ.

        Args:
            values: Shape (..., total, ...), the samples' own axes.
            offsets: Where each sample starts on that axis, and the end of the last, shape (N + 1,).
            axis: That axis of `values`.

        Raises:
            ValueError: the arrays do not fit each other.
        """
        if not 0 <= axis < values.ndim:
            raise ValueError(f"axis {axis} of values with {values.ndim} axes")
        if offsets.ndim != 1 or len(offsets) < 1 or offsets.dtype.kind not in "iu":
            raise ValueError(f"offsets of shape {offsets.shape} and type {offsets.dtype}")
        ends = offsets.astype(np.int64)
        lengths = np.diff(ends)
        if ends[0] != 0 or ends[-1] != values.shape[axis] or (lengths < 0).any():
            raise ValueError(f"offsets from {ends[0]} to {ends[-1]} of {values.shape[axis]} values")
        shapes = np.tile(np.array(values.shape, np.int64), (len(lengths), 1))
        shapes[:, axis] = lengths
        if axis == 0:
            return Ragged(values.reshape(-1), shapes)
        before = (slice(None),) * axis
        pieces = [values[(*before, slice(a, b))].ravel() for a, b in itertools.pairwise(ends)]
        return Ragged(np.concatenate(pieces) if pieces else values.reshape(-1), shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> NDArray[Any]: ...

    @overload
    def __getitem__(self, index: slice | NDArray[Any]) -> Ragged: ...

    def __getitem__(self, index: Any) -> Any:
        """One sample, or the samples of a slice or of positions."""
        if not isinstance(index, int | np.integer):
            return Ragged(self.values, self.shapes[index], self.starts[index])
        start, shape = int(self.starts[index]), tuple(self.shapes[index].tolist())
        return self.values[start : start + math.prod(shape)].reshape(shape)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[place] for place in range(len(self)))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self.values.dtype

    @property
    def ndim(self) -> int:
        """Axes of a sample, and one for the samples."""
        return 1 + int(self.shapes.shape[1])

    @property
    def shape(self) -> tuple[int, ...]:
        """As of an array; -1 for an axis in which samples differ."""
        return (len(self), *(-1 if size is None else size for size in self.sample_shape))

    @property
    def size(self) -> int:
        """Number of values of all samples."""
        return sum(math.prod(shape) for shape in self.shapes.tolist())

    @property
    def sample_shape(self) -> tuple[int | None, ...]:
        """Shape of a sample; None for an axis in which samples differ."""
        low, high = self.shapes.min(0).tolist(), self.shapes.max(0).tolist()
        return tuple(a if a == b else None for a, b in zip(low, high, strict=True))

    def text(self) -> str:
        """The shape of all samples, such as ``(400, 3 to 64)``."""
        low, high = self.shapes.min(0).tolist(), self.shapes.max(0).tolist()
        sizes = [str(a) if a == b else f"{a} to {b}" for a, b in zip(low, high, strict=True)]
        return f"({', '.join([str(len(self)), *sizes])})"

    def filled(self, shape: Sequence[int], fill: Any = 0) -> NDArray[Any]:
        """The samples as one array, shape (N, *shape), cut or filled up at the end of each axis.

        Args:
            shape: Shape that each sample gets.
            fill: Value of the places that a sample does not have.
        """
        array = np.full((len(self), *shape), fill, self.dtype)
        for row, sample in zip(array, self, strict=True):
            common = tuple(slice(min(a, b)) for a, b in zip(row.shape, sample.shape, strict=True))
            row[common] = sample[common]
        return array

    def regular(self) -> NDArray[Any] | None:
        """The samples as an array if all have one shape; else None."""
        shape = [size for size in self.sample_shape if size is not None]
        return None if len(shape) < self.ndim - 1 else self.filled(shape)

    def packed(self) -> Ragged:
        """The same samples, stored in their order and without others between them."""
        sizes = self.shapes.prod(1)
        if np.array_equal(self.starts, np.cumsum(sizes) - sizes) and int(sizes.sum()) == len(self.values):
            return self
        return Ragged(np.concatenate([sample.reshape(-1) for sample in self]), self.shapes)


Samples: TypeAlias = NDArray[Any] | Ragged
"""Samples of one input: an array whose first axis counts them, or samples of different shapes."""


def rectangular(samples: Samples) -> NDArray[Any]:
    """Samples that must be an array.

    Raises:
        TypeError: they are ragged.
    """
    if isinstance(samples, Ragged):
        raise TypeError(f"samples of shape {samples.text()} where one shape is needed")
    return samples


def as_samples(value: Any) -> Samples:
    """A value as an array; a list of arrays whose shapes differ as ragged samples.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, Ragged):
        return value
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 1):
        parts = [np.asarray(part) for part in value]
        if parts and parts[0].ndim and len({part.shape for part in parts}) > 1:
            return Ragged.of(parts)
        if isinstance(value, np.ndarray) and parts and parts[0].ndim:
            return np.stack(parts)
    return np.asarray(value)


def joined(parts: Sequence[Samples]) -> Samples:
    """Samples of several batches, whose samples may have another shape in each.

    Raises:
        ValueError: they differ in their rank.
    """
    if not any(isinstance(part, Ragged) for part in parts) and len({np.shape(part)[1:] for part in parts}) == 1:
        return np.concatenate([rectangular(part) for part in parts])
    return Ragged.of([sample for part in parts for sample in part])


def gathered(key: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Samples]:
    """Arrays by name, those that hold ragged samples put together under the name of the samples.

    ``NAME.values`` with ``NAME.offsets`` are samples that were concatenated along the one axis in which they differ:
    sample i is from ``offsets[i]`` up to ``offsets[i + 1]`` on that axis, which is axis 0 of the values or
    ``NAME.axis``. ``NAME.values`` with ``NAME.shapes``, shape (N, rank), are samples that may differ in any axis: the
    values are theirs in C order, one sample after the other, shape (total,).

    Args:
        key: Configuration key that errors name.
        arrays: Arrays as stored.

    Raises:
        InputError: such arrays do not fit each other.
    """
    found: dict[str, Samples] = {}
    used: set[str] = set()
    for stored in arrays:
        name = stored.removesuffix(VALUES)
        if name == stored or (name + OFFSETS not in arrays and name + SHAPES not in arrays):
            continue
        used |= {stored, name + OFFSETS, name + SHAPES, name + AXIS}
        try:
            found[name] = _one(name, arrays)
        except ValueError as error:
            raise InputError(key, f"holds {error} for the ragged samples {name!r}", ALLOWED) from None
    return {**{name: array for name, array in arrays.items() if name not in used}, **found}


def _one(name: str, arrays: Mapping[str, NDArray[Any]]) -> Ragged:
    values, shapes = arrays[name + VALUES], arrays.get(name + SHAPES)
    if shapes is None:
        axis = np.asarray(arrays.get(name + AXIS, 0))
        if axis.size != 1 or axis.dtype.kind not in "iu":
            raise ValueError(f"an axis of shape {axis.shape} and type {axis.dtype}")
        return Ragged.concatenated(values, arrays[name + OFFSETS], int(axis.reshape(-1)[0]))
    if shapes.ndim != 2 or shapes.dtype.kind not in "iu" or (shapes < 0).any():
        raise ValueError(f"shapes of shape {shapes.shape} and type {shapes.dtype}")
    if values.ndim != 1 or int(shapes.astype(np.int64).prod(1).sum()) != len(values):
        raise ValueError(f"values of shape {values.shape} that are not those of the shapes")
    return Ragged(values, shapes)


def stored(name: str, samples: Samples) -> dict[str, NDArray[Any]]:
    """Samples as arrays that `gathered` puts together again."""
    if not isinstance(samples, Ragged):
        return {name: samples}
    packed = samples.packed()
    return {name + VALUES: packed.values, name + SHAPES: packed.shapes}
