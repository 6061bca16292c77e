"""One graph with an int8 and a floating-point branch per operator, selected at run time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from nc_strategies.backends.base import DualPrecisionSession
from nc_strategies.backends.onnxruntime.providers import CPU, Provider
from nc_strategies.backends.onnxruntime.session import OrtExecutable
from nc_strategies.models.info import Batch
from nc_strategies.onnx_graph.graph import FusedOp, Graph
from nc_strategies.onnx_graph.names import reads
from nc_strategies.onnx_graph.qdq import GraphBuilder, Ranges, opsets
from nc_strategies.space import Config, OpScheme

FLAGS = "ncs/int8"
"""Wanted name of the input that selects the branches."""


class OrtDualPrecisionSession(DualPrecisionSession):
    """See `DualPrecisionSession`. The int8 branch of an operator is built as if all others were in floating point.

    Args:
        builder: Builds the branches.
        config: Schemes of the int8 branches.
        ranges: Calibrated ranges.
        threads: Threads per run.
        provider: Execution provider of the session.

    Raises:
        EngineError: the engine refuses the graph.
    """

    def __init__(
        self, builder: GraphBuilder, config: Config, ranges: Ranges, threads: int, provider: Provider = CPU
    ) -> None:
        self._flags = builder.graph.fresh(FLAGS)
        known = builder.graph.fused_ops
        self.ops = tuple(name for name, scheme in config.ops if not scheme.is_float and name in known)
        model = _DualPrecisionGraph(builder, config, ranges, self.ops).model()
        self._flags = builder.graph.fresh(FLAGS)
        self._model = OrtExecutable(model.SerializeToString(), threads, provider=provider)

    def predict(self, batch: Batch, int8: Collection[str]) -> Sequence[NDArray[Any]]:
        """See `DualPrecisionSession.predict`."""
        return self._model.predict({**batch, self._flags: np.array([name in int8 for name in self.ops])})

    def close(self) -> None:
        """See `DualPrecisionSession.close`."""
        self._model.close()


def apart(
    graph: Graph, name: str, nodes: Sequence[onnx.NodeProto], added: Mapping[str, onnx.TensorProto], result: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto], str]:
    """The int8 branch of an operator under names of its own, so that it can stand beside the operator.

    Args:
        graph: The graph.
        name: The operator's name.
        nodes: The nodes of the branch, which are renamed.
        added: Its constants.
        result: Name of its result.

    Returns:
        The nodes, the constants, and the name of the result.
    """
    prefix = graph.fresh(f"{name}/int8") + "/"
    own = {output for node in nodes for output in node.output if output} | set(added)
    constants = []
    for node in nodes:
        node.name = graph.fresh(prefix + node.name)
        for names in (node.input, node.output):
            for index, tensor in enumerate(names):
                if tensor in own:
                    names[index] = graph.fresh(prefix + tensor)
    for constant, values in added.items():
        renamed = onnx.TensorProto()
        renamed.CopyFrom(values)
        renamed.name = graph.fresh(prefix + constant)
        constants.append(renamed)
    return list(nodes), constants, graph.fresh(prefix + result)


class _DualPrecisionGraph:
    def __init__(self, builder: GraphBuilder, config: Config, ranges: Ranges, ops: Sequence[str]) -> None:
        self.builder, self.config, self.ranges = builder, config, ranges
        self.graph: Graph = builder.graph
        self.fresh = self.graph.fresh
        self.flags = self.fresh(FLAGS)
        self.ops = {name: index for index, name in enumerate(ops)}
        self.nodes: list[onnx.NodeProto] = []
        self.added: list[onnx.TensorProto] = []

    def model(self) -> onnx.ModelProto:
        ends = {fused_op.output: fused_op for name, fused_op in self.graph.fused_ops.items() if name in self.ops}
        for node in self.graph.model.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            self.nodes.append(copy)
            fused_op = ends.get(node.output[0])
            if fused_op is not None:
                copy.output[0] = self.fresh(f"{fused_op.name}/float")
                self.switch(fused_op)
        source = self.graph.model
        used = {name for node in self.nodes for name in reads(node)} | self.graph.outputs
        initializers = [i for i in source.graph.initializer if i.name in used]
        flags = helper.make_tensor_value_info(self.flags, TensorProto.BOOL, [len(self.ops)])
        body = helper.make_graph(
            self.nodes,
            "switchable",
            [*source.graph.input, flags],
            list(source.graph.output),
            [*initializers, *self.added],
        )
        domains = {node.domain for node in self.nodes if node.domain not in ("", "ai.onnx")}
        return helper.make_model(body, opset_imports=opsets(source, domains), ir_version=source.ir_version)

    def switch(self, fused_op: FusedOp) -> None:
        """Add an operator's int8 branch and the node that selects between it and the floating-point branch."""
        number, flag, plain, switch = (
            self.fresh(f"{fused_op.name}/{end}") for end in ("number", "flag", "float", "switch")
        )
        self.constant(number, np.asarray(self.ops[fused_op.name], np.int64))
        self.nodes += [
            helper.make_node("Gather", [self.flags, number], [flag], axis=0),
            helper.make_node("Where", [flag, self.branch(fused_op), plain], [fused_op.output], name=switch),
        ]

    def branch(self, fused_op: FusedOp) -> str:
        """Add the int8 branch of an operator, from floating point to floating point; return its result's name."""
        scheme: OpScheme = self.config.schemes[fused_op.name]
        alone = Config(((fused_op.name, scheme),), self.config.options)
        nodes, added, result = self.builder.alone(fused_op, alone, self.ranges)
        nodes, constants, result = apart(self.graph, fused_op.name, nodes, added, result)
        self.added += constants
        self.nodes += nodes
        return result

    def constant(self, name: str, values: NDArray[Any]) -> None:
        self.added.append(onnx.numpy_helper.from_array(values, name))
