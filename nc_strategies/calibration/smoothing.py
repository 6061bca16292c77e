"""Factors of channels for SmoothQuant: the strength of each group is searched on calibration rows.

Shapes as in `nc_strategies.calibration.rounding`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.calibration.equalization import Array, factors
from nc_strategies.calibration.rounding import Rows

STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Strengths that are compared: 0 would balance the weights only, 1 the activations only. SmoothQuant's alpha."""
MOST_ROWS = 256
"""Rows that a strength is judged on."""
LEVELS, LARGEST_WEIGHT = 255, 127


@dataclass(frozen=True)
class Reader:
    """A product that reads a group's channels.

    Args:
        weight: Its weight, shape (G, K, N).
        rows: The rows that it multiplies by its weight.
        channels: Channel of each value of a row, shape (G, K).
    """

    weight: NDArray[np.float32]
    rows: Rows
    channels: NDArray[np.int64]


@dataclass(frozen=True)
class Smoothing:
    """Chosen factors.

    Args:
        factors: Shape (channels,), powers of two.
        strength: The strength that they belong to.
        before: Mean noise-to-signal ratio of the readers' outputs without factors, on held-out rows.
        after: The same with them.
    """

    factors: Array
    strength: float
    before: float
    after: float


def int8_noise(reader: Reader, by: Array, held_out: bool) -> float:
    """Noise-to-signal ratio of a product in int8, with a range of its rows and weights per output.

    Args:
        reader: The product.
        by: Factors of the channels that rows are divided by, and weights multiplied.
        held_out: Whether to judge on held-out rows; the range comes from the rows of the fit in any case.
    """
    factor = by[reader.channels][..., None].astype(np.float32)
    fit = reader.rows.fit[:, :MOST_ROWS] / factor[:, None, :, 0]
    low, high = min(0.0, float(fit.min())), max(0.0, float(fit.max()))
    rows = reader.rows.held_out[:, :MOST_ROWS] / factor[:, None, :, 0] if held_out else fit
    step = (high - low) / LEVELS or 1.0
    zero = np.round(-low / step)
    quantized = (np.clip(np.round(rows / step) + zero, 0, LEVELS) - zero) * np.float32(step)
    weight = reader.weight * factor
    peak = np.abs(weight).max(1, keepdims=True)
    scale = np.where(peak > 0, peak, 1.0) / np.float32(LARGEST_WEIGHT)
    signal = np.matmul(rows, weight)
    error = np.matmul(quantized, np.round(weight / scale) * scale) - signal
    power = float(np.square(signal, dtype=np.float64).sum())
    return float(np.square(error, dtype=np.float64).sum()) / power if power > 0 else 0.0


def searched(readers: Sequence[Reader], channels: int) -> Smoothing | None:
    """The factors of a group with the least noise on the rows of the fit; None where none are better than none.

    Args:
        readers: The products that read the group's channels.
        channels: Number of channels.
    """
    peaks = np.zeros(channels)
    magnitudes: list[NDArray[Any]] = []
    for reader in readers:
        largest = np.abs(reader.rows.fit).max(1)
        top = float(largest.max()) or 1.0
        np.maximum.at(peaks, reader.channels, largest / top)
        by_input = np.zeros((channels, len(reader.weight) * reader.weight.shape[2]))
        for group, matrix in enumerate(reader.weight):
            width = matrix.shape[1]
            part = by_input[:, group * width : (group + 1) * width]
            np.maximum.at(part, reader.channels[group], np.abs(matrix))
        magnitudes.append(by_input)
    weight = np.concatenate(magnitudes, 1)
    ones = np.ones(channels)

    def noise(by: Array, held_out: bool = False) -> float:
        return sum(int8_noise(reader, by, held_out) for reader in readers) / len(readers)

    offered = [(strength, factors(peaks, weight, strength)) for strength in STRENGTHS]
    strength, best = min(offered, key=lambda pair: noise(pair[1]))
    if np.array_equal(best, ones) or noise(best) >= noise(ones):
        return None
    return Smoothing(best, strength, noise(ones, True), noise(best, True))
