"""Inputs and outputs of a loaded model, and the batches that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Batch = Mapping[str, NDArray[Any]]
"""Input name to array; the first axis counts samples."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    Args:
        name: Its name.
        shape: Its shape; None for a free dimension.
        dtype: Its numpy type.
        sample_axis: The axis that counts samples; None if the tensor has none (a scalar setting, a whole-batch answer).
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    sample_axis: int | None = 0


@dataclass(frozen=True)
class ModelInfo:
    """A loaded model's inputs and outputs."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def batch_size(self) -> int | None:
        """The fixed batch size of the model; None if it is free."""
        return self.inputs[0].shape[0] if self.inputs[0].shape else None
