"""Cross-layer equalization: the channels of a tensor are scaled to similar ranges.

A per-tensor scale represents a channel poorly if its values are a hundredth of another channel's. Where a tensor passes
from one weighted operator to another, directly or through a Relu, each channel can be divided by a factor if the second
operator's weights for that channel are multiplied by it. The function of the model does not change.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019. It differs in
two points. The range of a channel is that of its calibrated values instead of the first operator's weights, as in Xiao
et al., "SmoothQuant", ICML 2023, with a strength of one half. Factors are powers of two, so that the outputs of the
fp32 model stay the same to the last bit.
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
EQUALIZE_MODES = ("auto", "always", "never")


@dataclass(frozen=True)
class EqualizationLimits:
    """Tuning constants of equalization.

    Args:
        noise_samples: Calibration samples on which quantization noise is compared; few, so that the comparison is
            cheap next to the calibration.
        max_noise_ratio: Greatest ratio of the noise with and without equalization at which ``auto`` equalizes. The gain
            has to be clear, because few samples are compared.
        factor_iterations: Number of times that factors are recomputed from the rescaled weights.
        max_exponent: Greatest absolute exponent of a factor. A channel below 1/4096 of its tensor's range is lost in
            the noise in any case.
    """

    noise_samples: int = 16
    max_noise_ratio: float = 0.8
    factor_iterations: int = 4
    max_exponent: int = 12


LIMITS = EqualizationLimits()


@dataclass(frozen=True)
class Pair(Generic[U]):
    """Two weighted operators, and the tensor between them.

    Args:
        first: The operator that computes the tensor.
        second: The only operator that reads it.
        tensor: Name of the tensor.
        channels: Number of its channels.
        axis: Its channel axis.
    """

    first: U
    second: U
    tensor: str
    channels: int
    axis: int = -1


class Peaks:
    """Largest magnitude per channel over all arrays of the observed tensors.

    Args:
        pairs: Pairs whose tensors are observed.
    """

    def __init__(self, pairs: Sequence[Pair[Any]]) -> None:
        self.values = {pair.tensor: np.zeros(pair.channels) for pair in pairs}
        self._axes = {pair.tensor: pair.axis for pair in pairs}

    def look(self, name: str, values: NDArray[np.float32]) -> None:
        """Include an array of a tensor's values; tensors that are not observed are ignored."""
        if name in self.values and values.size:
            peaks = self.values[name]
            axis = self._axes[name] % values.ndim
            others = tuple(place for place in range(values.ndim) if place != axis)
            for extreme in (values.max(others), -values.min(others)):  # no copy of a large array
                np.maximum(peaks, extreme, out=peaks)


def asked(when: str, cautious: bool) -> bool:
    """Whether to look for channels to equalize. In mode ``auto`` the all-int8 model has to run for the comparison.

    Args:
        when: One of `EQUALIZE_MODES`.
        cautious: See `Backend.cautious`.
    """
    return when == "always" or (when == "auto" and not cautious)


def adopt(when: str, tensors: int, noise: Callable[[], float], use: Callable[[bool], None]) -> tuple[str, ...]:
    """Decide whether to equalize.

    Args:
        when: One of `EQUALIZE_MODES`, but not ``never``.
        tensors: Number of tensors to equalize.
        noise: Returns the quantization noise of the all-int8 model that is in use.
        use: Switches to the equalized model when called with True, and back with False.

    Returns:
        A remark for the user; none if channels are not equalized.
    """
    if when == "always":
        use(True)
        return (f"The channels of {tensors} tensors were equalized.",)
    try:
        before = noise()
        use(True)
        after = noise()
    except EngineError as error:
        log.info("channels are not equalized, because the all-int8 model does not run: %s", error)
        before = after = 0.0
    if before > 0 and math.isfinite(after) and after <= LIMITS.max_noise_ratio * before:
        return (
            f"The channels of {tensors} tensors were equalized. This reduces the quantization noise of the all-int8 "
            f"model to {after / before:.0%}.",
        )
    use(False)
    return ()


def factors(peaks: Array, weight: Array, strength: float = 0.5) -> Array:
    """Factors that balance the range of each channel's values and the range of the weights that read it.

    A weight is taken relative to the largest weight of its output channel, because each output channel has its own
    scale. These scales change with the factors, hence the iterations.

    Args:
        peaks: Largest magnitude of the values per channel, shape (channels,).
        weight: Magnitudes of weights, shape (channels, output channels); zero where a channel is not read.
        strength: Share of the unevenness of values that moves to the weights: SmoothQuant's alpha.

    Returns:
        Powers of two, shape (channels,); 1 for a channel that is always zero or never read.
    """
    logs = np.zeros(len(peaks))
    for _ in range(LIMITS.factor_iterations):
        largest = (weight * np.exp2(logs)[:, None]).max(0)
        relative = (weight / np.where(largest > 0, largest, 1.0)).max(1)
        used = (peaks > 0) & (relative > 0)
        if used.any():
            logs[used] = strength * np.log2(peaks[used]) - (1 - strength) * np.log2(relative[used])
            logs[used] -= logs[used].mean()
    return np.asarray(np.exp2(np.clip(np.round(logs), -LIMITS.max_exponent, LIMITS.max_exponent)))
