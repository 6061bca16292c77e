"""The interface of a metric."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Outputs = Any
"""Outputs as `Metric.keep` returns them: an array whose first axis counts samples, or a tuple of such arrays."""


class Metric(ABC):
    """A metric of a model's outputs on labelled samples.

    Args:
        settings: The metric's settings, an instance of the schema that it is registered with.

    Attributes:
        higher_is_better: Direction of the metric.
    """

    higher_is_better = True
    score_range: tuple[float, float] = (-math.inf, math.inf)
    """Lowest and highest value of `scores`. An evaluation of bounded scores can be stopped early; see `PairedTest`."""

    def __init__(self, settings: Any = None) -> None:
        self.settings = settings

    @staticmethod
    def keep(outputs: Sequence[Array]) -> Outputs:
        """Reduce the outputs of one batch to what the metric needs; by default the first output.

        It is called per batch, so that unneeded outputs, or outputs that can be summarized, are not held in memory for
        all samples.

        Args:
            outputs: All outputs in the model's order; the first axis counts samples.

        Returns:
            An array whose first axis counts samples, or a tuple of such arrays. Concatenated over all batches they are
            the input of `compute`.
        """
        return outputs[0]

    @abstractmethod
    def compute(self, outputs: Outputs, labels: Array) -> float:
        """The metric over all samples.

        Args:
            outputs: Results of `keep`: the model's first output, shape (N, ...), unless it is overridden.
            labels: Shape (N, ...).

        Raises:
            InputError: outputs and labels do not fit.
        """

    def scores(self, outputs: Outputs, labels: Array) -> Array | None:
        """Score of each sample, shape (N,), if the metric is the mean of scores; else None."""
        return None

    def resampler(self, outputs: Outputs, labels: Array) -> Callable[[NDArray[np.int64]], float]:
        """A function from sample positions, with repetitions, to the metric over these samples.

        The bootstrap calls it several hundred times. Override it if part of the computation can be shared.
        """
        return lambda index: self.compute(rows(outputs, index), labels[index])


class MeanMetric(Metric):
    """A metric that is the mean of a score per sample, so that two models can be compared sample by sample."""

    @abstractmethod
    def scores(self, outputs: Outputs, labels: Array) -> Array:
        """Score of each sample, shape (N,)."""

    def compute(self, outputs: Outputs, labels: Array) -> float:
        """See `Metric.compute`."""
        return float(np.mean(self.scores(outputs, labels)))


def rows(outputs: Outputs, index: Any) -> Outputs:
    """Select samples of the results of `Metric.keep`."""
    return tuple(part[index] for part in outputs) if isinstance(outputs, tuple) else outputs[index]
