"""Trace of the Hessian by operator, from first derivatives of TensorFlow's graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.tensorflow.fused_ops import FusedOp
from nc_strategies.backends.tensorflow.graph import Graph
from nc_strategies.backends.tensorflow.import_tensorflow import reason, tensorflow
from nc_strategies.backends.tensorflow.loading import Port
from nc_strategies.backends.tensorflow.session import session_config
from nc_strategies.backends.tensorflow.weights import FULL
from nc_strategies.calibration.noise import LEAST_POWER
from nc_strategies.errors import EngineError
from nc_strategies.models.info import Batch


def sensitivity(
    graph: Graph,
    fused_ops: Mapping[str, FusedOp],
    inputs: Sequence[Port],
    outputs: Sequence[str],
    batch: Batch,
    threads: int,
    draws: int,
) -> dict[str, float]:
    """Average Hessian trace times squared weight error, by operator with a weight.

    The loss is half the mean over samples n of ``|f_n - f0_n|^2 / |f0_n|^2``: f is the first floating-point output, f0
    its value in fp32. At f = f0 its Hessian is exactly ``J^T J``, where J is the Jacobian of the scaled outputs, so
    that Hutchinson's estimate of the trace needs first derivatives only: the mean of ``|J^T v|^2`` over random vectors
    v of +1 and -1. Times the squared error of rounding a weight to int8 per output channel, divided by the number of
    weights, it predicts the noise-to-signal ratio of the output with only this weight in int8.

    Source: Dong et al., "HAWQ-V2: Hessian Aware trace-Weighted Quantization of Neural Networks", NeurIPS 2020,
    equations 5 to 8; Hutchinson, "A stochastic estimator of the trace of the influence matrix", Communications in
    Statistics 18 (1989).

    Args:
        graph: The simplified fp32 graph.
        fused_ops: Its fused operators by name.
        inputs: The model's inputs.
        outputs: Names of its output tensors.
        batch: Samples, by input name.
        threads: Threads per run.
        draws: Number of random vectors.

    Raises:
        EngineError: TensorFlow cannot differentiate or run the graph.
    """
    tf = tensorflow()
    weights = {n: value for n, op in fused_ops.items() if op.weight and (value := graph.value(op.weight)) is not None}
    rng, traces = np.random.default_rng(0), dict.fromkeys(weights, 0.0)
    try:
        with tf.Graph().as_default() as opened:
            tf.import_graph_def(graph.to_def(), name="")
            tensors = [opened.get_tensor_by_name(_full(name)) for name in outputs]
            output = next((tensor for tensor in tensors if tensor.dtype.is_floating), None)
            if output is None:
                raise EngineError("the model has no floating-point output to differentiate")
            variables = [opened.get_tensor_by_name(_full(fused_ops[name].weight)) for name in weights]
            vector = tf.compat.v1.placeholder(output.dtype, output.shape)
            gradients = tf.gradients(output, variables, vector, unconnected_gradients="zero")
            feeds = {_full(port.tensor): batch[port.spec.name] for port in inputs}
            with tf.compat.v1.Session(graph=opened, config=session_config(threads, "none")) as session:
                signal = session.run(output, feeds)
                scale = _scale(signal)
                for _ in range(draws):
                    drawn = rng.choice((-1.0, 1.0), signal.shape) * scale
                    found = session.run(gradients, {**feeds, vector: drawn.astype(signal.dtype)})
                    for name, gradient in zip(weights, found, strict=True):
                        traces[name] += float(np.square(gradient, dtype=np.float64).sum()) / draws
    except (LookupError, ValueError, tf.errors.OpError) as error:
        raise EngineError(f"the graph cannot be differentiated: {reason(error)}") from error
    return {
        name: trace / weights[name].size * _squared_error(weights[name], _kernel_axes(graph, fused_ops[name]))
        for name, trace in traces.items()
    }


def _scale(signal: NDArray[Any]) -> NDArray[np.float64]:
    """Factor of each sample's outputs, shape (N, 1, ...): the root of 1 / (N times the sample's power)."""
    power = np.square(signal.astype(np.float64)).reshape(len(signal), -1).sum(1)
    scale: NDArray[np.float64] = 1 / np.sqrt(len(signal) * np.maximum(power, LEAST_POWER))
    return scale.reshape(-1, *(1,) * (signal.ndim - 1))


def _kernel_axes(graph: Graph, op: FusedOp) -> tuple[int, ...]:
    """Axes of the weights of one output channel."""
    if op.op == "DepthwiseConv2dNative":
        return (0, 1)
    if op.op == "MatMul" and graph.nodes[op.name].attr["transpose_b"].b:
        return (1,)
    return ()


def _squared_error(weight: NDArray[Any], axes: tuple[int, ...]) -> float:
    """Squared error of rounding a weight to int8, symmetric per output channel, which is the last axis by default."""
    values = weight.astype(np.float64)
    largest = np.abs(values).max(axis=axes or tuple(range(values.ndim - 1)), keepdims=True)
    scale = np.maximum(largest, np.finfo(np.float32).tiny) / FULL
    return float(np.square(np.round(values / scale) * scale - values).sum())


def _full(tensor: str) -> str:
    return tensor if ":" in tensor else f"{tensor}:0"
