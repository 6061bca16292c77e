"""What a logarithm or a division reads must not become 0 in int8."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nc_strategies.backends.onnxruntime.backend import OnnxRuntimeBackend
from nc_strategies.backends.onnxruntime.settings import OnnxRuntimeSettings
from nc_strategies.models import ModelSource
from nc_strategies.space import Space

WIDTH = 16
END = {
    "logarithm": [("Log", ["s"], ["y"])],
    "reciprocal": [("Reciprocal", ["s"], ["y"])],
    "divisor": [("Div", ["energy", "s"], ["y"])],
    "divisor behind a root": [("Sqrt", ["s"], ["r"]), ("Div", ["energy", "r"], ["y"])],
    "logarithm behind a reshape": [
        ("Reshape", ["s", "halves"], ["r"]),
        ("Transpose", ["r"], ["t"]),
        ("Log", ["t"], ["y"]),
    ],
    "dividend": [("Exp", ["energy"], ["e"]), ("Div", ["s", "e"], ["y"])],
    "root": [("Sqrt", ["s"], ["y"])],
}
"""Steps behind the sum ``s`` of a nonnegative energy and a small number."""


@pytest.fixture
def opened(tmp_path):
    def make(end):
        value = helper.make_tensor_value_info
        steps = [("MatMul", ["x", "w"], ["product"]), ("Mul", ["product", "product"], ["energy"])]
        steps += [("Add", ["energy", "small"], ["s"]), *END[end]]
        constants = {"small": np.float32(1e-6), "halves": np.array([-1, 2, WIDTH // 2])}
        constants["w"] = np.random.default_rng(0).normal(size=(WIDTH, WIDTH)).astype(np.float32)
        graph = helper.make_graph(
            [helper.make_node(kind, given, made, name=made[0]) for kind, given, made in steps],
            "g",
            [value("x", TensorProto.FLOAT, [None, WIDTH])],
            [value("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()],
        )
        path = tmp_path / "model.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        backend = OnnxRuntimeBackend(OnnxRuntimeSettings(recovery="none"), 1)
        backend.load(ModelSource("model", {"onnx": path}))
        space = Space(backend.capabilities())
        x = np.random.default_rng(1).normal(size=(32, WIDTH)).astype(np.float32)
        backend.calibrate([{"x": x}])
        return backend, space, x

    return make


@pytest.mark.parametrize(
    "end", ["logarithm", "reciprocal", "divisor", "divisor behind a root", "logarithm behind a reshape"]
)
def test_a_sum_before_a_logarithm_or_in_a_divisor_is_in_int8_on_request_only(opened, end):
    backend, space, x = opened(end)
    assert [op.name for op in space.ops.values() if op.opt_in] == ["s"]
    # In int8 that sum is 0 for energies below half a step, and what follows is not finite.
    offered = next(op for op in backend.capabilities().ops if op.name == "s").schemes
    asked = space.default().with_ops({"s": next(scheme for scheme in offered if not scheme.is_float)})
    for config, finite in ((space.default(), True), (asked, False)):
        model = backend.build(config)
        assert np.isfinite(model.predict({"x": x})[0]).all() == finite
        assert ("s" in model.executed().int8_names) != finite
        model.close()


@pytest.mark.parametrize("end", ["dividend", "root"])
def test_a_sum_that_may_be_zero_is_in_int8(opened, end):
    _, space, _ = opened(end)
    assert not space.ops["s"].opt_in
    assert "s" in space.default().int8_ops
