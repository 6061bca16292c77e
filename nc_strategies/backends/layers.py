"""Reading of single operators' outputs: in fp32, with one operator in int8, and with a whole configuration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from nc_strategies.calibration.layers import ActivationRange, WeightFacts
from nc_strategies.models.info import Batch
from nc_strategies.space import OpScheme

INPUT, OUTPUT = "input", "output"


@dataclass(frozen=True)
class LayerTensor:
    """An activation of an operator.

    Args:
        name: Its name in the engine's fp32 graph.
        role: `INPUT` or `OUTPUT`.
        axis: The axis that counts channels; -1 for the last.
        range: The values that its integers represent; None if it is not quantized with a constant range.
    """

    name: str
    role: str
    axis: int
    range: ActivationRange | None


@dataclass(frozen=True)
class Layer:
    """An operator whose output can be read.

    Args:
        name: Its name.
        type: Its type.
        scheme: The scheme in which it runs when it alone is quantized.
        tensors: Its activations, the output last.
        axis: The axis of its output that counts channels.
        weight: Facts about its quantized weight; None without one.
    """

    name: str
    type: str
    scheme: OpScheme
    tensors: tuple[LayerTensor, ...]
    axis: int
    weight: WeightFacts | None = None


@dataclass(frozen=True)
class LayerValues:
    """What an operator computed in one run.

    Args:
        tensors: fp32's values of its tensors, in the order of `Layer.tensors`.
        alone: Its output in int8, computed from fp32's inputs.
        signal: fp32's values at the tensor of `accumulated`.
        accumulated: The value in the configuration, whose operators before it are quantized too; None where the
            engine's graph does not have this tensor.
    """

    tensors: tuple[NDArray[Any], ...]
    alone: NDArray[Any]
    signal: NDArray[Any]
    accumulated: NDArray[Any] | None

    @property
    def reference(self) -> NDArray[Any]:
        """The operator's output in fp32."""
        return self.tensors[-1]


Read = Callable[[Batch], Iterator[tuple[str, LayerValues]]]
"""Runs a batch, and gives operators with their values, one after the other."""


class LayerReader(ABC):
    """Reads the outputs of a model's operators; see `Backend.layers`.

    Attributes:
        layers: The operators in execution order.
    """

    layers: tuple[Layer, ...]

    @abstractmethod
    def shapes(self, batch: Batch) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the tensors of `layers` in a run of a batch, which does not hold all of them at a time.

        Raises:
            EngineError: the engine refuses the batch.
        """

    @abstractmethod
    def reader(self, names: Sequence[str]) -> Read:
        """A function that runs a batch and gives the values of some operators.

        Earlier readers are not used any more. The function raises an `EngineError` if the engine refuses a batch.
        """

    def close(self) -> None:  # noqa: B027 - optional, nothing to release by default
        """Release the engine's memory."""
