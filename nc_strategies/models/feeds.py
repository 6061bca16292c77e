"""The border between the project's batches, which count samples on axis 0, and an engine's feeds and outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.errors import EngineError
from nc_strategies.models.decoder import Decoder
from nc_strategies.models.info import Batch, ModelInfo, TensorSpec


class SequenceStep(dict[str, NDArray[Any]]):
    """A batch in which each sample is one step of a sequence.

    Args:
        arrays: Input name to array; the first axis counts samples.
        sequences: Number of each sample's sequence, shape (N,); -1 for a sample that fills up a fixed batch size.
        starts: Whether a sample is the first of its sequence, shape (N,).
    """

    def __init__(self, arrays: Batch, sequences: NDArray[np.int64], starts: NDArray[np.bool_]) -> None:
        super().__init__(arrays)
        self.sequences, self.starts = sequences, starts


@dataclass(frozen=True)
class Feeds:
    """Conversion of batches to an engine's feeds, and of its outputs back.

    Args:
        info: The model's inputs and outputs, with the axes that count samples.
        constants: Inputs that have the same value in each run. If the input has an axis that counts samples, the value
            is that of one sample.
        state: Input to output: state that the model carries from one step of a sequence to the next. A batch that does
            not hold such an input gets zeros.
        decoder: The inputs of a decoder with past keys and values; None for another model. A batch that does not hold
            the past starts its sequences.
    """

    info: ModelInfo
    constants: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    state: Mapping[str, str] = field(default_factory=dict)
    decoder: Decoder | None = None

    @property
    def is_plain(self) -> bool:
        """Whether batches and outputs are those of the engine."""
        axes = {spec.sample_axis for spec in self.info.inputs}
        moved = any(spec.sample_axis not in (0, None) for spec in self.info.outputs)
        return axes <= {0} and not moved and not self.constants and not self.state and not self.made

    @property
    def from_data(self) -> tuple[str, ...]:
        """Names of the inputs whose values come from the data, in the model's order."""
        others = {*self.constants, *self.state, *self.made}
        return tuple(spec.name for spec in self.info.inputs if spec.name not in others)

    @property
    def made(self) -> frozenset[str]:
        """Names of the inputs that a decoder gets without the data: its past, and what follows from the tokens."""
        return frozenset() if self.decoder is None else frozenset(self.decoder.past) | self.decoder.derived

    @property
    def presented(self) -> tuple[TensorSpec, ...]:
        """The model's outputs as `outputs` returns them: with the axis that counts samples in front."""
        return tuple(
            replace(spec, shape=(spec.batch_size, *spec.sample_shape), sample_axis=0) if spec.sample_axis else spec
            for spec in self.info.outputs
        )

    def engine(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """The engine's feed of a batch.

        Raises:
            EngineError: samples differ in an input that has no axis for them.
        """
        count = len(next(iter(batch.values())))
        feed = {}
        for spec in self.info.inputs:
            if spec.name in batch:
                array = batch[spec.name]
            elif spec.name in self.constants and spec.sample_axis is None:
                feed[spec.name] = self.constants[spec.name]
                continue
            elif spec.name in self.constants:
                value = self.constants[spec.name]
                array = np.broadcast_to(value, (count, *value.shape))
            elif self.decoder is not None and spec.name in self.made:
                array = self.decoder.value(spec, batch)
            else:
                array = self.zeros(spec.name, count)
            if spec.sample_axis is None:
                if len(array) != 1:
                    raise EngineError(f"input {spec.name!r} has no axis for samples, and {len(array)} samples differ")
                shape = [size or 1 for size in spec.shape]
                feed[spec.name] = np.asarray(array[0].reshape(shape), spec.dtype)
            else:
                moved = np.moveaxis(array, 0, spec.sample_axis)
                feed[spec.name] = np.asarray(moved, spec.dtype, order="C")
        return feed

    def zeros(self, name: str, count: int) -> NDArray[Any]:
        """The state of `count` samples at the start of their sequences, shape (count, ...)."""
        spec = next(spec for spec in self.info.inputs if spec.name == name)
        return np.zeros((count, *(size or 1 for size in spec.sample_shape)), spec.dtype)

    def outputs(self, outputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """An engine's outputs with the axis that counts samples moved to the front."""
        return [
            np.moveaxis(array, spec.sample_axis, 0)
            if spec.sample_axis is not None and 0 < spec.sample_axis < array.ndim
            else array
            for spec, array in zip(self.info.outputs, outputs, strict=True)
        ]
