"""Executed operators, counted from the engine's profile of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from nc_strategies.backends.base import ExecutedOps
from nc_strategies.backends.onnxruntime.providers import CPU, Provider
from nc_strategies.space.scheme import DYNAMIC, WEIGHT_ONLY

CONVERSIONS = {"QuantizeLinear", "DequantizeLinear", "ReorderInput", "ReorderOutput"}
MOVEMENT = {
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Identity",
    "Cast",
    "Shape",
    "Gather",
    "Slice",
    "Expand",
    "Constant",
    "ConstantOfShape",
    "Split",
    "GatherElements",
    "Pad",
    "Tile",
    "DepthToSpace",
    "SpaceToDepth",
    "Range",
    "Dropout",
}
PLAIN_TYPES = {
    "FusedConv": "Conv",
    "NhwcFusedConv": "Conv",
    "FusedGemm": "Gemm",
    "FusedMatMul": "MatMul",
    "QGemm": "Gemm",
    "NhwcMaxPool": "MaxPool",
    "MatMulInteger": "MatMul",
    "MatMulIntegerToFloat": "MatMul",
    "ConvInteger": "Conv",
    "DynamicQuantizeMatMul": "MatMul",
    "MatMulNBits": "MatMul",
    "DynamicQuantizeLSTM": "LSTM",
    "GatherBlockQuantized": "Gather",
    "Sum": "Add",
}
DYNAMIC_KERNELS = {
    "MatMulInteger",
    "ConvInteger",
    "DynamicQuantizeMatMul",
    "DynamicQuantizeLSTM",
}
"""Kernels of operators whose activations are quantized at run time."""
WEIGHT_ONLY_KERNELS = {"MatMulNBits", "GatherBlockQuantized"}
"""Kernels of operators with quantized weights and floating-point activations."""
INT8_ONLY = {"QGemm", "NhwcMaxPool", "MatMulIntegerToFloat"} | DYNAMIC_KERNELS | WEIGHT_ONLY_KERNELS
DYNAMIC_SUFFIX = ":dynamic"
"""End of the name of the node that quantizes an operator's input at run time."""
DYNAMIC_PRODUCT = ":dynamic_product"
"""End of the name of a product behind such a node. The engine has one kernel, ``MatMulIntegerToFloat``, for these
products and for static ones that return floating point."""
BARRIER = "/float_barrier"


def node_events(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events of a profile that record a kernel."""
    return [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]


def read_profile(events: list[dict[str, Any]], operators: Mapping[str, str], provider: Provider = CPU) -> ExecutedOps:
    """Count the executed operators from the events of one profiled run.

    Args:
        events: The events of the profile.
        operators: Name of a node or of its output to the operator of the user's model that it computes.
        provider: Execution provider of the session: an operator that another one ran was handed back.
    """
    handed_back: Counter[str] = Counter()
    int8: Counter[str] = Counter()
    fp32: Counter[str] = Counter()
    names: set[str] = set()
    modes: dict[str, Counter[str]] = {DYNAMIC: Counter(), WEIGHT_ONLY: Counter()}
    conversions = 0
    for event in node_events(events):
        kind = event["args"]["op_name"]
        name = event["name"].removesuffix("_kernel_time")
        if kind in CONVERSIONS or kind == "DynamicQuantizeLinear":
            conversions += 1
        elif kind not in MOVEMENT and (name in operators or not name.endswith(BARRIER)):
            types = [next(iter(shape)) for shape in event["args"].get("input_type_shape", [])]
            types = types[1:] if kind.endswith("Where") else types  # the first is the condition
            if is_int8(kind, types):
                int8[plain_type(kind)] += 1
                if kind in WEIGHT_ONLY_KERNELS:
                    modes[WEIGHT_ONLY][plain_type(kind)] += 1
                elif kind in DYNAMIC_KERNELS or name.endswith(DYNAMIC_PRODUCT):
                    modes[DYNAMIC][plain_type(kind)] += 1
                names.add(operators.get(base_name(name), base_name(name)))
            elif not types or types[0] in ("float", "float16", "double"):
                fp32[plain_type(kind)] += 1
            else:
                continue
            if event["args"].get("provider", provider.name) != provider.name:
                handed_back[plain_type(kind)] += 1
    asked = "" if provider.is_cpu else provider.short
    return ExecutedOps(int8, fp32, frozenset(names), conversions, modes, asked, handed_back)


def is_int8(kind: str, input_types: list[str]) -> bool:
    """Whether a kernel of this type computes in int8 on inputs of these types."""
    return kind.startswith("QLinear") or kind in INT8_ONLY or bool(input_types and input_types[0] in ("uint8", "int8"))


def plain_type(kind: str) -> str:
    """The ONNX operator type of an executed kernel."""
    return PLAIN_TYPES.get(kind, kind.removeprefix("QLinear"))


def base_name(name: str) -> str:
    """A node's name without the suffixes that the engine's optimizers append."""
    name = name.removesuffix("_nchwc").removesuffix("_nhwc")
    head, mark, tail = name.rpartition("_token_")
    return head if mark and tail.isdigit() else name
