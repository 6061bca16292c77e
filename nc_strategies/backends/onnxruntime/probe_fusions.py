"""Which of the engine's own fusions slow a model down on this processor, found by running both forms.

The engine's optimizer joins a sum and the operator behind it into one kernel. Some of these kernels are slower than the
two that they replace: in onnxruntime 1.32 ``SkipLayerNormalization`` is not vectorized.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from dataclasses import dataclass
from functools import cache as once

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from nc_strategies.backends.onnxruntime.providers import CPU, Provider
from nc_strategies.onnx_graph.fuse import ENGINE
from nc_strategies.onnx_graph.interpreter import options, run, start
from nc_strategies.runtime import cache, machine


@dataclass(frozen=True)
class FusionProbe:
    """How a fused kernel is compared with the kernels that it replaces.

    Args:
        rows: Rows of the input, about the tokens of a sentence.
        width: Columns of the input, the width of a small encoder.
        runs: Runs of each form, by turns; their median is compared.
        least_ratio: Time of the fused kernel, relative to that of the others, from which it counts as slower. A ratio
            near 1 would change from one probe to the next.
        version: Version of the probe, a part of the cache's key.
    """

    rows: int = 64
    width: int = 384
    runs: int = 20
    least_ratio: float = 1.3
    version: int = 1


PROBE = FusionProbe()
FUSED_SUMS = {"LayerNormalization": "SkipLayerNormalization"}
"""Operator type to the engine's fused operator of a sum and that operator."""


@once
def slow_fusions(provider: Provider = CPU) -> frozenset[str]:
    """Operator types in `FUSED_SUMS` that run faster on a provider behind a sum of their own than fused with it."""
    facts = [PROBE.version, ort.__version__, machine.identity(), *provider.cache_key()]
    name = f"fusions-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}.json"
    held = _read(cache.read(name))
    if held is None:
        held = [kind for kind in FUSED_SUMS if ratio(kind, provider) >= PROBE.least_ratio]
        cache.keep(name, json.dumps(held))
    return frozenset(held)


def _read(text: str | None) -> list[str] | None:
    try:
        found = json.loads(text or "")
    except ValueError:
        return None
    return found if isinstance(found, list) and all(kind in FUSED_SUMS for kind in found) else None


def ratio(kind: str, provider: Provider = CPU) -> float:
    """Time of a sum fused with an operator, relative to the time of the two one after the other.

    Args:
        kind: A key of `FUSED_SUMS`, which has a scale and a shift.
        provider: Execution provider that runs the two forms.

    Raises:
        EngineError: the engine refuses one of the two.
    """
    sessions = [start(_model(kind, fused), options(1), provider.for_session()) for fused in (True, False)]
    rng = np.random.default_rng(0)
    feed = {name: rng.normal(size=(1, PROBE.rows, PROBE.width)).astype(np.float32) for name in ("x", "other")}
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(PROBE.runs):
        for session, taken in zip(sessions, seconds, strict=True):
            begun = time.perf_counter()
            run(session, feed)
            taken.append(time.perf_counter() - begun)
    return statistics.median(seconds[0]) / statistics.median(seconds[1])


def _model(kind: str, fused: bool) -> bytes:
    """A sum and an operator behind it, as one node or as two that the engine's optimizer leaves alone."""
    epsilon = {"epsilon": 1e-12}
    nodes = [
        helper.make_node("Sum", ["x", "other"], ["sum"]),
        helper.make_node(kind, ["sum", "scale", "shift"], ["y"], **epsilon),
    ]
    if fused:
        inputs = ["x", "other", "scale", "shift"]
        nodes = [helper.make_node(FUSED_SUMS[kind], inputs, ["y"], domain=ENGINE, **epsilon)]
    shape = [None, None, PROBE.width]
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "other")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.ones(PROBE.width, np.float32), name) for name in ("scale", "shift")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ENGINE, 1)]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return model
