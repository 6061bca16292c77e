"""Models of one large operator in ONNX, on which an engine's int8 ceiling is measured."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nc_strategies.backends.ceiling import INPUT, CeilingCase
from nc_strategies.models import ModelSource

SHAPES = {"Conv": ((1, 256, 14, 14), (256, 256, 3, 3)), "MatMul": ((128, 1024), (1024, 1024))}
"""Operator to the shapes of its input and weight: 116 and 134 million multiplications, on tensors of 50,000 and
131,000 elements."""
ATTRIBUTES: dict[str, dict[str, Any]] = {"Conv": {"pads": [1, 1, 1, 1]}, "MatMul": {}}
OPSET, IR_VERSION = 13, 8
SPREAD = 0.02
"""Standard deviation of the weights."""


def ceiling_cases() -> list[CeilingCase]:
    """A convolution and a matrix product."""
    return [CeilingCase(kind, shape, functools.partial(_write, kind)) for kind, (shape, _) in SHAPES.items()]


def _write(operator: str, folder: Path) -> ModelSource:
    shape, weight_shape = SHAPES[operator]
    weight = (np.random.default_rng(1).standard_normal(weight_shape) * SPREAD).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node(operator, [INPUT, "w"], ["y"], name=operator, **ATTRIBUTES[operator])],
        operator,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    path = folder / "model.onnx"
    path.write_bytes(onnx.shape_inference.infer_shapes(model).SerializeToString())
    return ModelSource(operator, {"onnx": path})
