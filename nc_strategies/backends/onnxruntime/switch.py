"""One graph with both forms of every operator, chosen from at run time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from nc_strategies.backends.base import Batch, Switchable
from nc_strategies.backends.onnxruntime.assemble import Assembler, Ranges
from nc_strategies.backends.onnxruntime.graph import Graph, Unit
from nc_strategies.backends.onnxruntime.session import OrtExecutable
from nc_strategies.space import Config, OpScheme

FLAGS = "ncs/int8"


class OrtSwitchable(Switchable):
    """See `Switchable`; an operator's int8 branch is the one it has where all others are in floating point.

    Args:
        assembler: Makes the branches.
        config: Schemes of the int8 forms.
        ranges: Calibrated ranges.
        threads: Threads for one run.

    Raises:
        EngineError: the engine refuses the graph.
    """

    def __init__(self, assembler: Assembler, config: Config, ranges: Ranges, threads: int) -> None:
        self.ops = tuple(name for name, scheme in config.ops if not scheme.is_float)
        model = _Switched(assembler, config, ranges, self.ops).model()
        self._model = OrtExecutable(model.SerializeToString(), threads)

    def predict(self, batch: Batch, int8: Collection[str]) -> Sequence[NDArray[Any]]:
        """See `Switchable.predict`."""
        return self._model.predict({**batch, FLAGS: np.array([name in int8 for name in self.ops])})

    def close(self) -> None:
        """See `Switchable.close`."""
        self._model.close()


class _Switched:
    def __init__(self, assembler: Assembler, config: Config, ranges: Ranges, ops: Sequence[str]) -> None:
        self.assembler, self.config, self.ranges = assembler, config, ranges
        self.graph: Graph = assembler.graph
        self.ops = {name: index for index, name in enumerate(ops)}
        self.nodes: list[onnx.NodeProto] = []
        self.added: list[onnx.TensorProto] = []

    def model(self) -> onnx.ModelProto:
        ends = {unit.output: unit for name, unit in self.graph.units.items() if name in self.ops}
        for node in self.graph.model.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            self.nodes.append(copy)
            unit = ends.get(node.output[0])
            if unit is not None:
                copy.output[0] = f"{unit.name}/float"
                self.switch(unit)
        source = self.graph.model
        used = {name for node in self.nodes for name in node.input}
        kept = [i for i in source.graph.initializer if i.name in used]
        flags = helper.make_tensor_value_info(FLAGS, TensorProto.BOOL, [len(self.ops)])
        body = helper.make_graph(self.nodes, "switchable", [*source.graph.input, flags], list(source.graph.output),
                                 [*kept, *self.added])
        return helper.make_model(body, opset_imports=list(source.opset_import), ir_version=source.ir_version)

    def switch(self, unit: Unit) -> None:
        """Behind an operator's floating-point form: its int8 form, and the choice between them."""
        self.constant(f"{unit.name}/number", np.asarray(self.ops[unit.name], np.int64))
        self.nodes += [
            helper.make_node("Gather", [FLAGS, f"{unit.name}/number"], [f"{unit.name}/flag"], axis=0),
            helper.make_node("Where", [f"{unit.name}/flag", self.branch(unit), f"{unit.name}/float"], [unit.output],
                             name=f"{unit.name}/switch"),
        ]

    def branch(self, unit: Unit) -> str:
        """The int8 form of an operator that reads and gives floating point; the name of its result."""
        scheme: OpScheme = self.config.schemes[unit.name]
        alone = Config(((unit.name, scheme),), self.config.options)
        nodes, added, result = self.assembler.alone(unit, alone, self.ranges)
        prefix = f"{unit.name}/int8/"
        own = {name for node in nodes for name in node.output} | set(added)
        for node in nodes:
            node.name = prefix + node.name
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name in own:
                        names[index] = prefix + name
        for name, values in added.items():
            renamed = onnx.TensorProto()
            renamed.CopyFrom(values)
            renamed.name = prefix + name
            self.added.append(renamed)
        self.nodes += nodes
        return prefix + result

    def constant(self, name: str, values: NDArray[Any]) -> None:
        self.added.append(onnx.numpy_helper.from_array(values, name))
