"""Loading of a model from disk as a frozen graph with the inputs and outputs of its signature."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nc_strategies.backends.tensorflow.graph import Graph, node_of, tensor_name
from nc_strategies.backends.tensorflow.import_tensorflow import reason, tensorflow
from nc_strategies.errors import InputError
from nc_strategies.models.archive import check_archive
from nc_strategies.models.info import TensorSpec

KEY = "model.path"
DEFAULT_SIGNATURE = "serving_default"
FRAME_OPS = frozenset({"Switch", "Merge", "Enter", "Exit", "NextIteration", "RefSwitch", "RefMerge", "RefEnter"})
RESOURCE_OPS = frozenset({"VarHandleOp", "VariableV2", "ReadVariableOp", "HashTableV2", "MutableHashTableV2"})
EXTERNAL_ACCESS_OPS = re.compile(
    "File|Reader|Dataset|Summary|Debug|PyFunc|Save|Restore|Checkpoint|Snapshot|BigQuery|RemoteCall|Rpc|Send$|Recv$"
    "|^ImmutableConst$|^Print|^DecodeProto|^EncodeProto|^Merge.*Checkpoint|^Sharded"
)
"""Operator types that access files, the network or Python code."""
SAVER_OPS = frozenset({"SaveV2", "RestoreV2", "MergeV2Checkpoints", "ShardedFilename"})
"""Operators of every SavedModel that save and restore it. Loading does not run them, and freezing drops them."""


@dataclass(frozen=True)
class Port:
    """An input or output of a model: its user-visible specification, and its tensor in the graph."""

    spec: TensorSpec
    tensor: str


@dataclass(frozen=True)
class FrozenModel:
    """A graph without variables.

    Args:
        graph: The graph as it was loaded; it must not be edited.
        inputs: Its inputs in the model's order.
        outputs: Its outputs in the model's order.
        signature: The signature's name in a SavedModel.
    """

    graph: Graph
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    signature: str = DEFAULT_SIGNATURE


def load(kind: str, path: Path, trust: bool = False) -> FrozenModel:
    """Load a model and turn its variables into constants.

    Args:
        kind: ``keras`` (``.keras`` or ``.h5``), ``saved_model`` (a folder) or ``graph_def`` (a frozen ``.pb``).
        path: The file or folder.
        trust: Whether it may contain Python code (Keras Lambda layers) and operators that access files or the network.

    Raises:
        InputError: it is not a model of this format, or a frozen graph cannot express it.
    """
    if not path.exists():
        raise InputError(KEY, f"no such file: {path}")
    model = {"keras": _load_keras, "h5": _load_keras, "saved_model": _load_saved_model, "graph_def": _load_graph_def}[
        kind
    ](path, trust)
    if not trust:
        _refuse_external_access(path, model.graph.to_def())
    ops = {node.op for node in model.graph.nodes.values()}
    if frame_ops := ops & FRAME_OPS:
        raise InputError(
            KEY,
            f"{path.name} holds control flow of TensorFlow 1 ({', '.join(sorted(frame_ops))})",
            "expected functional control flow (While, If) or none",
        )
    if resource_ops := ops & RESOURCE_OPS:
        raise InputError(KEY, f"{path.name} keeps state that cannot be frozen ({', '.join(sorted(resource_ops))})")
    for port in model.inputs:
        if port.spec.dtype.kind not in "fiub":
            raise InputError(
                KEY,
                f"input {port.spec.name!r} of {path.name} is not numeric",
                "expected floating point, integer or boolean inputs",
            )
    return model


def _refuse_external_access(path: Path, graph_def: Any, *, saver: bool = False) -> None:
    """Refuse a graph with operators that access files or the network: a graph is a program, and may be malicious."""
    ops = {node.op for node in graph_def.node}
    ops |= {node.op for function in graph_def.library.function for node in function.node_def}
    refused = sorted(op for op in ops if EXTERNAL_ACCESS_OPS.search(op) and not (saver and op in SAVER_OPS))
    if refused:
        raise InputError(
            KEY,
            f"{path.name} holds operators that reach beyond the model ({', '.join(refused[:5])})",
            "if you trust its author: model.trust=true",
        )


def _load_keras(path: Path, trust: bool) -> FrozenModel:
    tf = tensorflow()
    if not path.is_file():
        raise InputError(KEY, f"{path} is a folder", "expected a .keras or .h5 file")
    check_archive(KEY, path)
    try:
        model = tf.keras.models.load_model(path, compile=False, safe_mode=not trust)
    except Exception as error:
        if "safe_mode" in str(error) or "deserialization of a `Lambda`" in str(error):
            raise InputError(
                KEY, f"{path.name} holds Python code (a Lambda layer)", "if you trust its author: model.trust=true"
            ) from error
        raise InputError(KEY, f"Keras cannot load {path.name}: {reason(error)}") from error
    structure = _input_structure(model)
    if structure is None:
        raise InputError(KEY, f"{path.name} does not define its inputs", "call the model once before saving it")
    specs = tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype, name=t.name), structure)
    function = tf.function(lambda inputs: _named(model(inputs, training=False)), autograph=False)
    return _freeze(path, function, specs, [spec.name for spec in tf.nest.flatten(specs)])


def _input_structure(model: Any) -> Any:
    """The inputs of the model as KerasTensors; None if it was never built."""
    for attribute in ("input", "inputs"):
        try:
            inputs = getattr(model, attribute)
        except (AttributeError, ValueError):
            continue
        return inputs[0] if isinstance(inputs, list) and len(inputs) == 1 else inputs
    return None


def _named(outputs: Any) -> dict[str, Any]:
    if isinstance(outputs, Mapping):
        return dict(outputs)
    return {f"output_{i}": output for i, output in enumerate(tensorflow().nest.flatten(outputs))}


def _load_saved_model(path: Path, trust: bool) -> FrozenModel:
    tf = tensorflow()
    if not trust:
        _refuse_external_access_in_meta_graphs(path)
    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:
        raise InputError(KEY, f"{path} is not a SavedModel: {reason(error)}") from error
    signatures: Mapping[str, Any] = loaded.signatures
    name = DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in signatures else next(iter(signatures), "")
    if not name or (name != DEFAULT_SIGNATURE and len(signatures) > 1):
        raise InputError(
            KEY, f"{path} has no signature {DEFAULT_SIGNATURE!r}", f"it has: {', '.join(signatures) or 'none'}"
        )
    signature = signatures[name]
    specs = {
        key: tf.TensorSpec(spec.shape, spec.dtype, name=key)
        for key, spec in signature.structured_input_signature[1].items()
    }
    function = tf.function(lambda inputs: dict(signature(**inputs)), autograph=False)
    return _freeze(path, function, specs, sorted(specs), name)


def _refuse_external_access_in_meta_graphs(path: Path) -> None:
    """See `_refuse_external_access`. It is called before loading, because loading runs initialization operators."""
    from tensorflow.python.saved_model import loader_impl

    try:
        saved = loader_impl.parse_saved_model(str(path))
    except Exception as error:
        raise InputError(KEY, f"{path} is not a SavedModel: {reason(error)}") from error
    for part in saved.meta_graphs:
        _refuse_external_access(path, part.graph_def, saver=True)


def _freeze(
    path: Path, function: Any, specs: Any, names: Sequence[str], signature: str = DEFAULT_SIGNATURE
) -> FrozenModel:
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    try:
        concrete = function.get_concrete_function(specs)
        frozen, graph_def = concrete, _frozen_in_place(concrete)
        if graph_def is None:
            frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
            graph_def = frozen.graph.as_graph_def()
    except Exception as error:
        raise InputError(KEY, f"{path.name} cannot be frozen: {reason(error)}") from error
    outputs = sorted(concrete.structured_outputs, key=_natural)
    by_name = dict(zip(sorted(concrete.structured_outputs), frozen.outputs, strict=True))
    return FrozenModel(
        Graph.from_def(graph_def),
        # Captured tensors follow the arguments.
        tuple(_port(name, tensor) for name, tensor in zip(names, frozen.inputs[: len(names)], strict=True)),
        tuple(_port(name, by_name[name]) for name in outputs),
        signature,
    )


def _frozen_in_place(concrete: Any) -> Any:
    """The graph of a traced function with its variables replaced by constants; None if it needs more than that.

    It applies if variables are only read, and in no nested function. TensorFlow's own conversion then yields the same
    graph except for unused nodes, but also wraps it in a function again, which takes most of its time (2.3 of 2.7 s for
    a ResNet50).
    """
    tf = tensorflow()
    graph_def = concrete.graph.as_graph_def()
    captured = {inner.op.name: outer for outer, inner in concrete.graph.captures}
    reads = {node.name: node_of(node.input[0]) for node in graph_def.node if node.op == "ReadVariableOp"}
    resources = {name for name, outer in captured.items() if outer.dtype == tf.resource}
    if graph_def.library.function or not _only_read(graph_def, reads, resources):
        return None
    dtypes = {reads[node.name]: node.attr["dtype"].type for node in graph_def.node if node.name in reads}
    for node in graph_def.node:
        if node.name in reads:
            _make_identity(node)
        elif node.name in captured:
            outer = captured[node.name]
            value = _read(outer, dtypes.get(node.name)) if node.name in resources else outer
            if value is not None:
                _make_constant(node, value)
    return graph_def


def _read(resource: Any, dtype: int | None) -> Any:
    """The value of a captured variable; None for one that the graph does not read."""
    return None if dtype is None else tensorflow().raw_ops.ReadVariableOp(resource=resource, dtype=dtype)


def _only_read(graph_def: Any, reads: Mapping[str, str], resources: set[str]) -> bool:
    """Whether captured variables are read by ``ReadVariableOp`` only, and those read are all captured.

    Args:
        graph_def: The graph.
        reads: Each ``ReadVariableOp`` and what it reads.
        resources: The captured variables.
    """
    readers = {text for node in graph_def.node if node.name not in reads for text in map(node_of, node.input)}
    return not readers & resources and set(reads.values()) <= resources


def _make_identity(read: Any) -> None:
    """Turn the reading of a variable into the reading of a constant."""
    dtype = read.attr["dtype"].type
    read.op = "Identity"
    read.attr.clear()
    read.attr["T"].type = dtype


def _make_constant(node: Any, value: Any) -> None:
    node.op = "Const"
    node.attr.clear()
    node.attr["dtype"].type = value.dtype.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tensorflow().make_tensor_proto(value.numpy(), value.dtype))


def _natural(name: str) -> tuple[str, int, str]:
    head, _, tail = name.rpartition("_")
    return (head, int(tail), "") if tail.isdigit() else (name, -1, tail)


def _load_graph_def(path: Path, _: bool) -> FrozenModel:
    tf = tensorflow()
    graph_def = tf.compat.v1.GraphDef()
    imported = tf.Graph()
    try:
        graph_def.ParseFromString(path.read_bytes())
        with imported.as_default():
            tf.import_graph_def(graph_def, name="")
    except Exception as error:
        raise InputError(KEY, f"{path.name} is not a frozen GraphDef: {reason(error)}") from error
    graph = Graph.from_def(graph_def)
    inputs = [node.name for node in graph.nodes.values() if node.op == "Placeholder"]
    outputs = [name for name in _unread(graph) if imported.get_operation_by_name(name).outputs]
    if not inputs or not outputs:
        raise InputError(KEY, f"{path.name} has no {'input' if not inputs else 'output'}")
    tensors = {name: imported.get_tensor_by_name(f"{name}:0") for name in inputs + outputs}
    return FrozenModel(
        graph,
        tuple(_port(name, tensors[name]) for name in inputs),
        tuple(_port(name, tensors[name]) for name in outputs),
    )


def _unread(graph: Graph) -> list[str]:
    """The nodes that compute something which no other node reads."""
    read = {node_of(text) for node in graph.nodes.values() for text in node.input}
    return [
        node.name for node in graph.nodes.values() if node.name not in read and node.op not in ("Placeholder", "Const")
    ]


def _port(name: str, tensor: Any) -> Port:
    if tensor.shape.rank is None:
        raise InputError(KEY, f"{name!r} has no known rank", "expected inputs and outputs of a known rank")
    spec = TensorSpec(name, tuple(tensor.shape.as_list()), np.dtype(tensor.dtype.as_numpy_dtype))
    return Port(spec, tensor_name(tensor.name))
