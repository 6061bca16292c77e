"""Loading of a model from disk as a frozen graph with the inputs and outputs of its signature."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from nc_strategies.backends.tensorflow import keras_files, saved_model
from nc_strategies.backends.tensorflow.graph import Graph, follow, node_of, tensor_name
from nc_strategies.backends.tensorflow.import_tensorflow import reason, tensorflow
from nc_strategies.backends.tensorflow.inline import inline_calls, needed_part
from nc_strategies.backends.tensorflow.saved_model import DEFAULT_SIGNATURE
from nc_strategies.errors import InputError
from nc_strategies.models import ModelSource
from nc_strategies.models.archive import check_archive
from nc_strategies.models.info import TensorSpec

KEY = "model.path"
OBJECTS_KEY = keras_files.OBJECTS_KEY
FRAME_OPS = frozenset({"Switch", "Merge", "Enter", "Exit", "NextIteration", "RefSwitch", "RefMerge", "RefEnter"})
RESOURCE_OPS = frozenset({"VarHandleOp", "VariableV2", "ReadVariableOp"})
WRITES = frozenset({"AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"})
TABLE_OPS = frozenset(
    {
        "HashTable",
        "HashTableV2",
        "MutableHashTable",
        "MutableHashTableV2",
        "MutableDenseHashTableV2",
        "MutableHashTableOfTensorsV2",
        "AnonymousHashTable",
        "LookupTableFind",
        "LookupTableFindV2",
    }
)
EXTERNAL_ACCESS_OPS = re.compile(
    "File|Reader|Dataset|Summary|Debug|PyFunc|Save|Restore|Checkpoint|Snapshot|BigQuery|RemoteCall|Rpc|Send$|Recv$"
    "|^ImmutableConst$|^Print|^DecodeProto|^EncodeProto|^Merge.*Checkpoint|^Sharded"
)
"""Operator types that access files, the network or Python code."""
RESTORE_OPS = frozenset({"RestoreV2"})
"""Operators by which a SavedModel restores its checkpoint."""
SAVER_OPS = RESTORE_OPS | {"SaveV2", "MergeV2Checkpoints", "ShardedFilename"}
"""Operators by which a SavedModel saves and restores its checkpoint. Loading runs the latter only."""


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded; see `load`."""

    trust: bool
    signature: str
    custom_objects: Mapping[str, str]


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


def load_source(source: ModelSource, kind: str, path: Path) -> FrozenModel:
    """Load a model in one of its formats; see `load`."""
    return load(kind, path, source.trust, source.signature, source.custom_objects)


def load(
    kind: str,
    path: Path,
    trust: bool = False,
    signature: str = "",
    custom_objects: Mapping[str, str] = MappingProxyType({}),
) -> FrozenModel:
    """Load a model: its variables become constants, calls of functions the functions' operators.

    What its outputs do not need is dropped before anything is judged.

    Args:
        kind: ``keras`` (``.keras`` or ``.h5``), ``saved_model`` (a folder) or ``graph_def`` (a frozen ``.pb``).
        path: The file or folder.
        trust: Whether it may contain Python code (Keras Lambda layers) and operators that access files or the network.
        signature: The signature of a SavedModel; empty for ``serving_default`` or the only one.
        custom_objects: Names of the user's classes and functions in a Keras file to where they are defined, as
            ``file.py:Class`` or ``package.module:Class``.

    Raises:
        InputError: it is not a model of this format, or a frozen graph cannot express it.
    """
    if not path.exists():
        raise InputError(KEY, f"no such file: {path}")
    if signature and kind != "saved_model":
        raise InputError(saved_model.SIGNATURE_KEY, f"is {signature!r}", "only a SavedModel has signatures")
    if custom_objects and kind not in ("keras", "h5"):
        raise InputError(OBJECTS_KEY, "is given for a model without Python classes", "a .keras or .h5 file")
    options = LoadOptions(trust, signature, custom_objects)
    model = {"keras": _load_keras, "h5": _load_keras, "saved_model": _load_saved_model, "graph_def": _load_graph_def}[
        kind
    ](path, options)
    model = _only_what_outputs_need(model)
    if not trust:
        _refuse_external_access(path, model.graph.to_def())
    for port in model.inputs:
        if not _is_numeric(port.spec.dtype):
            raise InputError(
                KEY,
                f"input {port.spec.name!r} of {path.name} is not numeric",
                "expected floating point, integer or boolean inputs",
            )
    ops = _operators(model.graph.to_def())
    if tables := sorted(op for op in ops if op in TABLE_OPS):
        raise InputError(
            KEY,
            f"the outputs of {path.name} need a lookup table ({', '.join(tables)}), which a graph of constants cannot "
            "hold",
            "a model or a signature without it: do the lookup before the model",
        )
    if frame_ops := ops & FRAME_OPS:
        raise InputError(
            KEY,
            f"{path.name} holds control flow of TensorFlow 1 ({', '.join(sorted(frame_ops))})",
            "expected functional control flow (While, If) or none",
        )
    if resource_ops := ops & RESOURCE_OPS:
        raise InputError(KEY, f"{path.name} keeps state that cannot be frozen ({', '.join(sorted(resource_ops))})")
    return model


