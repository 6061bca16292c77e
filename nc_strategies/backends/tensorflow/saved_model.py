"""Loading of one signature of a SavedModel, of TensorFlow 1 or 2, as a graph without variables.

The graph, the signatures and the checkpoint are the part of a SavedModel that all versions of TensorFlow write and read
alike (https://www.tensorflow.org/guide/saved_model). The Python objects which ``tf.saved_model.load`` restores as well
are left alone: optimizers of older versions have no counterpart today.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nc_strategies.backends.tensorflow.graph import Graph, node_of, tensor_name
from nc_strategies.backends.tensorflow.import_tensorflow import reason, tensorflow
from nc_strategies.backends.tensorflow.inline import inline_calls, needed_part
from nc_strategies.errors import InputError
from nc_strategies.models.keras_objects import ORDER_FILE

KEY = "model.path"
SIGNATURE_KEY = "model.signature"
DEFAULT_SIGNATURE = "serving_default"
TAG = "serve"
NO_SIGNATURES = frozenset({"__saved_model_init_op", "__saved_model_train_op"})
"""Entries of the signatures that name operators to run, not functions."""
VARIABLES = frozenset({"VarHandleOp", "VariableV2", "Variable"})


class MissingVariables(Exception):
    """The checkpoint's restoring operators leave variables without a value which the signature reads.

    Keras 3 writes such a SavedModel where one of its models is a part of a ``tf.Module``: the Python objects alone know
    which variable is which.
    """


@dataclass(frozen=True)
class SignatureGraph:
    """One signature of a SavedModel.

    Args:
        graph: What its outputs need, without variables and calls of functions.
        inputs: Name to tensor, type and shape.
        outputs: The same of the outputs.
        name: The signature's name.
    """

    graph: Graph
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    name: str


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a signature.

    Args:
        tensor: Its name in the graph.
        dtype: Its DType.
        shape: Its TensorShape; of the graph where the signature knows less.
    """

    tensor: str
    dtype: Any
    shape: Any


def load_function(path: Path, signature: str) -> tuple[Any, str, Any]:
    """Load one signature of a SavedModel of TensorFlow 2 with its Python objects.

    Returns:
        The signature's function, its name, and the object that has to live as long as the function is used.

    Raises:
        InputError: TensorFlow cannot load it.
    """
    try:
        loaded = tensorflow().saved_model.load(str(path))
        found = {name: loaded.signatures[name] for name in loaded.signatures}
    except Exception as error:
        raise InputError(KEY, f"the variables of {path} cannot be read: {reason(error)}") from error
    name = signature or (DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in found else next(iter(found)))
    return found[name], name, loaded


def load_signature(path: Path, signature: str) -> SignatureGraph:
    """Load one signature of a SavedModel. Nothing but the restoring of its checkpoint is run.

    Args:
        path: The folder.
        signature: The signature's name; empty for ``serving_default``, or the only one there is.

    Raises:
        InputError: it is not a SavedModel, it has no such signature, or its variables cannot be read.
        MissingVariables: see there.
    """
    from tensorflow.python.saved_model import loader_impl

    tf = tensorflow()
    try:
        loader = loader_impl.SavedModelLoader(str(path))
        meta = pick_meta_graph(loader.saved_model.meta_graphs)
        name = _pick_signature(path, meta.signature_def, signature)
        graph = tf.Graph()
        saver, _ = loader.load_graph(graph, list(meta.meta_info_def.tags))
        inputs = _tensors(graph, meta.signature_def[name].inputs)
        outputs = _tensors(graph, meta.signature_def[name].outputs)
    except InputError:
        raise
    except Exception as error:
        raise InputError(KEY, f"{path} is not a SavedModel that TensorFlow can read: {reason(error)}") from error
    plain = _plain(Graph.from_def(graph.as_graph_def()))
    fed, replaced = _feed_placeholders(plain, inputs)
    replaced |= inline_calls(plain)
    ends = {key: _moved(info, replaced) for key, info in outputs.items()}
    keep = [node_of(info.tensor) for info in (*ends.values(), *fed.values())]
    plain.prune(keep)
    plain = needed_part(plain)
    if any(node.op in VARIABLES for node in plain.nodes.values()):
        plain = _freeze(path, loader, graph, saver, plain, keep)
    return SignatureGraph(plain, fed, ends, name)


def recorded_order(path: Path) -> dict[str, Any]:
    """Names of inputs and outputs in the model's order, as this project records them; a signature keeps no order."""
    side = path / ORDER_FILE
    try:
        known = json.loads(side.read_text(encoding="utf-8")) if side.exists() else {}
    except (OSError, ValueError) as error:
        raise InputError(KEY, f"{side} cannot be read ({reason(error)})") from error
    return known if isinstance(known, dict) else {}


