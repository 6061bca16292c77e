"""Reading of operators' outputs: fp32's, each operator's alone in int8, and those of a configuration.

The outputs are those of the kernels that execute, not of an emulation. Two graphs give them:

- The fp32 graph in use (after equalization and recovery), with the int8 branch of each operator beside it.
- The configuration's Q/DQ graph. An operator's int8 result is read as integers behind its QuantizeLinear, which changes
  no fusion. A floating-point result is read behind a Max with the lowest number, so that an int8 product that returns
  floating point keeps its kernel; floating-point operators whose result is read so may be fused less. Attention in
  floating point is not fused into one kernel.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from nc_strategies.backends.layers import INPUT, OUTPUT, Layer, LayerReader, LayerTensor, LayerValues, Read
from nc_strategies.backends.onnxruntime.calibrate import OrtObserver
from nc_strategies.backends.onnxruntime.modes import ModalQdqGraph, is_product
from nc_strategies.backends.onnxruntime.other_ops import find_other_ops
from nc_strategies.backends.onnxruntime.reuse_session import apart
from nc_strategies.backends.onnxruntime.schemes import blocks_of
from nc_strategies.calibration.layers import ActivationRange, WeightFacts, weight_facts
from nc_strategies.models.info import Batch
from nc_strategies.onnx_graph.block_weights import dequantized_blocks
from nc_strategies.onnx_graph.external import tensor
from nc_strategies.onnx_graph.graph import FusedOp, Graph
from nc_strategies.onnx_graph.interpreter import options, run, start
from nc_strategies.onnx_graph.names import reads
from nc_strategies.onnx_graph.qdq import FLOAT_OUTPUT, QMAX, QMIN, GraphBuilder, Quantized, Ranges, opsets, parameters
from nc_strategies.runtime import memory
from nc_strategies.space import Config, OpScheme, TensorScheme
from nc_strategies.space.scheme import WEIGHT_ONLY

IMAGE_OPS = frozenset(
    {
        "Conv",
        "ConvTranspose",
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "BatchNormalization",
        "DepthToSpace",
        "SpaceToDepth",
    }
)
"""Operator types that count channels on axis 1 of what they read and compute."""
ALIKE = frozenset({"Add", "Sum", "Mul", "Sub", "Div", "Relu", "Clip", "Sigmoid", "HardSigmoid", "LeakyRelu", "Concat"})
"""Operator types that count channels on the same axis in what they read and compute."""
READ = "ncs/read/"
"""Prefix of the names of what is read of floating-point tensors."""


@dataclass(frozen=True)
class _Source:
    """Where a graph holds an operator's output: floating point, or integers with their scale and zero point."""

    tensor: str
    scale: float = 1.0
    zero_point: int | None = None

    def values(self, read: NDArray[Any]) -> NDArray[Any]:
        """The output in floating point."""
        if self.zero_point is None:
            return read
        return (read.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)


@dataclass
class _Additions:
    """Nodes, constants and outputs that are added to a model in order to read tensors."""

    fresh: Callable[[str], str]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    outputs: dict[str, int] = field(default_factory=dict)

    def behind_max(self, name: str) -> str:
        """Read a floating-point tensor behind a Max with the lowest number; return the name of what is read."""
        target, lowest = self.fresh(f"{READ}{name}"), self.fresh(f"{READ}lowest")
        if target not in self.outputs:
            if not self.outputs or all(c.name != lowest for c in self.constants):
                self.constants.append(tensor(lowest, np.array(np.finfo(np.float32).min)))
            self.nodes.append(helper.make_node("Max", [name, lowest], [target], name=self.fresh(f"{target}:max")))
            self.outputs[target] = TensorProto.FLOAT
        return target

    def model(self, source: onnx.ModelProto) -> bytes:
        """The serialized model with the additions."""
        have = {o.name for o in source.graph.output}
        infos = [
            helper.make_tensor_value_info(name, kind, None) for name, kind in self.outputs.items() if name not in have
        ]
        graph = onnx.GraphProto(node=self.nodes, initializer=self.constants, output=infos)
        domains = {node.domain for node in self.nodes if node.domain not in ("", "ai.onnx")}
        have_opsets = {o.domain for o in source.opset_import}
        further = [o for o in opsets(source, domains) if o.domain not in have_opsets]
        # Serialized messages that follow each other are merged by the parser, so that the weights are not copied.
        added = onnx.ModelProto(graph=graph, opset_import=further)
        return b"".join((source.SerializeToString(), added.SerializeToString()))


