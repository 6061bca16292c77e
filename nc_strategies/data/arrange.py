"""Arrays as people save them, arranged so that samples come first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.data.dataset import Raw, shape_text
from nc_strategies.data.ragged import Ragged, Samples
from nc_strategies.errors import InputError


def arrange(key: str, arrays: Mapping[str, Samples], labels: Samples | None, source: str = "") -> Raw:
    """Samples from arrays that may hold a single value, or count samples on another axis than the first.

    An array of a single value beside arrays of several samples is a value for all samples. An array counts samples on
    another axis than the first if only that axis has as many entries as there are samples; it is transposed.

    Args:
        key: Configuration key that errors name.
        arrays: Input name to array of any shape.
        labels: Labels; the first axis counts samples. None without labels.
        source: Where the arrays come from, for errors.

    Raises:
        InputError: the number of samples is not clear; the message has all shapes.
    """
    count = _count(arrays, labels)
    inputs: dict[str, Samples] = {}
    shared: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        if isinstance(array, Ragged):
            inputs[name] = array
            continue
        axes = [axis for axis, size in enumerate(array.shape) if size == count]
        if count is None or 0 in axes:
            inputs[name] = array
        elif array.size == 1:
            shared[name] = array
        elif len(axes) == 1:
            inputs[name] = np.moveaxis(array, axes[0], 0)
        else:
            inputs[name] = array
    if (shared and not inputs) or any(array.ndim == 0 for array in inputs.values()):
        raise InputError(
            key,
            f"{source} holds a single number where samples are expected: {shapes(arrays, labels)}".strip(),
            "samples on axis 0",
        )
    return Raw(key, inputs, labels, shared)


def shapes(arrays: Mapping[str, Samples], labels: Samples | None) -> str:
    """Names, shapes and types of arrays in one line."""
    listed = {**arrays, **({"y": labels} if labels is not None else {})}
    return ", ".join(f"{name} {shape_text(array)} {array.dtype}" for name, array in listed.items())


def _count(arrays: Mapping[str, Samples], labels: Samples | None) -> int | None:
    """The number of samples: that of the labels, or the only one that fits all arrays; None if it is not clear."""
    if labels is not None:
        return len(labels) if labels.ndim else None
    ragged = next((len(array) for array in arrays.values() if isinstance(array, Ragged)), None)
    if ragged is not None:
        return ragged
    several = [array for array in arrays.values() if array.size > 1]
    firsts = {array.shape[0] for array in several}
    fitting = [size for size in firsts if all(size in array.shape for array in several)]
    return fitting[0] if len(fitting) == 1 else None
