"""Samples and labels, preprocessed and batched for a model."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.data.settings import Preprocess
from nc_strategies.data.spool import NoRoomError, allocate, chunks
from nc_strategies.errors import InputError
from nc_strategies.models.info import Batch, ModelInfo, TensorSpec

log = logging.getLogger(__name__)


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
    """

    key: str
    inputs: Mapping[str, NDArray[Any]]
    labels: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(array) for name, array in self.inputs.items()}
        if not lengths or min(lengths.values()) == 0:
            raise InputError(self.key, "holds no samples")
        if len(set(lengths.values())) != 1:
            raise InputError(self.key, f"inputs of different lengths: {lengths}")
        if self.labels is not None and len(self.labels) != len(self):
            raise InputError(self.key, f"{len(self.labels)} labels for {len(self)} samples", "one label per sample")
        for name, array in [*self.inputs.items(), *([("y", self.labels)] if self.labels is not None else [])]:
            if array.dtype.kind not in "fiub":
                raise InputError(self.key, f"array {name!r} is of type {array.dtype}", "numbers are needed")
            if array.dtype.kind == "f" and not _all_finite(array):
                raise InputError(self.key, f"array {name!r} holds NaN or infinity")

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, start: int, stop: int) -> Raw:
        """Samples from `start` up to, but not including, `stop`."""
        labels = None if self.labels is None else self.labels[start:stop]
        return Raw(self.key, {name: array[start:stop] for name, array in self.inputs.items()}, labels)

    def sha256(self) -> str:
        """SHA-256 of names, types, shapes and values."""
        digest = hashlib.sha256()
        arrays = {**self.inputs, **({"y": self.labels} if self.labels is not None else {})}
        for name, array in sorted(arrays.items()):
            digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
            for start, stop in chunks(len(array), array[:1].nbytes):
                digest.update(np.ascontiguousarray(array[start:stop]).data)
        return digest.hexdigest()


class Dataset:
    """Samples for a model: preprocessed once, in batches, with their labels.

    Preprocessed arrays above `nc_strategies.data.spool.LARGE` bytes are stored on disk. If the disk has no room for
    them, samples are preprocessed in every pass. Samples that need no preprocessing are not copied.

    Args:
        raw: The samples.
        preprocess: Preprocessing of the samples.
        info: The model's inputs.
        order: Positions of the samples in the order in which they are returned, shape (N,); the stored order if None.

    Raises:
        InputError: the samples do not fit the model's inputs.
    """

    def __init__(
        self, raw: Raw, preprocess: Preprocess, info: ModelInfo, order: NDArray[np.intp] | None = None
    ) -> None:
        self.raw = raw
        self._order = order
        self._count: int | None = None
        self._labels: NDArray[Any] | None = None
        self._preprocess = preprocess
        self._specs = {spec.name: spec for spec in info.inputs}
        self._batch_size = info.batch_size
        self._sources = self._match(raw, info)
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
        self._stored: dict[str, NDArray[Any]] = {}
        for name, array in first.items():
            self._store(name, array)

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
            else np.concatenate([self._preprocessed(name, i, i + 1) for i in index.tolist()])
            for name in self._sources
        }

    def batches(self, size: int) -> Iterator[tuple[Batch, NDArray[Any] | None, int]]:
        """All samples in order, as triples (inputs, labels, number of valid samples).

        A model with a fixed batch size gets batches of that size; the last batch is padded with samples that are not
        valid.
        """
        size, all_labels = self._batch_size or size, None if self.raw.labels is None else self.labels
        for start in range(0, len(self), size):
            count = min(size, len(self) - start)
            labels = None if all_labels is None else all_labels[start : start + count]
            yield self.batch(start, size if self._batch_size else count), labels, count

    def _slice(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        return {
            name: np.asarray(self._stored[name][start:stop])
            if name in self._stored
            else self._preprocessed(name, start, stop)
            for name in self._sources
        }

    def _preprocessed(self, name: str, start: int, stop: int) -> NDArray[Any]:
        array, dtype = self._sources[name][start:stop], self._specs[name].dtype
        values = array if self._passes(name) else self._preprocess(array)
        if dtype.kind in "iu" and values.dtype.kind == "f" and not np.array_equal(values, np.round(values)):
            raise InputError(
                self.raw.key, f"input {name!r} takes {dtype}, the data has fractions", "see data.preprocess"
            )
        return np.asarray(values.astype(dtype, copy=False))

    def _passes(self, name: str) -> bool:
        wanted = self._preprocess.inputs
        return self._preprocess.is_identity or (wanted is not None and name not in wanted)

    def _store(self, name: str, first: NDArray[Any]) -> None:
        """Preprocess all samples of an input, in memory or on disk."""
        source = self._sources[name]
        if self._passes(name) and source.dtype == first.dtype:
            self._stored[name] = source
            return
        try:
            stored = allocate((len(self), *first.shape[1:]), first.dtype)
        except NoRoomError as error:
            log.warning("samples are preprocessed again in each pass: %s", error)
            return
        for start, stop in chunks(len(self), max(first.nbytes, 4 * source[:1].size)):
            stored[start:stop] = self._preprocessed(name, start, stop)
        self._stored[name] = stored

    def _match(self, raw: Raw, info: ModelInfo) -> dict[str, NDArray[Any]]:
        names = [spec.name for spec in info.inputs]
        if len(names) == 1 and len(raw.inputs) == 1:
            return {names[0]: next(iter(raw.inputs.values()))}
        if list(raw.inputs) == [str(index) for index in range(len(names))]:
            return dict(zip(names, raw.inputs.values(), strict=True))
        missing = [name for name in names if name not in raw.inputs]
        if missing:
            raise InputError(
                raw.key,
                f"has no array for the model's input {', '.join(missing)}",
                f"it has {', '.join(raw.inputs)}; arrays must have the names of the inputs",
            )
        return {name: raw.inputs[name] for name in names}

    def _check(self, name: str, array: NDArray[Any]) -> None:
        spec = self._specs[name]
        got, want = array.shape[1:], spec.shape[1:]
        if len(got) == len(want) and all(w in (None, g) for g, w in zip(got, want, strict=True)):
            return
        hint = _layout_hint(spec, got)
        shown = tuple("any" if d is None else d for d in want)
        raise InputError(
            self.raw.key,
            f"samples have shape {got} after preprocessing",
            f"input {name!r} takes {shown}{hint}".replace("'any'", "any"),
        )


def _layout_hint(spec: TensorSpec, got: tuple[int, ...]) -> str:
    want = spec.shape[1:]
    if len(got) != 3 or len(want) != 3:
        return ""
    swapped = {"nchw": (got[2], got[0], got[1]), "nhwc": (got[1], got[2], got[0])}
    for layout, shape in swapped.items():
        if all(w in (None, g) for g, w in zip(shape, want, strict=True)):
            return f": set data.preprocess.layout={layout}"
    if want[0] == got[0] or want[-1] == got[-1]:
        size = want[:2] if want[-1] == got[-1] else want[1:]
        return f": set data.preprocess.resize=[{size[0]},{size[1]}]"
    return ""


def _all_finite(array: NDArray[Any]) -> bool:
    return all(bool(np.isfinite(array[a:b]).all()) for a, b in chunks(len(array), array[:1].nbytes))
