"""The LiteRT backend."""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from nc_strategies.api import (
    Backend,
    Batch,
    CalibrationState,
    Capabilities,
    Ceiling,
    Config,
    ConversionEdge,
    EngineError,
    Histogram,
    InputError,
    ModelInfo,
    ModelSource,
    TensorSpec,
    collect_histograms,
)
from nc_strategies_litert import ceiling, probe
from nc_strategies_litert.build import ModelBuilder, fingerprint
from nc_strategies_litert.calibrate import LiteRtObserver
from nc_strategies_litert.capabilities import MODES, describe
from nc_strategies_litert.convert import FORMATS, convert_in_child
from nc_strategies_litert.edges import find_conversion_edges
from nc_strategies_litert.graph import Graph, prepare
from nc_strategies_litert.interpreter import quiet
from nc_strategies_litert.model import FORMAT
from nc_strategies_litert.saving import save
from nc_strategies_litert.session import LiteRtExecutable, open_file
from nc_strategies_litert.settings import LiteRtSettings

NUMBERS = frozenset("fiub")
"""Kinds of numpy types that data can have."""


class LiteRtBackend(Backend):
    """Static, dynamic and weight-only quantization for LiteRT's interpreter with its default delegate, XNNPACK.

    A tensor that an operator in static int8 reads or writes has the range of the first such operator that reads it,
    else of the one that writes it.

    Args:
        settings: The backend's settings.
        threads: Threads per run.

    Raises:
        InputError: a setting is not allowed.
    """

    accepts = (FORMAT, *FORMATS)
    settings: LiteRtSettings

    def __init__(self, settings: LiteRtSettings, threads: int = 1) -> None:
        super().__init__(settings, threads)
        if not 50 < settings.percentile <= 100:
            raise InputError("backend.percentile", f"is {settings.percentile}", "above 50, at most 100")
        if settings.modes not in MODES:
            raise InputError("backend.modes", f"is {settings.modes!r}", f"allowed: {', '.join(MODES)}")
        self._given = b""
        self._path = Path()
        self._converted: weakref.finalize[..., LiteRtBackend] | None = None
        self._builder: ModelBuilder | None = None
        self._info: ModelInfo | None = None
        self._able: Capabilities | None = None
        self._calibration = CalibrationState(settings.percentile)

    def load(self, model: ModelSource) -> ModelInfo:
        """See `Backend.load`. A model of TensorFlow is converted to ``.tflite`` in a child process."""
        kind, self._path = model.pick(self.accepts, "litert")
        if kind != FORMAT:
            self._path = self._convert(model)
        try:
            self._given = self._path.read_bytes()
        except OSError as error:
            raise InputError("model.path", f"{self._path} cannot be read: {error.strerror}") from error
        self._builder = ModelBuilder(prepare(self._given), self.settings.int8_io)
        self._able = None
        self._calibration.clear()
        graph = self._builder.graph
        self._info = ModelInfo(_specs(graph, graph.inputs), _specs(graph, graph.outputs))
        if not self._info.inputs:
            raise InputError("model.path", "the model has no inputs, so no data can be measured on it")
        for spec in self._info.inputs:
            if spec.dtype.kind not in NUMBERS:
                raise InputError("model.path", f"input {spec.name!r} is of type {spec.dtype}", "arrays of numbers")
        return self._info

    def _convert(self, model: ModelSource) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="ncs-litert-"))
        self._converted = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        target = folder / f"{model.name}.tflite"
        convert_in_child(model, target)
        return target

    @property
    def _loaded(self) -> ModelBuilder:
        if self._builder is None:
            raise EngineError("no model is loaded")
        return self._builder

    @property
    def _loaded_info(self) -> ModelInfo:
        if self._info is None:
            raise EngineError("no model is loaded")
        return self._info

    def use_axes(self, info: ModelInfo) -> None:
        """See `Backend.use_axes`."""
        self._info = info

    def capabilities(self) -> Capabilities:
        """See `Backend.capabilities`: every scheme was seen executing on the model."""
        builder = self._loaded
        if self._able is None:
            # What is looked at takes and returns floating point, as every model that is measured.
            plain = ModelBuilder(builder.content)
            self._able = describe(plain, self._open_content, probe.held(), self.settings.modes)
        return self._able

    def conversion_edges(self) -> tuple[ConversionEdge[str], ...]:
        """See `Backend.conversion_edges`."""
        offered = {op.name for op in self.capabilities().ops if any(scheme.is_static for scheme in op.schemes)}
        return find_conversion_edges(self._loaded.graph, offered)

    def calibrate(self, batches: Sequence[Batch]) -> None:
        """See `Backend.calibrate`: one pass of the floating-point model that keeps every tensor."""
        builder = self._loaded

        def gather(look: Callable[..., None]) -> dict[str, Histogram]:
            observer = LiteRtObserver(builder.content, builder.graph, builder.activations, self.threads)
            histograms, self.largest_batch = collect_histograms(observer, batches, self._loaded_info, look)
            for name, histogram in histograms.items():
                if histogram.infinite:
                    raise InputError("data", f"a calibration activation is infinite (tensor {name})")
            return histograms

        self._calibration.run(gather, "never", (), lambda _: None, lambda: 0.0)

    def _open_content(self, content: bytes, name: str = "") -> LiteRtExecutable:
        return LiteRtExecutable(content, self.threads, name or fingerprint(content), probe.profiler_works())

    def reference(self) -> LiteRtExecutable:
        """See `Backend.reference`: the converted file, or the user's own."""
        assert self._loaded
        return self._open_content(self._given, "as given")

    def build(self, config: Config) -> LiteRtExecutable:
        """See `Backend.build`."""
        return self._open_content(self._content(config))

    def _content(self, config: Config) -> bytes:
        if config.int8_ops and not self._calibration.ready:
            raise EngineError("build needs calibrate first")
        return self._loaded.build(config, self._calibration.range)

    def save(self, config: Config, folder: Path) -> Path:
        """See `Backend.save`: ``model.tflite``."""
        return save(self._content(config), folder)

    def open(self, path: Path) -> LiteRtExecutable:
        """See `Backend.open`."""
        return open_file(path, self.threads, probe.profiler_works())

    def native(self, config: Config | None) -> Interpreter:
        """See `Backend.native`: a ``ai_edge_litert.interpreter.Interpreter`` with its tensors allocated."""
        content = self._given if config is None else self._content(config)
        with quiet():
            interpreter = Interpreter(model_content=content, num_threads=self.threads)
            interpreter.allocate_tensors()
        return interpreter

    def keep(self, folder: Path) -> None:
        """See `Backend.keep`: the floating-point ``.tflite`` file that a model of TensorFlow was converted to."""
        if self._converted is not None:
            shutil.copyfile(self._path, folder / self._path.name)

    def ceiling(self, again: bool = False) -> Ceiling | None:
        """See `Backend.ceiling`."""
        return ceiling.measured(self, again)

    def versions(self) -> dict[str, str]:
        """See `Backend.versions`."""
        return {name: importlib.metadata.version(name) for name in probe.ENGINES}


def _specs(graph: Graph, ends: dict[str, int]) -> tuple[TensorSpec, ...]:
    specs = []
    for name, index in ends.items():
        tensor = graph.tensors[index]
        specs.append(TensorSpec(name, tensor.shape, _dtype(name, tensor.dtype)))
    return tuple(specs)


def _dtype(name: str, dtype: str) -> np.dtype[Any]:
    try:
        return np.dtype(dtype)
    except TypeError:
        return np.dtype(object) if dtype != "string" else np.dtype(str)
