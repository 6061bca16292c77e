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
    """One input or output of a model, as the engine sees it.

    Args:
        name: Its name.
        shape: Its shape; None for a free dimension.
        dtype: Its numpy type.
        sample_axis: The axis that counts samples; None if the tensor has none (a scalar setting, a whole-batch answer).
            The project's own batches and predictions always count samples on axis 0, see
            `nc_strategies.models.feeds.Feeds`.
        rank_known: False if the model does not say how many dimensions it has; `shape` is empty then.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    sample_axis: int | None = 0
    rank_known: bool = True

    @property
    def sample_shape(self) -> tuple[int | None, ...]:
        """Shape of one sample: the shape without the axis that counts samples."""
        axis = self.sample_axis
        return self.shape if axis is None else self.shape[:axis] + self.shape[axis + 1 :]

    @property
    def batch_size(self) -> int | None:
        """Size of the axis that counts samples; None if it is free, or if there is none."""
        axis = self.sample_axis
        return self.shape[axis] if axis is not None and axis < len(self.shape) else None

    def rows(self, array: NDArray[Any], start: int, stop: int) -> NDArray[Any]:
        """A range of samples of an array of the engine's shape; the whole array if no axis counts samples."""
        axis = self.sample_axis
        return array if axis is None or axis >= array.ndim else array[(slice(None),) * axis + (slice(start, stop),)]

    def text(self) -> str:
        """Name, shape and type in one line; the axis that counts samples is ``N``, other free axes are ``any``."""
        sizes = [
            ("N" if axis == self.sample_axis else "any") if size is None else str(size)
            for axis, size in enumerate(self.shape)
        ]
        return f"{self.name} ({', '.join(sizes)}) {self.dtype}"


@dataclass(frozen=True)
class ModelInfo:
    """A loaded model's inputs and outputs.

    Args:
        inputs: The inputs in the model's order.
        outputs: The outputs in the model's order.
        samples_per_run: Number of samples that a run must get for a reason other than the shapes, for example because
            samples differ in an input that has no axis for them; None where only the shapes decide.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    samples_per_run: int | None = None

    @property
    def batch_size(self) -> int | None:
        """The fixed batch size of the model; None if it is free."""
        if self.samples_per_run is not None:
            return self.samples_per_run
        return next((spec.batch_size for spec in self.inputs if spec.batch_size is not None), None)

    def samples(self, feed: Batch) -> int:
        """Number of samples in an engine's feed; 1 if no input has an axis that counts samples."""
        for spec in self.inputs:
            if spec.sample_axis is not None and spec.name in feed and feed[spec.name].ndim > spec.sample_axis:
                return int(feed[spec.name].shape[spec.sample_axis])
        return 1

    def rows(self, feed: Batch, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """A range of samples of an engine's feed; the whole feed if the batch size is fixed."""
        if self.batch_size is not None:
            return dict(feed)
        return {spec.name: spec.rows(feed[spec.name], start, stop) for spec in self.inputs if spec.name in feed}

    def text(self) -> str:
        """All inputs and outputs in one line."""
        inputs, outputs = (", ".join(spec.text() for spec in specs) for specs in (self.inputs, self.outputs))
        return f"the model's inputs: {inputs}; outputs: {outputs}"
