"""The OpenVINO backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from nc_strategies.api import (
    FLOAT,
    Config,
    EngineError,
    InputError,
    ModelInfo,
    ModelSource,
    OnnxBackend,
    OnnxGraph,
    OpScheme,
    TensorScheme,
)
from nc_strategies_openvino import engine, probe, saving
from nc_strategies_openvino.build import SUMS, OpenVinoQdqGraph
from nc_strategies_openvino.calibrate import OpenVinoObserver
from nc_strategies_openvino.executed import Operators, count, runtime_nodes
from nc_strategies_openvino.session import OpenVinoExecutable, opened
from nc_strategies_openvino.settings import OpenVinoSettings

engine.openvino()  # an import error here tells the registry that a package is missing


WEIGHT_ONLY = tuple(
    OpScheme(FLOAT.activation, TensorScheme(dtype, "sym", f"per_block_{size}", "minmax"))
    for dtype in ("int8", "int4")
    for size in (32, 128)
)
"""Schemes of products whose weights only are quantized, the most accurate of a type first."""


class OpenVinoBackend(OnnxBackend):
    """Static int8, and products with compressed weights, on OpenVINO's CPU kernels.

    A tensor is quantized for the operators that read it in int8, and stays in floating point for the others. Models
    are compiled with ``INFERENCE_PRECISION_HINT=f32``.
    """

    engine = "openvino"
    graph_class = OpenVinoQdqGraph
    following = SUMS
    weight_only = WEIGHT_ONLY
    settings: OpenVinoSettings

    def load(self, model: ModelSource) -> ModelInfo:
        """See `Backend.load`."""
        info = super().load(model)
        try:
            engine.read(self.path)
        except EngineError as error:
            raise InputError(f"model.path ({self.path})", str(error)) from error
        return info

    def companions(self, path: Path) -> tuple[Path, ...]:
        """See `Backend.companions`: the weights of OpenVINO IR, and the files of ONNX external data."""
        return (saving.weights_of(path),) if path.suffix == saving.SUFFIX else super().companions(path)

    def saturates(self) -> bool:
        """See `OnnxBackend.saturates`."""
        return probe.saturates()

    def remarks(self) -> tuple[str, ...]:
        """See `Backend.remarks`."""
        default = engine.default_precision()
        told = f"compile the saved model with {engine.PRECISION}=f32: OpenVINO's default on this processor is {default}"
        return (*super().remarks(), *((told,) if default != "f32" else ()))

    @property
    def _operators(self) -> Operators:
        return Operators.of(self.graph) if self._graph is not None else Operators()

    def observer(self, graph: OnnxGraph) -> OpenVinoObserver:
        """See `OnnxBackend.observer`."""
        inputs = [i.name for i in graph.model.graph.input]
        return OpenVinoObserver(self.serialized(graph.model), self.observed_tensors(), inputs, self.threads)

    def open_model(self, model: onnx.ModelProto, fingerprint: str) -> OpenVinoExecutable:
        """See `OnnxBackend.open_model`."""
        data = self.serialized(model)
        return OpenVinoExecutable(data, self.threads, fingerprint, self._operators, len(data))

    def executed_in_int8(self, model: onnx.ModelProto) -> frozenset[str]:
        """See `OnnxBackend.executed_in_int8`."""
        compiled = engine.compiled(opened(self.serialized(model)), engine.options(self.threads))
        return count(runtime_nodes(compiled), self._operators).int8_names

    def reference(self) -> OpenVinoExecutable:
        """See `Backend.reference`; floating-point operators run in fp32."""
        return OpenVinoExecutable(self.path, self.threads, "as given", self._operators, self.size_bytes)

    def save(self, config: Config, folder: Path) -> Path:
        """See `Backend.save`: ``model.xml`` and ``model.bin``, OpenVINO IR, and ``model.onnx``, the Q/DQ model."""
        folder.mkdir(parents=True, exist_ok=True)
        self.save_onnx(config, folder / saving.ONNX_FILE)
        path = folder / saving.FILE
        saving.save_ir(opened(self.serialized(self.build_graph(config)[0])), path)
        return path

    def open(self, path: Path) -> OpenVinoExecutable:
        """See `Backend.open`: with ``INFERENCE_PRECISION_HINT=f32``, as the documentation tells users to."""
        return OpenVinoExecutable(path, self.threads, "saved", self._operators, saving.ir_bytes(path))

    def versions(self) -> dict[str, str]:
        """See `Backend.versions`."""
        versions: dict[str, Any] = {"openvino": engine.openvino().__version__, "onnx": onnx.__version__}
        return versions
