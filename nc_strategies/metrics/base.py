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
"""What a metric keeps of a model's outputs: an array, first axis samples, or a tuple of such arrays."""


class Metric(ABC):
    """A number for a model's outputs on labelled samples.

    Args:
        settings: The metric's own settings, an instance of the schema it is registered with.

    Attributes:
        higher_is_better: The metric's direction.
    """

    higher_is_better = True
    score_range: tuple[float, float] = (-math.inf, math.inf)
    """Lowest and highest value of `scores`: what is bounded can be stopped early; see `PairedTest`."""

    def __init__(self, settings: Any = None) -> None:
        self.settings = settings

    @staticmethod
    def keep(outputs: Sequence[Array]) -> Outputs:
        """What the metric needs of a model's outputs for one batch: the first, unless a metric says otherwise.

        It is called batch by batch, so that what is not needed, or can be summarized, is not kept for all samples.

        Args:
            outputs: All outputs in the model's order, first axis samples.

        Returns:
            An array, first axis samples, or a tuple of such arrays; of all batches together they are what `compute`
            is given.
        """
        return outputs[0]

    @abstractmethod
    def compute(self, outputs: Outputs, labels: Array) -> float:
        """The metric over all samples.

        Args:
            outputs: What `keep` kept: the model's first output, shape (N, ...), unless it was overridden.
            labels: Shape (N, ...).

        Raises:
            InputError: outputs and labels do not fit.
        """

    def scores(self, outputs: Outputs, labels: Array) -> Array | None:
        """Each sample's own share, shape (N,), when the metric is their mean; else None."""
        return None

    def resampler(self, outputs: Outputs, labels: Array) -> Callable[[NDArray[np.int64]], float]:
        """A function of sample positions, with repetitions, which gives the metric over those samples.

        The bootstrap calls it some hundred times: override it where part of the work can be done once.
        """
        return lambda index: self.compute(rows(outputs, index), labels[index])


class MeanMetric(Metric):
    """A metric which is the mean of a score for each sample, so that two models can be compared sample by sample."""

    @abstractmethod
    def scores(self, outputs: Outputs, labels: Array) -> Array:
        """Each sample's score, shape (N,)."""

    def compute(self, outputs: Outputs, labels: Array) -> float:
        """See `Metric.compute`."""
        return float(np.mean(self.scores(outputs, labels)))


def rows(outputs: Outputs, index: Any) -> Outputs:
    """Some samples of what a metric kept."""
    return tuple(part[index] for part in outputs) if isinstance(outputs, tuple) else outputs[index]
