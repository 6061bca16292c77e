"""The ONNX Runtime backend."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from nc_strategies.backends.collection import collect
from nc_strategies.backends.onnx_backend import OnnxBackend
from nc_strategies.backends.onnxruntime import providers
from nc_strategies.backends.onnxruntime.calibrate import OrtObserver
from nc_strategies.backends.onnxruntime.capabilities import describe
from nc_strategies.backends.onnxruntime.choose_attention import choose_attention
from nc_strategies.backends.onnxruntime.executed import DYNAMIC_PRODUCT, DYNAMIC_SUFFIX, base_name, is_int8
from nc_strategies.backends.onnxruntime.layers import OrtLayers
from nc_strategies.backends.onnxruntime.modes import ModalQdqGraph
from nc_strategies.backends.onnxruntime.node_timing import KernelTimes
from nc_strategies.backends.onnxruntime.other_ops import find_other_ops
from nc_strategies.backends.onnxruntime.probe import saturates
from nc_strategies.backends.onnxruntime.recover import dynamic_scheme, recovered, split
from nc_strategies.backends.onnxruntime.reuse_session import OrtDualPrecisionSession
from nc_strategies.backends.onnxruntime.session import OrtExecutable, optimize
from nc_strategies.backends.onnxruntime.settings import OnnxRuntimeSettings
from nc_strategies.calibration import recovery
from nc_strategies.errors import EngineError, InputError
from nc_strategies.models import ModelSource
from nc_strategies.models.info import Batch, ModelInfo
from nc_strategies.onnx_graph import external
from nc_strategies.onnx_graph import graph as graphs
from nc_strategies.onnx_graph.graph import FusedOp, Graph
from nc_strategies.onnx_graph.qdq import GraphBuilder
from nc_strategies.onnx_graph.weights import WeightCache
from nc_strategies.runtime import memory
from nc_strategies.space import FLOAT, Capabilities, Config

log = logging.getLogger(__name__)
FIRST_STEP_SHARE = 0.5
"""Time of the first measurement of recovery relative to that of calibration."""
FILE = "model.onnx"


class OnnxRuntimeBackend(OnnxBackend):
    """Static, dynamic and weight-only quantization on onnxruntime's CPU kernels.

    An operator reads its activations in its own scheme. Its result is quantized in the scheme of the first int8
    operator that reads it if both have the same data type, and in its own scheme otherwise. The saved model is the Q/DQ
    model that was measured: onnxruntime executes the same operators when it opens the model with its defaults.

    Raises:
        InputError: a setting is not allowed.
    """

    engine = "onnxruntime"
    automatic = ("fused_attention",)
    settings: OnnxRuntimeSettings

    def __init__(self, settings: OnnxRuntimeSettings, threads: int = 1) -> None:
        super().__init__(settings, threads)
        recovery.chosen(settings.recovery)
        self.provider = providers.chosen(settings.provider, settings.provider_options)
        self._given: bytes | None = None
        self._operators: dict[str, str] = {}
        self._other_ops: dict[str, FusedOp] = {}
        self._probe: Batch | None = None
        self._attention_remark: tuple[str, ...] = ()
        self._kernel_times = KernelTimes(threads, self.provider)
        self._batches: Sequence[Batch] = ()

    def load(self, model: ModelSource) -> ModelInfo:
        """See `Backend.load`."""
        self.provider.check()
        info = super().load(model)
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
        return info

    def prepare(self, given: onnx.ModelProto) -> Graph:
        """See `OnnxBackend.prepare`. A file with repeated node names, which the engine refuses, gets others first."""
        self._given = graphs.with_own_node_names(given)
        return super().prepare(given)

    def _owner(self, name: str) -> str | None:
        """The operator whose int8 scale absorbs a multiplication by a constant."""
        source, _ = self.graph.scaled[name]
        if source in self.graph.scaled:
            return self._owner(source)
        readers = [n.name for n in self.graph.consumers.get(name, []) if n.name in self.graph.fused_ops]
        return self._operators.get(source, readers[0] if readers else None)

    def builder(self, graph: Graph) -> GraphBuilder:
        """See `OnnxBackend.builder`."""
        return GraphBuilder(graph, WeightCache(graph), partial(ModalQdqGraph, provider=self.provider))

    def observer(self, graph: Graph) -> OrtObserver:
        """See `OnnxBackend.observer`."""
        return OrtObserver(graph, self.threads, self.provider)

    def open_model(self, model: onnx.ModelProto, fingerprint: str) -> OrtExecutable:
        """See `OnnxBackend.open_model`."""
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

    def executed_in_int8(self, model: onnx.ModelProto) -> frozenset[str]:
        """See `OnnxBackend.executed_in_int8`: read from the engine's optimized graph."""
        nodes = optimize(model.SerializeToString(), self.provider).graph.node
        names = [base_name(node.name) for node in nodes if is_int8(node.op_type, [])]
        return frozenset(self._operators[name] for name in names if name in self._operators)

    def describe(self) -> Capabilities:
        """See `OnnxBackend.describe`: embeddings and LSTMs too, and products in every mode."""
        ranges, modes = self.reduce_ranges(), self.settings.modes
        return describe(self._builder, self.executed_in_int8, ranges, modes, self.provider)

    def operator(self, name: str) -> FusedOp:
        """See `OnnxBackend.operator`."""
        return self.graph.fused_ops.get(name) or self._other_ops[name]

    def saturates(self) -> bool:
        """See `OnnxBackend.saturates`."""
        return saturates(self.provider)

    def ceiling_key(self) -> list[str]:
        """See `OnnxBackend.ceiling_key`."""
        return [ort.__version__, *map(str, self.provider.cache_key())]

    def calibrate(self, batches: Sequence[Batch]) -> None:
        """See `Backend.calibrate`: one pass of the fp32 graph with every activation as an output.

        If channels can be equalized, a second pass calibrates the equalized graph. Recovery follows.

        Raises:
            InputError: an activation is NaN.
        """
        first = batches[0] if len(batches) else {}
        self._probe = None  # models that calibration opens need no profile
        begin = time.perf_counter()
        super().calibrate(batches)
        self._probe = self.info.rows(first, 0, 1)
        self._builder.fused_attention, self._attention_remark = choose_attention(
            self._builder, first, self.info, self.threads, self.settings.fused_attention, self.provider
        )
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
            split(batches, self.info, self.largest_batch or 1),
            self.info,
            self.threads,
            methods,
            self.recovery_seconds if FIRST_STEP_SHARE * pass_seconds < self.recovery_seconds else 0.0,
            self.settings.recovery != recovery.AUTO,
            self.provider,
        )
        self._batches = ()

    @property
    def weights(self) -> WeightCache:
        """See `Recoverable.weights`."""
        return self._builder.weights

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
        return self.reduce_ranges()[0]

    def quantized(self, what: str) -> onnx.ModelProto:
        """See `Recoverable.quantized`."""
        config = self.default_config()
        if what == recovery.DYNAMIC:
            schemes = tuple((op.name, dynamic_scheme(op) or FLOAT) for op in self.capabilities().ops)
            config = Config(schemes, config.options)
        return self._builder.build(config, self._calibration.range)[0]

    def use_scaled(self, graph: Graph, tensors: Collection[str]) -> Callable[[], None]:
        """See `Recoverable.use_scaled`."""
        before = (self._graph, self._builder)
        self._use(graph)
        observer = OrtObserver(graph, self.threads, self.provider, tensors)
        found, _ = collect(observer, self._batches, self.info, lambda *_: None)
        memory.release()
        histograms = self._calibration.replace(found)

        def undo() -> None:
            self._graph, self._builder = before
            self._calibration.replace(histograms)

        return undo

    def remarks(self) -> tuple[str, ...]:
        """See `Backend.remarks`."""
        return (*super().remarks(), *self._attention_remark, *self._provider_remarks())

    def _provider_remarks(self) -> tuple[str, ...]:
        if self.provider.is_cpu:
            return ()
        return (
            f"Models are measured on {self.provider.name}: open the saved model with "
            f"onnxruntime.InferenceSession(path, providers={self.provider.for_session()}).",
        )

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
        return self.open_model(self._plain.model, "as given")

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
        folder.mkdir(parents=True, exist_ok=True)
        self.save_onnx(config, folder / FILE)
        return folder / FILE

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

    def versions(self) -> dict[str, str]:
        """See `Backend.versions`."""
        versions: dict[str, Any] = {"onnxruntime": ort.__version__, "onnx": onnx.__version__}
        return versions
