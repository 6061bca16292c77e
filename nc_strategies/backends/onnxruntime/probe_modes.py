"""Which quantization modes this engine executes on this processor, found by running them in a process of its own."""

from __future__ import annotations

import hashlib
import json
import logging
from functools import cache as once
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from nc_strategies.backends.onnxruntime.modes import SCHEMES, ModalQdqGraph
from nc_strategies.errors import EngineError, InputError
from nc_strategies.onnx_graph.graph import Graph
from nc_strategies.onnx_graph.interpreter import options, run, start
from nc_strategies.onnx_graph.qdq import GraphBuilder
from nc_strategies.onnx_graph.weights import WeightCache
from nc_strategies.runtime import cache, machine
from nc_strategies.runtime.child import run_child, serve
from nc_strategies.space import Config, OpScheme

log = logging.getLogger(__name__)
VERSION = 1
"""Version of the probe, a part of the cache's key: count it up when it changes."""
DEPTH, CHANNELS, ROWS = 160, 96, 3
"""Shape of the probe's product; its depth is no multiple of the largest block."""
TOLERANCE = 0.2
"""Largest error of the product relative to its size. 4-bit weights leave about 0.1; a wrong kernel leaves 1 or more."""


@once
def executed_schemes() -> frozenset[OpScheme]:
    """Schemes of `modes.SCHEMES` that the engine runs, and rightly. A missing kernel may end the process that asks."""
    name = f"modes-{_key()}.json"
    held = _read(cache.read(name))
    if held is None:
        held = []
        for number, scheme in enumerate(SCHEMES):
            try:
                answer = run_child(__name__, {"scheme": number}, "backend.modes", f"the probe of {scheme}")
            except InputError as error:
                log.info("%s is not offered: %s", scheme, error)
                continue
            if answer["error_of_product"] < TOLERANCE:
                held.append(number)
        cache.keep(name, json.dumps(held))
    return frozenset(SCHEMES[number] for number in held)


def _key() -> str:
    facts = [VERSION, ort.__version__, machine.identity(), [str(s) for s in SCHEMES]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _read(text: str | None) -> list[int] | None:
    try:
        found = json.loads(text or "")
        return found if all(isinstance(n, int) and 0 <= n < len(SCHEMES) for n in found) else None
    except (ValueError, TypeError):
        return None


def product_error(scheme: OpScheme) -> float:
    """Error of a small matrix product in a scheme, relative to its size.

    Raises:
        EngineError: the engine refuses it.
    """
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(DEPTH, CHANNELS)).astype(np.float32)
    x = rng.normal(size=(ROWS, DEPTH)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, DEPTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, CHANNELS])],
        [numpy_helper.from_array(weight, "w")],
    )
    prepared = Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    builder = GraphBuilder(prepared, WeightCache(prepared), ModalQdqGraph)
    model, _ = builder.build(Config((("product", scheme),)), lambda *_: (-1.0, 1.0))
    (y,) = run(start(model.SerializeToString(), options(1)), {"x": x})
    exact = x @ weight
    return float(np.linalg.norm(y - exact) / np.linalg.norm(exact))


def _work(request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"error_of_product": product_error(SCHEMES[request["scheme"]])}
    except EngineError as error:
        raise InputError("backend.modes", str(error)) from error


if __name__ == "__main__":
    serve(_work)
