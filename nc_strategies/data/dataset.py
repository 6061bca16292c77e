"""Samples and labels, preprocessed and batched for a model."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.data.lengths import Lengths, find_lengths, is_mask_name, window
from nc_strategies.data.ragged import IGNORED, Ragged, Samples, rectangular
from nc_strategies.data.settings import Preprocess
from nc_strategies.data.spool import NoRoomError, allocate, chunks
from nc_strategies.errors import InputError
from nc_strategies.models.feeds import Feeds, SequenceStep
from nc_strategies.models.info import Batch, ModelInfo, TensorSpec

log = logging.getLogger(__name__)
SEQUENCE = "sequence"
"""Array of the data that numbers the sequences; see `Dataset`."""
STORED = 128 * 2**20
"""Bytes of an input's samples above which a cheap preprocessing (all but resizing) is repeated in each pass."""


@dataclass(frozen=True)
class Raw:
    """Samples before preprocessing.

    Args:
        key: Configuration key that errors name.
        inputs: Input name to array; the first axis counts samples. The single name ``x`` denotes a model's only input,
            and the names ``0``, ``1``, ... denote its inputs in order. Arrays may be memory-mapped, so users of this
            class must not load a whole array. Samples of different shapes are `Ragged`.
        labels: Shape (N, ...), or None. Class numbers (N,), one-hot or multi-label (N, classes), numbers (N, ...),
            masks (N, H, W), or boxes (N, most boxes, 6), see `nc_strategies.data.labels.pack_boxes`. `Ragged` where
            samples have labels of different shapes.
        shared: Input name to an array of one value that all samples have in common.
        remarks: What the user should know about how the samples were read, one sentence each.
    """

    key: str
    inputs: Mapping[str, Samples]
    labels: Samples | None = None
    shared: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lengths = {name: len(samples) for name, samples in self.inputs.items()}
        if not lengths or min(lengths.values()) == 0:
            raise InputError(self.key, "holds no samples")
        if len(set(lengths.values())) != 1:
            raise InputError(
                self.key, f"inputs of different lengths: {lengths}", f"samples on axis 0 of each array: {self.text()}"
            )
        if self.labels is not None and len(self.labels) != len(self):
            raise InputError(self.key, f"{len(self.labels)} labels for {len(self)} samples", "one label per sample")
        for name, samples in self.inputs.items():
            if isinstance(samples, Ragged) and not samples.shapes.all():
                place = int(np.flatnonzero(~samples.shapes.all(1))[0])
                raise InputError(self.key, f"sample {place} of array {name!r} is empty", "leave empty samples out")
        labels = {} if self.labels is None else {"y": self.labels}
        array: Samples
        for name, array in [*self.inputs.items(), *self.shared.items(), *labels.items()]:
            if array.dtype.kind not in "fiub":
                raise InputError(self.key, f"array {name!r} is of type {array.dtype}", "numbers are needed")
            if array.dtype.kind == "f" and not _all_finite(array):
                raise InputError(self.key, f"array {name!r} holds NaN or infinity")

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, start: int, stop: int) -> Raw:
        """Samples from `start` up to, but not including, `stop`."""
        labels = None if self.labels is None else self.labels[start:stop]
        return Raw(self.key, {name: array[start:stop] for name, array in self.inputs.items()}, labels, self.shared)

    def for_model(self, info: ModelInfo, given: Collection[str] = ()) -> Raw:
        """The samples in the form that a model takes: these, unless they become arrays only when the model is known.

        Args:
            info: The loaded model's inputs.
            given: Inputs that do not come from the data.
        """
        return self

    def end_of_sequence(self, count: int) -> int:
        """The least number of samples from `count` on that does not cut a sequence in two; `count` without sequences.

        Samples of one sequence are expected next to each other here; see `Dataset` for what numbers them.
        """
        numbers = self.inputs.get(SEQUENCE)
        if numbers is None or numbers.ndim != 1 or numbers.dtype.kind not in "iu":
            return count
        while 0 < count < len(numbers) and numbers[count] == numbers[count - 1]:
            count += 1
        return count

    def text(self) -> str:
        """Names, shapes and types of all arrays in one line."""
        arrays: dict[str, Samples] = {**self.inputs, **self.shared}
        if self.labels is not None:
            arrays["y"] = self.labels
        return ", ".join(f"{name} {shape_text(array)} {array.dtype}" for name, array in arrays.items())

    def sha256(self) -> str:
        """SHA-256 of names, types, shapes and values."""
        digest = hashlib.sha256()
        arrays: dict[str, Samples] = {**self.inputs, **({"y": self.labels} if self.labels is not None else {})}
        arrays |= {name: np.atleast_1d(array) for name, array in self.shared.items()}
        for name, array in sorted(arrays.items()):
            digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
            if isinstance(array, Ragged):
                digest.update(np.ascontiguousarray(array.shapes).data)
                for sample in array:
                    digest.update(np.ascontiguousarray(sample).data)
                continue
            for start, stop in chunks(len(array), array[:1].nbytes):
                digest.update(np.ascontiguousarray(array[start:stop]).data)
        return digest.hexdigest()


