"""Reading of operators' outputs: fp32's, each operator's alone in int8, and those of a configuration.

The outputs are those of the kernels that execute, not of an emulation: int8 kernels are nodes of their own, and a
Dequantize behind them changes none of them. Two graphs give them: the fp32 graph in use (after equalization) with the
int8 branch of each operator beside it, and the configuration's graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nc_strategies.backends.layers import INPUT, OUTPUT, Layer, LayerReader, LayerTensor, LayerValues, Read
from nc_strategies.backends.tensorflow.build import BuildContext, GraphBuilder
from nc_strategies.backends.tensorflow.calibrate import TfObserver
from nc_strategies.backends.tensorflow.fused_ops import FusedOp
from nc_strategies.backends.tensorflow.graph import node_of
from nc_strategies.backends.tensorflow.import_tensorflow import reason, tensorflow
from nc_strategies.backends.tensorflow.kernels import Quantized
from nc_strategies.backends.tensorflow.loading import Port
from nc_strategies.backends.tensorflow.reuse_session import DualPrecisionBuilder
from nc_strategies.backends.tensorflow.session import session_config
from nc_strategies.backends.tensorflow.weights import FULL, quantize
from nc_strategies.calibration.layers import ActivationRange, WeightFacts, weight_facts
from nc_strategies.errors import EngineError
from nc_strategies.models.info import Batch
from nc_strategies.space import Config, OpScheme

Limits = Callable[[str, str], int]
"""See `nc_strategies.backends.tensorflow.capabilities.limits`."""


class LayersBesideFloat(DualPrecisionBuilder):
    """Builds the fp32 graph with the int8 branch of each operator beside it."""

    def beside(self) -> tuple[Any, dict[str, str], dict[str, str], dict[str, dict[str, Quantized]]]:
        """Build the graph.

        Returns:
            The GraphDef; the operators' int8 results; the names in it of the fp32 graph's tensors that the operators
            read and compute; and by operator the int8 forms of its tensors.
        """
        self._fused_floats, self._algorithms, self._range_source = {}, {}, {}
        weighted = {fused_op.name for fused_op in self._fused_ops.values()}
        results: dict[str, str] = {}
        held: dict[str, dict[str, Quantized]] = {}
        for node in self._order:
            self._emit_float(node)
            if node.name in weighted:
                self._rename_float(node)
            if (fused_op := self._fused_ops.get(node.name)) is not None:
                results[fused_op.name], held[fused_op.name] = self._branch(fused_op)
        tensors = {t: self._as_float(t) for fused_op in self._fused_ops.values() for t in tensors_of(fused_op)}
        feeds = [name for name, node in self._out.nodes.items() if node.op == "Placeholder"]
        self._out.prune([*results.values(), *map(node_of, tensors.values()), *feeds])
        return self._out.to_def(), results, tensors, held

    def _branch(self, fused_op: FusedOp) -> tuple[str, dict[str, Quantized]]:
        """Add an operator's int8 branch, from floating point to floating point."""
        plain = self._as_float(fused_op.output)
        self._floats.pop(fused_op.output, None)
        self._emit_fused_op(fused_op)
        held = dict(self._quantized)
        if fused_op.addend and fused_op.addend != fused_op.source:
            # The kernel adds in the memory of this tensor and crashes if another branch reads it as well. Nodes that
            # wait for different ones are not merged by TensorFlow's optimizers.
            self._out.nodes[node_of(held[fused_op.addend].values)].input.append(f"^{self._floats[fused_op.name]}")
        result = self._as_float(fused_op.output)
        self._quantized.clear()
        self._floats[fused_op.output] = plain
        return result, held


class ReadableGraph(GraphBuilder):
    """Builds the graph of a configuration in which operators' outputs can be read in floating point."""

    def readable(self, outputs: Mapping[str, str]) -> tuple[Any, dict[str, str], dict[str, Quantized]]:
        """Build the graph.

        Args:
            outputs: Operators and the tensors of the fp32 graph that they compute.

        Returns:
            The GraphDef; what holds the operators' outputs in it; and the int8 forms of the fp32 graph's tensors.
        """
        self._emit_nodes()
        held = dict(self._quantized)
        found = {name: self._as_float(tensor) for name, tensor in outputs.items()}
        self._read_before_sums(found)
        feeds = [name for name, node in self._out.nodes.items() if node.op == "Placeholder"]
        self._out.prune([*map(node_of, found.values()), *feeds])
        return self._out.to_def(), found, held

    def _read_before_sums(self, found: Mapping[str, str]) -> None:
        """Let outputs be read before a convolution that adds a tensor runs, because it writes to the tensor's memory.

        Args:
            found: Operators in execution order, and what holds their outputs.
        """
        earlier: dict[str, None] = {}
        for name, held in found.items():
            fused_op = self._parts.matched.fused_ops[name]
            if fused_op.addend and name in self._schemes:
                self._out.nodes[name].input.extend(f"^{node_of(tensor)}" for tensor in earlier)
            if self._out.nodes[node_of(held)].op == "Dequantize":
                earlier[held] = None


