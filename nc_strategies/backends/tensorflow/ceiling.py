"""How much faster than fp32 TensorFlow's int8 operators can be on this machine."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from nc_strategies.backends.base import Backend
from nc_strategies.backends.ceiling import INPUT, Ceiling, CeilingCase, cache_name, kept_or_measured, measure_ceiling
from nc_strategies.backends.tensorflow import probe
from nc_strategies.backends.tensorflow.graph import Graph
from nc_strategies.backends.tensorflow.import_tensorflow import tensorflow, use_threads
from nc_strategies.models import ModelSource

SHAPES = {"Conv2D": ((1, 14, 14, 256), (3, 3, 256, 256)), "MatMul": ((128, 1024), (1024, 1024))}
"""Operator to the shapes of its input and weight: 116 and 134 million multiplications, on tensors of 50,000 and
131,000 elements."""
SPREAD = 0.02
"""Standard deviation of the weights."""


def measured(backend: Backend, again: bool = False) -> Ceiling | None:
    """The ceiling of a backend with its settings and threads; see `Backend.ceiling`."""

    def measure() -> Ceiling:
        use_threads(backend.threads)  # Imports TensorFlow, which is no part of the time that is measured in.
        kernels = probe.kernels()  # Tried in a child process: one that aborts is not offered, and not run here.
        saturates = any(kernels.saturates(kind, dtype) for kind in SHAPES for dtype in probe.DTYPES)
        cases = [
            CeilingCase(operator, shape, functools.partial(_write, operator, dtype))
            for dtype in probe.DTYPES
            for operator, (shape, _) in SHAPES.items()
        ]
        return measure_ceiling(
            lambda: type(backend)(backend.settings, backend.threads), cases, saturates, backend.threads
        )

    name = cache_name("tensorflow", probe.library(), backend.threads, probe.kernel_settings())
    return kept_or_measured(name, measure, again)


def _write(operator: str, dtype: str, folder: Path) -> ModelSource:
    """The model of an operator; behind a Relu it reads uint8, else int8."""
    tf = tensorflow()
    shape, weight_shape = SHAPES[operator]
    graph = Graph()
    graph.add("Placeholder", INPUT, [], dtype=tf.float32, shape=tf.TensorShape(shape))
    source = graph.add("Relu", "relu", [INPUT], T=tf.float32) if dtype == "uint8" else INPUT
    graph.constant("w", (np.random.default_rng(1).standard_normal(weight_shape) * SPREAD).astype(np.float32))
    if operator == "MatMul":
        graph.add(operator, "y", [source, "w"], T=tf.float32, transpose_a=False, transpose_b=False)
    else:
        graph.add(
            operator,
            "y",
            [source, "w"],
            T=tf.float32,
            strides=[1, 1, 1, 1],
            padding="SAME",
            data_format="NHWC",
            dilations=[1, 1, 1, 1],
        )
    path = folder / "model.pb"
    path.write_bytes(graph.to_def().SerializeToString())
    return ModelSource(operator, {"graph_def": path})
