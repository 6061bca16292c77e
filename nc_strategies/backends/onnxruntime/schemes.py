"""Schemes of the modes other than static int8, as the engine's kernels have them."""

from __future__ import annotations

from nc_strategies.space import OpScheme, TensorScheme
from nc_strategies.space.scheme import DYNAMIC, FLOAT_TENSOR

BLOCK_SIZES = (32, 128)
"""Weights per block that are offered, the most accurate first."""

DYNAMIC_SCHEME = OpScheme(
    TensorScheme("uint8", "asym", "per_tensor", DYNAMIC), TensorScheme("int8", "sym", "per_channel", "minmax")
)
WEIGHT_ONLY_SCHEMES = tuple(
    OpScheme(FLOAT_TENSOR, TensorScheme(dtype, "sym", f"per_block_{size}", "minmax"))
    for dtype in ("int8", "int4")
    for size in BLOCK_SIZES
)
SCHEMES = (DYNAMIC_SCHEME, *WEIGHT_ONLY_SCHEMES)
"""All schemes of these modes, one after the other, as they are offered to an operator."""


def blocks_of(scheme: OpScheme) -> tuple[int, int]:
    """Bits of a weight-only scheme, and weights per block."""
    assert scheme.weight is not None
    return int(scheme.weight.dtype.removeprefix("int")), int(scheme.weight.granularity.rpartition("_")[2])
