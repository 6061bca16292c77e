"""What ONNX allows and the later steps do not look for, written in plain operators and tensors."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import GraphProto, SparseTensorProto, TensorProto, inliner, numpy_helper

from nc_strategies.onnx_graph.names import bodies


def expand(model: onnx.ModelProto) -> None:
    """Replace a model's local functions by their nodes, and its sparse tensors by dense ones.

    onnxruntime does both when it opens a model. Its optimized graph lacks the sparse tensors, though, and functions
    that it has not inlined would hide operators and types.

    Args:
        model: Changed in place.
    """
    if model.functions:
        model.CopyFrom(inliner.inline_local_functions(model))
    _dense(model.graph)


def _dense(graph: GraphProto) -> None:
    for sparse in graph.sparse_initializer:
        graph.initializer.append(dense(sparse, sparse.values.name))
    del graph.sparse_initializer[:]
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "sparse_value":
                value = onnx.helper.make_attribute("value", dense(attribute.sparse_tensor, node.output[0]))
                attribute.CopyFrom(value)
        for body in bodies(node):
            _dense(body)


def dense(sparse: SparseTensorProto, name: str) -> TensorProto:
    """A sparse tensor as a dense one. Its indices are positions in the flat tensor, or one row per value."""
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    full = np.zeros(tuple(sparse.dims), values.dtype)
    full[np.unravel_index(indices, full.shape) if indices.ndim == 1 else tuple(indices.T)] = values
    return numpy_helper.from_array(full, name)