def shape_text(samples: Samples) -> str:
    """The shape of samples, for messages."""
    return samples.text() if isinstance(samples, Ragged) else str(tuple(samples.shape))


@dataclass(frozen=True)
class Run:
    """Samples that a model runs on together.

    Args:
        batch: The inputs.
        positions: Positions of the samples that count, in the order of the data set, shape (n,).
        size: Samples in the batch, those included that do not count.
        lengths: Length of each sample that counts, shape (n,), where the length of the batch follows from the samples.
        length: Length of the batch; None where samples are not padded.
        complete: Whether all samples up to the greatest position so far have been given.
    """

    batch: Batch
    positions: NDArray[np.intp]
    size: int
    lengths: NDArray[np.int64] | None = None
    length: int | None = None
    complete: bool = True


class Dataset:
    """Samples for a model: preprocessed once, in batches, with their labels.

    Samples are preprocessed at the first pass over them, so that the samples for evaluation take no memory during the
    calibration. Preprocessed arrays above `nc_strategies.data.spool.LARGE` bytes are stored on disk. If the disk has no
    room for them, samples are preprocessed in every pass, as they are above `STORED` bytes if they are not resized.
    Samples that need no preprocessing are not copied.

    If the model carries state, samples are the steps of sequences, in the order of their steps. An array ``sequence``
    of the data, shape (N,), numbers the sequences; without it, all samples belong to one. Batches are then
    `SequenceStep`: one step of up to `width` sequences.

    Where samples differ in their length, `runs` makes batches of samples of like length, and fills them up to the
    longest in the batch if the model has a mask among its inputs; see `Lengths`. Without a mask, only samples of equal
    shapes share a batch.

    Args:
        raw: The samples.
        preprocess: Preprocessing of the samples.
        info: The model's inputs.
        order: Positions of the samples in the order in which they are returned, shape (N,); the stored order if None.
            Sequences have an order of their own.
        feeds: The inputs that do not come from the data; none by default.
        width: Number of sequences that are run side by side.
        pad: Value that fills inputs up, or a mapping of input names to values; a mask is filled up with zeros.

    Raises:
        InputError: the samples do not fit the model's inputs.
    """

    def __init__(
        self,
        raw: Raw,
        preprocess: Preprocess,
        info: ModelInfo,
        order: NDArray[np.intp] | None = None,
        feeds: Feeds | None = None,
        width: int = 1,
        pad: float | Mapping[str, float] = 0,
    ) -> None:
        self.raw = raw
        self._pad = pad
        self._order = order
        self._count: int | None = None
        self._labels: NDArray[Any] | None = None
        self._preprocess = preprocess
        self._info = info
        self._specs = {spec.name: spec for spec in info.inputs}
        self._batch_size = info.batch_size
        self._most: int | None = None
        self.feeds = feeds = feeds or Feeds(info)
        self._made: set[str] = set()
        self._sources = samples_by_input(raw, info, feeds)
        unknown = set(preprocess.inputs or ()) - set(self._specs)
        if unknown:
            raise InputError(
                "data.preprocess.inputs",
                f"names {', '.join(sorted(unknown))}",
                f"the model's inputs: {', '.join(self._specs)}",
            )
        for name, source in self._sources.items():
            if isinstance(source, Ragged):
                self._sources[name] = self._made_ragged(name, source)
        if isinstance(pad, Mapping) and (others := sorted(set(pad) - set(self._specs))):
            raise InputError("data.pad", f"names {others[0]!r}", f"the model's inputs: {', '.join(self._specs)}")
        self.lengths = find_lengths(raw.key, self._sources, self._specs, bool(feeds.state))
        first = {name: self._first_of(name) for name in self._sources}
        for name, array in first.items():
            self._check(name, array)
        self._first = first
        self._stored: dict[str, Samples] = {}
        for name, array in first.items():
            source = self._sources[name]
            if self._passes(name) and source.dtype == array.dtype:
                self._stored[name] = source
            elif array.dtype.kind in "iu" and source.dtype.kind == "f":
                self._store(name)  # fractions are refused now
        self._unstored = [name for name in self._sources if name not in self._stored]
        self._sequences: _Sequences | None = None
        if feeds.state:
            self._sequences = _Sequences.of(_sequence_numbers(raw, self._specs), self._batch_size or width)
            self._order = self._sequences.order
            # All batches have the same size. A step with fewer sequences is filled up.
            self._batch_size = self._batch_size or max(stop - start for start, stop in self._sequences.steps)

    def __len__(self) -> int:
        return len(self.raw) if self._count is None else self._count

    def limit(self, count: int) -> None:
        """Use only `count` samples: the first ones of a given order, otherwise evenly spaced ones.

        Args:
            count: Number of samples, from 1 to the number of all samples.
        """
        every = len(self.raw)
        if self._order is None:
            self._order = np.linspace(0, every, count, endpoint=False).astype(np.intp)
        self._order, self._count, self._labels = self._order[:count], count, None

    @property
    def batch_size(self) -> int | None:
        """The fixed batch size of the model; None if it is free."""
        return self._batch_size

    @property
    def labels(self) -> NDArray[Any]:
        """The labels.

        Raises:
            InputError: the data has no labels.
        """
        if self.raw.labels is None:
            raise InputError(
                self.raw.key,
                "has no labels",
                "array y for this metric, or metrics=fidelity, which compares with fp32's own outputs and needs none",
            )
        if self._labels is None:
            labels = self._regular_labels(self.raw.labels)
            self._labels = labels if self._order is None else labels[self._order]
        return self._labels

    def _regular_labels(self, labels: Samples) -> NDArray[Any]:
        """Labels as an array: ragged whole numbers are filled up with `IGNORED`, to the outputs' width where they fit.

        Others become an array of arrays, shape (N,).
        """
        if not isinstance(labels, Ragged):
            return labels
        regular = labels.regular()
        if regular is not None and labels.ndim > 2:
            return regular
        if labels.dtype.kind in "iu" and labels.ndim == 2:
            width = int(labels.shapes.max())
            if self.lengths is not None and np.array_equal(labels.shapes[:, 0], self.lengths.values):
                width = self.lengths.width
            return Ragged(labels.values.astype(np.int64), labels.shapes, labels.starts).filled([width], IGNORED)
        whole = np.empty(len(labels), object)
        for place, sample in enumerate(labels):
            whole[place] = sample
        return whole

    def at_most(self, size: int | None) -> None:
        """Limit the number of samples of a batch, unless the model fixes it; None for no limit."""
        if size is None or self._info.batch_size is not None:
            return
        self._most = size
        if size == 1 or self._sequences is not None:
            self._batch_size = min(size, self._batch_size or size)

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take the values of state inputs as data, so that samples need not be run in the order of their sequences.

        Args:
            arrays: Input name to values in the order of the batches so far, shape (N, ...).
        """
        assert self._sequences is not None
        for name, array in arrays.items():
            self._sources[name] = self._stored[name] = whole = np.empty_like(array)
            whole[self._sequences.order] = array
        self._sequences = self._order = self._labels = None
        self._batch_size = self._info.batch_size

    def batch(self, start: int, size: int) -> dict[str, NDArray[Any]]:
        """`size` samples from position `start`; after the last sample it continues with the first.

        Where samples differ in their length, they are filled up to the width of all samples if the model has a mask;
        otherwise the next samples of the same shape are taken.
        """
        stop = start + size
        if self.lengths is not None:
            index = np.arange(start, start + len(self)) % len(self)
            index = index if self._order is None else self._order[index]
            alike = np.resize(self.lengths.like(int(index[0]), index), size)
            return self.padded(alike, self.lengths.width if self.lengths.padded else self.lengths.length_of(alike))
        if stop <= len(self) and self._order is None:
            return self._slice(start, stop)
        index = np.arange(start, stop) % len(self)
        if self._order is not None:
            index = self._order[index]
        return {name: self._rows(name, index) for name in self._sources}

    def distrust_mask(self) -> None:
        """Do not fill samples up any more, because the model does not heed its mask.

        Samples that are given filled up are run so, as they were given.
        """
        if self.lengths is None:
            return
        ragged = any(isinstance(source, Ragged) for source in self._sources.values())
        self.lengths = self.lengths.unpadded() if ragged else None

    def window(self, size: int) -> int:
        """Number of samples after which `runs` is complete, for batches of a size."""
        size = self._batch_size or min(size, self._most or size)
        return size if self.lengths is None else window(len(self), size)

    def free_length(self) -> Lengths | None:
        """The length of samples of one shape, by which they can be cut or filled up for a timing.

        It is that of the axes that the model leaves free, if all of them have one size; None otherwise.
        """
        axes: dict[str, tuple[int, ...]] = {}
        sizes: set[int] = set()
        mask = None
        for name, first in self._first.items():
            spec = self._specs[name]
            free = [axis for axis, size in enumerate(spec.sample_shape) if size is None] if spec.rank_known else []
            if free:
                axes[name] = tuple(free)
                sizes |= {first.shape[1 + axis] for axis in free}
                mask = name if is_mask_name(name) else mask
        if len(sizes) != 1 or any(len(own) > 1 for own in axes.values()):
            return None
        (size,) = sizes
        return Lengths(np.full(len(self.raw), size, np.int64), size, axes, mask)

    def padded(
        self, index: NDArray[np.intp], length: int | None = None, lengths: Lengths | None = None
    ) -> dict[str, NDArray[Any]]:
        """Samples at stored positions, cut or filled up to a length along the axes that have it.

        Args:
            index: Stored positions, shape (n,).
            length: The length; None if the samples have one shape.
            lengths: Says which axes have it; by default `lengths` of the data set.
        """
        lengths = lengths or self.lengths
        axes = {} if lengths is None or length is None else lengths.axes
        return {
            name: self._to_length(name, self._rows(name, index), axes.get(name, ()), length) for name in self._sources
        }

    def _rows(self, name: str, index: NDArray[np.intp]) -> NDArray[Any]:
        """Samples of an input at stored positions; ragged ones filled up to the largest."""
        if name not in self._stored:
            source = self._sources[name]
            assert not isinstance(source, Ragged)
            return self._converted(name, source[index])
        rows = self._stored[name][index]
        if isinstance(rows, Ragged):
            return rows.filled(rows.shapes.max(0).tolist(), self._fill(name))
        return np.asarray(rows)

    def _fill(self, name: str) -> float:
        if is_mask_name(name):
            return 0
        return self._pad.get(name, 0) if isinstance(self._pad, Mapping) else self._pad

    def _to_length(self, name: str, array: NDArray[Any], axes: tuple[int, ...], length: int | None) -> NDArray[Any]:
        if not axes or length is None:
            return array
        wanted = [length if axis - 1 in axes else size for axis, size in enumerate(array.shape)]
        cut = array[tuple(slice(size) for size in wanted)]
        missing = [(0, size - own) for size, own in zip(wanted, cut.shape, strict=True)]
        if not any(more for _, more in missing):
            return np.ascontiguousarray(cut)
        return np.pad(cut, missing, constant_values=np.asarray(self._fill(name), array.dtype)[()])

    def runs(self, size: int) -> Iterator[Run]:
        """All samples, in batches for a model to run.

        Samples of one length come as in `batches`; a last batch of one sample is filled up with a second one where
        batches are larger, because some models squeeze a batch of 1. Otherwise, batches are made of samples of like
        length, see `Lengths.buckets`, within parts of the order of the samples.

        Args:
            size: Most samples of a batch, unless the model fixes it.
        """
        if self.lengths is not None:
            yield from self._runs_by_length(self.lengths, size)
            return
        start = 0
        for batch, _, count in self.batches(size):
            full = self.batch_size or count
            if self.batch_size is None and count == 1 < size and len(self) > 1:
                full = 2
                batch = self.batch(start, full)
            yield Run(batch, np.arange(start, start + count), full)
            start += count

    def first_runs(self, count: int) -> Iterator[Run]:
        """The first `count` samples as `runs` gives them, where samples differ in their length."""
        assert self.lengths is not None
        return self._runs_by_length(self.lengths, count, count)

    def _runs_by_length(self, lengths: Lengths, size: int, most: int | None = None) -> Iterator[Run]:
        self.store()
        size = self._batch_size or min(size, self._most or size)
        part = self.window(size)
        for first in range(0, min(len(self), most or len(self)), part):
            places = np.arange(first, min(first + part, most or len(self), len(self)))
            index = places if self._order is None else self._order[places]
            buckets = lengths.buckets(index, size)
            for number, bucket in enumerate(buckets, 1):
                least = 2 if lengths.padded and size > 1 else 1
                full = self._batch_size or max(len(bucket), least)
                own = index[bucket]
                length = lengths.length_of(own)
                batch = self.padded(np.resize(own, full), length)
                values = lengths.values[own] if lengths.mask is not None and lengths.fixed is None else None
                yield Run(batch, places[bucket], full, values, length, number == len(buckets))

    def plan(self, size: int, rng: np.random.Generator) -> list[NDArray[np.intp]]:
        """Stored positions of batches of like length over all samples: the longest first, then in random order.

        The longest batch shows how much memory the others may need.

        Args:
            size: Most samples of a batch, unless the model fixes it.
            rng: Draws the order.
        """
        assert self.lengths is not None
        index = np.arange(len(self)) if self._order is None else self._order
        size = self._batch_size or size
        buckets = [
            np.resize(index[bucket], self._batch_size or len(bucket)) for bucket in self.lengths.buckets(index, size)
        ]
        longest = buckets.pop()
        return [longest, *(buckets[place] for place in rng.permutation(len(buckets)))]

    def batches(self, size: int) -> Iterator[tuple[Batch, NDArray[Any] | None, int]]:
        """All samples in order, as triples (inputs, labels, number of valid samples).

        A model with a fixed batch size gets batches of that size; the last batch is padded with samples that are not
        valid.
        """
        self.store()
        size = self._batch_size or min(size, self._most or size)
        if self.lengths is not None and not self.lengths.padded:
            size = self._batch_size or 1  # neighbours differ in their shapes
        all_labels = None if self.raw.labels is None else self.labels
        for first, end in self._sequences.steps if self._sequences else [(0, len(self))]:
            for start in range(first, end, size):
                count = min(size, end - start)
                labels = None if all_labels is None else all_labels[start : start + count]
                batch: Batch = self.batch(start, size if self._batch_size else count)
                if self._sequences is not None:
                    batch = self._sequences.step(batch, start, count)
                yield batch, labels, count

    def _slice(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        return {
            name: np.asarray(self._stored[name][start:stop])
            if name in self._stored
            else self._preprocessed(name, start, stop)
            for name in self._sources
        }

    def _preprocessed(self, name: str, start: int, stop: int) -> NDArray[Any]:
        source = self._sources[name]
        assert not isinstance(source, Ragged)
        return self._converted(name, source[start:stop])

    def _first_of(self, name: str) -> NDArray[Any]:
        """The first sample of an input, as the model gets it, shape (1, ...)."""
        source = self._sources[name]
        array = source[0][None] if isinstance(source, Ragged) else self._preprocessed(name, 0, 1)
        if self.lengths is None or self.lengths.fixed is None:
            return array
        return self._to_length(name, array, self.lengths.axes.get(name, ()), self.lengths.fixed)

    def _made_ragged(self, name: str, source: Ragged) -> Samples:
        """Ragged samples, preprocessed and in the model's type; an array if all have one shape then."""
        regular = source.regular()
        if regular is not None:
            return regular
        wanted = self._specs[name].dtype
        if not self._passes(name) or source.dtype != wanted:
            source = Ragged.of([self._converted(name, sample[None])[0] for sample in source])
        self._made.add(name)
        made = source.regular()
        return source if made is None else made

    def _converted(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        dtype = self._specs[name].dtype
        values = array if self._passes(name) else self._preprocess(array)
        if dtype.kind in "iu" and values.dtype.kind == "f" and not np.array_equal(values, np.round(values)):
            raise InputError(
                self.raw.key, f"input {name!r} takes {dtype}, the data has fractions", "see data.preprocess"
            )
        return np.asarray(values.astype(dtype, copy=False))

    def _passes(self, name: str) -> bool:
        if name in self._made:
            return True
        wanted = self._preprocess.inputs
        return self._preprocess.is_identity or (wanted is not None and name not in wanted)

    def store(self) -> None:
        """Preprocess all samples now, in memory or on disk. The first pass over all batches does so too."""
        for name in self._unstored:
            self._store(name)
        self._unstored = []

    def _store(self, name: str) -> None:
        source, first = self._sources[name], self._first[name]
        assert not isinstance(source, Ragged)
        every = len(self.raw)  # `limit` leaves positions among all samples
        if (self._passes(name) or self._preprocess.resize is None) and every * first.nbytes > STORED:
            return
        try:
            stored = allocate((every, *first.shape[1:]), first.dtype)
        except NoRoomError as error:
            log.warning("samples are preprocessed again in each pass: %s", error)
            return
        for start, stop in chunks(every, max(first.nbytes, 4 * source[:1].size)):
            stored[start:stop] = self._preprocessed(name, start, stop)
        self._stored[name] = stored

    def _check(self, name: str, array: NDArray[Any]) -> None:
        spec = self._specs[name]
        if not spec.rank_known:
            return
        got, want = array.shape[1:], spec.sample_shape
        if fits(got, want) or (spec.sample_axis is None and array.size == 1):
            return
        hint = _layout_hint(spec, got)
        shown = tuple("any" if d is None else d for d in want)
        raise InputError(
            self.raw.key,
            f"samples have shape {got} after preprocessing",
            f"input {name!r} takes {shown}; ".replace("'any'", "any")
            + f"{self._info.text()}; the data: {self.raw.text()}{hint}",
        )


@dataclass(frozen=True)
class _Sequences:
    """The order in which the samples of sequences are run.

    Args:
        order: Positions of the samples in that order, shape (N,).
        steps: Ranges of that order; each is one step of several sequences.
        numbers: Each sample's sequence in that order, shape (N,).
        starts: Whether a sample is the first of its sequence, in that order, shape (N,).
    """

    order: NDArray[np.intp]
    steps: list[tuple[int, int]]
    numbers: NDArray[np.int64]
    starts: NDArray[np.bool_]

    @staticmethod
    def of(numbers: NDArray[Any], width: int) -> _Sequences:
        """Run `width` sequences side by side, step by step."""
        _, number = np.unique(numbers, return_inverse=True)
        members = [np.flatnonzero(number == value) for value in range(int(number.max()) + 1)]
        members.sort(key=lambda positions: int(positions[0]))
        order: list[int] = []
        steps: list[tuple[int, int]] = []
        for first in range(0, len(members), width):
            wave = members[first : first + width]
            for step in range(max(map(len, wave))):
                begin = len(order)
                order += [int(positions[step]) for positions in wave if step < len(positions)]
                steps.append((begin, len(order)))
        firsts = {int(positions[0]) for positions in members}
        return _Sequences(
            np.array(order, np.intp), steps, number[order].astype(np.int64), np.array([i in firsts for i in order])
        )

    def step(self, batch: Batch, start: int, count: int) -> SequenceStep:
        """A batch of `count` samples from a position of the order, and samples that fill up a fixed batch size."""
        size = len(next(iter(batch.values())))
        numbers, starts = np.full(size, -1, np.int64), np.ones(size, np.bool_)
        numbers[:count], starts[:count] = self.numbers[start : start + count], self.starts[start : start + count]
        return SequenceStep(batch, numbers, starts)


def _sequence_numbers(raw: Raw, specs: Mapping[str, TensorSpec]) -> NDArray[Any]:
    numbers = None if SEQUENCE in specs else raw.inputs.get(SEQUENCE)
    if numbers is None:
        return np.zeros(len(raw), np.int64)
    if numbers.ndim != 1:
        raise InputError(raw.key, f"array {SEQUENCE!r} has shape {numbers.shape}", "one number per sample")
    return np.asarray(numbers)


def fits(got: tuple[int | None, ...], want: tuple[int | None, ...]) -> bool:
    """Whether the shape of a sample (None where samples differ) fits the shape that a model declares for it."""
    return len(got) == len(want) and all(w in (None, g) or g is None for g, w in zip(got, want, strict=True))


def with_masks(raw: Raw, info: ModelInfo, constants: Mapping[str, Any]) -> Raw:
    """The same samples, with a mask of ones for each input that is a mask by its name and that the data does not hold.

    Only ragged data has one made, in the shape of its first input whose samples differ along one axis.
    """
    names = {spec.name for spec in info.inputs}
    given = {name: samples for name, samples in raw.inputs.items() if name in names}
    missing = [
        spec
        for spec in info.inputs
        if is_mask_name(spec.name)
        and spec.name not in given
        and spec.name not in {*constants, *raw.shared}
        and (not spec.rank_known or len(spec.sample_shape) == 1)
    ]
    lengths = next((s.shapes[:, 0] for s in given.values() if isinstance(s, Ragged) and s.ndim == 2), None)
    if lengths is None or not missing:
        return raw
    made = {spec.name: Ragged(np.ones(int(lengths.sum()), spec.dtype), lengths[:, None]) for spec in missing}
    return replace(raw, inputs={**raw.inputs, **made})


def cut(raw: Raw, info: ModelInfo, lengths: Mapping[str, str]) -> Raw:
    """The same samples, padded ones cut to their own lengths along the free axis of their input.

    Args:
        raw: The samples.
        info: The model's inputs.
        lengths: Name of padded samples to the array of their lengths, see `InputSettings`.

    Raises:
        InputError: there is no such array, or it holds no lengths, or they may be those of several axes.
    """
    inputs = dict(raw.inputs)
    specs = {spec.name: spec for spec in info.inputs}
    for name, other in lengths.items():
        missing = [wanted for wanted in (name, other) if wanted not in raw.inputs]
        if missing:
            raise InputError("data.lengths", f"names {missing[0]!r}", f"the data holds {', '.join(raw.inputs)}")
        samples, own = raw.inputs[name], rectangular(raw.inputs[other])
        if isinstance(samples, Ragged):
            raise InputError(
                "data.lengths", f"names {name!r}, whose samples differ in their shape already", "leave it out"
            )
        if own.size != len(own) or own.dtype.kind not in "iu" or own.min() < 1:
            raise InputError(
                "data.lengths",
                f"names {other!r}, an array of shape {own.shape} and type {own.dtype} from {own.min()}",
                "one whole number from 1 per sample",
            )
        spec = specs.get(name, info.inputs[0] if len(info.inputs) == 1 else None)
        before = (slice(None),) * _cut_axis(name, samples, spec, int(own.max()), info)
        inputs[name] = Ragged.of(
            [sample[(*before, slice(size))] for sample, size in zip(samples, own.reshape(-1).tolist(), strict=True)]
        )
    read = {other for other in lengths.values() if other not in specs}
    return replace(raw, inputs={name: samples for name, samples in inputs.items() if name not in read})


def _cut_axis(name: str, samples: NDArray[Any], spec: TensorSpec | None, most: int, info: ModelInfo) -> int:
    """The free axis of a sample whose lengths go up to `most`: the only one that is as long, or just as long."""
    shape = samples.shape[1:]
    free = [] if spec is None or len(spec.sample_shape) != len(shape) else spec.sample_shape
    for fitting in (
        [axis for axis, size in enumerate(free) if size is None and shape[axis] >= most],
        [axis for axis, size in enumerate(free) if size is None and shape[axis] == most],
    ):
        if len(fitting) == 1:
            return fitting[0]
    raise InputError(
        "data.lengths",
        f"holds lengths up to {most} for samples of shape {shape} of {name!r}",
        f"an input with one free axis of at least that size; {info.text()}",
    )


def samples_by_input(raw: Raw, info: ModelInfo, feeds: Feeds) -> dict[str, Samples]:
    """The array of each input that comes from the data; the names of `Raw.inputs` are explained there.

    Raises:
        InputError: an array is missing.
    """
    every, wanted = [spec.name for spec in info.inputs], feeds.from_data
    given = {name: array for name, array in raw.inputs.items() if name in every or name != SEQUENCE}
    if len(wanted) == 1 and len(given) == 1:
        return {wanted[0]: next(iter(given.values()))}
    for names in (every, wanted):
        if list(given) == [str(index) for index in range(len(names))]:
            return {name: array for name, array in zip(names, given.values(), strict=True) if name in wanted}
    missing = [name for name in wanted if name not in given]
    if missing or not wanted:
        scalars = [spec.name for spec in info.inputs if spec.name in missing and not spec.sample_shape]
        hint = f"; data.constants={{{scalars[0]}: VALUE}} gives it one value" if scalars else ""
        raise InputError(
            raw.key,
            f"has no array for the model's input {', '.join(missing)}" if wanted else "is not read by any input",
            f"it has {', '.join(raw.inputs)}; arrays must have the names of the inputs{hint}; {info.text()}",
        )
    return {name: given[name] for name in wanted}


def _layout_hint(spec: TensorSpec, got: tuple[int, ...]) -> str:
    want = spec.sample_shape
    if len(got) != 3 or len(want) != 3:
        return ""
    swapped = {"nchw": (got[2], got[0], got[1]), "nhwc": (got[1], got[2], got[0])}
    for layout, shape in swapped.items():
        if all(w in (None, g) for g, w in zip(shape, want, strict=True)):
            return f"; set data.preprocess.layout={layout}"
    if want[0] == got[0] or want[-1] == got[-1]:
        size = want[:2] if want[-1] == got[-1] else want[1:]
        return f"; set data.preprocess.resize=[{size[0]},{size[1]}]"
    return ""


def _all_finite(samples: Samples) -> bool:
    if isinstance(samples, Ragged):
        return all(bool(np.isfinite(sample).all()) for sample in samples)
    array = np.atleast_1d(samples)
    return all(bool(np.isfinite(array[a:b]).all()) for a, b in chunks(len(array), array[:1].nbytes))
