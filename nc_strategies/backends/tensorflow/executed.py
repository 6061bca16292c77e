"""What ran, counted from the graphs of the runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

from nc_strategies.backends.base import ExecutedOps, Profile
from nc_strategies.backends.profiling import NodeTimes, summarise
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
    """Sort the nodes of the executed graphs.

    A fused kernel counts as one operator, of the type it is fused around, in int8 as in floating point.

    Args:
        nodes: All nodes that ran.
        names: Node names that stand for operators of the model.
    """
    int8: Counter[str] = Counter()
    fp32: Counter[str] = Counter()
    found, conversions = set(), 0
    for node in nodes:
        plain = source_type(node.op)
        if node.op in CONVERSIONS:
            conversions += 1
        elif node.op in MOVES or plain in MOVES:
            continue
        elif "Quantized" in node.op:
            int8[plain] += 1
            found.add(node.name)
        else:
            fp32[plain] += 1
    return ExecutedOps(int8, fp32, frozenset(found & names if names else found), conversions)


def read_times(steps: Iterable[Any], operators: Mapping[str, str]) -> Profile:
    """Times of the nodes over several traced runs.

    Args:
        steps: ``StepStats`` of each run.
        operators: Node name to the operator of the model it belongs to.
    """
    nodes: dict[tuple[str, str], NodeTimes] = {}
    for step in steps:
        for stats in (node for device in step.dev_stats for node in device.node_stats):
            # "name = Type(inputs)"
            kind = stats.timeline_label.rpartition(" = ")[2].partition("(")[0]
            node = nodes.setdefault(
                (kind, stats.node_name), NodeTimes(operators.get(stats.node_name), kind in CONVERSIONS)
            )
            node.seconds.append((stats.op_end_rel_nanos - stats.op_start_rel_nanos) * 1e-9)
            if stats.output:
                shape = stats.output[0].tensor_description.shape
                node.elements = prod(dimension.size for dimension in shape.dim)
    return summarise(nodes.values())


def source_type(op: str) -> str:
    """The type of a model's operator behind a kernel of the runtime: ``_MklNativeFusedConv2D`` is a ``Conv2D``."""
    for part in ("_Mkl", "_", "Native", "Fused", "Quantized"):
        op = op.removeprefix(part)
    return NAMES.get(op, op)
