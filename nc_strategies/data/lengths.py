"""Lengths of samples, and batches of samples of like length."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.data.ragged import Ragged, Samples
from nc_strategies.errors import InputError
from nc_strategies.models.info import TensorSpec

Positions = NDArray[np.intp]


@dataclass(frozen=True)
class BucketRules:
    """Which samples share a batch."""

    windows: int = 10
    """Parts of the samples that are sorted by length, each for itself. The samples of a part are read in any order, and
    their results are put back into the order of the samples before anything looks at them, so that the test for early
    stopping sees a random sample at the end of every part."""
    longest_to_shortest: float = 1.25
    """Greatest quotient of two lengths in a batch: at most a fifth of a batch is padding."""
    free_difference: int = 8
    """Difference of two lengths in a batch that is allowed in any case: short batches cost little."""


BUCKET_RULES = BucketRules()


@dataclass(frozen=True)
class Lengths:
    """In what the samples of a data set differ.

    Args:
        values: Length of each sample in the stored order, shape (N,): entries of the mask that are 1; without a mask
            the size of the one axis in which samples differ, or the product of several.
        width: Length of a sample that is not cut: that of the padded arrays, or the longest.
        axes: Input name to the axes of a sample that have this length.
        mask: The input that says which places hold values; None without one. Samples are then never padded.
        fixed: Length that the model takes; None if it is free.
        groups: Samples of one number have equal shapes, shape (N,). Without a mask only they share a batch.
        single: Whether one length describes the shape of a sample.
    """

    values: NDArray[np.int64]
    width: int
    axes: Mapping[str, tuple[int, ...]]
    mask: str | None = None
    fixed: int | None = None
    groups: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    single: bool = True

    def length_of(self, index: Positions) -> int | None:
        """Length of a batch of these samples (stored positions); None if it follows from their shapes."""
        if self.fixed is not None:
            return self.fixed
        return None if self.mask is None else max(1, int(self.values[index].max()))

    def buckets(self, index: Positions, size: int) -> list[Positions]:
        """Positions in `index` that share a batch, from the shortest to the longest samples.

        Args:
            index: Stored positions of samples, shape (n,).
            size: Most samples of a batch.
        """
        if self.fixed is not None:
            return [np.arange(start, min(start + size, len(index))) for start in range(0, len(index), size)]
        own = self.values[index]
        order = np.lexsort((self.groups[index], own)) if self.mask is None else np.argsort(own, kind="stable")
        found: list[list[int]] = []
        for place in order.tolist():
            if found and len(found[-1]) < size and self._alike(int(index[found[-1][0]]), int(index[place])):
                found[-1].append(place)
            else:
                found.append([place])
        return [np.array(places, np.intp) for places in found]

    def _alike(self, shorter: int, longer: int) -> bool:
        if self.mask is None:
            return bool(self.groups[shorter] == self.groups[longer])
        short, long = int(self.values[shorter]), int(self.values[longer])
        return long <= max(short * BUCKET_RULES.longest_to_shortest, short + BUCKET_RULES.free_difference)

    def like(self, start: int, index: Positions) -> Positions:
        """Those of `index` (stored positions) that may share a batch with the stored position `start`."""
        return index if self.mask is not None else index[self.groups[index] == self.groups[start]]

    def nearest(self, length: int, size: int) -> Positions:
        """Stored positions of `size` samples nearest to a length, with repetitions if there are too few.

        Samples that one length does not describe are those of one shape.
        """
        order = np.argsort(np.abs(self.values - length), kind="stable")
        if not self.single:
            order = self.like(int(order[0]), order)
        return np.resize(order[:size], size)


def window(count: int, size: int) -> int:
    """Number of consecutive samples that are sorted by length together, of `count`."""
    return max(size, math.ceil(count / BUCKET_RULES.windows))


def is_mask_name(name: str) -> bool:
    """Whether an input is called a mask, such as ``attention_mask`` or ``serving_default_input_mask:0``."""
    return "mask" in re.split(r"[^a-z]+", name.lower())


def find_lengths(
    key: str, sources: Mapping[str, Samples], specs: Mapping[str, TensorSpec], carried: bool = False
) -> Lengths | None:
    """Find the lengths of samples; None if all have one shape and no mask says more.

    Args:
        key: Configuration key that errors name.
        sources: Samples by input.
        specs: The inputs.
        carried: Whether the model carries state from one sample to the next.

    Raises:
        InputError: samples differ in a way that the model does not take.
    """
    ragged = {name: source for name, source in sources.items() if isinstance(source, Ragged)}
    if carried:
        for name, source in ragged.items():
            raise InputError(
                key,
                f"has samples of shape {source.text()} for input {name!r}, and the model carries state between them",
                "steps of one shape",
            )
        return None
    for name, samples in sources.items():
        if is_mask_name(name) and (lengths := prefixes(samples)) is not None:
            return _by_mask(key, name, lengths, sources, specs)
    return _by_shapes(key, ragged, specs) if ragged else None


def prefixes(mask: Samples) -> NDArray[np.int64] | None:
    """Number of ones of each sample of a mask, shape (N,); None if samples are no ones followed by zeros."""
    if mask.ndim != 2 or mask.dtype.kind not in "iubf":
        return None
    if isinstance(mask, Ragged):
        values: NDArray[Any] = mask.filled([max(1, int(mask.shapes.max()))])
    else:
        values = mask
    lengths = (values != 0).sum(1)
    wanted = np.arange(values.shape[1]) < lengths[:, None]
    return lengths.astype(np.int64) if (lengths > 0).all() and np.array_equal(values, wanted) else None


def _by_mask(
    key: str,
    mask: str,
    lengths: NDArray[np.int64],
    sources: Mapping[str, Samples],
    specs: Mapping[str, TensorSpec],
) -> Lengths | None:
    given = sources[mask]
    sizes = given.shapes[:, 0] if isinstance(given, Ragged) else np.full(len(lengths), given.shape[1])
    axes = {}
    for name, source in sources.items():
        following = _following(source, specs[name], (sizes, lengths))
        left = [axis for axis in _varying(source) if axis not in following]
        if left:
            raise InputError(
                key,
                f"has samples of shape {source.text() if isinstance(source, Ragged) else source.shape[1:]} for input "
                f"{name!r}: axis {left[0]} of a sample does not follow the lengths of {mask!r}",
                "as many entries as the mask has, or one shape for all samples",
            )
        if following:
            axes[name] = following
    fixed = {
        size
        for name, own in axes.items()
        if specs[name].rank_known
        for axis in own
        if (size := specs[name].sample_shape[axis]) is not None
    }
    width = int(sizes.max())
    if len(fixed) > 1 or any(int(lengths.max()) > size for size in fixed):
        raise InputError(
            key,
            f"has samples of up to {int(lengths.max())} entries",
            f"inputs of the model have a fixed length of {' and '.join(map(str, sorted(fixed)))}: cut the samples",
        )
    whole = not any(isinstance(source, Ragged) for source in sources.values())
    if fixed:
        (length,) = fixed
        return None if whole and width == length else Lengths(lengths, length, axes, mask, length)
    return None if whole and int(lengths.min()) == width else Lengths(lengths, width, axes, mask)


def _varying(source: Samples) -> list[int]:
    if not isinstance(source, Ragged):
        return []
    return [axis for axis, size in enumerate(source.sample_shape) if size is None]


def _following(source: Samples, spec: TensorSpec, sizes: Sequence[NDArray[np.int64]]) -> tuple[int, ...]:
    """Axes of a sample that have the length of the mask: its stored length, or the number of its ones."""
    if isinstance(source, Ragged):
        columns = enumerate(source.shapes.T)
        return tuple(axis for axis, own in columns if any(np.array_equal(own, wanted) for wanted in sizes))
    if len(np.unique(sizes[0])) > 1:
        return ()
    declared = spec.sample_shape if spec.rank_known else (None,) * (source.ndim - 1)
    if len(declared) != source.ndim - 1:
        return ()
    return tuple(
        axis
        for axis, size in enumerate(source.shape[1:])
        if size == sizes[0][0] and (declared[axis] is None or is_mask_name(spec.name) or declared[axis] != size)
    )


def _by_shapes(key: str, ragged: Mapping[str, Ragged], specs: Mapping[str, TensorSpec]) -> Lengths:
    columns: list[NDArray[np.int64]] = []
    axes = {}
    for name, source in ragged.items():
        spec, varying = specs[name], _varying(source)
        if spec.rank_known and len(spec.sample_shape) == len(source.sample_shape):
            for axis in varying:
                if (size := spec.sample_shape[axis]) is not None:
                    raise InputError(
                        key,
                        f"has samples of shape {source.text()}, and input {name!r} has a fixed size of {size} there",
                        "samples of that size, data.preprocess.resize, or a model with a mask as an input",
                    )
        columns += [source.shapes[:, axis] for axis in varying]
        axes[name] = tuple(varying)
    _, groups = np.unique(np.concatenate([s.shapes for s in ragged.values()], 1), axis=0, return_inverse=True)
    groups = groups.reshape(-1).astype(np.int64)
    single = all(np.array_equal(column, columns[0]) for column in columns)
    values = columns[0] if single else np.prod(next(iter(ragged.values())).shapes, 1)
    return Lengths(values.astype(np.int64), int(values.max()), axes, groups=groups, single=single)
