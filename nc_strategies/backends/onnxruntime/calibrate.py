"""One pass of the floating-point graph over calibration data."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnxruntime as ort

from nc_strategies.calibration.histogram import Histogram
from nc_strategies.calibration.state import Look
from nc_strategies.errors import InputError
from nc_strategies.models.info import Batch
from nc_strategies.onnx_graph.graph import Graph
from nc_strategies.onnx_graph.interpreter import open_session, options


def collect(graph: Graph, batches: Sequence[Batch], threads: int, look: Look) -> dict[str, Histogram]:
    """Collect a histogram per activation, by making every activation an output of the graph.

    Args:
        graph: The floating-point graph.
        batches: Calibration data.
        threads: Threads per run.
        look: Called with the name and the values of each activation, per batch.

    Raises:
        InputError: an activation is not finite.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    names = sorted(
        {name for op in graph.fused_ops.values() for name in (*op.inputs, op.raw, op.output)}
        | {source for source, _ in graph.scaled.values()}
    )
    inputs = {i.name for i in model.graph.input}
    have = {o.name for o in model.graph.output}
    for name in names:
        if name not in inputs | have:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    chosen = options(max(threads, 1))
    chosen.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    run = open_session(model.SerializeToString(), chosen)
    produced = [n for n in names if n not in inputs]
    histograms = {name: Histogram() for name in names}
    for batch in batches:
        values = dict(zip(produced, run.run(produced, dict(batch)), strict=True)) | dict(batch)
        for name in names:
            try:
                histograms[name].update(values[name])
            except ValueError:
                raise InputError(
                    "data", f"the fp32 model computes NaN or infinity in tensor {name!r} on calibration data"
                ) from None
            look(name, values[name])
    return histograms
