"""Which quantization modes this engine executes on this processor, found by running them in a process of its own."""

from __future__ import annotations

import hashlib
import json
import logging
from functools import cache as once
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from nc_strategies.backends.onnxruntime.modes import ModalQdqGraph
from nc_strategies.backends.onnxruntime.other_ops import LEAST_EMBEDDING
from nc_strategies.backends.onnxruntime.providers import CPU, Provider
from nc_strategies.backends.onnxruntime.schemes import DYNAMIC_SCHEME, SCHEMES, WEIGHT_ONLY_SCHEMES
from nc_strategies.errors import EngineError, InputError
from nc_strategies.models.info import Batch
from nc_strategies.onnx_graph.graph import Graph
from nc_strategies.onnx_graph.interpreter import options, run, start
from nc_strategies.onnx_graph.qdq import GraphBuilder
from nc_strategies.onnx_graph.weights import WeightCache
from nc_strategies.runtime import cache, machine
from nc_strategies.runtime.child import run_child, serve
from nc_strategies.space import Config, OpScheme

log = logging.getLogger(__name__)
VERSION = 2
"""Version of the probe, a part of the cache's key: count it up when it changes."""
CANDIDATES = {"MatMul": SCHEMES, "Gather": WEIGHT_ONLY_SCHEMES, "LSTM": (DYNAMIC_SCHEME,)}
"""Operator type to the schemes that are tried. ``MatMul`` stands for every product with one constant matrix."""
UNITS, WIDTH = 24, 128
"""Hidden units of the probe's LSTM, and columns of its embedding."""
DEPTH, CHANNELS, ROWS = 160, 96, 3
"""Shape of the probe's product; its depth is no multiple of the largest block."""
TOLERANCE = 0.2
"""Largest error of the product relative to its size. 4-bit weights leave about 0.1; a wrong kernel leaves 1 or more."""


@once
def executed_schemes(kind: str = "MatMul", provider: Provider = CPU) -> frozenset[OpScheme]:
    """Schemes that the engine runs, and rightly, for a type of operator; a missing kernel may end the asking process.

    Args:
        kind: A key of `CANDIDATES`.
        provider: Execution provider that runs the operator.
    """
    name = f"modes-{_key(kind, provider)}.json"
    schemes = CANDIDATES[kind]
    held = _read(cache.read(name), len(schemes))
    if held is None:
        held = []
        for number, scheme in enumerate(schemes):
            try:
                request = {"kind": kind, "scheme": number, "provider": [provider.name, provider.options]}
                answer = run_child(__name__, request, "backend.modes", f"the probe of {kind}: {scheme}")
            except InputError as error:
                log.info("%s is not offered for %s: %s", scheme, kind, error)
                continue
            if answer["error_of_product"] < TOLERANCE:
                held.append(number)
        cache.keep(name, json.dumps(held))
    return frozenset(schemes[number] for number in held)


def _key(kind: str, provider: Provider = CPU) -> str:
    facts = [VERSION, ort.__version__, machine.identity(), kind, [str(s) for s in CANDIDATES[kind]]]
    facts += provider.cache_key()
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _read(text: str | None, count: int) -> list[int] | None:
    try:
        found = json.loads(text or "")
        return found if all(isinstance(n, int) and 0 <= n < count for n in found) else None
    except (ValueError, TypeError):
        return None


def product_error(scheme: OpScheme) -> float:
    """Error of a small matrix product in a scheme, relative to its size.

    Raises:
        EngineError: the engine refuses it.
    """
    return operator_error("MatMul", scheme)


def operator_error(kind: str, scheme: OpScheme, provider: Provider = CPU) -> float:
    """Error of a small operator in a scheme, relative to the size of its result in floating point.

    Args:
        kind: A key of `CANDIDATES`.
        scheme: A scheme of that type of operator.
        provider: Execution provider that runs it.

    Raises:
        EngineError: the engine refuses it.
    """
    rng = np.random.default_rng(0)
    model, feed = {"MatMul": _product, "Gather": _embedding, "LSTM": _lstm}[kind](rng)
    prepared = Graph(model)
    builder = GraphBuilder(prepared, WeightCache(prepared), ModalQdqGraph)
    made, _ = builder.build(Config((("probe", scheme),)), lambda *_: (-1.0, 1.0))
    y, exact = (run(start(m.SerializeToString(), options(1), provider.for_session()), feed)[0] for m in (made, model))
    return float(np.linalg.norm(y - exact) / np.linalg.norm(exact))


def _model(node: onnx.NodeProto, source: onnx.ValueInfoProto, **constants: NDArray[Any]) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node],
        "probe",
        [source],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _product(rng: np.random.Generator) -> tuple[onnx.ModelProto, Batch]:
    weight = rng.normal(size=(DEPTH, CHANNELS))
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, DEPTH])
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="probe")
    return _model(node, source, w=weight), {"x": rng.normal(size=(ROWS, DEPTH)).astype(np.float32)}


def _embedding(rng: np.random.Generator) -> tuple[onnx.ModelProto, Batch]:
    weight = rng.normal(size=(LEAST_EMBEDDING // WIDTH, WIDTH))
    source = helper.make_tensor_value_info("x", TensorProto.INT64, [None, ROWS])
    node = helper.make_node("Gather", ["w", "x"], ["y"], name="probe")
    return _model(node, source, w=weight), {"x": rng.integers(0, len(weight), (2, ROWS))}


def _lstm(rng: np.random.Generator) -> tuple[onnx.ModelProto, Batch]:
    weights = {
        "w": rng.normal(size=(1, 4 * UNITS, DEPTH)) / DEPTH**0.5,
        "r": rng.normal(size=(1, 4 * UNITS, UNITS)) / UNITS**0.5,
        "b": rng.normal(size=(1, 8 * UNITS)),
    }
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 1, DEPTH])
    node = helper.make_node("LSTM", ["x", "w", "r", "b"], ["y"], name="probe", hidden_size=UNITS)
    return _model(node, source, **weights), {"x": rng.normal(size=(ROWS, 1, DEPTH)).astype(np.float32)}


def _work(request: dict[str, Any]) -> dict[str, Any]:
    kind = request["kind"]
    try:
        name, pairs = request["provider"]
        provider = Provider(name, tuple((str(key), str(value)) for key, value in pairs))
        return {"error_of_product": operator_error(kind, CANDIDATES[kind][request["scheme"]], provider)}
    except EngineError as error:
        raise InputError("backend.modes", str(error)) from error


if __name__ == "__main__":
    serve(_work)