class TfLayers(LayerReader):
    """See `LayerReader`.

    Args:
        context: The parts of the model.
        graphs: Builders of the fp32 graph with int8 branches, and of the configuration's graph.
        alone: The scheme of each operator when it alone is quantized.
        limits: Largest integer weights.
        inputs: The model's inputs.
        threads: Threads per run.
    """

    def __init__(
        self,
        context: BuildContext,
        graphs: tuple[LayersBesideFloat, ReadableGraph],
        alone: Config,
        limits: Limits,
        inputs: Sequence[Port],
        threads: int,
    ) -> None:
        self._context, self._limits, self._inputs, self._threads = context, limits, inputs, threads
        first, self._results, self._tensors, beside = graphs[0].beside()
        ops = {name: context.matched.fused_ops[name] for name, _ in alone.ops if name in self._results}
        second, self._outputs, held = graphs[1].readable({name: op.output for name, op in ops.items()})
        self.layers = tuple(self._layer(op, alone.schemes[name], held, beside[name]) for name, op in ops.items())
        self._sessions = [self._open(graph_def) for graph_def in (first, second)]
        names = sorted({*self._tensors.values(), *self._results.values()})
        self._beside = TfObserver(self._sessions[0], inputs, names)
        self._accumulated = TfObserver(self._sessions[1], inputs, sorted(set(self._outputs.values())))

    def shapes(self, batch: Batch) -> dict[str, tuple[int, ...]]:
        """See `LayerReader.shapes`."""
        found = self._beside.shapes(batch)
        return {name: found[tensor] for name, tensor in self._tensors.items()}

    def reader(self, names: Sequence[str]) -> Read:
        """See `LayerReader.reader`."""
        layers = {layer.name: layer for layer in self.layers if layer.name in set(names)}
        tensors = {t.name for layer in layers.values() for t in layer.tensors}
        wanted = sorted({*(self._tensors[t] for t in tensors), *(self._results[name] for name in names)})
        further = sorted({self._outputs[name] for name in names})
        run_beside, run_accumulated = self._beside.reader(wanted), self._accumulated.reader(further)

        def read(batch: Batch) -> Iterator[tuple[str, LayerValues]]:
            values = dict(zip(wanted, run_beside(batch), strict=True))
            found = dict(zip(further, run_accumulated(batch), strict=True))
            for name in names:
                plain = tuple(values[self._tensors[t.name]] for t in layers[name].tensors)
                yield name, LayerValues(plain, values[self._results[name]], plain[-1], found[self._outputs[name]])

        return read

    def close(self) -> None:
        """See `LayerReader.close`."""
        for session in self._sessions:
            session.close()
        self._sessions.clear()

    def _open(self, graph_def: Any) -> Any:
        tf = tensorflow()
        graph = tf.Graph()
        try:
            with graph.as_default():
                tf.import_graph_def(graph_def, name="")
        except (ValueError, tf.errors.OpError) as error:
            raise EngineError(reason(error)) from error
        config = session_config(self._threads, "fuse")
        # Equal nodes of two branches are not merged, see `LayersBesideFloat`.
        config.graph_options.optimizer_options.opt_level = tf.compat.v1.OptimizerOptions.L0
        return tf.compat.v1.Session(graph=graph, config=config)

    def _layer(
        self, op: FusedOp, scheme: OpScheme, held: Mapping[str, Quantized], beside: Mapping[str, Quantized]
    ) -> Layer:
        tensors = tensors_of(op)
        roles = [INPUT] * (len(tensors) - 1) + [OUTPUT]
        layer_tensors = tuple(
            LayerTensor(name, role, -1, _range(held.get(name) or beside.get(name)))
            for name, role in zip(tensors, roles, strict=True)
        )
        return Layer(op.name, op.op, scheme, layer_tensors, -1, self._weight(op, scheme))

    def _weight(self, op: FusedOp, scheme: OpScheme) -> WeightFacts | None:
        weight = self._context.graph.value(op.weight)
        if weight is None or scheme.weight is None:
            return None
        if op.op == "MatMul" and self._context.graph.nodes[op.name].attr["transpose_b"].b:
            weight = weight.T
        # The channels of a depthwise convolution are on two axes, as in `WeightCache`.
        flat = weight.reshape(*weight.shape[:2], -1) if op.op == "DepthwiseConv2dNative" else weight
        limit = self._limits(op.op, scheme.activation.dtype)
        granularity = scheme.weight.granularity
        largest, integers = quantize(flat, flat.ndim - 1, granularity, limit)
        return weight_facts(flat, integers * (largest / np.float32(limit)), flat.ndim - 1, granularity)


def tensors_of(op: FusedOp) -> tuple[str, ...]:
    """The activations of an operator, its output last."""
    return tuple(dict.fromkeys(name for name in (op.source, op.addend, op.output) if name))


def _range(held: Quantized | None) -> ActivationRange | None:
    if held is None:
        return None
    if held.dtype == "uint8":
        return ActivationRange(0.0, held.largest, 255)
    return ActivationRange(-held.largest, held.largest, 2 * FULL)
