"""The backend: what ONNX Runtime can run in int8, and how."""

from __future__ import annotations

import logging
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from nc_strategies.backends.base import Backend, Batch, Link, ModelInfo
from nc_strategies.backends.calibration import ALGORITHMS, Histogram
from nc_strategies.backends.equalization import LOOKED_AT, WHEN, Peaks, adopt, asked, noise_to_signal
from nc_strategies.backends.onnxruntime import equalize, session
from nc_strategies.backends.onnxruntime import graph as graphs
from nc_strategies.backends.onnxruntime.assemble import Assembler
from nc_strategies.backends.onnxruntime.graph import OPT_IN, Graph, Unit
from nc_strategies.backends.onnxruntime.kernel_times import KernelTimes
from nc_strategies.backends.onnxruntime.links import find_links
from nc_strategies.backends.onnxruntime.probe import saturates
from nc_strategies.backends.onnxruntime.session import OrtExecutable
from nc_strategies.backends.onnxruntime.settings import OnnxRuntimeSettings
from nc_strategies.backends.onnxruntime.switch import OrtSwitchable
from nc_strategies.backends.onnxruntime.weights import WeightCache
from nc_strategies.errors import EngineError, InputError
from nc_strategies.models import ModelSource
from nc_strategies.space import FLOAT, Capabilities, Config, OpCapability, OpScheme, TensorScheme

log = logging.getLogger(__name__)
ACTIVATIONS = (("uint8", "asym"), ("int8", "sym"))
GRANULARITIES = ("per_channel", "per_tensor")


