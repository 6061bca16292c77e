"""What every engine that reads ONNX shares: loading, calibration, equalization and the probing of capabilities.

An engine's backend subclasses `OnnxBackend`. It says how it opens a model, how it reads a model's tensors, and which
operators of a model it executes in int8.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import onnx

from nc_strategies.backends.base import Backend, Executable
from nc_strategies.backends.ceiling import Ceiling, cache_name, kept_or_measured, measure_ceiling
from nc_strategies.backends.collection import Observer, collect, leaves, noise_in_pieces
from nc_strategies.backends.onnx_cases import ceiling_cases
from nc_strategies.backends.onnx_schemes import (
    ACTIVATIONS,
    LEAST_SHARE,
    MODES,
    any_ranges,
    capability,
    edges,
    first_scheme,
    share_of_work,
    static_schemes,
)
from nc_strategies.calibration.equalization import EQUALIZE_MODES, LIMITS, Array, asked
from nc_strategies.calibration.histogram import Histogram
from nc_strategies.calibration.state import CalibrationState, Look
from nc_strategies.calibration.suitability import Operands, suitable
from nc_strategies.errors import EngineError, InputError
from nc_strategies.models import ModelSource
from nc_strategies.models.info import Batch, ModelInfo
from nc_strategies.onnx_graph import equalize, external
from nc_strategies.onnx_graph import graph as graphs
from nc_strategies.onnx_graph.edges import find_conversion_edges
from nc_strategies.onnx_graph.graph import FOLLOWING, QUIET, FusedOp, Graph
from nc_strategies.onnx_graph.qdq import GraphBuilder, QdqGraph
from nc_strategies.onnx_graph.types import type_name
from nc_strategies.onnx_graph.weights import WeightCache
from nc_strategies.problem.latency import ConversionEdge
from nc_strategies.runtime import memory
from nc_strategies.space import Capabilities, Config, FloatOp, OpScheme

OnnxGraph = Graph
"""The prepared model, under the name that plugins import it by."""
REDUCE_RANGE = "reduce_range"
"""Option of the whole graph: 7-bit weights."""
HALF_TOLERANCE = {"float16": 0.05, "bfloat16": 0.2}
"""Floating-point type of a model to the difference from float32 that its rounding may cause, relative to the largest
output. One rounding loses 2**-11 or 2**-8; a deep network adds up some hundred."""
PROBE_ROUNDS = 3
"""Times that an engine is asked for the operators that it executed before, without those that it did not."""
SELECTING = {"MaxPool", "ReduceMax", "ReduceMin", "Resize"}
"""Operator types that keep values and select among them, which takes time."""
MOVEMENT = (FOLLOWING - SELECTING) | {
    "Identity", "Cast", "Shape", "ConstantOfShape", "Range", "Dropout", "Constant", "GatherND",
}  # fmt: skip
"""Operator types that compute nothing."""
NOT_RUN = "the engine did not run it in int8 between quantized tensors"
NO_KERNEL = "the engine has no int8 kernel"


class OnnxBackend(Backend):
    """The base class of backends whose engine reads ONNX.

    Its settings have ``percentile``, ``equalize``, ``reduce_range`` and, with `weight_only`, ``modes``. A subclass sets
    `engine`, may set `graph_class`, `following`, `weight_only` and `automatic`, and implements `observer`,
    `open_model`, `executed_in_int8`, `reference`, `open` and `save`. The core's ONNX work folds constants with
    onnxruntime, whatever engine runs the model.

    Raises:
        InputError: a setting is not allowed.
    """

    accepts = ("onnx", "keras", "saved_model", "graph_def")
    engine: ClassVar[str]
    """The backend's name, for messages."""
    graph_class: ClassVar[type[QdqGraph]] = QdqGraph
    """Builds the Q/DQ graph of a configuration."""
    following: ClassVar[frozenset[str]] = frozenset()
    """Operator types whose precision the engine derives from the operators around them: they are not a choice."""

    automatic: ClassVar[tuple[str, ...]] = ()
    """Further settings whose values are ``auto``, ``always`` and ``never``."""

    weight_only: ClassVar[tuple[OpScheme, ...]] = ()
    """Schemes of matrix products whose weights only are quantized, which `graph_class` can build; see `MODES`."""

    def __init__(self, settings: Any, threads: int = 1) -> None:
        super().__init__(settings, threads)
        if not 50 < settings.percentile <= 100:
            raise InputError("backend.percentile", f"is {settings.percentile}", "above 50, at most 100")
        for key in (REDUCE_RANGE, "equalize", *self.automatic):
            if getattr(settings, key) not in EQUALIZE_MODES:
                allowed = f"allowed: {', '.join(EQUALIZE_MODES)}"
                raise InputError(f"backend.{key}", f"is {getattr(settings, key)!r}", allowed)
        if self._modes not in MODES:
            raise InputError("backend.modes", f"is {self._modes!r}", f"allowed: {', '.join(MODES)}")
        self._path = Path()
        self._exported: weakref.finalize[..., OnnxBackend] | None = None
        self._graph: Graph | None = None
        self._plain: Graph | None = None
        self._info: ModelInfo | None = None
        self._able: Capabilities | None = None
        self._unsuitable: tuple[str, ...] = ()
        self._calibration = CalibrationState(settings.percentile)

    @property
    def _modes(self) -> str:
        return str(getattr(self.settings, "modes", "static"))

    @abstractmethod
    def observer(self, graph: Graph) -> Observer:
        """What reads the `observed_tensors` of the floating-point graph.

        It has the methods ``shapes`` and ``reader`` of `nc_strategies.backends.collection.Observer`.
        """

    @abstractmethod
    def open_model(self, model: onnx.ModelProto, fingerprint: str) -> Executable:
        """Load a model into the engine.

        Args:
            model: The model; `serialized` gives it as bytes.
            fingerprint: What `Executable.fingerprint` is to be.

        Raises:
            EngineError: the engine refuses it.
        """

    @abstractmethod
    def executed_in_int8(self, model: onnx.ModelProto) -> frozenset[str]:
        """Names of the fused operators that the engine would execute in int8; the model is not run.

        Raises:
            EngineError: the engine refuses the model.
        """

    def saturates(self) -> bool:
        """Whether sums of two 8-bit products overflow 16 bits in this processor's kernels."""
        return False

    @property
    def graph(self) -> Graph:
        """The prepared model that is in use.

        Raises:
            EngineError: no model is loaded.
        """
        if self._graph is None:
            raise EngineError("no model is loaded")
        return self._graph

    @property
    def path(self) -> Path:
        """The ONNX file of the loaded model."""
        return self._path

    @property
    def size_bytes(self) -> int:
        """Size of the loaded model's ONNX file and of its external data, in bytes."""
        return external.file_bytes(self._path)

    @property
    def info(self) -> ModelInfo:
        """Inputs and outputs of the loaded model.

        Raises:
            EngineError: no model is loaded.
        """
        if self._info is None:
            raise EngineError("no model is loaded")
        return self._info

    def companions(self, path: Path) -> tuple[Path, ...]:
        """See `Backend.companions`: the files of ONNX external data."""
        return graphs.external_files(path) if path.is_file() and path.suffix != ".keras" else ()

    def load(self, model: ModelSource) -> ModelInfo:
        """See `Backend.load`."""
        kind, self._path = model.pick(self.accepts, self.engine)
        if kind != "onnx":
            self._path = self._export(model)
        self._able, self._unsuitable = None, ()
        self._calibration.clear()
        self._plain = self.prepare(graphs.read(self._path))
        self._use(self._plain)
        self.float_tolerance = max(HALF_TOLERANCE.get(name, 0.0) for name in ("", *self._plain.converted))
        self._info = info = self.graph.info
        if not info.inputs:
            raise InputError("model.path", "the model has no inputs, so no data can be measured on it")
        for spec in info.inputs:
            if spec.dtype.kind not in "fiub":
                kind = type_name(next(i.type for i in self.graph.model.graph.input if i.name == spec.name))
                allowed = "arrays of numbers; a part of the model that takes them can be tuned"
                raise InputError("model.path", f"input {spec.name!r} is of type {kind}", allowed)
        return info

    def prepare(self, given: onnx.ModelProto) -> Graph:
        """The model as everything else reads it, folded and with fused operators; called by `load`."""
        return graphs.prepare(given)

    def _export(self, model: ModelSource) -> Path:
        # TensorFlow's backend converts TensorFlow models. It is imported here, so that other models do not need it.
        from nc_strategies.backends.tensorflow.export import export_in_child

        folder = Path(tempfile.mkdtemp(prefix="ncs-export-"))
        self._exported = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return export_in_child(model, folder)

    def keep(self, folder: Path) -> None:
        """See `Backend.keep`: the ONNX model that a model of another format was converted to."""
        if self._exported is not None:
            shutil.copyfile(self._path, folder / self._path.name)

    def use_axes(self, info: ModelInfo) -> None:
        """See `Backend.use_axes`."""
        self._info = info

    def _use(self, graph: Graph) -> None:
        self._graph = graph
        self._builder = self.builder(graph)

    def builder(self, graph: Graph) -> GraphBuilder:
        """What builds the graphs of configurations; it caches quantized weights."""
        return GraphBuilder(graph, WeightCache(graph), self.graph_class)

    def observed_tensors(self) -> list[str]:
        """The tensors whose ranges quantization needs, sorted by name."""
        return self.graph.observed()

    @staticmethod
    def serialized(model: onnx.ModelProto) -> bytes:
        """A model as bytes, with its weights.

        Raises:
            EngineError: it is larger than 2 GB.
        """
        return bytes(external.inlined(model).SerializeToString())

    def build_graph(self, config: Config) -> tuple[onnx.ModelProto, str]:
        """The Q/DQ model of a configuration, and its fingerprint.

        Raises:
            EngineError: the backend is not calibrated.
        """
        if not self._calibration.ready:
            raise EngineError("build needs calibrate first")
        return self._builder.build(config, self._calibration.range)

    def build(self, config: Config) -> Executable:
        """See `Backend.build`."""
        return self.open_model(*self.build_graph(config))

    def save_onnx(self, config: Config, path: Path) -> None:
        """Write the Q/DQ model of a configuration.

        Raises:
            OSError: the file cannot be written.
        """
        external.save(self.build_graph(config)[0], path)

    def native(self, config: Config | None) -> Any:
        """See `Backend.native`: an ``onnx.ModelProto``.

        Raises:
            EngineError: the model is larger than 2 GB.
        """
        return external.inlined(graphs.read(self._path) if config is None else self.build_graph(config)[0])

    def conversion_edges(self) -> tuple[ConversionEdge[str], ...]:
        """See `Backend.conversion_edges`."""
        return find_conversion_edges(self.graph)

    def remarks(self) -> tuple[str, ...]:
        """See `Backend.remarks`."""
        converted = () if self._plain is None else self._plain.converted
        names = " and ".join(converted)
        told = (
            f"the model computes in {names}; every configuration computes its float operators in fp32, and inputs and "
            "outputs keep their types"
        )
        return (*self._calibration.remarks, *self._unsuitable, *((told,) if converted else ()))

    # Calibration

    def calibrate(self, batches: Sequence[Batch]) -> None:
        """See `Backend.calibrate`: the engine runs the fp32 graph; equalized channels take a second pass.

        Raises:
            InputError: an activation is NaN, or the engine refuses the data.
        """
        assert self._plain is not None, "load first"
        plain = self._plain
        self._use(plain)
        looking = asked(self.settings.equalize, self.cautious)
        pairs = equalize.pairs(plain) if looking else []

        def gather(look: Look) -> dict[str, Histogram]:
            histograms, self.largest_batch = collect(self.observer(self.graph), batches, self.info, look)
            memory.release()
            return histograms

        def use(peaks: Mapping[str, Array] | None) -> None:
            self._use(plain if peaks is None else equalize.equalized(plain, pairs, peaks))

        first = batches[0] if len(batches) else {}
        self._calibration.run(
            gather, self.settings.equalize, pairs, use, lambda: self._noise(first), partial(leaves, batches)
        )
        if self._able is not None:
            self.capabilities()

    def _noise(self, batch: Batch) -> float:
        """Noise-to-signal ratio of the output (see `signal_of`) with every operator in int8."""
        part = self.info.rows(batch, 0, LIMITS.noise_samples)
        models = [self.open_model(self.graph.model, "plain"), self.build(self.default_config())]
        try:
            reference, other = (model.predict for model in models)
            return noise_in_pieces(reference, other, part, self.info, self.largest_batch or 1)
        finally:
            for model in models:
                model.close()

    def ceiling(self, again: bool = False) -> Ceiling | None:
        """See `Backend.ceiling`."""

        def measure() -> Ceiling:
            def make() -> Backend:
                return type(self)(self.settings, self.threads)

            return measure_ceiling(make, ceiling_cases(), self.saturates(), self.threads)

        return kept_or_measured(cache_name(self.engine, self.ceiling_key(), self.threads), measure, again)

    def ceiling_key(self) -> list[str]:
        """What a kept ceiling is of, beside the engine and the threads: for other values, it is measured again."""
        return sorted(self.versions().values())

    # Capabilities

    def default_config(self) -> Config:
        """The first scheme of every operator, and the first value of every option."""
        able = self.capabilities()
        schemes = tuple((op.name, op.schemes[0]) for op in able.ops)
        return Config(schemes, tuple((name, values[0]) for name, values in able.options))

    def capabilities(self) -> Capabilities:
        """See `Backend.capabilities`: every scheme was seen in the engine's compiled graph.

        After calibration, operators that infinite values reach are no longer offered; see `suitable`.
        """
        if self._able is None:
            self._able = self.describe()
        able = self._able
        if self._calibration.ready:
            seen = self._calibration
            able, self._unsuitable = suitable(able, self._operands, seen.infinite, self._span, seen.unseen)
        return able

    def reduce_ranges(self) -> tuple[bool, ...]:
        """Values of the option ``reduce_range``, the default first."""
        if self.settings.reduce_range == "auto":
            return (True, False) if self.saturates_there or self.saturates() else (False,)
        return (self.settings.reduce_range == "always",)

    def operator(self, name: str) -> FusedOp:
        """An operator that is offered."""
        return self.graph.fused_ops[name]

    def _operands(self, name: str) -> Operands:
        op = self.operator(name)
        return Operands(op.type, (*op.inputs, *op.constants), op.raw, op.output)

    def _span(self, name: str) -> tuple[float, float]:
        if name in self.graph.initializers:
            values = self.graph.array(name)
            return float(values.min()), float(values.max())
        return self._calibration.range(name, "minmax")

    def describe(self) -> Capabilities:
        """What the engine executes of the loaded model, whatever its data are.

        Raises:
            EngineError: the engine refuses a graph.
        """
        graph, ranges = self.graph, self.reduce_ranges()
        offered = self._offered(ranges[0])
        for name, schemes in self._offered_weight_only().items():
            offered[name] += schemes
        capable = {name: capability(graph, op, offered[name]) for name, op in graph.fused_ops.items() if offered[name]}
        nodes = graph.model.graph.node
        ops = tuple(capable[node.name] for node in nodes if node.name in capable)
        pairs = tuple((a, b) for a, b in edges(graph) if a in capable and b in capable)
        order = tuple(n.name for n in nodes if n.op_type not in MOVEMENT and n.op_type not in QUIET)
        return Capabilities(ops, pairs, (), ((REDUCE_RANGE, ranges),), order, self._float_ops(set(capable)))

    def _float_ops(self, offered: set[str]) -> tuple[FloatOp, ...]:
        """The computing operators that stay in floating point, each with the reason."""
        graph = self.graph
        inside = {op.act.name for op in graph.fused_ops.values() if op.act is not None}
        return tuple(
            FloatOp(str(node.name), str(node.op_type), NOT_RUN if node.name in graph.fused_ops else NO_KERNEL)
            for node in graph.model.graph.node
            if node.name not in offered
            and node.name not in inside
            and node.op_type not in MOVEMENT | SELECTING | self.following
            and node.output[0] in graph.floats
            and node.output[0] not in graph.scaled
        )

    def _offered(self, reduce_range: bool) -> dict[str, list[OpScheme]]:
        """The int8 schemes of each operator that the engine runs in int8 when asked to; none for the others."""
        graph, builder = self.graph, self._builder.to_look_at()
        offered: dict[str, list[OpScheme]] = {name: [] for name in graph.fused_ops}
        for dtype, symmetry in ACTIVATIONS:
            running = {name for name, op in graph.fused_ops.items() if op.type not in self.following}
            for _ in range(PROBE_ROUNDS):
                schemes = tuple(
                    (name, first_scheme(graph, op, dtype, symmetry))
                    for name, op in graph.fused_ops.items()
                    if name in running
                )
                model, _ = builder.build(Config(schemes, ((REDUCE_RANGE, reduce_range),)), any_ranges(graph))
                seen = running & self.executed_in_int8(model)
                settled = seen == running
                running = seen
                if settled:
                    break
            for name in running:
                offered[name] += static_schemes(graph, graph.fused_ops[name], dtype, symmetry)
        return offered

    def _offered_weight_only(self) -> dict[str, list[OpScheme]]:
        """The weight-only schemes of each matrix product that the engine executes."""
        graph, builder = self.graph, self._builder.to_look_at()
        products = [op for op in graph.fused_ops.values() if _is_product(graph, op)]
        if self._modes == "static" or (self._modes == "auto" and share_of_work(graph, products) < LEAST_SHARE):
            return {}
        found: dict[str, list[OpScheme]] = {op.name: [] for op in products}
        for scheme in self.weight_only if products else ():
            assert scheme.weight is not None
            block = int(scheme.weight.granularity.rpartition("_")[2])
            fitting = [op.name for op in products if _depth(graph, op) % block == 0]
            config = Config(tuple((name, scheme) for name in fitting), ((REDUCE_RANGE, False),))
            executed = self.executed_in_int8(builder.build(config, any_ranges(graph))[0]) if fitting else ()
            for name in fitting:
                if name in executed:
                    found[name].append(scheme)
        return found


def _is_product(graph: Graph, op: FusedOp) -> bool:
    """Whether an operator is a product with one constant matrix."""
    if op.type not in ("MatMul", "Gemm") or op.weight is None or len(op.inputs) != 1:
        return False
    return len(graph.initializers[op.weight].dims) == 2


def _depth(graph: Graph, op: FusedOp) -> int:
    """Length of the axis that a product sums over."""
    transposed = any(a.name == "transB" and a.i for a in op.node.attribute)
    return int(graph.initializers[op.weight or ""].dims[1 if transposed else 0])
