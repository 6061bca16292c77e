"""Samples that are passed in Python: arrays, a file, or an iterable of batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nc_strategies.data.arrange import arrange
from nc_strategies.data.dataset import Raw
from nc_strategies.data.loaders import read_npz
from nc_strategies.data.ragged import Ragged, Samples, as_samples, joined, rectangular
from nc_strategies.errors import InputError, first_line

ALLOWED = "arrays (x, y), an .npz file, or an iterable of batches (x, y): a tf.data.Dataset, a torch DataLoader, a list"
LABELS = ("y", "label", "labels")


def samples(key: str, data: Any, limit: int | None = None) -> Raw:
    """Samples and their labels, in memory.

    Args:
        key: Name of the argument, for errors.
        data: A `Raw`; the path of an ``.npz`` file; a tuple of two arrays (x, y); an array of inputs; a mapping of
            input names to arrays, with labels under ``y``; or an iterable of samples or batches, each (x, y), (x,), x
            or a mapping. For several inputs, x is a mapping by name or a list in the model's order. An element whose
            label is a single number is a sample; every other element is a batch. Samples of different shapes are a list
            of arrays in place of an array, a `Ragged`, or batches of different shapes.
        limit: Number of samples after which an iterable is not read further.

    Raises:
        InputError: the type is not supported, or the samples do not fit each other.
    """
    if isinstance(data, Raw):
        raw = data
    elif isinstance(data, (str, Path)):
        raw = read_npz(key, str(data))
    elif isinstance(data, Mapping):
        raw = arrange(key, *_split(key, data))
    elif _is_array(data):
        raw = Raw(key, {"x": _array(key, data)})
    elif isinstance(data, tuple) and len(data) == 2 and _is_inputs(data[0]) and _is_array(data[1]):
        raw = arrange(key, *_split(key, data))
    elif isinstance(data, tuple) and len(data) == 2 and _is_list_of_samples(data[0], data[1]):
        raw = arrange(key, *_split(key, ({"x": data[0]}, data[1])))
    elif isinstance(data, Iterable):
        raw = _gather(key, data, limit)
    else:
        raise InputError(key, f"is of type {type(data).__name__}", ALLOWED)
    return raw if limit is None else raw.take(0, limit)


def _gather(key: str, batches: Iterable[Any], limit: int | None) -> Raw:
    inputs: dict[str, list[Samples]] = {}
    labels: list[Samples] = []
    count = number = 0
    for number, element in enumerate(batches, 1):
        x, y = _batch(key, number, element)
        if number > 1 and (set(x) != set(inputs) or (y is None) != (not labels)):
            raise InputError(key, f"element {number} differs from the first in its inputs or labels")
        for name, array in x.items():
            inputs.setdefault(name, []).append(array)
        if y is not None:
            labels.append(y)
        count += len(next(iter(x.values())))
        if limit is not None and count >= limit:
            break
    if not number:
        raise InputError(key, "yields nothing", ALLOWED)
    try:
        whole = {name: joined(parts) for name, parts in inputs.items()}
        return Raw(key, whole, joined(labels) if labels else None)
    except ValueError as error:
        raise InputError(key, f"yields batches that do not fit each other ({first_line(error)})") from None


def _batch(key: str, number: int, element: Any) -> tuple[dict[str, Samples], Samples | None]:
    """An element as a batch; one whose label is a single number is a sample."""
    x, y = _split(key, element)
    if y is not None and y.ndim == 0:
        x, y = {name: rectangular(array)[None] for name, array in x.items()}, rectangular(y)[None]
    if any(array.ndim == 0 for array in x.values()):
        raise InputError(key, f"element {number} holds a single number where samples are expected", ALLOWED)
    return x, y


def _split(key: str, element: Any) -> tuple[dict[str, Samples], Samples | None]:
    """Inputs by name, and labels."""
    y: Any = None
    if isinstance(element, (tuple, list)) and len(element) in (1, 2):
        x, y = element[0], element[1] if len(element) == 2 else None
    elif isinstance(element, Mapping):
        x = {name: value for name, value in element.items() if name not in LABELS}
        y = next((element[name] for name in LABELS if name in element), None)
    elif _is_array(element):
        x = element
    else:
        raise InputError(key, f"yields {type(element).__name__}", ALLOWED)
    inputs = _by_name(key, x)
    if not inputs:
        raise InputError(key, "yields no inputs", ALLOWED)
    return inputs, None if y is None else _array(key, y)


def _by_name(key: str, x: Any) -> dict[str, Samples]:
    """Inputs by name: those of a mapping, places in a list, or ``x`` for a single one."""
    if isinstance(x, Mapping):
        return {str(name): _array(key, value) for name, value in x.items()}
    if isinstance(x, (tuple, list)) and x and all(_is_array(part) for part in x):
        return {str(index): _array(key, value) for index, value in enumerate(x)}
    return {"x": _array(key, x)}


def _is_inputs(value: Any) -> bool:
    """Whether a value is an array, or a mapping of arrays or of lists of arrays."""
    return _is_array(value) or (
        isinstance(value, Mapping) and all(_is_array(part) or _is_list(part) for part in value.values())
    )


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_array, value))


def _is_list_of_samples(x: Any, y: Any) -> bool:
    """Whether these are a list of arrays of different shapes, and their labels."""
    if not _is_list(x) or not (_is_list(y) or _is_array(y)) or len(np.shape(x[0])) == 0:
        return False
    # Two arrays may also be a batch and its labels.
    return len({np.shape(sample) for sample in x}) > 1 and (len(x) == len(y) or len(x) > 2)


def _is_array(value: Any) -> bool:
    return isinstance(value, Ragged) or (hasattr(value, "__array__") and not isinstance(value, (str, bytes)))


def _array(key: str, value: Any) -> Samples:
    try:
        # torch does not convert a tensor to an array if it is on a device or requires a gradient.
        plain = value.detach().cpu() if hasattr(value, "detach") else value
        array = as_samples(plain)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(key, f"cannot be read as an array ({first_line(error)})", ALLOWED) from None
    return array


def head(raw: Raw, count: int) -> tuple[Raw, Raw]:
    """Split off the first samples for calibration; return the evaluation samples, then the calibration samples.

    Raises:
        InputError: no samples would be left to evaluate.
    """
    count = raw.end_of_sequence(count)
    if len(raw) <= count:
        raise InputError(
            "calibration_samples",
            f"takes {count} of {len(raw)} samples",
            "some must be left to evaluate; give calibration data, or take fewer",
        )
    return raw.take(count, len(raw)), raw.take(0, count)