class OrtLayers(LayerReader):
    """See `LayerReader`.

    Args:
        builder: Builds the graphs.
        config: The configuration whose errors accumulate.
        alone: The scheme of each operator when it alone is quantized.
        ranges: Calibrated ranges.
        threads: Threads per run.
    """

    def __init__(self, builder: GraphBuilder, config: Config, alone: Config, ranges: Ranges, threads: int) -> None:
        self._builder, self._alone, self._ranges, self._threads = builder, alone, ranges, threads
        self._graph: Graph = builder.graph
        fused_attention, builder.fused_attention = builder.fused_attention, False
        try:
            built = builder.unbuilt(config, ranges)
            self._model, _ = built.run()
        finally:
            builder.fused_attention = fused_attention
        self._built = built
        self._made = {name for node in self._model.graph.node for name in node.output}
        self._images = _image_tensors(self._graph)
        others = find_other_ops(self._graph)
        self._ops = {
            name: op
            for name, scheme in alone.ops
            if not scheme.is_float and (op := self._graph.fused_ops.get(name) or others.get(name)) is not None
        }
        self.layers = tuple(self._layer(op, alone.schemes[name]) for name, op in self._ops.items())
        self._sessions: list[ort.InferenceSession] = []

    def shapes(self, batch: Batch) -> dict[str, tuple[int, ...]]:
        """See `LayerReader.shapes`."""
        observer = OrtObserver(self._graph, self._threads)
        observer.names = sorted({t.name for layer in self.layers for t in layer.tensors})
        return observer.shapes(batch)

    def reader(self, names: Sequence[str]) -> Read:
        """See `LayerReader.reader`."""
        self.close()
        plain, branches = self._beside(names)
        model, sources = self._readable(names)
        signals = {name: self._signal(self._ops[name]) for name in sources}
        first = self._open(plain)
        second = self._open(model) if sources else None
        by_name = {layer.name: layer for layer in self.layers}
        wanted = [*dict.fromkeys(t.name for name in names for t in by_name[name].tensors), *signals.values()]
        wanted = [*dict.fromkeys(name for name in wanted if name not in self._inputs), *branches.values()]
        further = list(dict.fromkeys(source.tensor for source in sources.values()))

        def read(batch: Batch) -> Iterator[tuple[str, LayerValues]]:
            values = {**batch, **dict(zip(wanted, run(first, batch, wanted), strict=True))}
            found = dict(zip(further, run(second, batch, further), strict=True)) if second is not None else {}
            for name in names:
                source = sources.get(name)
                yield (
                    name,
                    LayerValues(
                        tuple(values[t.name] for t in by_name[name].tensors),
                        values[branches[name]],
                        values[signals.get(name, _output(self._ops[name]))],
                        source.values(found[source.tensor]) if source is not None else None,
                    ),
                )

        return read

    def readable_model(self, names: Sequence[str]) -> bytes:
        """The configuration's graph as it is run, with the outputs of some operators as outputs of the model."""
        return self._readable(names)[0]

    def _readable(self, names: Sequence[str]) -> tuple[bytes, dict[str, _Source]]:
        """See `readable_model`; and where the graph holds the operators' outputs."""
        sources = {name: source for name in names if (source := self._source(self._ops[name])) is not None}
        added = _Additions(self._graph.fresh)
        for name, source in sources.items():
            if source.zero_point is not None:
                added.outputs[source.tensor] = TensorProto.UINT8
            elif source.tensor not in self._graph.outputs:
                sources[name] = _Source(added.behind_max(source.tensor))
        return added.model(self._model), sources

    def close(self) -> None:
        """See `LayerReader.close`."""
        self._sessions.clear()
        gc.collect()
        memory.release()

    @property
    def _inputs(self) -> set[str]:
        return {i.name for i in self._graph.model.graph.input}

    def _open(self, model: bytes) -> ort.InferenceSession:
        session = start(model, options(self._threads))
        self._sessions.append(session)
        return session

    def _beside(self, names: Sequence[str]) -> tuple[bytes, dict[str, str]]:
        """The fp32 graph with the int8 branches of some operators, and the names of their results."""
        added = _Additions(self._graph.fresh)
        results = {}
        for name in names:
            op = self._ops[name]
            nodes, constants, result = self._branch(op)
            nodes, renamed, result = apart(self._graph, name, nodes, constants, result)
            added.nodes += nodes
            added.constants += renamed
            results[name] = added.behind_max(result)
        layers = [layer for layer in self.layers if layer.name in results]
        read = {t.name for layer in layers for t in layer.tensors} | {self._signal(self._ops[n]) for n in names}
        read -= self._inputs
        added.outputs |= dict.fromkeys(sorted(read), TensorProto.FLOAT)
        return added.model(self._graph.model), results

    def _branch(self, op: FusedOp) -> tuple[list[onnx.NodeProto], Mapping[str, onnx.TensorProto], str]:
        """One operator in int8, from floating point to floating point: nodes, constants, name of the result."""
        config = Config(((op.name, self._alone.schemes[op.name]),), self._alone.options)
        if op.name in self._graph.fused_ops:
            return self._builder.alone(op, config, self._ranges)
        build = self._builder.unbuilt(config, self._ranges)
        build.emit(op.node)
        return build.nodes, build.added, _output(op)

    def _source(self, op: FusedOp) -> _Source | None:
        """Where the configuration's graph holds an operator's output."""
        held: Quantized | None = self._built.state.get(_output(op))
        if held is not None and held.tensor in self._made:
            return _Source(held.tensor, float(held.scale), held.zero_point)
        name = self._signal(op)
        return _Source(name) if name in self._made else None

    def _signal(self, op: FusedOp) -> str:
        """The tensor of the fp32 graph that `_source` is compared with: with the bias that a kernel adds as well."""
        additions = self._built.additions if isinstance(self._built, ModalQdqGraph) else {}
        node = additions.get(op.name)
        return _output(op) if node is None else str(node.output[0])

    def _layer(self, op: FusedOp, scheme: OpScheme) -> Layer:
        key = scheme.activation if scheme.is_static else None
        tensors = [
            LayerTensor(name, INPUT, self._axis(name), self._input_range(name, key))
            for name in dict.fromkeys(op.inputs)
        ]
        output = _output(op)
        tensors.append(LayerTensor(output, OUTPUT, self._axis(output), self._output_range(op, key)))
        return Layer(op.name, op.type, scheme, tuple(tensors), self._axis(output), self._weight(op, scheme))

    def _axis(self, name: str) -> int:
        return 1 if name in self._images else -1

    def _input_range(self, name: str, key: TensorScheme | None) -> ActivationRange | None:
        """The range in which an operator reads a tensor: the configuration's, or else that of its own scheme."""
        if key is None:
            return None
        known = self._built.variants.get(name, [])
        held = next((v for v in known if v.key == key), self._built.state.get(name))
        if held is not None:
            return _range(held.scale, held.zero_point)
        if name in self._graph.scaled:
            source, factor = self._graph.scaled[name]
            inner = self._input_range(source, key)
            return inner and ActivationRange(inner.low * factor, inner.high * factor, inner.levels)
        return _range(*parameters(*self._ranges(name, key.algorithm), key))

    def _output_range(self, op: FusedOp, key: TensorScheme | None) -> ActivationRange | None:
        if key is None:
            return None
        held = self._built.state.get(_output(op))
        if held is not None:
            return _range(held.scale, held.zero_point)
        if op.name in self._built.schemes or (op.type in FLOAT_OUTPUT and op.act is None):
            return None
        return self._input_range(_output(op), key)

    def _weight(self, op: FusedOp, scheme: OpScheme) -> WeightFacts | None:
        weights, reduced = self._builder.weights, self._built.reduce_range
        if op.weight is None or scheme.weight is None or scheme.weight.is_float or op.name not in self._graph.fused_ops:
            return None
        original, granularity = weights.original(op), scheme.weight.granularity
        if scheme.mode != WEIGHT_ONLY:
            return weight_facts(original, weights.dequantized(op, granularity, reduced), weights.axis(op), granularity)
        if not is_product(self._graph, op):
            return None
        columns = original if weights.axis(op) else original.T
        used = dequantized_blocks(weights.blocks(op, *blocks_of(scheme)), len(columns))
        return weight_facts(columns, used, 1, granularity)


def _output(op: FusedOp) -> str:
    """The tensor that leaves an operator: the first one of an LSTM that the model uses."""
    return op.output or next(str(name) for name in op.node.output if name)


def _range(scale: np.float32, zero_point: int) -> ActivationRange:
    step = float(scale)
    return ActivationRange((QMIN - zero_point) * step, (QMAX - zero_point) * step, QMAX - QMIN)


def _image_tensors(graph: Graph) -> set[str]:
    """Tensors that count channels on axis 1: those of `IMAGE_OPS`, and what operators in `ALIKE` connect with them."""
    nodes = graph.model.graph.node
    found = {name for n in nodes if n.op_type in IMAGE_OPS for name in (n.input[0], *n.output)}
    before = -1
    while len(found) > before:
        before = len(found)
        for node in nodes:
            data = [name for name in reads(node) if name not in graph.initializers]
            if node.op_type in ALIKE and not found.isdisjoint([*data, *node.output]):
                found.update(n for n in (*data, *node.output) if len(graph.shapes.get(n, (1,) * 4)) == 4)
    return found
