"""What the weights of operators multiply: rows of values that are cut out of activations, and weights as matrices.

Shapes as in `nc_strategies.calibration.rounding`: G groups, K values per output, N outputs per group, R rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from nc_strategies.onnx_graph.graph import FusedOp, Graph


def attributes_of(fused_op: FusedOp) -> dict[str, Any]:
    """An operator's attributes by name."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in fused_op.node.attribute}


def has_matrix(graph: Graph, fused_op: FusedOp) -> bool:
    """Whether an operator multiplies rows by a weight of its own that is one matrix, or one per group."""
    if fused_op.weight is None or fused_op.type not in ("Conv", "Gemm", "MatMul"):
        return False
    if fused_op.weight in graph.outputs or len(graph.consumers.get(fused_op.weight, [])) != 1:
        return False
    if fused_op.type == "Conv":
        return True
    return len(graph.initializers[fused_op.weight].dims) == 2 and not attributes_of(fused_op).get("transA")


def as_matrices(fused_op: FusedOp, weight: NDArray[Any]) -> NDArray[Any]:
    """A weight in the model's layout as matrices of shape (G, K, N)."""
    if fused_op.type == "Conv":
        groups = int(attributes_of(fused_op).get("group", 1))
        return weight.reshape(groups, len(weight) // groups, -1).swapaxes(1, 2)
    return (weight.T if attributes_of(fused_op).get("transB") else weight)[None]


def from_matrices(fused_op: FusedOp, matrices: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The inverse of `as_matrices`, for a weight of a given shape."""
    if fused_op.type == "Conv":
        return np.ascontiguousarray(matrices.swapaxes(1, 2)).reshape(shape)
    return np.ascontiguousarray(matrices[0].T if attributes_of(fused_op).get("transB") else matrices[0])


def row_size(graph: Graph, fused_op: FusedOp) -> int:
    """Number of values in a row of all groups."""
    assert fused_op.weight is not None
    dims = graph.initializers[fused_op.weight].dims
    if fused_op.type == "Conv":
        return int(np.prod(dims[1:])) * int(attributes_of(fused_op).get("group", 1))
    return int(dims[1] if attributes_of(fused_op).get("transB") else dims[0])


def rows_of(
    graph: Graph, fused_op: FusedOp, values: NDArray[Any], count: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Rows that an operator multiplies by its weight, at random places.

    Args:
        graph: The model.
        fused_op: The operator, see `has_matrix`.
        values: Its input.
        count: Most rows.
        rng: Chooses the places.

    Returns:
        Shape (G, R, K).
    """
    if fused_op.type == "Conv":
        return _patches(graph, fused_op, values, count, rng)
    flat = values.reshape(-1, values.shape[-1])
    if len(flat) > count:
        flat = flat[np.sort(rng.choice(len(flat), count, replace=False))]
    return np.array(flat, np.float32)[None]


def _patches(
    graph: Graph, fused_op: FusedOp, values: NDArray[Any], count: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Patches that a convolution reads, in the order of its weight: channels of a group, then places in the kernel."""
    assert fused_op.weight is not None
    given = attributes_of(fused_op)
    kernel = [int(d) for d in graph.initializers[fused_op.weight].dims[2:]]
    spatial = len(kernel)
    strides = list(given.get("strides") or [1] * spatial)
    dilations = list(given.get("dilations") or [1] * spatial)
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    begin, end = _padding(given, values.shape[2:], extent, strides)
    padded = np.pad(values, [(0, 0), (0, 0), *zip(begin, end, strict=True)])
    sizes = [len(values)] + [(size - e) // s + 1 for size, e, s in zip(padded.shape[2:], extent, strides, strict=True)]
    total = int(np.prod(sizes))
    flat = np.sort(rng.choice(total, count, replace=False)) if total > count else np.arange(total)
    sample, *places = np.unravel_index(flat, sizes)
    wide = (-1, *[1] * spatial)
    index: list[Any] = [sample.reshape(wide), slice(None)]
    for axis in range(spatial):
        offsets = np.arange(kernel[axis]) * dilations[axis]
        shape = [1] * (spatial + 1)
        shape[axis + 1] = -1
        index.append(places[axis].reshape(wide) * strides[axis] + offsets.reshape(shape))
    # The channels come last, as a slice stands between the arrays of places.
    patches = np.moveaxis(padded[tuple(index)], -1, 1)
    groups = int(given.get("group", 1))
    found = patches.reshape(len(patches), groups, -1).swapaxes(0, 1)
    return np.ascontiguousarray(found, np.float32)


def _padding(
    given: dict[str, Any], sizes: tuple[int, ...], extent: list[int], strides: list[int]
) -> tuple[list[int], list[int]]:
    """Zeros before and after each spatial axis."""
    auto = given.get("auto_pad", b"NOTSET")
    spatial = len(sizes)
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        needed = [max(0, (-(-size // s) - 1) * s + e - size) for size, e, s in zip(sizes, extent, strides, strict=True)]
        less, more = [n // 2 for n in needed], [n - n // 2 for n in needed]
        return (less, more) if auto == b"SAME_UPPER" else (more, less)
    pads = list(given.get("pads") or [0] * (2 * spatial)) if auto == b"NOTSET" else [0] * (2 * spatial)
    return pads[:spatial], pads[spatial:]
