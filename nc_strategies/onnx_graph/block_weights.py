"""Weights in blocks: 4 or 8 bits, one scale per block of consecutive weights of an output channel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CLIP_RATIOS = (1.0, 0.96, 0.92, 0.88, 0.84, 0.8)
"""Shares of a block's largest magnitude at which its range may end. The one with the least squared error is taken."""

Rounding = Callable[[NDArray[Any], NDArray[Any], NDArray[Any], int, int], NDArray[Any]]
"""Weight of shape (K, N), its nearest integers, steps of the grid, and its least and greatest integer to the integers
to use; all arrays are of one shape."""


CHUNK_BYTES = 2**24
"""Bytes of a weight that are quantized together: the intermediate results take about ten times as much."""


@dataclass(frozen=True)
class BlockWeights:
    """A weight of shape (K, N), quantized in blocks along K.

    Args:
        packed: Values as the operator ``MatMulNBits`` reads them, uint8 of shape (N, blocks, block * bits / 8); with 4
            bits, the lower half of a byte comes first.
        scales: Scale of each block, float32 of shape (N, blocks).
        bits: 4 or 8.
        block: Weights per block.
    """

    packed: NDArray[np.uint8]
    scales: NDArray[np.float32]
    bits: int
    block: int


def quantize_blocks(weight: NDArray[Any], bits: int, block: int, rounding: Rounding | None = None) -> BlockWeights:
    """Round a weight to the nearest values of a symmetric grid per block.

    The range of a block is chosen among `CLIP_RATIOS` for the least squared error, as in "Optimal Clipping" of Nagel et
    al., "A White Paper on Neural Network Quantization", 2021, section 3.1 (MSE range setting).

    Args:
        weight: Shape (K, N); K is padded with zeros to a multiple of `block`.
        bits: 4 or 8.
        block: Weights per block.
        rounding: Chooses other integers than the nearest.
    """
    depth, channels = weight.shape
    step = max(1, CHUNK_BYTES // (depth * np.dtype(np.float32).itemsize)) if rounding is None else channels
    parts = [_quantize(weight[:, start : start + step], bits, block, rounding) for start in range(0, channels, step)]
    packed, scales = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return BlockWeights(packed, scales, bits, block)


def packed_shape(depth: int, channels: int, bits: int, block: int) -> tuple[int, int, int]:
    """Shape of `BlockWeights.packed` for a weight of shape (depth, channels)."""
    return channels, -(-depth // block), block * bits // 8


def _quantize(
    weight: NDArray[Any], bits: int, block: int, rounding: Rounding | None
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Packed values and scales of some channels; see `quantize_blocks`."""
    depth, channels = weight.shape
    blocks = -(-depth // block)
    values = np.zeros((channels, blocks * block), np.float32)
    values[:, :depth] = weight.T
    values = values.reshape(channels, blocks, block)
    middle = 1 << (bits - 1)
    peak = np.abs(values).max(-1, keepdims=True)
    best = np.full(peak.shape, np.inf, np.float32)
    scales = np.ones(peak.shape, np.float32)
    for ratio in CLIP_RATIOS if bits < 8 else CLIP_RATIOS[:1]:
        scale = np.where(peak > 0, peak * np.float32(ratio / (middle - 1)), np.float32(1.0))
        error = np.square(np.clip(np.round(values / scale), -middle, middle - 1) * scale - values).sum(
            -1, keepdims=True
        )
        better = error < best
        best, scales = np.where(better, error, best), np.where(better, scale, scales)
    integers = np.clip(np.round(values / scales), -middle, middle - 1)
    if rounding is not None:
        steps = np.broadcast_to(scales, values.shape).reshape(channels, -1)[:, :depth].T
        nearest = integers.reshape(channels, -1)[:, :depth].T.astype(np.int8)
        integers = integers.reshape(channels, -1)
        integers[:, :depth] = rounding(weight, nearest, steps, -middle, middle - 1).T
        integers = integers.reshape(values.shape)
    rounded = (integers + middle).astype(np.uint8)
    packed = rounded if bits == 8 else rounded[..., 0::2] | (rounded[..., 1::2] << 4)
    return np.ascontiguousarray(packed), scales[..., 0]


def dequantized_blocks(weights: BlockWeights, depth: int) -> NDArray[np.float32]:
    """The floating-point values of a weight in blocks, shape (K, N).

    Args:
        weights: The weight.
        depth: K, without the padding of the last block.
    """
    packed = weights.packed
    halves = packed if weights.bits == 8 else np.stack([packed & 15, packed >> 4], -1)
    values = halves.reshape(*packed.shape[:2], -1)
    middle = 1 << (weights.bits - 1)
    found = (values.astype(np.float32) - middle) * weights.scales[..., None]
    return np.ascontiguousarray(found.reshape(len(found), -1)[:, :depth].T)
