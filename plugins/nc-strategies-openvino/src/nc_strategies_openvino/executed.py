"""Executed operators, read from the graph that the engine compiled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from nc_strategies.api import ExecutedOps, OnnxGraph

INT8 = frozenset({"u8", "i8"})
COMPRESSED = INT8 | {"u4", "i4"}
"""Types of weights that a product reads although its activations are floating point."""
CONSTANTS = frozenset({"Const"})
ENDS = frozenset({"Input", "Output", "Parameter", "Result"})
CONVERSIONS = frozenset({"Reorder", "FakeQuantize", "Convert"})
"""Layers that change a tensor's type or layout."""
MOVEMENT = frozenset(
    {
        "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Split", "StridedSlice", "Gather", "GatherElements",
        "GatherND", "Broadcast", "Tile", "Pad", "ShapeOf", "Range", "DepthToSpace", "SpaceToDepth", "Reverse",
        "ScatterUpdate", "ScatterElementsUpdate", "NonZero", "MemoryInput", "MemoryOutput", "ReadValue", "Assign",
    }
)  # fmt: skip
"""Layers that compute nothing."""
WEIGHTED = frozenset({"Convolution", "Deconvolution", "FullyConnected"})
"""Layers whose first input is the activation; further ones are their weight, their bias, and what is added behind."""
ONNX_TYPES = {"Convolution": "Conv", "Deconvolution": "ConvTranspose", "FullyConnected": "MatMul"}
"""Layers to ONNX types, for operators that the engine's names do not identify."""
PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""ONNX types that `WEIGHTED` layers compute."""
MOVED_TYPES = frozenset(
    {
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Identity",
        "Cast",
        "Slice",
        "Split",
        "Expand",
        "Gather",
    }
)
"""ONNX types of operators that the engine may make a part of the product that reads them."""
SUFFIXES = ("/WithoutBiases", "/DequantizationMultiply", "/DequantizationSubtract", "_original")
"""What the engine appends to the names of nodes that it makes of one."""


@dataclass(frozen=True)
class RuntimeNode:
    """A node of the compiled graph.

    Args:
        name: Its name.
        layer: The engine's type of layer.
        precision: Type that it computes in, such as ``u8`` or ``f32``.
        originals: Names of the model's nodes that it computes.
        inputs: Types of the tensors that it reads, without constants.
        output: Type of what it returns.
        elements: Number of elements of what it returns; free dimensions count as one.
    """

    name: str
    layer: str
    precision: str
    originals: tuple[str, ...]
    inputs: tuple[str, ...]
    output: str
    elements: int


@dataclass(frozen=True)
class Operators:
    """The operators of a model, by the names that the engine has for them.

    Args:
        owner: Name of a node, or of a tensor that it makes, to the operator that it belongs to.
        types: Operator to its ONNX type.
        choices: Operators that count apart when they are fused behind another one.
        biased: Sum with a constant to the product that it adds it to: one kernel, which the engine names after the sum.
    """

    owner: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    choices: frozenset[str] = frozenset()
    biased: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(graph: OnnxGraph) -> Operators:
        """The operators of a prepared model."""
        tensors: dict[str, str] = {}
        nodes: dict[str, str] = {}
        types: dict[str, str] = {}
        for node in graph.model.graph.node:
            # What only names another tensor is no operator: the engine gives its name to the one before it.
            owner = tensors.get(node.input[0], node.name) if node.op_type == "Identity" else node.name
            nodes[node.name] = owner
            types[node.name] = node.op_type
            tensors.update({name: owner for name in node.output if name})
        for op in graph.fused_ops.values():
            if op.act is not None:
                nodes[op.act.name] = tensors[op.output] = op.name
        made = {name: node.name for node in graph.model.graph.node for name in node.output}
        biased = {
            node.name: made[name]
            for node in graph.model.graph.node
            for name in node.input
            if node.op_type == "Add" and types.get(made.get(name, "")) in PRODUCTS and len(graph.consumers[name]) == 1
        }
        # What adds a constant is a bias to the engine.
        choices = (name for name, op in graph.fused_ops.items() if op.type != "Add" or len(op.inputs) > 1)
        return Operators({**tensors, **nodes}, types, frozenset(choices), biased)

    def computed(self, node: RuntimeNode) -> list[str]:
        """The model's operators that a node computes, each once, the one that its kernel is for first."""
        names = map(_plain, _joined(node.originals or (node.name,), self.owner))
        found = list(dict.fromkeys(self.owner[name] for name in names if name in self.owner))
        found = [name for name in found if self.types.get(name) not in MOVED_TYPES] or found
        if node.layer in WEIGHTED and found and self.types.get(found[0]) not in PRODUCTS and found[0] in self.biased:
            return [self.biased[found[0]], *found]
        return found


