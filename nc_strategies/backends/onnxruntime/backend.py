"""The ONNX Runtime backend."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from nc_strategies.backends.base import Backend
from nc_strategies.backends.ceiling import Ceiling
from nc_strategies.backends.collection import noise_in_pieces
from nc_strategies.backends.onnxruntime import ceiling, providers
from nc_strategies.backends.onnxruntime.calibrate import collect
from nc_strategies.backends.onnxruntime.capabilities import MODES, describe
from nc_strategies.backends.onnxruntime.choose_attention import choose_attention
from nc_strategies.backends.onnxruntime.executed import DYNAMIC_PRODUCT, DYNAMIC_SUFFIX
from nc_strategies.backends.onnxruntime.layers import OrtLayers
from nc_strategies.backends.onnxruntime.modes import ModalQdqGraph
from nc_strategies.backends.onnxruntime.node_timing import KernelTimes
from nc_strategies.backends.onnxruntime.other_ops import find_other_ops
from nc_strategies.backends.onnxruntime.probe import saturates
from nc_strategies.backends.onnxruntime.recover import dynamic_scheme, recovered, split
from nc_strategies.backends.onnxruntime.reuse_session import OrtDualPrecisionSession
from nc_strategies.backends.onnxruntime.saving import FILE, save
from nc_strategies.backends.onnxruntime.session import OrtExecutable
from nc_strategies.backends.onnxruntime.settings import OnnxRuntimeSettings
from nc_strategies.calibration import recovery
from nc_strategies.calibration.equalization import EQUALIZE_MODES, LIMITS, asked
from nc_strategies.calibration.histogram import Histogram
from nc_strategies.calibration.state import CalibrationState, Look
from nc_strategies.calibration.suitability import Operands, suitable
from nc_strategies.errors import EngineError, InputError
from nc_strategies.models import ModelSource
from nc_strategies.models.info import Batch, ModelInfo
from nc_strategies.onnx_graph import equalize, external
from nc_strategies.onnx_graph import graph as graphs
from nc_strategies.onnx_graph.edges import find_conversion_edges
from nc_strategies.onnx_graph.graph import FusedOp, Graph
from nc_strategies.onnx_graph.qdq import GraphBuilder
from nc_strategies.onnx_graph.types import type_name
from nc_strategies.onnx_graph.weights import WeightCache
from nc_strategies.problem.latency import ConversionEdge
from nc_strategies.space import FLOAT, Capabilities, Config

log = logging.getLogger(__name__)
FIRST_STEP_SHARE = 0.5
"""Time of the first measurement of recovery relative to that of calibration."""
HALF_TOLERANCE = {"float16": 0.05, "bfloat16": 0.2}
"""Floating-point type of a model to the difference from float32 that its rounding may cause, relative to the largest
output. One rounding loses 2**-11 or 2**-8; a deep network adds up some hundred."""


class OnnxRuntimeBackend(Backend):
    """Static, dynamic and weight-only quantization on onnxruntime's CPU kernels.

    An operator reads its activations in its own scheme. Its result is quantized in the scheme of the first int8
    operator that reads it if both have the same data type, and in its own scheme otherwise. The saved model is the Q/DQ
    model that was measured: onnxruntime executes the same operators when it opens the model with its defaults.

    Raises:
        InputError: a setting is not allowed.
    """

    accepts = ("onnx", "keras", "saved_model", "graph_def")
    settings: OnnxRuntimeSettings

    def __init__(self, settings: OnnxRuntimeSettings, threads: int = 1) -> None:
        super().__init__(settings, threads)
        if not 50 < settings.percentile <= 100:
            raise InputError("backend.percentile", f"is {settings.percentile}", "above 50, at most 100")
        for key in ("reduce_range", "equalize", "fused_attention"):
            if getattr(settings, key) not in EQUALIZE_MODES:
                raise InputError(
                    f"backend.{key}", f"is {getattr(settings, key)!r}", f"allowed: {', '.join(EQUALIZE_MODES)}"
                )
        recovery.chosen(settings.recovery)
        if settings.modes not in MODES:
            raise InputError("backend.modes", f"is {settings.modes!r}", f"allowed: {', '.join(MODES)}")
        self.provider = providers.chosen(settings.provider, settings.provider_options)
        self._path = Path()
        self._given: bytes | None = None
        self._exported: weakref.finalize[..., OnnxRuntimeBackend] | None = None
        self._graph: Graph | None = None
        self._plain: Graph | None = None
        self._default: Config | None = None
        self._engine_able: Capabilities | None = None
        self._unsuitable: tuple[str, ...] = ()
        self._info: ModelInfo | None = None
        self._calibration = CalibrationState(settings.percentile)
        self._operators: dict[str, str] = {}
        self._other_ops: dict[str, FusedOp] = {}
        self._probe: Batch | None = None
        self._attention_remark: tuple[str, ...] = ()
        self._kernel_times = KernelTimes(threads, self.provider)
        self._batches: Sequence[Batch] = ()

    @property
    def graph(self) -> Graph:
        """The prepared model.

        Raises:
            EngineError: no model is loaded.
        """
        if self._graph is None:
            raise EngineError("no model is loaded")
        return self._graph

    def companions(self, path: Path) -> tuple[Path, ...]:
        """See `Backend.companions`: the files of ONNX external data."""
        return graphs.external_files(path) if path.is_file() and path.suffix != ".keras" else ()

    def load(self, model: ModelSource) -> ModelInfo:
        """See `Backend.load`."""
        self.provider.check()
        kind, self._path = model.pick(self.accepts, "onnxruntime")
        if kind != "onnx":
            self._path = self._export(model)
        self._engine_able, self._default, self._unsuitable = None, None, ()
        self._calibration.clear()
        given = graphs.read(self._path)
        self._given = graphs.with_own_node_names(given)
        self._plain = graphs.prepare(given)
        self._use(self._plain)
        self.float_tolerance = max(HALF_TOLERANCE.get(name, 0.0) for name in ("", *self._plain.converted))
        self._info = self.graph.info
        if not self._info.inputs:
            raise InputError("model.path", "the model has no inputs, so no data can be measured on it")
        for spec in self._info.inputs:
            if spec.dtype.kind not in "fiub":
                kind = type_name(next(i.type for i in self.graph.model.graph.input if i.name == spec.name))
                raise InputError(
                    "model.path",
                    f"input {spec.name!r} is of type {kind}",
                    "arrays of numbers; a part of the model that takes them can be tuned",
                )
        tensors, nodes = {}, {}
        for fused_op in self.graph.fused_ops.values():
            for name in (fused_op.raw, fused_op.output):
                tensors[name] = tensors[self.graph.fresh(f"{name}/open")] = fused_op.name
            nodes[fused_op.name] = fused_op.name
            for suffix in (DYNAMIC_SUFFIX, DYNAMIC_PRODUCT):
                nodes[self.graph.fresh(f"{fused_op.name}{suffix}")] = fused_op.name
            if fused_op.act is not None:
                nodes[fused_op.act.name] = fused_op.name
        self._other_ops = find_other_ops(self.graph)
        for op in self._other_ops.values():
            tensors.update({name: op.name for name in op.node.output if name})
            nodes[op.name] = op.name
        # A node may be called like the tensor of another one.
        self._operators = {**tensors, **nodes}
        for node in self.graph.model.graph.node:
            owner = self._owner(node.output[0]) if node.output[0] in self.graph.scaled else None
            if owner is not None:
                self._operators[node.name] = owner
        return self._info

    def _owner(self, name: str) -> str | None:
        """The operator whose int8 scale absorbs a multiplication by a constant."""
        source, _ = self.graph.scaled[name]
        if source in self.graph.scaled:
            return self._owner(source)
        readers = [n.name for n in self.graph.consumers.get(name, []) if n.name in self.graph.fused_ops]
        return self._operators.get(source, readers[0] if readers else None)

    def _use(self, graph: Graph) -> None:
        self._graph = graph
        self._weights = WeightCache(graph)
        self._builder = GraphBuilder(graph, self._weights, partial(ModalQdqGraph, provider=self.provider))

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

    def capabilities(self) -> Capabilities:
        """See `Backend.capabilities`: every scheme was observed in the engine's optimized graph.

        After calibration, operators that infinite values reach are no longer offered; see `suitable`.
        """
        reduce_range = self._reduce_range()
        if self._engine_able is None:
            self._engine_able = describe(
                self._builder, self._operators, reduce_range, self.settings.modes, self.provider
            )
        able = self._engine_able
        if self._calibration.ready:
            seen = self._calibration
            able, self._unsuitable = suitable(able, self._operands, seen.infinite, self._span, seen.unseen)
        self._default = Config(tuple((op.name, op.schemes[0]) for op in able.ops), (("reduce_range", reduce_range[0]),))
        return able

    def _operands(self, name: str) -> Operands:
        op = self.graph.fused_ops.get(name) or self._other_ops[name]
        return Operands(op.type, (*op.inputs, *op.constants), op.raw, op.output)

    def _span(self, name: str) -> tuple[float, float]:
        if name in self.graph.initializers:
            values = self.graph.array(name)
            return float(values.min()), float(values.max())
        return self._calibration.range(name, "minmax")

    def _reduce_range(self) -> tuple[bool, ...]:
        if self.settings.reduce_range == "auto":
            return (True, False) if self.saturates_there or saturates(self.provider) else (False,)
        return (self.settings.reduce_range == "always",)

    def conversion_edges(self) -> tuple[ConversionEdge[str], ...]:
        """See `Backend.conversion_edges`."""
        return find_conversion_edges(self.graph)

    def calibrate(self, batches: Sequence[Batch]) -> None:
        """See `Backend.calibrate`: one pass of the fp32 graph with every activation as an output.

        If channels can be equalized, a second pass calibrates the equalized graph.

        Raises:
            InputError: an activation is NaN.
        """
        assert self._plain is not None, "load first"
        plain = self._plain
        self._use(plain)
        first = batches[0] if len(batches) else {}
        self._probe = self._loaded_info.rows(first, 0, 1)
        looking = asked(self.settings.equalize, self.cautious)
        pairs = equalize.pairs(plain) if looking else []

        def gather(look: Look) -> dict[str, Histogram]:
            histograms, self.largest_batch = collect(
                self.graph, batches, self._loaded_info, self.threads, look, provider=self.provider
            )
            return histograms

        begin = time.perf_counter()
        self._calibration.run(
            gather,
            self.settings.equalize,
            pairs,
            lambda peaks: self._use(plain if peaks is None else equalize.equalized(plain, pairs, peaks)),
            lambda: self._noise(first),
        )
        self._builder.fused_attention, self._attention_remark = choose_attention(
            self._builder, first, self._loaded_info, self.threads, self.settings.fused_attention, self.provider
        )
        if self._engine_able is not None:
            self.capabilities()
        self._recover(batches, time.perf_counter() - begin)

    def _recover(self, batches: Sequence[Batch], pass_seconds: float) -> None:
        """Make quantized weights and biases less noisy, see `recovery`; models from 512 MB on are left alone.

        Args:
            batches: Calibration data.
            pass_seconds: Seconds that calibration took: where there is less time, recovery would overrun it.
        """
        methods = recovery.chosen(self.settings.recovery)
        self.recovery = ()
        if not methods or self.cautious or not external.may_be_reworked(self.graph.model):
            return
        self.capabilities()
        self._batches = batches
        self.recovery = recovered(
            self,
            split(batches, self._loaded_info, self.largest_batch or 1),
            self._loaded_info,
            self.threads,
            methods,
            self.recovery_seconds if FIRST_STEP_SHARE * pass_seconds < self.recovery_seconds else 0.0,
            self.settings.recovery != recovery.AUTO,
            self.provider,
        )
        self._batches = ()

    @property
    def weights(self) -> WeightCache:
        """The quantized weights of the graph in use."""
        return self._weights

    @property
    def offered(self) -> frozenset[str]:
        """See `Recoverable.offered`."""
        return frozenset(op.name for op in self.capabilities().ops)

    @property
    def scales_pairs(self) -> bool:
        """See `Recoverable.scales_pairs`: not with ``equalize=never``."""
        return bool(self.settings.equalize != "never")

    @property
    def offers_dynamic(self) -> bool:
        """See `Recoverable.offers_dynamic`."""
        return any(dynamic_scheme(op) is not None for op in self.capabilities().ops)

    @property
    def reduce_range(self) -> bool:
        """See `Recoverable.reduce_range`."""
        return self._reduce_range()[0]

    def quantized(self, what: str) -> onnx.ModelProto:
        """See `Recoverable.quantized`."""
        able = self.capabilities()
        config = self._default
        assert config is not None
        if what == recovery.DYNAMIC:
            config = Config(tuple((op.name, dynamic_scheme(op) or FLOAT) for op in able.ops), config.options)
        return self._builder.build(config, self._calibration.range)[0]

    def use_scaled(self, graph: Graph, tensors: Collection[str]) -> Callable[[], None]:
        """See `Recoverable.use_scaled`."""
        before = (self._graph, self._weights, self._builder)
        self._use(graph)
        found, _ = collect(
            graph,
            self._batches,
            self._loaded_info,
            self.threads,
            lambda *_: None,
            tensors=tensors,
            provider=self.provider,
        )
        histograms = self._calibration.replace(found)

        def undo() -> None:
            self._graph, self._weights, self._builder = before
            self._calibration.replace(histograms)

        return undo

    def _noise(self, batch: Batch) -> float:
        """Noise-to-signal ratio of the output (see `signal_of`) with every operator in int8."""
        part = self._loaded_info.rows(batch, 0, LIMITS.noise_samples)
        int8 = self.quantized(recovery.EVERYTHING)
        models = [
            OrtExecutable(model.SerializeToString(), self.threads, provider=self.provider)
            for model in (self.graph.model, int8)
        ]
        try:
            reference, other = (model.predict for model in models)
            return noise_in_pieces(reference, other, part, self._loaded_info, self.largest_batch or 1)
        finally:
            for model in models:
                model.close()

    def remarks(self) -> tuple[str, ...]:
        """See `Backend.remarks`."""
        return (
            *self._calibration.remarks,
            *self._unsuitable,
            *self._type_remarks(),
            *self._attention_remark,
            *self._provider_remarks(),
        )

    def _provider_remarks(self) -> tuple[str, ...]:
        if self.provider.is_cpu:
            return ()
        return (
            f"Models are measured on {self.provider.name}: open the saved model with "
            f"onnxruntime.InferenceSession(path, providers={self.provider.for_session()}).",
        )

    def _type_remarks(self) -> tuple[str, ...]:
        if self._plain is None or not self._plain.converted:
            return ()
        names = " and ".join(self._plain.converted)
        told = f"the model computes in {names}; every configuration computes its float operators in fp32"
        return (f"{told}, and inputs and outputs keep their types",)

    @property
    def _loaded_info(self) -> ModelInfo:
        if self._info is None:
            raise EngineError("no model is loaded")
        return self._info

    def use_axes(self, info: ModelInfo) -> None:
        """See `Backend.use_axes`."""
        self._info = info

    def reference(self) -> OrtExecutable:
        """See `Backend.reference`. A model that the engine has no kernels for, as in bfloat16, runs in float32.

        A file with repeated node names, which the engine refuses, gets others first.

        Raises:
            InputError: the engine refuses the file, as it does where the shape of a Reshape is external data.
        """
        try:
            return OrtExecutable(
                self._given or self._path,
                self.threads,
                "as given",
                self._operators,
                self._probe,
                self._kernel_times,
                provider=self.provider,
            )
        except EngineError as error:
            if self._plain is None or not self._plain.converted:
                raise InputError(f"model.path ({self._path})", str(error)) from error
            log.info("the engine has no kernels for %s: the model runs in fp32", " and ".join(self._plain.converted))
        return OrtExecutable(
            self._plain.model.SerializeToString(),
            self.threads,
            "as given",
            self._operators,
            self._probe,
            self._kernel_times,
            external.stored_bytes(self._plain.model),
            self.provider,
        )

    def build(self, config: Config) -> OrtExecutable:
        """See `Backend.build`.

        Raises:
            EngineError: the backend is not calibrated, or the engine refuses the graph.
        """
        if not self._calibration.ready:
            raise EngineError("build needs calibrate first")
        model, fingerprint = self._builder.build(config, self._calibration.range)
        return OrtExecutable(
            model.SerializeToString(),
            self.threads,
            fingerprint,
            self._operators,
            self._probe,
            self._kernel_times,
            external.stored_bytes(model),
            self.provider,
        )

    def dual_precision_session(self, config: Config) -> OrtDualPrecisionSession:
        """See `Backend.dual_precision_session`."""
        if not self._calibration.ready:
            raise EngineError("dual_precision_session needs calibrate first")
        return OrtDualPrecisionSession(self._builder, config, self._calibration.range, self.threads, self.provider)

    def layers(self, config: Config, alone: Config) -> OrtLayers:
        """See `Backend.layers`."""
        if not self._calibration.ready:
            raise EngineError("layers needs calibrate first")
        return OrtLayers(self._builder, config, alone, self._calibration.range, self.threads)

    def save(self, config: Config, folder: Path) -> Path:
        """See `Backend.save`: ``model.onnx``, a Q/DQ model for onnxruntime's defaults."""
        return save(self._builder.build(config, self._calibration.range)[0], folder)

    def save_reference(self, folder: Path) -> Path:
        """See `Backend.save_reference`: the file as given, with its external data."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        if self._plain is not None and self._plain.converted and not self._runs_as_given():
            external.save(self._plain.model, path)
        elif self._given is not None:
            path.write_bytes(self._given)
        else:
            for file in (self._path, *graphs.external_files(self._path)):
                place = path if file == self._path else folder / file.relative_to(self._path.parent)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(file.resolve())
        return path

    def _runs_as_given(self) -> bool:
        """Whether the engine has kernels for the types of the model as given; see `reference`."""
        try:
            OrtExecutable(self._given or self._path, self.threads).close()
        except EngineError:
            return False
        return True

    def open(self, path: Path) -> OrtExecutable:
        """See `Backend.open`."""
        return OrtExecutable(path, self.threads, "saved", self._operators, self._probe, provider=self.provider)

    def native(self, config: Config | None) -> onnx.ModelProto:
        """See `Backend.native`: an ``onnx.ModelProto``.

        Raises:
            EngineError: the model is larger than 2 GB.
        """
        if config is None:
            return external.inlined(graphs.read(self._path))
        return external.inlined(self._builder.build(config, self._calibration.range)[0])

    def ceiling(self, again: bool = False) -> Ceiling | None:
        """See `Backend.ceiling`."""
        return ceiling.measured(self, again, self.provider)

    def versions(self) -> dict[str, str]:
        """See `Backend.versions`."""
        versions: dict[str, Any] = {"onnxruntime": ort.__version__, "onnx": onnx.__version__}
        return versions