class OnnxRuntimeBackend(Backend):
    """Static int8 on onnxruntime's CPU kernels.

    An operator reads its activations in its own scheme; its result is quantized in the scheme of the first int8
    operator that reads it, where the data type is the same, else in its own. What is saved is the QDQ model that
    was measured: it executes the same operators when opened with onnxruntime's defaults.

    Raises:
        InputError: a setting that is not allowed.
    """

    accepts = ("onnx", "keras", "saved_model", "graph_def")
    settings: OnnxRuntimeSettings

    def __init__(self, settings: OnnxRuntimeSettings, threads: int = 1) -> None:
        super().__init__(settings, threads)
        if not 50 < settings.percentile <= 100:
            raise InputError("backend.percentile", f"is {settings.percentile}", "above 50, at most 100")
        for key in ("reduce_range", "equalize"):
            if getattr(settings, key) not in WHEN:
                raise InputError(f"backend.{key}", f"is {getattr(settings, key)!r}", f"allowed: {', '.join(WHEN)}")
        self._path = Path()
        self._exported: weakref.finalize[..., OnnxRuntimeBackend] | None = None
        self._graph: Graph | None = None
        self._plain: Graph | None = None
        self._default: Config | None = None
        self._remarks: tuple[str, ...] = ()
        self._info: ModelInfo | None = None
        self._histograms: dict[str, Histogram] = {}
        self._ranges: dict[tuple[str, str], tuple[float, float]] = {}
        self._operators: dict[str, str] = {}
        self._probe: Batch | None = None
        self._kernel_times = KernelTimes(threads)

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
        """See `Backend.companions`: external data."""
        return graphs.external_files(path) if path.is_file() and path.suffix != ".keras" else ()

    def load(self, model: ModelSource) -> ModelInfo:
        """See `Backend.load`."""
        kind, self._path = model.pick(self.accepts, "onnxruntime")
        if kind != "onnx":
            self._path = self._export(model)
        self._plain = graphs.prepare(graphs.read(self._path))
        self._use(self._plain)
        self._info = self.graph.info
        for spec in self._info.inputs:
            if spec.dtype.kind not in "fiub":
                raise InputError("model.path", f"input {spec.name!r} is of type {spec.dtype}", "numbers are needed")
        self._operators = {u.name: u.name for u in self.graph.units.values()}
        for unit in self.graph.units.values():
            for name in (unit.raw, f"{unit.raw}/open", unit.output, f"{unit.output}/open"):
                self._operators[name] = unit.name
            if unit.act is not None:
                self._operators[unit.act.name] = unit.name
        for node in self.graph.model.graph.node:
            owner = self._owner(node.output[0]) if node.output[0] in self.graph.scaled else None
            if owner is not None:
                self._operators[node.name] = owner
        return self._info

    def _owner(self, name: str) -> str | None:
        """The operator in whose int8 form a multiplication by a constant is for nothing."""
        source, _ = self.graph.scaled[name]
        if source in self.graph.scaled:
            return self._owner(source)
        readers = [n.name for n in self.graph.consumers.get(name, []) if n.name in self.graph.units]
        return self._operators.get(source, readers[0] if readers else None)

    def _use(self, graph: Graph) -> None:
        self._graph = graph
        self._weights = WeightCache(graph)
        self._assembler = Assembler(graph, self._weights)

    def _export(self, model: ModelSource) -> Path:
        # TensorFlow models come in by TensorFlow's own backend, which is imported for them only.
        from nc_strategies.backends.tensorflow.export import export_in_child

        folder = Path(tempfile.mkdtemp(prefix="ncs-export-"))
        self._exported = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return export_in_child(model, folder)

    def keep(self, folder: Path) -> None:
        """See `Backend.keep`: the ONNX form of a model that came in another."""
        if self._exported is not None:
            shutil.copyfile(self._path, folder / self._path.name)

    def capabilities(self) -> Capabilities:
        """See `Backend.capabilities`: every scheme was seen in the engine's optimized graph."""
        offered: dict[str, list[OpScheme]] = {name: [] for name in self.graph.units}
        reduce_range = self._reduce_range()
        for dtype, scheme in ACTIVATIONS:
            everything = tuple((name, self._scheme(unit, dtype, scheme, "per_channel", "minmax"))
                               for name, unit in self.graph.units.items())
            plan = Config(everything, (("reduce_range", reduce_range[0]),))
            running = self._runs_int8(plan)
            for name, unit in self.graph.units.items():
                if name in running:
                    offered[name] += [self._scheme(unit, dtype, scheme, granularity, algorithm)
                                      for algorithm in ALGORITHMS
                                      for granularity in (GRANULARITIES if unit.weight else GRANULARITIES[:1])]
        ops = []
        for name, unit in self.graph.units.items():
            if offered[name]:
                opt_in = unit.type in OPT_IN
                schemes = (FLOAT, *offered[name]) if opt_in else (*offered[name], FLOAT)
                ops.append(OpCapability(name, unit.type, schemes, opt_in, self._parameters(unit),
                                        self._elements(unit.output)))
        self._default = Config(tuple((op.name, op.schemes[0]) for op in ops), (("reduce_range", reduce_range[0]),))
        edges = tuple((a, b) for a, b in self._edges() if offered.get(a) and offered.get(b))
        names = tuple(n.name for n in self.graph.model.graph.node
                      if n.op_type not in session.MOVEMENT and n.op_type not in graphs.QUIET)
        return Capabilities(tuple(ops), edges, (), (("reduce_range", reduce_range),), names)

    def _reduce_range(self) -> tuple[bool, ...]:
        if self.settings.reduce_range == "auto":
            return (True, False) if saturates() else (False,)
        return (self.settings.reduce_range == "always",)

    def _scheme(self, unit: Unit, dtype: str, scheme: str, granularity: str, algorithm: str) -> OpScheme:
        weight = TensorScheme("int8", "sym", granularity, "minmax") if unit.weight else None
        return OpScheme(TensorScheme(dtype, scheme, "per_tensor", algorithm), weight)

    def _runs_int8(self, config: Config) -> set[str]:
        """Operators which the engine turns into int8 kernels, read from its optimized graph with made-up ranges."""
        def ranges(name: str, algorithm: str) -> tuple[float, float]:
            node = self.graph.producers.get(name)
            return (0.0, 1.0) if node is not None and node.op_type in graphs.NOT_NEGATIVE else (-1.0, 1.0)

        model, _ = self._assembler.build(config, ranges)
        optimized = session.optimize(model.SerializeToString())
        names = [session.base_name(n.name) for n in optimized.graph.node if session.is_int8(n.op_type, [])]
        return {self._operators[name] for name in names if name in self._operators}

    def _parameters(self, unit: Unit) -> int:
        return int(np.prod(self.graph.initializers[unit.weight].dims)) if unit.weight else 0

    def _elements(self, name: str) -> int:
        shape = self.graph.shapes.get(name, ())
        return int(np.prod([d for d in shape[1:] if d])) if len(shape) > 1 else 0

    def _edges(self) -> list[tuple[str, str]]:
        owner: dict[str, str] = {}
        edges: list[tuple[str, str]] = []
        acts = {u.act.name for u in self.graph.units.values() if u.act is not None}
        for node in self.graph.model.graph.node:
            unit = self.graph.units.get(node.name)
            if unit is not None:
                edges += [(owner[name], unit.name) for name in unit.inputs if name in owner]
                owner[unit.raw] = owner[unit.output] = unit.name
            elif node.name not in acts and self.graph.carried(node) in owner:
                owner[node.output[0]] = owner[str(self.graph.carried(node))]
        return edges

    def links(self) -> tuple[Link, ...]:
        """See `Backend.links`."""
        return find_links(self.graph)

    def calibrate(self, batches: Sequence[Batch]) -> None:
        """See `Backend.calibrate`: one pass of the fp32 graph with every activation as an output.

        Where channels can be equalized there is a second pass, after that.

        Raises:
            InputError: an activation is not finite.
        """
        assert self._plain is not None, "load first"
        self._use(self._plain)
        self._remarks = ()
        self._probe = {name: array[:1] if self._free_batch() else array for name, array in batches[0].items()}
        chosen = equalize.pairs(self._plain) if asked(self.settings.equalize, self.cautious) else []
        peaks = Peaks(chosen)
        self._histograms = self._observe(batches, peaks.look)
        self._ranges.clear()
        if chosen:
            plain = self._histograms

            def use(equalized: bool) -> None:
                assert self._plain is not None
                self._use(equalize.equalized(self._plain, chosen, peaks.values) if equalized else self._plain)
                self._histograms = self._observe(batches) if equalized else plain
                self._ranges.clear()

            self._remarks = adopt(self.settings.equalize, len(chosen), lambda: self._noise(batches[0]), use)

    def _observe(self, batches: Sequence[Batch],
                 look: Callable[[str, NDArray[Any]], None] = lambda *_: None) -> dict[str, Histogram]:
        """Histograms of all activations; each array is shown to `look` too."""
        model = onnx.ModelProto()
        model.CopyFrom(self.graph.model)
        names = sorted({n for u in self.graph.units.values() for n in (*u.inputs, u.raw, u.output)}
                       | {source for source, _ in self.graph.scaled.values()})
        inputs = {i.name for i in model.graph.input}
        have = {o.name for o in model.graph.output}
        for name in names:
            if name not in inputs | have:
                model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        chosen = session.options(max(self.threads, 1))
        chosen.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        run = ort.InferenceSession(model.SerializeToString(), chosen, providers=session.PROVIDERS)
        produced = [n for n in names if n not in inputs]
        histograms = {name: Histogram() for name in names}
        for batch in batches:
            values = dict(zip(produced, run.run(produced, dict(batch)), strict=True)) | dict(batch)
            for name in names:
                try:
                    histograms[name].update(values[name])
                except ValueError:
                    raise InputError("data", f"the fp32 model gives NaN or infinity in {name!r} on calibration data") \
                        from None
                look(name, values[name])
        return histograms

    def _noise(self, batch: Batch) -> float:
        """Noise-to-signal ratio of the first output with int8 everywhere."""
        if self._default is None:
            self.capabilities()
        assert self._default is not None
        part = {name: array[:LOOKED_AT] if self._free_batch() else array for name, array in batch.items()}
        int8, _ = self._assembler.build(self._default, self._range)
        outputs = []
        for model in (self.graph.model, int8):
            run = OrtExecutable(model.SerializeToString(), self.threads)
            outputs.append(run.predict(part)[0])
            run.close()
        return noise_to_signal(*outputs)

    def remarks(self) -> tuple[str, ...]:
        """See `Backend.remarks`."""
        return self._remarks

    def _free_batch(self) -> bool:
        return self._info is not None and self._info.batch_size is None

    def _range(self, name: str, algorithm: str) -> tuple[float, float]:
        key = (name, algorithm)
        if key not in self._ranges:
            self._ranges[key] = self._histograms[name].range(algorithm, self.settings.percentile)
        return self._ranges[key]

    def reference(self) -> OrtExecutable:
        """See `Backend.reference`."""
        return OrtExecutable(self._path, self.threads, "as given", self._operators, self._probe, self._kernel_times)

    def realise(self, config: Config) -> OrtExecutable:
        """See `Backend.realise`.

        Raises:
            EngineError: not calibrated, or the engine refuses the graph.
        """
        if not self._histograms:
            raise EngineError("realise needs calibrate first")
        model, fingerprint = self._assembler.build(config, self._range)
        return OrtExecutable(model.SerializeToString(), self.threads, fingerprint, self._operators, self._probe,
                             self._kernel_times)

    def switchable(self, config: Config) -> OrtSwitchable:
        """See `Backend.switchable`."""
        if not self._histograms:
            raise EngineError("switchable needs calibrate first")
        return OrtSwitchable(self._assembler, config, self._range, self.threads)

    def save(self, config: Config, folder: Path) -> Path:
        """See `Backend.save`: ``model.onnx``, a QDQ model for onnxruntime's defaults."""
        model, _ = self._assembler.build(config, self._range)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    def open(self, path: Path) -> OrtExecutable:
        """See `Backend.open`."""
        return OrtExecutable(path, self.threads, "saved", self._operators, self._probe)

    def native(self, config: Config | None) -> onnx.ModelProto:
        """See `Backend.native`: an ``onnx.ModelProto``."""
        return onnx.load(str(self._path)) if config is None else self._assembler.build(config, self._range)[0]

    def versions(self) -> dict[str, str]:
        """See `Backend.versions`."""
        versions: dict[str, Any] = {"onnxruntime": ort.__version__, "onnx": onnx.__version__}
        return versions
