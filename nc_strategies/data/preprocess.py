"""From stored pictures to what the model takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.errors import InputError

LAYOUTS = ("nhwc", "nchw")


@dataclass
class Preprocess:
    """``value = ((x * scale + offset) - mean) / std``, after a bilinear resize, in the model's layout.

    Args:
        scale: A factor.
        offset: Added to it.
        mean: Subtracted, one number or one a channel.
        std: Divided by, one number or one a channel.
        resize: ``[height, width]``, or None to keep the size.
        layout: Layout the model takes, ``nhwc`` or ``nchw``, when it differs from the data's; None keeps the data's.
            The data is taken to be in the other of the two.
    """

    scale: float = 1.0
    offset: float = 0.0
    mean: list[float] = field(default_factory=lambda: [0.0])
    std: list[float] = field(default_factory=lambda: [1.0])
    resize: list[int] | None = None
    layout: str | None = None

    def __post_init__(self) -> None:
        if self.layout is not None and self.layout not in LAYOUTS:
            raise InputError("data.preprocess.layout", f"is {self.layout!r}", f"allowed: {', '.join(LAYOUTS)}")
        if any(value == 0 for value in self.std):
            raise InputError("data.preprocess.std", "holds a zero", "it divides the values")
        if self.resize is not None and (len(self.resize) != 2 or min(self.resize) < 1):
            raise InputError("data.preprocess.resize", f"is {list(self.resize)}", "expected [height, width]")

    @property
    def is_identity(self) -> bool:
        """Whether values are passed on as they are."""
        plain = (self.scale, self.offset, list(self.mean), list(self.std)) == (1.0, 0.0, [0.0], [1.0])
        return plain and self.resize is None and self.layout is None

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """Apply it to a batch.

        Args:
            x: Shape (N, ...); with `resize` or `layout`, 4 axes with the channels last or second.

        Raises:
            InputError: a picture operation on something that is not a batch of pictures.
        """
        if self.is_identity:
            return x
        values = x.astype(np.float32)
        channels_last = values.ndim < 4 or self._channels_last(values.shape)
        if self.resize is not None:
            if values.ndim != 4:
                raise InputError("data.preprocess.resize", f"needs pictures of 4 axes, the data has shape {x.shape}")
            values = values if channels_last else values.transpose(0, 2, 3, 1)
            values = resize_bilinear(values, self.resize[0], self.resize[1])
            values = values if channels_last else values.transpose(0, 3, 1, 2)
        values = values * np.float32(self.scale) + np.float32(self.offset)
        if list(self.mean) != [0.0] or list(self.std) != [1.0]:
            shape = (-1,) if channels_last else (-1, *([1] * (values.ndim - 2)))
            mean, std = (np.asarray(v, np.float32).reshape(shape) for v in (self.mean, self.std))
            count = values.shape[-1 if channels_last else 1]
            if {mean.size, std.size} - {1, count}:
                raise InputError("data.preprocess.mean/std", f"have {mean.size}/{std.size} numbers",
                                 f"expected 1 or {count}, the data has {count} channels")
            values = (values - mean) / std
        if self.layout is not None:
            if values.ndim != 4:
                raise InputError("data.preprocess.layout", f"needs pictures of 4 axes, the data has shape {x.shape}")
            if self.layout == "nchw" and channels_last:
                values = values.transpose(0, 3, 1, 2)
            elif self.layout == "nhwc" and not channels_last:
                values = values.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(values, np.float32)

    def _channels_last(self, shape: tuple[int, ...]) -> bool:
        few = (1, 3, 4)
        if shape[-1] in few or shape[1] in few:
            return shape[-1] in few
        return self.layout != "nhwc"


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
