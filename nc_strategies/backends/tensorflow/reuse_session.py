"""One graph with an int8 and a floating-point branch per operator, selected at run time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.base import DualPrecisionSession
from nc_strategies.backends.tensorflow.build import GraphBuilder
from nc_strategies.backends.tensorflow.fused_ops import FusedOp
from nc_strategies.backends.tensorflow.graph import Node
from nc_strategies.backends.tensorflow.import_tensorflow import tensorflow
from nc_strategies.backends.tensorflow.loading import Port
from nc_strategies.backends.tensorflow.session import SessionExecutable
from nc_strategies.models.info import Batch, TensorSpec

FLAGS = "nc_strategies/int8"


class DualPrecisionBuilder(GraphBuilder):
    """Builds a graph with an int8 and a floating-point branch per operator, between floating-point tensors."""

    def switched(self) -> tuple[Any, tuple[str, ...], tuple[str, ...]]:
        """Build the graph.

        Returns:
            The GraphDef, the tensors to fetch, and the operators with two branches in the order of their flags.
        """
        tf = tensorflow()
        self._fused_floats, self._algorithms, self._range_source = {}, {}, {}
        ops = tuple(fused_op.name for fused_op in self._fused_ops.values())
        weighted = set(ops)
        self._out.add("Placeholder", FLAGS, [], dtype=tf.bool, shape=tf.TensorShape([len(ops)]))
        self._out.constant(f"{FLAGS}/axis", np.array(0, np.int32))
        for node in self._order:
            self._emit_float(node)
            if node.name in weighted:
                self._rename_float(node)
            if node.name in self._fused_ops:
                self._switch(self._fused_ops[node.name], ops.index(self._fused_ops[node.name].name))
        outputs = []
        for index, tensor in enumerate(self._parts.outputs):
            name = self._out.free_name(f"output/{index}")
            dtype = tf.as_dtype(self._dtype_of(tensor))
            outputs.append(self._out.add("Identity", name, [self._as_float(tensor)], T=dtype))
        feeds = [name for name, node in self._out.nodes.items() if node.op == "Placeholder"]
        self._out.prune([*outputs, *feeds])
        return self._out.to_def(), tuple(outputs), ops

    def _rename_float(self, node: Node) -> None:
        """Rename a floating-point operator, because the int8 branch takes its name."""
        copy = self._out.nodes.pop(node.name)
        copy.name = f"{node.name}/float"
        self._out.nodes[copy.name] = copy
        self._floats[node.name] = copy.name

    def _switch(self, fused_op: FusedOp, number: int) -> None:
        tf, out, stem = tensorflow(), self._out, f"{fused_op.name}/switch"
        plain = self._floats.pop(fused_op.output, fused_op.output)
        self._quantized.clear()
        self._emit_fused_op(fused_op)
        int8 = self._as_float(fused_op.output)
        self._quantized.clear()
        out.constant(f"{stem}/number", np.array(number, np.int32))
        out.add(
            "GatherV2",
            f"{stem}/flag",
            [FLAGS, f"{stem}/number", f"{FLAGS}/axis"],
            Tparams=tf.bool,
            Tindices=tf.int32,
            Taxis=tf.int32,
            batch_dims=0,
        )
        self._floats[fused_op.output] = out.add("SelectV2", stem, [f"{stem}/flag", int8, plain], T=tf.float32)


class TfDualPrecisionSession(DualPrecisionSession):
    """See `DualPrecisionSession`.

    Args:
        graph_def: The graph.
        inputs: The model's inputs.
        outputs: Tensors to fetch.
        ops: Operators in the order of their flags.
        threads: Threads per run.

    Raises:
        EngineError: TensorFlow does not accept the graph.
    """

    def __init__(
        self, graph_def: Any, inputs: Sequence[Port], outputs: Sequence[str], ops: tuple[str, ...], threads: int
    ) -> None:
        self.ops = ops
        flags = Port(TensorSpec(FLAGS, (len(ops),), np.dtype(np.bool_)), FLAGS)
        self._model = SessionExecutable(graph_def, [*inputs, flags], outputs, threads, "switchable", rewriting="none")

    def predict(self, batch: Batch, int8: Collection[str]) -> Sequence[NDArray[Any]]:
        """See `DualPrecisionSession.predict`."""
        return self._model.predict({**batch, FLAGS: np.array([name in int8 for name in self.ops])})

    def close(self) -> None:
        """See `DualPrecisionSession.close`."""
        self._model.close()
