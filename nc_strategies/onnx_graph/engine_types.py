"""Element types and shapes of tensors, as the engine infers them.

ONNX's own shape inference stops at operators of other domains, such as those that onnxruntime's transformer optimizer
writes: it knows nothing of what they return, nor of anything behind them. The engine has the definitions of its own
operators.
"""

from __future__ import annotations

import logging

import onnx
import onnxruntime as ort
from onnx import TensorProto

from nc_strategies.errors import EngineError
from nc_strategies.onnx_graph import interpreter

log = logging.getLogger(__name__)
ELEMENT_TYPES = {
    "tensor(float)": TensorProto.FLOAT,
    "tensor(float16)": TensorProto.FLOAT16,
    "tensor(bfloat16)": TensorProto.BFLOAT16,
    "tensor(double)": TensorProto.DOUBLE,
    "tensor(int8)": TensorProto.INT8,
    "tensor(uint8)": TensorProto.UINT8,
    "tensor(int16)": TensorProto.INT16,
    "tensor(uint16)": TensorProto.UINT16,
    "tensor(int32)": TensorProto.INT32,
    "tensor(uint32)": TensorProto.UINT32,
    "tensor(int64)": TensorProto.INT64,
    "tensor(uint64)": TensorProto.UINT64,
    "tensor(bool)": TensorProto.BOOL,
    "tensor(string)": TensorProto.STRING,
}
"""The engine's names of element types."""


def inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model with the types and shapes of its tensors: ONNX's shape inference, and the engine's where that stops."""
    model = onnx.shape_inference.infer_shapes(model)
    graph = model.graph
    known = {v.name for v in (*graph.input, *graph.output, *graph.value_info) if v.type.tensor_type.elem_type}
    missing = [name for node in graph.node for name in node.output if name and name not in known]
    if not missing or all(node.domain in ("", "ai.onnx") for node in graph.node):
        return model
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in missing)
    chosen = interpreter.options_to_look(ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    try:
        session = interpreter.start(watched.SerializeToString(), chosen)
    except EngineError as error:
        log.info("the types of %d tensors stay unknown: %s", len(missing), error)
        return model
    wanted = set(missing)
    stale = [v for v in graph.value_info if v.name in wanted]
    for value in stale:
        graph.value_info.remove(value)
    for output in session.get_outputs():
        if output.name in wanted and output.type in ELEMENT_TYPES:
            # The engine reports no dimensions both for a scalar and for an unknown shape: the latter is assumed.
            shape = [d if isinstance(d, int) and d > 0 else None for d in output.shape] or None
            graph.value_info.append(onnx.helper.make_tensor_value_info(output.name, ELEMENT_TYPES[output.type], shape))
    return onnx.shape_inference.infer_shapes(model)
