"""Samples and labels, preprocessed and batched for a model."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
            class must not load a whole array.
        labels: Shape (N, ...), or None. Class numbers (N,), one-hot or multi-label (N, classes), numbers (N, ...),
            masks (N, H, W), or boxes (N, most boxes, 6), see `nc_strategies.data.labels.pack_boxes`.
        shared: Input name to an array of one value that all samples have in common.
        remarks: What the user should know about how the samples were read, one sentence each.
    """

    key: str
    inputs: Mapping[str, NDArray[Any]]
    labels: NDArray[Any] | None = None
    shared: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lengths = {name: len(array) for name, array in self.inputs.items()}
        if not lengths or min(lengths.values()) == 0:
            raise InputError(self.key, "holds no samples")
        if len(set(lengths.values())) != 1:
            raise InputError(
                self.key, f"inputs of different lengths: {lengths}", f"samples on axis 0 of each array: {self.text()}"
            )
        if self.labels is not None and len(self.labels) != len(self):
            raise InputError(self.key, f"{len(self.labels)} labels for {len(self)} samples", "one label per sample")
        labels = {} if self.labels is None else {"y": self.labels}
        for name, array in [*self.inputs.items(), *self.shared.items(), *labels.items()]:
            if array.dtype.kind not in "fiub":
                raise InputError(self.key, f"array {name!r} is of type {array.dtype}", "numbers are needed")
            if array.dtype.kind == "f" and not _all_finite(np.atleast_1d(array)):
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
        arrays = {**self.inputs, **self.shared, **({} if self.labels is None else {"y": self.labels})}
        return ", ".join(f"{name} {tuple(array.shape)} {array.dtype}" for name, array in arrays.items())

    def sha256(self) -> str:
        """SHA-256 of names, types, shapes and values."""
        digest = hashlib.sha256()
        arrays = {**self.inputs, **({"y": self.labels} if self.labels is not None else {})}
        arrays |= {name: np.atleast_1d(array) for name, array in self.shared.items()}
        for name, array in sorted(arrays.items()):
            digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
            for start, stop in chunks(len(array), array[:1].nbytes):
                digest.update(np.ascontiguousarray(array[start:stop]).data)
        return digest.hexdigest()


class Dataset:
    """Samples for a model: preprocessed once, in batches, with their labels.

    Samples are preprocessed at the first pass over them, so that the samples for evaluation take no memory during the
    calibration. Preprocessed arrays above `nc_strategies.data.spool.LARGE` bytes are stored on disk. If the disk has no
    room for them, samples are preprocessed in every pass, as they are above `STORED` bytes if they are not resized.
    Samples that need no preprocessing are not copied.

    If the model carries state, samples are the steps of sequences, in the order of their steps. An array ``sequence``
    of the data, shape (N,), numbers the sequences; without it, all samples belong to one. Batches are then
    `SequenceStep`: one step of up to `width` sequences.

    Args:
        raw: The samples.
        preprocess: Preprocessing of the samples.
        info: The model's inputs.
        order: Positions of the samples in the order in which they are returned, shape (N,); the stored order if None.
            Sequences have an order of their own.
        feeds: The inputs that do not come from the data; none by default.
        width: Number of sequences that are run side by side.

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
    ) -> None:
        self.raw = raw
        self._order = order
        self._count: int | None = None
        self._labels: NDArray[Any] | None = None
        self._preprocess = preprocess
        self._info = info
        self._specs = {spec.name: spec for spec in info.inputs}
        self._batch_size = info.batch_size
        self._most: int | None = None
        feeds = feeds or Feeds(info)
        self._sources = samples_by_input(raw, info, feeds)
        unknown = set(preprocess.inputs or ()) - set(self._specs)
        if unknown:
            raise InputError(
                "data.preprocess.inputs",
                f"names {', '.join(sorted(unknown))}",
                f"the model's inputs: {', '.join(self._specs)}",
            )
        first = {name: self._preprocessed(name, 0, 1) for name in self._sources}
        for name, array in first.items():
            self._check(name, array)
        self._first = first
        self._stored: dict[str, NDArray[Any]] = {}
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
            raise InputError(self.raw.key, "has no labels", "array y is needed to evaluate")
        if self._labels is None:
            self._labels = self.raw.labels if self._order is None else self.raw.labels[self._order]
        return self._labels

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
            self._sources[name] = self._stored[name] = np.empty_like(array)
            self._stored[name][self._sequences.order] = array
        self._sequences = self._order = self._labels = None
        self._batch_size = self._info.batch_size

    def batch(self, start: int, size: int) -> dict[str, NDArray[Any]]:
        """`size` samples from position `start`; after the last sample it continues with the first."""
        stop = start + size
        if stop <= len(self) and self._order is None:
            return self._slice(start, stop)
        index = np.arange(start, stop) % len(self)
        if self._order is not None:
            index = self._order[index]
        return {
            name: np.asarray(self._stored[name][index])
            if name in self._stored
            else self._converted(name, self._sources[name][index])
            for name in self._sources
        }

    def batches(self, size: int) -> Iterator[tuple[Batch, NDArray[Any] | None, int]]:
        """All samples in order, as triples (inputs, labels, number of valid samples).

        A model with a fixed batch size gets batches of that size; the last batch is padded with samples that are not
        valid.
        """
        self.store()
        size = self._batch_size or min(size, self._most or size)
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
        return self._converted(name, self._sources[name][start:stop])

    def _converted(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        dtype = self._specs[name].dtype
        values = array if self._passes(name) else self._preprocess(array)
        if dtype.kind in "iu" and values.dtype.kind == "f" and not np.array_equal(values, np.round(values)):
            raise InputError(
                self.raw.key, f"input {name!r} takes {dtype}, the data has fractions", "see data.preprocess"
            )
        return np.asarray(values.astype(dtype, copy=False))

    def _passes(self, name: str) -> bool:
        wanted = self._preprocess.inputs
        return self._preprocess.is_identity or (wanted is not None and name not in wanted)

    def store(self) -> None:
        """Preprocess all samples now, in memory or on disk. The first pass over all batches does so too."""
        for name in self._unstored:
            self._store(name)
        self._unstored = []

    def _store(self, name: str) -> None:
        source, first = self._sources[name], self._first[name]
        if (self._passes(name) or self._preprocess.resize is None) and len(self) * first.nbytes > STORED:
            return
        try:
            stored = allocate((len(self), *first.shape[1:]), first.dtype)
        except NoRoomError as error:
            log.warning("samples are preprocessed again in each pass: %s", error)
            return
        for start, stop in chunks(len(self), max(first.nbytes, 4 * source[:1].size)):
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


def fits(got: tuple[int, ...], want: tuple[int | None, ...]) -> bool:
    """Whether the shape of a sample fits the shape that a model declares for it."""
    return len(got) == len(want) and all(w in (None, g) for g, w in zip(got, want, strict=True))


def samples_by_input(raw: Raw, info: ModelInfo, feeds: Feeds) -> dict[str, NDArray[Any]]:
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


def _all_finite(array: NDArray[Any]) -> bool:
    return all(bool(np.isfinite(array[a:b]).all()) for a, b in chunks(len(array), array[:1].nbytes))
