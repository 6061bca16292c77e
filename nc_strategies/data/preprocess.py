"""Preprocessing of samples: resize, normalization, layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.data.settings import Preprocess
from nc_strategies.errors import InputError


def apply(preprocess: Preprocess, x: NDArray[Any]) -> NDArray[Any]:
    """Apply preprocessing to a batch.

    Args:
        preprocess: The settings.
        x: Shape (N, ...). With `resize` or `layout` it must be (N, H, W, C) or (N, C, H, W).

    Returns:
        The batch as float32; without preprocessing, `x` itself.

    Raises:
        InputError: an image operation is set, and `x` is not a batch of images.
    """
    if preprocess.is_identity:
        return x
    for name, wanted in (("resize", preprocess.resize), ("layout", preprocess.layout)):
        if wanted is not None and x.ndim != 4:
            raise InputError(f"data.preprocess.{name}", f"needs pictures of 4 axes, the data has shape {x.shape}")
    values = x.astype(np.float32)
    channels_last = values.ndim < 4 or _channels_last(preprocess, values.shape)
    if preprocess.resize is not None:
        values = _resize(values, preprocess.resize, channels_last)
    values = values * np.float32(preprocess.scale) + np.float32(preprocess.offset)
    if list(preprocess.mean) != [0.0] or list(preprocess.std) != [1.0]:
        values = _normalize(preprocess, values, channels_last)
    if preprocess.layout == "nchw" and channels_last:
        values = values.transpose(0, 3, 1, 2)
    elif preprocess.layout == "nhwc" and not channels_last:
        values = values.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(values, np.float32)


def _resize(x: NDArray[np.float32], size: Sequence[int], channels_last: bool) -> NDArray[np.float32]:
    if channels_last:
        return resize_bilinear(x, size[0], size[1])
    return resize_bilinear(x.transpose(0, 2, 3, 1), size[0], size[1]).transpose(0, 3, 1, 2)


def _normalize(preprocess: Preprocess, x: NDArray[np.float32], channels_last: bool) -> NDArray[np.float32]:
    """Subtract the mean and divide by the standard deviation, of all channels or of each."""
    shape = (-1,) if channels_last else (-1, *([1] * (x.ndim - 2)))
    mean, std = (np.asarray(v, np.float32).reshape(shape) for v in (preprocess.mean, preprocess.std))
    count = x.shape[-1 if channels_last else 1]
    if {mean.size, std.size} - {1, count}:
        raise InputError(
            "data.preprocess.mean/std",
            f"have {mean.size}/{std.size} numbers",
            f"expected 1 or {count}, the data has {count} channels",
        )
    return np.asarray((x - mean) / std, np.float32)


def _channels_last(preprocess: Preprocess, shape: tuple[int, ...]) -> bool:
    few = (1, 3, 4)
    if shape[-1] in few or shape[1] in few:
        return shape[-1] in few
    return preprocess.layout != "nhwc"


def resize_bilinear(x: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Bilinear resize with half-pixel centres and no antialiasing, as ``tf.image.resize`` does by default.

    Args:
        x: Shape (N, H, W, C).
        height: New height.
        width: New width.
    """
    rows, columns = _weights(x.shape[1], height), _weights(x.shape[2], width)
    return np.asarray(np.einsum("oh,nhwc,pw->nopc", rows, x, columns, optimize=True), np.float32)


def _weights(size: int, target: int) -> NDArray[np.float32]:
    centres = (np.arange(target) + 0.5) * (size / target) - 0.5
    low = np.floor(centres).astype(int)
    share = (centres - low).astype(np.float32)
    matrix = np.zeros((target, size), np.float32)
    rows = np.arange(target)
    np.add.at(matrix, (rows, np.clip(low, 0, size - 1)), 1 - share)
    np.add.at(matrix, (rows, np.clip(low + 1, 0, size - 1)), share)
    return matrix