def meta_graph(path: Path) -> Any:
    """The ``MetaGraphDef`` for inference; nothing is loaded.

    Raises:
        InputError: it is not a SavedModel.
    """
    from tensorflow.python.saved_model import loader_impl

    try:
        saved = loader_impl.parse_saved_model(str(path))
    except Exception as error:
        raise InputError(KEY, f"{path} is not a SavedModel: {reason(error)}") from error
    return pick_meta_graph(saved.meta_graphs)


def pick_meta_graph(meta_graphs: Any) -> Any:
    """The graph for inference: the one tagged ``serve`` and nothing else, or ``serve``, or the first one."""
    return min(meta_graphs, key=lambda meta: (TAG not in meta.meta_info_def.tags, len(meta.meta_info_def.tags)))


def _pick_signature(path: Path, signatures: Mapping[str, Any], asked: str) -> str:
    names = [name for name in sorted(signatures) if name not in NO_SIGNATURES and signatures[name].outputs]
    listed = f"it has: {', '.join(names) or 'none'}"
    if asked:
        if asked not in names:
            raise InputError(SIGNATURE_KEY, f"{path} has no signature {asked!r}", listed)
        return asked
    if DEFAULT_SIGNATURE in names:
        return DEFAULT_SIGNATURE
    if len(names) != 1:
        many = "several signatures, none of them" if names else "no signature"
        raise InputError(
            SIGNATURE_KEY,
            f"{path} has {many} {DEFAULT_SIGNATURE!r}",
            f"{listed}; choose one with model.signature=NAME" if names else listed,
        )
    return names[0]


def _tensors(graph: Any, infos: Mapping[str, Any]) -> dict[str, TensorInfo]:
    tf = tensorflow()
    tensors = {}
    for key, info in infos.items():
        if info.WhichOneof("encoding") != "name":
            raise ValueError(f"{key!r} is a sparse or composite tensor")
        tensor = graph.get_tensor_by_name(info.name)
        stated = tf.TensorShape(None if info.tensor_shape.unknown_rank else info.tensor_shape)
        shape = tensor.shape if tensor.shape.rank is not None else stated
        tensors[key] = TensorInfo(tensor_name(info.name), tensor.dtype.base_dtype, shape)
    return tensors


def _plain(graph: Graph) -> Graph:
    """The graph without what ties nodes to devices and to each other."""
    for node in graph.nodes.values():
        node.device = ""
        for key in ("_class", "_output_shapes"):
            node.attr.pop(key, None)
    return graph


def _feed_placeholders(graph: Graph, inputs: Mapping[str, TensorInfo]) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Put a placeholder in the place of each input that is computed in the graph, as signatures of TensorFlow 1 may.

    Returns:
        The inputs, and the tensors that placeholders replace.
    """
    fed: dict[str, TensorInfo] = {}
    replaced: dict[str, str] = {}
    for key, info in inputs.items():
        tensor = info.tensor
        node = graph.nodes[node_of(tensor)]
        if node.op != "Placeholder":
            tensor = graph.add("Placeholder", graph.free_name(f"input/{key}"), [], dtype=info.dtype, shape=info.shape)
            replaced[info.tensor] = tensor
        elif node.attr["shape"].shape.unknown_rank and info.shape.rank is not None:
            node.attr["shape"].shape.CopyFrom(info.shape.as_proto())
        fed[key] = TensorInfo(tensor, info.dtype, info.shape)
    graph.rewire(replaced)
    return fed, replaced


def _moved(info: TensorInfo, replaced: Mapping[str, str]) -> TensorInfo:
    tensor = info.tensor
    while tensor in replaced:
        tensor = replaced[tensor]
    return TensorInfo(tensor, info.dtype, info.shape)


def _freeze(path: Path, loader: Any, graph: Any, saver: Any, plain: Graph, keep: list[str]) -> Graph:
    """Replace variables by their values of the checkpoint."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_from_session_graph

    tf = tensorflow()
    v1 = tf.compat.v1
    try:
        with graph.as_default():
            _add_reads(graph, plain)
        with v1.Session(graph=graph) as session:
            loader.restore_variables(session, saver)
            frozen = convert_variables_to_constants_from_session_graph(session, plain.to_def(), keep)
    except (tf.errors.FailedPreconditionError, tf.errors.NotFoundError) as error:
        raise MissingVariables(reason(error)) from error
    except Exception as error:
        raise InputError(KEY, f"the variables of {path} cannot be read: {reason(error)}") from error
    return Graph.from_def(frozen)


def _add_reads(graph: Any, plain: Graph) -> None:
    """Add the operator by which TensorFlow's conversion reads a variable, where a graph was written without it."""
    tf = tensorflow()
    for node in plain.nodes.values():
        name = f"{node.name}/Read/ReadVariableOp"
        if node.op != "VarHandleOp":
            continue
        try:
            graph.get_operation_by_name(name)
        except KeyError:
            handle = graph.get_operation_by_name(node.name).outputs[0]
            with tf.name_scope(f"{node.name}/Read/"):
                tf.raw_ops.ReadVariableOp(
                    resource=handle, dtype=tf.as_dtype(node.attr["dtype"].type), name="ReadVariableOp"
                )
