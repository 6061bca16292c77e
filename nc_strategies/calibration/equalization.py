"""Cross-layer equalization: channels between two operators brought to one range, by factors their weights take up.

One scale for a whole tensor serves a channel badly whose values are a hundredth of another's. Where a tensor passes
from one weighted operator to another, at most through a Relu, each of its channels can be divided by a factor of its
own when the second operator's weights for that channel are multiplied by it: the function stays the same.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019. What differs:
the range of a channel is that of its calibrated values instead of the first operator's weights, as in Xiao et al.,
"SmoothQuant", ICML 2023, with a strength of one half; factors are powers of two, so that not a bit of the fp32 model's
outputs changes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from nc_strategies.errors import EngineError

log = logging.getLogger(__name__)
U = TypeVar("U")
Array = NDArray[np.float64]
WHEN = ("auto", "always", "never")
LOOKED_AT = 16
"""Calibration samples that noise is compared on."""
QUIETER = 0.8
"""Noise with equalized channels, relative to that without, below which they stay so."""
ROUNDS = 4
"""Times that factors are found anew, given what the ones before made of the weights."""
FARTHEST = 12
"""Largest exponent of a factor: what is smaller than a 4096th of its tensor is noise in any case."""


@dataclass(frozen=True)
class Pair(Generic[U]):
    """Two weighted operators, and the tensor between them.

    Args:
        first: Makes it.
        second: The only one to read it.
        tensor: Its name.
        channels: Its channels.
        axis: Its axis of channels.
    """

    first: U
    second: U
    tensor: str
    channels: int
    axis: int = -1


class Peaks:
    """Largest magnitude of each channel of some tensors, over all that is shown to it.

    Args:
        pairs: Name the tensors.
    """

    def __init__(self, pairs: Sequence[Pair[Any]]) -> None:
        self.values = {pair.tensor: np.zeros(pair.channels) for pair in pairs}
        self._axes = {pair.tensor: pair.axis for pair in pairs}

    def look(self, name: str, values: NDArray[np.float32]) -> None:
        """Take an array of a tensor's values; other tensors are passed over."""
        if name in self.values and values.size:
            peaks = self.values[name]
            by_channel = np.abs(np.moveaxis(values, self._axes[name], 0)).reshape(len(peaks), -1).max(1)
            np.maximum(peaks, by_channel, out=peaks)


def asked(when: str, cautious: bool) -> bool:
    """Whether to look for channels to equalize; to find out whether it helps, int8 everywhere has to run.

    Args:
        when: One of `WHEN`.
        cautious: See `Backend.cautious`.
    """
    return when == "always" or (when == "auto" and not cautious)


def adopt(when: str, tensors: int, noise: Callable[[], float], use: Callable[[bool], None]) -> tuple[str, ...]:
    """Equalize for good, or not, and say so.

    Args:
        when: One of `WHEN`, but not ``never``.
        tensors: How many tensors there are to equalize.
        noise: Tells how noisy int8 everywhere is.
        use: Goes over to the equalized model when called with True, back with False.
    """
    if when == "always":
        use(True)
        return (f"The channels of {tensors} tensors were equalized.",)
    try:
        before = noise()
        use(True)
        after = noise()
    except EngineError as error:
        log.info("channels are not equalized, as int8 everywhere does not run: %s", error)
        before = after = 0.0
    if before > 0 and math.isfinite(after) and after <= QUIETER * before:
        return (
            f"The channels of {tensors} tensors were equalized: int8 everywhere has {after / before:.0%} of the "
            "noise it had.",
        )
    use(False)
    return ()


def factors(peaks: Array, weight: Array) -> Array:
    """Factors which share a channel's unevenness between its values and the weights that read it.

    A weight counts relative to the largest of its output channel, as that has a scale of its own; these change with the
    factors.

    Args:
        peaks: Largest magnitude of each channel's values, shape (channels,).
        weight: Magnitudes of weights, shape (channels, output channels); zero where a channel is not read.

    Returns:
        Powers of two, shape (channels,); 1 for a channel that is always zero or never read.
    """
    logs = np.zeros(len(peaks))
    for _ in range(ROUNDS):
        largest = (weight * np.exp2(logs)[:, None]).max(0)
        relative = (weight / np.where(largest > 0, largest, 1.0)).max(1)
        used = (peaks > 0) & (relative > 0)
        if used.any():
            logs[used] = 0.5 * (np.log2(peaks[used]) - np.log2(relative[used]))
            logs[used] -= logs[used].mean()
    return np.asarray(np.exp2(np.clip(np.round(logs), -FARTHEST, FARTHEST)))
