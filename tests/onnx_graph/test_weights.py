"""Quantized weights that are kept: in every form they are those of the recovery in use."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from nc_strategies.onnx_graph.graph import prepare
from nc_strategies.onnx_graph.recovery import WeightRecovery
from nc_strategies.onnx_graph.weights import WeightCache


class Lowered(WeightRecovery):
    """Takes the integer below the nearest one."""

    def round(self, fused_op, weight, nearest, scale, low, high):
        return np.maximum(nearest - 1, low).astype(np.int8)


def product():
    """A Gemm whose weight has its output channels on axis 0."""
    weight = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], "g", transB=1)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6])],
        [numpy_helper.from_array(weight, "w")],
    )
    made = prepare(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    (op,) = (op for op in made.fused_ops.values() if op.weight is not None)
    return WeightCache(made), op


def columns_and_plain(cache, op):
    return cache.columns(op, "per_channel", False), cache.plain(op, "per_channel", False)[0].T


def test_turned_weights_follow_the_recovery_in_use():
    cache, op = product()
    before, _ = columns_and_plain(cache, op)
    cache.recover(Lowered(rounded={op.name}))
    after, plain = columns_and_plain(cache, op)
    np.testing.assert_array_equal(after, plain)
    assert (after < before).any()


def test_a_forgotten_weight_is_turned_anew():
    cache, op = product()
    recovery = WeightRecovery(rounded=set())
    cache.recover(recovery)
    before, _ = columns_and_plain(cache, op)
    cache._recovery = Lowered(rounded={op.name})  # as a method that begins to round this one operator
    cache.forget(op)
    after, plain = columns_and_plain(cache, op)
    np.testing.assert_array_equal(after, plain)
    assert (after < before).any()
