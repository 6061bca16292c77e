"""The public interface for plugins: the only module of this package that a plugin imports.

`CONTRACT_VERSION` is the version of this interface. A plugin declares the version that it was written for as
``ncs_contract = 1`` in the module that its entry point names. A plugin of an unsupported version is reported and left
out, and the tool continues. Within a version, only optional hooks, names, arguments and fields are added; none is
removed or renamed, and none changes its meaning. Whatever a new version removes is deprecated for a minor release
first, and the previous version is supported until the next major release. Names that are not in `__all__` are private.

Names are imported on first use, because a plugin's entry point module is loaded at every start, even for ``--help``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nc_strategies.backends.base import Backend, DualPrecisionSession, Executable, ExecutedOps, Profile
    from nc_strategies.backends.ceiling import Ceiling, CeilingCase, measure_ceiling
    from nc_strategies.backends.ceiling import cache_name as ceiling_cache_name
    from nc_strategies.backends.ceiling import kept_or_measured as kept_or_measured_ceiling
    from nc_strategies.backends.collection import Observer
    from nc_strategies.backends.collection import collect as collect_histograms
    from nc_strategies.backends.layers import Layer, LayerReader, LayerTensor, LayerValues
    from nc_strategies.backends.onnx_backend import OnnxBackend, OnnxGraph
    from nc_strategies.backends.profiling import NodeTimes, summarise
    from nc_strategies.backends.tensorflow.export import export_saved_model
    from nc_strategies.calibration.histogram import Histogram
    from nc_strategies.calibration.layers import ActivationRange, WeightFacts
    from nc_strategies.calibration.state import CalibrationState
    from nc_strategies.data.dataset import Dataset, Raw
    from nc_strategies.data.ragged import Ragged
    from nc_strategies.data.settings import Preprocess
    from nc_strategies.errors import EngineError, InputError, LostWorkerError, NcsError
    from nc_strategies.measuring.shares import EvaluationPool
    from nc_strategies.metrics.base import MeanMetric, Metric
    from nc_strategies.models import ModelSource
    from nc_strategies.models.info import Batch, ModelInfo, TensorSpec
    from nc_strategies.onnx_graph.graph import FusedOp
    from nc_strategies.onnx_graph.qdq import QdqGraph
    from nc_strategies.problem import (
        Constraint,
        ConversionEdge,
        Evaluation,
        Goal,
        LatencyTerms,
        Objective,
        Prediction,
        Problem,
        Trial,
        TrialState,
    )
    from nc_strategies.registry import CONTRACT_VERSION, Component, hookimpl
    from nc_strategies.runtime.cache import keep as keep_in_cache
    from nc_strategies.runtime.cache import read as read_cache
    from nc_strategies.runtime.child import run_child, serve
    from nc_strategies.runtime.machine import identity as machine_identity
    from nc_strategies.space import (
        FLOAT,
        Capabilities,
        Config,
        FloatOp,
        OpCapability,
        OpScheme,
        Overrides,
        Space,
        TensorScheme,
    )
    from nc_strategies.space.blocks import find_roles
    from nc_strategies.space.scheme import way
    from nc_strategies.strategies.base import Several, Steps, StepwiseStrategy, Strategy
    from nc_strategies.study.executor import SerialExecutor
    from nc_strategies.study.tracker import Tracker
else:
    _PLACES = {
        "ActivationRange": "nc_strategies.calibration.layers",
        "Backend": "nc_strategies.backends.base",
        "Batch": "nc_strategies.models.info",
        "CONTRACT_VERSION": "nc_strategies.registry",
        "ConversionEdge": "nc_strategies.problem",
        "CalibrationState": "nc_strategies.calibration.state",
        "Capabilities": "nc_strategies.space",
        "Ceiling": "nc_strategies.backends.ceiling",
        "CeilingCase": "nc_strategies.backends.ceiling",
        "Component": "nc_strategies.registry",
        "Config": "nc_strategies.space",
        "Constraint": "nc_strategies.problem",
        "Dataset": "nc_strategies.data.dataset",
        "DualPrecisionSession": "nc_strategies.backends.base",
        "EngineError": "nc_strategies.errors",
        "Evaluation": "nc_strategies.problem",
        "EvaluationPool": "nc_strategies.measuring.shares",
        "Executable": "nc_strategies.backends.base",
        "ExecutedOps": "nc_strategies.backends.base",
        "Profile": "nc_strategies.backends.base",
        "FLOAT": "nc_strategies.space",
        "FusedOp": "nc_strategies.onnx_graph.graph",
        "FloatOp": "nc_strategies.space",
        "Goal": "nc_strategies.problem",
        "Histogram": "nc_strategies.calibration.histogram",
        "InputError": "nc_strategies.errors",
        "Layer": "nc_strategies.backends.layers",
        "LayerReader": "nc_strategies.backends.layers",
        "LayerTensor": "nc_strategies.backends.layers",
        "LayerValues": "nc_strategies.backends.layers",
        "LatencyTerms": "nc_strategies.problem",
        "LostWorkerError": "nc_strategies.errors",
        "MeanMetric": "nc_strategies.metrics.base",
        "Metric": "nc_strategies.metrics.base",
        "ModelInfo": "nc_strategies.models.info",
        "ModelSource": "nc_strategies.models",
        "NcsError": "nc_strategies.errors",
        "NodeTimes": "nc_strategies.backends.profiling",
        "Objective": "nc_strategies.problem",
        "OnnxBackend": "nc_strategies.backends.onnx_backend",
        "OnnxGraph": "nc_strategies.backends.onnx_backend",
        "Observer": "nc_strategies.backends.collection",
        "OpCapability": "nc_strategies.space",
        "OpScheme": "nc_strategies.space",
        "Prediction": "nc_strategies.problem",
        "Preprocess": "nc_strategies.data.settings",
        "Problem": "nc_strategies.problem",
        "QdqGraph": "nc_strategies.onnx_graph.qdq",
        "Ragged": "nc_strategies.data.ragged",
        "Raw": "nc_strategies.data.dataset",
        "SerialExecutor": "nc_strategies.study.executor",
        "Several": "nc_strategies.strategies.base",
        "Space": "nc_strategies.space",
        "Steps": "nc_strategies.strategies.base",
        "StepwiseStrategy": "nc_strategies.strategies.base",
        "Strategy": "nc_strategies.strategies.base",
        "TensorScheme": "nc_strategies.space",
        "TensorSpec": "nc_strategies.models.info",
        "Tracker": "nc_strategies.study.tracker",
        "Trial": "nc_strategies.problem",
        "TrialState": "nc_strategies.problem",
        "Overrides": "nc_strategies.space",
        "WeightFacts": "nc_strategies.calibration.layers",
        "ceiling_cache_name": "nc_strategies.backends.ceiling:cache_name",
        "collect_histograms": "nc_strategies.backends.collection:collect",
        "export_saved_model": "nc_strategies.backends.tensorflow.export",
        "find_roles": "nc_strategies.space.blocks",
        "hookimpl": "nc_strategies.registry",
        "keep_in_cache": "nc_strategies.runtime.cache:keep",
        "kept_or_measured_ceiling": "nc_strategies.backends.ceiling:kept_or_measured",
        "machine_identity": "nc_strategies.runtime.machine:identity",
        "measure_ceiling": "nc_strategies.backends.ceiling",
        "read_cache": "nc_strategies.runtime.cache:read",
        "run_child": "nc_strategies.runtime.child",
        "serve": "nc_strategies.runtime.child",
        "summarise": "nc_strategies.backends.profiling",
        "way": "nc_strategies.space.scheme",
    }

    def __getattr__(name: str) -> object:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, _, attribute = _PLACES[name].partition(":")
        return getattr(importlib.import_module(module), attribute or name)


__all__ = [
    "CONTRACT_VERSION", "Component", "hookimpl",
    "Strategy", "StepwiseStrategy", "Steps", "Several", "Problem", "Goal", "Constraint", "Objective", "Evaluation",
    "Trial", "TrialState", "Prediction", "LatencyTerms", "ConversionEdge",
    "Space", "Config", "Capabilities", "OpCapability", "OpScheme", "TensorScheme", "Overrides", "FLOAT", "way",
    "find_roles",
    "Backend", "Executable", "ExecutedOps", "Profile", "ModelInfo", "TensorSpec", "Batch",
    "ModelSource", "Histogram", "Ceiling", "FloatOp", "CalibrationState", "Observer", "collect_histograms",
    "NodeTimes", "summarise", "export_saved_model", "run_child", "serve", "read_cache", "keep_in_cache",
    "machine_identity", "CeilingCase", "measure_ceiling", "ceiling_cache_name", "kept_or_measured_ceiling",
    "DualPrecisionSession", "LayerReader", "Layer", "LayerTensor", "LayerValues", "ActivationRange", "WeightFacts",
    "OnnxBackend", "OnnxGraph", "QdqGraph", "FusedOp",
    "SerialExecutor", "EvaluationPool",
    "Metric", "MeanMetric", "Dataset", "Ragged", "Raw", "Preprocess", "Tracker",
    "NcsError", "InputError", "EngineError", "LostWorkerError",
]  # fmt: skip