def _plain(name: str) -> str:
    """A name without what the engine appended to it, once or several times."""
    while name.endswith(SUFFIXES):
        name = next(name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix))
    return name


def _joined(parts: tuple[str, ...], known: Mapping[str, str]) -> list[str]:
    """Names that were listed with commas between them, although a name may hold commas."""
    found, start = [], 0
    while start < len(parts):
        for end in range(len(parts), start, -1):
            name = ",".join(parts[start:end])
            if end == start + 1 or name in known or _plain(name) in known:
                found.append(name)
                start = end
                break
    return found


def runtime_nodes(compiled: Any) -> list[RuntimeNode]:
    """The nodes of a compiled model in the order of execution, without the model's ends and what computes constants."""
    found = []
    constants: set[str] = set()
    for op in compiled.get_runtime_model().get_ordered_ops():
        info, name = _info(op), op.get_friendly_name()
        sources = [value.get_source_output() for value in op.inputs()]
        varying = [source for source in sources if source.get_node().get_friendly_name() not in constants]
        if info["layerType"] in CONSTANTS or (sources and not varying):
            constants.add(name)
            continue
        if info["layerType"] in ENDS:
            continue
        outputs = op.outputs()
        shape = outputs[0].get_partial_shape() if outputs else ()
        found.append(
            RuntimeNode(
                name,
                info["layerType"],
                info["runtimePrecision"],
                tuple(name for name in info["originalLayersNames"].split(",") if name),
                tuple(source.get_element_type().get_type_name() for source in varying),
                outputs[0].get_element_type().get_type_name() if outputs else "",
                prod(d.get_length() if d.is_static else 1 for d in shape),
            )
        )
    return found


def _info(op: Any) -> dict[str, str]:
    info = op.get_rt_info()
    wanted = ("layerType", "runtimePrecision", "originalLayersNames")
    return {name: info[name].astype(str) if name in info else "" for name in wanted}


def is_conversion(node: RuntimeNode, operators: Operators) -> bool:
    """Whether a node only changes a tensor's type, layout or scale; such nodes have no name in the model."""
    return node.layer in CONVERSIONS or (node.layer in ("Eltwise", "Subgraph") and not operators.computed(node))


def in_int8(node: RuntimeNode, operators: Operators) -> list[str]:
    """Those of the model's operators in a node that compute on 8-bit tensors.

    Of an operator that the engine fused behind another one, such as the sum behind a convolution, what it reads beside
    that one's result counts.
    """
    names = operators.computed(node)
    if not names:
        return []
    first = node.inputs[:1] if node.layer in WEIGHTED else node.inputs
    further = node.inputs[1:] if node.layer in WEIGHTED else ()
    found = [names[0]] if node.precision in INT8 and first and INT8.issuperset(first) else []
    if further and INT8.issuperset(further):
        found += [name for name in names[1:] if name in operators.choices]
    return found


def weight_only(node: RuntimeNode, operators: Operators) -> list[str]:
    """The model's operator in a product with a compressed weight and floating-point activations; none in others."""
    compressed = node.layer == "FullyConnected" and node.precision in COMPRESSED
    return operators.computed(node)[:1] if compressed and not INT8.issuperset(node.inputs[:1]) else []


def count(nodes: Iterable[RuntimeNode], operators: Operators) -> ExecutedOps:
    """Count the operators of a compiled graph.

    An operator that is fused behind another one counts apart if it is one of `Operators.choices`.
    """
    counts: dict[str, Counter[str]] = {"int8": Counter(), "fp32": Counter(), "weight_only": Counter()}
    kinds: dict[str, str] = {}
    names: set[str] = set()
    conversions = 0
    for node in nodes:
        if is_conversion(node, operators):
            conversions += 1
            continue
        if node.layer in MOVEMENT:
            continue
        known, layer = operators.computed(node), ONNX_TYPES.get(node.layer, node.layer)
        alone = weight_only(node, operators)
        names.update(in_int8(node, operators), alone)
        counted = known[:1] + [name for name in known[1:] if name in operators.choices]
        kinds.update((name, operators.types.get(name, layer)) for name in counted)
        counts["weight_only"].update(operators.types.get(name, layer) for name in alone)
        if not counted:
            int8 = node.precision in INT8 and INT8.issuperset(node.inputs[:1])
            counts["int8" if int8 else "fp32"][layer] += 1
    # An operator that the engine splits into several nodes counts once.
    for name, kind in kinds.items():
        counts["int8" if name in names else "fp32"][kind] += 1
    modes = {"weight_only": counts["weight_only"]} if counts["weight_only"] else {}
    return ExecutedOps(counts["int8"], counts["fp32"], frozenset(names), conversions, modes)
