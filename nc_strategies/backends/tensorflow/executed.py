"""Executed operators, counted from the graphs of the runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from nc_strategies.backends.base import ExecutedOps
from nc_strategies.backends.tensorflow.graph import Node

CONVERSIONS = frozenset(
    {
        "QuantizeV2",
        "Dequantize",
        "Requantize",
        "RequantizePerChannel",
        "_MklToTf",
        "_MklQuantizeV2",
        "_MklDequantize",
        "_MklRequantize",
        "_MklInputConversion",
    }
)
MOVES = frozenset(
    {
        "Const",
        "Placeholder",
        "PlaceholderWithDefault",
        "_Arg",
        "_Retval",
        "_Recv",
        "_Send",
        "_HostRecv",
        "_HostSend",
        "NoOp",
        "Identity",
        "IdentityN",
        "Reshape",
        "Squeeze",
        "ExpandDims",
        "Shape",
        "ShapeN",
        "Size",
        "Rank",
        "StridedSlice",
        "Slice",
        "Pack",
        "Unpack",
        "Split",
        "SplitV",
        "Concat",
        "ConcatV2",
        "Transpose",
        "Pad",
        "PadV2",
        "Bitcast",
        "MirrorPad",
        "Fill",
        "Tile",
        "Range",
        "Cast",
        "GatherV2",
        "Gather",
        "StopGradient",
        "Snapshot",
        "QuantizedConcatV2",
        "QuantizedReshape",
        "BroadcastTo",
        "BroadcastArgs",
        "ConcatOffset",
        "Prod",
        "ZerosLike",
        "OnesLike",
        "DepthToSpace",
        "SpaceToDepth",
        "_ParallelConcatUpdate",
        "ConjugateTranspose",
        "Assert",
        "TensorListFromTensor",
        "TensorListStack",
        "TensorListReserve",
    }
)
NAMES = {"DepthwiseConv2D": "DepthwiseConv2dNative", "BatchMatMulV2": "BatchMatMul", "AddV2": "Add", "AddN": "Add"}


def count(nodes: Iterable[Node], names: frozenset[str] = frozenset()) -> ExecutedOps:
    """Count the nodes of the executed graphs.

    A fused kernel counts as one operator of the type of its weighted operator, in int8 as in floating point.

    Args:
        nodes: All nodes that ran.
        names: Names of the model's operators; with none, every int8 node's name is returned.
    """
    int8: Counter[str] = Counter()
    fp32: Counter[str] = Counter()
    int8_names, conversions = set(), 0
    for node in nodes:
        plain = source_type(node.op)
        if node.op in CONVERSIONS:
            conversions += 1
        elif node.op in MOVES or plain in MOVES:
            continue
        elif "Quantized" in node.op:
            int8[plain] += 1
            int8_names.add(node.name)
        else:
            fp32[plain] += 1
    return ExecutedOps(int8, fp32, frozenset(int8_names & names if names else int8_names), conversions)


def source_type(op: str) -> str:
    """The operator type that a kernel of the runtime computes: ``Conv2D`` for ``_MklNativeFusedConv2D``."""
    for part in ("_Mkl", "_", "Native", "Fused", "Quantized"):
        op = op.removeprefix(part)
    return NAMES.get(op, op)
