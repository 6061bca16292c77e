"""All that a plugin imports. What is here keeps its names and meaning within a major version."""

from __future__ import annotations

from nc_strategies.backends.base import Backend, Batch, Executable, ExecutedOps, ModelInfo, TensorSpec
from nc_strategies.backends.calibration import Histogram
from nc_strategies.data.dataset import Dataset, Raw
from nc_strategies.data.settings import Preprocess
from nc_strategies.errors import EngineError, InputError, NcsError
from nc_strategies.measure.metrics import MeanMetric, Metric
from nc_strategies.models import ModelSource
from nc_strategies.problem import Constraint, Evaluation, Goal, Objective, Problem, Trial, TrialState
from nc_strategies.registry import Component, hookimpl
from nc_strategies.space import FLOAT, Capabilities, Config, OpCapability, OpScheme, Space, TensorScheme, Wishes
from nc_strategies.strategies.base import Steps, StepwiseStrategy, Strategy

__all__ = [
    "Component", "hookimpl",
    "Strategy", "StepwiseStrategy", "Steps", "Problem", "Goal", "Constraint", "Objective", "Evaluation", "Trial",
    "TrialState",
    "Space", "Config", "Capabilities", "OpCapability", "OpScheme", "TensorScheme", "Wishes", "FLOAT",
    "Backend", "Executable", "ExecutedOps", "ModelInfo", "TensorSpec", "Batch", "ModelSource", "Histogram",
    "Metric", "MeanMetric", "Dataset", "Raw", "Preprocess",
    "NcsError", "InputError", "EngineError",
]  # fmt: skip
