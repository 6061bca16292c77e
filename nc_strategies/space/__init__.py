"""The search space: quantization schemes, an engine's capabilities, overrides, configurations. Pure data."""

from nc_strategies.space.capabilities import Capabilities, FloatOp, OpCapability
from nc_strategies.space.config import Config
from nc_strategies.space.overrides import Overrides
from nc_strategies.space.scheme import FLOAT, OpScheme, TensorScheme
from nc_strategies.space.space import Space

__all__ = [
    "FLOAT",
    "Capabilities",
    "FloatOp",
    "Config",
    "OpCapability",
    "OpScheme",
    "Space",
    "TensorScheme",
    "Overrides",
]