def _is_numeric(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "fiub" or dtype.name == "bfloat16"


def _only_what_outputs_need(model: FrozenModel) -> FrozenModel:
    """The model with the calls of functions replaced, and without what no output depends on."""
    graph = Graph(model.graph.nodes.values(), model.graph.library)
    graph = Graph.from_def(graph.to_def())
    replaced = inline_calls(graph)
    outputs = tuple(Port(port.spec, follow(replaced, port.tensor)) for port in model.outputs)
    graph.prune([node_of(port.tensor) for port in (*model.inputs, *outputs)])
    return FrozenModel(needed_part(graph), model.inputs, outputs, model.signature)


def _operators(graph_def: Any) -> set[str]:
    """The types of operators of a graph and of its functions."""
    ops = {str(node.op) for node in graph_def.node}
    return ops | {str(node.op) for function in graph_def.library.function for node in function.node_def}


def _refuse_external_access(path: Path, graph_def: Any, allowed: Container[str] = ()) -> None:
    """Refuse a graph with operators that access files or the network: a graph is a program, and may be malicious."""
    refused = sorted(op for op in _operators(graph_def) if EXTERNAL_ACCESS_OPS.search(op) and op not in allowed)
    if refused:
        raise InputError(
            KEY,
            f"{path.name} holds operators that reach beyond the model ({', '.join(refused[:5])})",
            "if you trust its author: model.trust=true",
        )


def _load_keras(path: Path, options: LoadOptions) -> FrozenModel:
    tf = tensorflow()
    if not path.is_file():
        raise InputError(KEY, f"{path} is a folder", "expected a .keras or .h5 file")
    check_archive(KEY, path)
    model = keras_files.load_model(path, options.trust, options.custom_objects)
    specs = keras_files.input_specs(model)
    if specs is None:
        raise InputError(KEY, f"{path.name} does not define its inputs", "call the model once before saving it")
    function = tf.function(lambda inputs: _named(model(inputs, training=False)), autograph=False)
    return _freeze(path, function, specs, [spec.name for spec in tf.nest.flatten(specs)])


def _named(outputs: Any) -> dict[str, Any]:
    if isinstance(outputs, Mapping):
        return dict(outputs)
    return {f"output_{i}": output for i, output in enumerate(tensorflow().nest.flatten(outputs))}


def _load_saved_model(path: Path, options: LoadOptions) -> FrozenModel:
    if not options.trust:
        _refuse_external_access_in_meta_graph(path)
    try:
        loaded = saved_model.load_signature(path, options.signature)
    except saved_model.MissingVariables:
        return _load_with_objects(path, options)
    known = saved_model.recorded_order(path)
    inputs = _in_order(sorted(loaded.inputs), known.get("inputs", ()))
    outputs = _in_order(sorted(loaded.outputs, key=_natural), known.get("outputs", ()))
    return FrozenModel(
        loaded.graph,
        tuple(_port_of(name, loaded.inputs[name]) for name in inputs),
        tuple(_port_of(name, loaded.outputs[name]) for name in outputs),
        loaded.name,
    )


def _load_with_objects(path: Path, options: LoadOptions) -> FrozenModel:
    """A SavedModel whose variables only its Python objects can tell apart."""
    tf = tensorflow()
    if not options.trust:
        # Restoring the objects runs initializers as well, so that all that is in the file is judged before.
        _refuse_external_access(path, saved_model.meta_graph(path).graph_def, SAVER_OPS)
    signature, name, owner = saved_model.load_function(path, options.signature)
    specs = {
        key: tf.TensorSpec(spec.shape, spec.dtype, name=key)
        for key, spec in signature.structured_input_signature[1].items()
    }
    function = tf.function(lambda inputs: dict(signature(**inputs)), autograph=False)
    frozen = _freeze(path, function, specs, sorted(specs))
    del owner
    return replace(frozen, signature=name)


def _in_order(names: list[str], recorded: Sequence[str]) -> list[str]:
    """The names in the order that was recorded, if it is one of the same names."""
    return list(recorded) if sorted(recorded) == sorted(names) else names


def _refuse_external_access_in_meta_graph(path: Path) -> None:
    """Refuse a SavedModel whose checkpoint is restored by other operators than those which restore.

    Restoring is all that runs while it is loaded. What the outputs need is judged when it is known.
    """
    part = saved_model.meta_graph(path)
    restore = part.saver_def.restore_op_name
    graph = Graph.from_def(part.graph_def)
    if node_of(restore) in graph.nodes:
        graph.prune([node_of(restore)])
        _refuse_external_access(path, needed_part(graph).to_def(), RESTORE_OPS)


def _freeze(path: Path, function: Any, specs: Any, names: Sequence[str]) -> FrozenModel:
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    try:
        concrete = _without_seeds(path, function.get_concrete_function(specs), len(names))
        frozen, graph_def = concrete, _frozen_in_place(concrete)
        if graph_def is None:
            frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
            graph_def = frozen.graph.as_graph_def()
    except InputError:
        raise
    except Exception as error:
        raise InputError(KEY, f"{path.name} cannot be frozen: {reason(error)}") from error
    outputs = sorted(concrete.structured_outputs, key=_natural)
    by_name = dict(zip(sorted(concrete.structured_outputs), frozen.outputs, strict=True))
    return FrozenModel(
        Graph.from_def(graph_def),
        # Captured tensors follow the arguments.
        tuple(_port(name, tensor) for name, tensor in zip(names, frozen.inputs[: len(names)], strict=True)),
        tuple(_port(name, by_name[name]) for name in outputs),
    )


def _without_seeds(path: Path, concrete: Any, inputs: int) -> Any:
    """A traced function without the seeds of random numbers that it advances, such as those of a dropout in an LSTM.

    Args:
        path: The model, for messages.
        concrete: The function.
        inputs: How many of its inputs are arguments; the others are captured variables.

    Raises:
        InputError: the model writes to a variable that holds no seed or counter: its calls depend on each other.
    """
    from tensorflow.python.eager import wrap_function

    writes = [op for op in concrete.graph.get_operations() if op.type in WRITES]
    if not writes:
        return concrete
    if not all(op.get_attr("dtype").is_integer for op in writes):
        raise InputError(
            KEY,
            f"{path.name} keeps state from call to call ({writes[0].name})",
            "a model that gets its state as an input and returns it; in Keras, layers without stateful=True",
        )
    # A returned tensor is an Identity that waits for all that the function writes.
    fetched = {
        name: output.op.inputs[0] if output.op.type == "Identity" else output
        for name, output in zip(sorted(concrete.structured_outputs), concrete.outputs, strict=True)
    }
    whole = wrap_function.WrappedFunction(concrete.graph, wrap_function.VariableHolder())
    return whole.prune(concrete.inputs[:inputs], fetched)


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


def _load_graph_def(path: Path, _: LoadOptions) -> FrozenModel:
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
    return _port_of(name, saved_model.TensorInfo(tensor_name(tensor.name), tensor.dtype, tensor.shape))


def _port_of(name: str, info: saved_model.TensorInfo) -> Port:
    if info.shape.rank is None:
        raise InputError(KEY, f"{name!r} has no known rank", "expected inputs and outputs of a known rank")
    spec = TensorSpec(name, tuple(info.shape.as_list()), np.dtype(info.dtype.as_numpy_dtype))
    return Port(spec, info.tensor)
