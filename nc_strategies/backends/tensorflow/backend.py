"""The TensorFlow backend."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from nc_strategies.backends.base import Backend, DualPrecisionSession, Executable
from nc_strategies.backends.ceiling import Ceiling
from nc_strategies.backends.collection import leaves, noise_in_pieces
from nc_strategies.backends.tensorflow import ceiling, equalize, hessian, loading, probe
from nc_strategies.backends.tensorflow.build import BuildContext, BuiltGraph, GraphBuilder
from nc_strategies.backends.tensorflow.calibrate import collect
from nc_strategies.backends.tensorflow.callable_model import CallableModel
from nc_strategies.backends.tensorflow.capabilities import REDUCE_RANGE, describe, limits
from nc_strategies.backends.tensorflow.edges import find_conversion_edges
from nc_strategies.backends.tensorflow.fold import simplify
from nc_strategies.backends.tensorflow.fused_ops import Matched, match
from nc_strategies.backends.tensorflow.graph import Graph, follow
from nc_strategies.backends.tensorflow.import_tensorflow import onednn_rewrites, tensorflow, use_threads
from nc_strategies.backends.tensorflow.kernels import FUSED_BY_ONEDNN, FUSED_FLOAT, REMAPPED
from nc_strategies.backends.tensorflow.layers import LayersBesideFloat, ReadableGraph, TfLayers
from nc_strategies.backends.tensorflow.layout import channels_last
from nc_strategies.backends.tensorflow.reuse_session import DualPrecisionBuilder, TfDualPrecisionSession
from nc_strategies.backends.tensorflow.saving import ServedModel, save
from nc_strategies.backends.tensorflow.session import SessionExecutable
from nc_strategies.backends.tensorflow.settings import TensorFlowSettings
from nc_strategies.backends.tensorflow.weights import WeightCache
from nc_strategies.calibration.equalization import (
    EQUALIZE_MODES,
    LIMITS,
    Array,
    asked,
)
from nc_strategies.calibration.histogram import Histogram
from nc_strategies.calibration.state import CalibrationState, Look
from nc_strategies.errors import EngineError, InputError
from nc_strategies.models import ModelSource
from nc_strategies.models.info import Batch, ModelInfo
from nc_strategies.problem.latency import ConversionEdge
from nc_strategies.space import Capabilities, Config

A = TypeVar("A", bound=GraphBuilder)


class TensorFlowBackend(Backend):
    """Static int8 on the fused quantized kernels of the stock TensorFlow wheel.

    Args:
        settings: The backend's settings.
        threads: Threads per run. The first backend in a process fixes them for the whole process.

    Raises:
        InputError: a setting is out of range.
    """

    accepts = ("keras", "saved_model", "graph_def", "h5")
    gradients = True
    settings: TensorFlowSettings

    def __init__(self, settings: TensorFlowSettings, threads: int = 1) -> None:
        super().__init__(settings, threads)
        if not 50 < settings.percentile <= 100:
            raise InputError("backend.percentile", f"is {settings.percentile}", "above 50, at most 100")
        if settings.equalize not in EQUALIZE_MODES:
            raise InputError("backend.equalize", f"is {settings.equalize!r}", f"allowed: {', '.join(EQUALIZE_MODES)}")
        self._model: loading.FrozenModel | None = None
        self._plain: Graph | None = None
        self._calibration = CalibrationState(settings.percentile)

    def load(self, model: ModelSource) -> ModelInfo:
        """See `Backend.load`."""
        kind, path = model.pick(self.accepts, "tensorflow")
        probe.shared_probe()
        use_threads(self.threads)
        frozen = _runnable(loading.load_source(model, kind, path))
        graph, ends = simplify(
            frozen.graph, [port.tensor for port in frozen.inputs], [port.tensor for port in frozen.outputs]
        )
        outputs = tuple(ends[port.tensor] for port in frozen.outputs)
        self._model = frozen
        self._calibration.clear()
        self._plain, self._outputs = graph, outputs
        self._use(graph)
        self._info = ModelInfo(tuple(port.spec for port in frozen.inputs), tuple(port.spec for port in frozen.outputs))
        return self._info

    def _use(self, graph: Graph, equalized: bool = False) -> None:
        weights = WeightCache(graph, equalized)
        self._context = BuildContext(
            graph, match(graph, self._outputs), self._outputs, weights, self._calibration.range
        )

    @property
    def _loaded(self) -> loading.FrozenModel:
        if self._model is None:
            raise EngineError("no model is loaded")
        return self._model

    @property
    def _matched(self) -> Matched:
        return self._context.matched

    @property
    def _operators(self) -> dict[str, str]:
        return {
            name: fused_op.name
            for fused_op in self._matched.fused_ops.values()
            for name in (fused_op.name, *fused_op.absorbed)
        }

    def capabilities(self) -> Capabilities:
        """See `Backend.capabilities`. A child process has tried the kernels."""
        assert self._loaded
        return describe(self._context.graph, self._matched, probe.kernels())

    def conversion_edges(self) -> tuple[ConversionEdge[str], ...]:
        """See `Backend.conversion_edges`."""
        assert self._loaded
        return find_conversion_edges(self._context.graph, self._matched, self._context.outputs)

    def calibrate(self, batches: Sequence[Batch]) -> None:
        """See `Backend.calibrate`. If channels can be equalized, a second pass calibrates the equalized graph."""
        assert self._plain is not None, "load first"
        plain = self._plain
        self._use(plain)
        looking = asked(self.settings.equalize, self.cautious)
        pairs = equalize.pairs(plain, self._matched, self._outputs) if looking else []

        def gather(look: Look) -> dict[str, Histogram]:
            tensors = sorted(self._context.tensors())
            histograms, self.largest_batch = collect(
                self._context.graph, self._loaded.inputs, tensors, batches, self._info, self.threads, look
            )
            return histograms

        def use(peaks: Mapping[str, Array] | None) -> None:
            self._use(plain if peaks is None else equalize.equalized(plain, pairs, peaks), peaks is not None)

        self._calibration.run(
            gather, self.settings.equalize, pairs, use, lambda: self._noise(batches[0]), partial(leaves, batches)
        )

    def _noise(self, batch: Batch) -> float:
        """Noise-to-signal ratio of the output (see `signal_of`) with every operator in int8."""
        able = self.capabilities()
        config = Config(
            tuple((op.name, op.schemes[0]) for op in able.ops), tuple((name, v[0]) for name, v in able.options)
        )
        part = self._info.rows(batch, 0, LIMITS.noise_samples)
        models = [self.reference(), self.build(config)]
        try:
            reference, other = (model.predict for model in models)
            return noise_in_pieces(reference, other, part, self._info, self.largest_batch or 1)
        finally:
            for model in models:
                model.close()

    def use_axes(self, info: ModelInfo) -> None:
        """See `Backend.use_axes`."""
        self._info = info

    def remarks(self) -> tuple[str, ...]:
        """See `Backend.remarks`."""
        return self._calibration.remarks

    def reference(self) -> Executable:
        """See `Backend.reference`: the frozen graph, in a session with TensorFlow's defaults."""
        model = self._loaded
        return SessionExecutable(
            model.graph.to_def(), model.inputs, [port.tensor for port in model.outputs], self.threads, "as given"
        )

    def build(self, config: Config) -> Executable:
        """See `Backend.build`."""
        # Fused as TensorFlow fuses a served model. Its graph optimizer, which takes most of the time of opening a
        # graph, need not run then.
        built = self._build_graph(config, (*FUSED_FLOAT, *(FUSED_BY_ONEDNN if onednn_rewrites() else ())))
        return SessionExecutable(
            built.graph.to_def(),
            self._loaded.inputs,
            built.outputs,
            self.threads,
            built.fingerprint,
            self._operators,
            _rewriting(built),
        )

    def dual_precision_session(self, config: Config) -> DualPrecisionSession:
        """See `Backend.dual_precision_session`."""
        graph_def, outputs, ops = self._builder(config, DualPrecisionBuilder).switched()
        return TfDualPrecisionSession(graph_def, self._loaded.inputs, outputs, ops, self.threads)

    def layers(self, config: Config, alone: Config) -> TfLayers:
        """See `Backend.layers`."""
        graphs = self._builder(alone, LayersBesideFloat), self._builder(config, ReadableGraph)
        reduce_range = limits(probe.kernels(), bool(alone.option(REDUCE_RANGE, True)))
        return TfLayers(self._context, graphs, alone, reduce_range, self._loaded.inputs, self.threads)

    def hessian(self, batch: Batch, draws: int) -> Mapping[str, float]:
        """See `Backend.hessian`."""
        graph, ops, inputs = self._context.graph, self._matched.fused_ops, self._loaded.inputs
        return hessian.sensitivity(graph, ops, inputs, self._context.outputs, batch, self.threads, draws)

    def _build_graph(self, config: Config, fused: Sequence[str] = FUSED_FLOAT) -> BuiltGraph:
        return self._builder(config, GraphBuilder, fused).build()

    def _builder(self, config: Config, kind: type[A], fused: Sequence[str] = FUSED_FLOAT) -> A:
        schemes = {name: scheme for name, scheme in config.ops if not scheme.is_float}
        if unknown := set(schemes) - set(self._matched.fused_ops):
            raise EngineError(f"the model has no operator {min(unknown)!r}")
        reduce_range = bool(config.option(REDUCE_RANGE, True))
        return kind(self._context, schemes, limits(probe.kernels(), reduce_range), fused)

    def save(self, config: Config, folder: Path) -> Path:
        """See `Backend.save`: a SavedModel with the signature of the model as given."""
        model, built = self._loaded, self._build_graph(config)
        return save(
            built.graph.to_def(),
            model.inputs,
            model.outputs,
            built.outputs,
            sorted(self._matched.fused_ops),
            model.signature,
            folder,
        )

    def save_reference(self, folder: Path) -> Path:
        """See `Backend.save_reference`: a SavedModel of the frozen graph."""
        model = self._loaded
        tensors = [port.tensor for port in model.outputs]
        return save(model.graph.to_def(), model.inputs, model.outputs, tensors, [], model.signature, folder)

    def open(self, path: Path) -> Executable:
        """See `Backend.open`."""
        return ServedModel(path)

    def open_to_time(self, path: Path) -> Executable:
        """See `Backend.open_to_time`: in a session like fp32's, as a call of a signature from Python costs time."""
        source = ModelSource("saved", {"saved_model": path})
        model = loading.load_source(source, "saved_model", path)
        tensors = [port.tensor for port in model.outputs]
        return SessionExecutable(model.graph.to_def(), model.inputs, tensors, self.threads, "saved")

    def native(self, config: Config | None) -> CallableModel:
        """See `Backend.native`: a loaded SavedModel that can also be called with arrays."""
        model = self._loaded
        with tempfile.TemporaryDirectory(prefix="ncs-native-") as folder:
            path = Path(folder) / "model"
            if config is None:
                self.save_reference(path)
            else:
                self.save(config, path)
            names = [port.spec.name for port in model.inputs], [port.spec.name for port in model.outputs]
            return CallableModel(path, model.signature, *names)

    def ceiling(self, again: bool = False) -> Ceiling | None:
        """See `Backend.ceiling`."""
        return ceiling.measured(self, again)

    def versions(self) -> dict[str, str]:
        """See `Backend.versions`."""
        tf = tensorflow()
        versions: dict[str, Any] = {"tensorflow": tf.__version__, "keras": tf.keras.__version__}
        return versions


def _runnable(model: loading.FrozenModel) -> loading.FrozenModel:
    """The model as TensorFlow can run it here: without oneDNN it has no kernels for channels first."""
    if onednn_rewrites() or not any(node.attr["data_format"].s == b"NCHW" for node in model.graph.nodes.values()):
        return model
    graph = Graph.from_def(model.graph.to_def())
    replaced = channels_last(graph, ())
    outputs = tuple(loading.Port(port.spec, follow(replaced, port.tensor)) for port in model.outputs)
    return loading.FrozenModel(graph, model.inputs, outputs, model.signature)


def _rewriting(built: BuiltGraph) -> str:
    if not built.int8:
        return "stock"
    return "fuse" if any(node.op in REMAPPED for node in built.graph.nodes.values()) else "none"
