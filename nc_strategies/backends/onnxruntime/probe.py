"""Properties of this processor's int8 kernels, determined by running them."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
from onnx import TensorProto, helper

from nc_strategies.backends.onnxruntime.providers import CPU, Provider
from nc_strategies.onnx_graph.interpreter import open_session, options

DEPTH = 64
"""Length of the probe's dot products; more than one pair, so that a 16-bit addition of pairs can overflow."""


@cache
def saturates(provider: Provider = CPU) -> bool:
    """Whether products of uint8 activations and int8 weights saturate before they are accumulated in int32.

    Without VNNI, x86 kernels add pairs of products in 16 bits, where 255 * 127 * 2 overflows. With 7-bit weights the
    sum always fits (``reduce_range`` in onnxruntime's documentation, "Quantize ONNX models").

    Args:
        provider: Execution provider that runs the product.
    """
    weight = np.full((DEPTH, DEPTH), 127, np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [DEPTH, DEPTH])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [DEPTH, DEPTH])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    run = open_session(model.SerializeToString(), options(1), provider.for_session())
    (product,) = run.run(None, {"x": np.full((DEPTH, DEPTH), 255, np.uint8)})
    return bool(np.any(product != 255 * 127 * DEPTH))
