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
"""Outputs as `Metric.keep` returns them: an array whose first axis counts samples, or a tuple of such arrays.

Where samples have outputs of different shapes, the array is one of objects, shape (N,): the output of each sample."""
Keep = Callable[[Sequence[Array]], Outputs]


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
    positions: Sequence[int] | None = None
    """Positions of the outputs that `keep` reads among all outputs of the model. None for one output, which is the only
    one of the list that `keep` gets if `fits` can tell it, or if the configuration names it."""
    reads_several: bool = False
    """Whether `several` selects outputs, and the configuration may name more than one."""
    reads_one: bool = False
    """Whether `keep` reads one output only, although it is overridden."""
    needs_labels: bool = True
    """Whether `labels` are the data's. If not, `labels` in `condense` are fp32's own outputs, as `keep` returned them,
    and other methods get an array of shape (N, 0)."""
    kinds: Sequence[str] = ("f",)
    """Types of outputs that a metric without labels reads, as numpy's kinds, the preferred one first: all outputs of
    the first type that the model has."""
    accepts_nonfinite: bool = False
    """Whether `condense` deals with NaN and infinity itself; otherwise an output that holds one fails the model."""
    graded: bool = False
    """Whether a score says how good a sample's output is, and not just whether it is right. The rule for pairs of right
    and wrong answers (see `loss_interval`) does not apply to graded scores."""
    read_as: str = ""
    """How outputs are read, such as ``logits, cut at 0``, once `prepare` has decided it; for the user."""

    def __init__(self, settings: Any = None) -> None:
        self.settings = settings

    @staticmethod
    def keep(outputs: Sequence[Array]) -> Outputs:
        """Reduce the outputs of one batch to what the metric needs; by default the first output.

        It is called per batch, so that unneeded outputs, or outputs that can be summarized, are not held in memory for
        all samples.

        Args:
            outputs: All outputs in the model's order, or the selected one alone; the first axis counts samples.

        Returns:
            An array whose first axis counts samples, or a tuple of such arrays. Concatenated over all batches they are
            the input of `compute`.
        """
        return outputs[0]

    def fits(self, output: Array, labels: Array) -> bool | None:
        """Whether an output of the model can be what the metric reads; it selects one of several outputs.

        Args:
            output: The output for a few samples, shape (n, ...).
            labels: Labels of all samples, shape (N, ...).

        Returns:
            None where the metric cannot tell.
        """
        return None

    def condense(self, outputs: Outputs, labels: Array) -> Outputs:
        """Reduce what `keep` returned for one batch further, with the labels of its samples; by default not at all.

        It is called once per batch after `keep`. All other methods get its results, so that large outputs, such as a
        score for each word of a vocabulary at each position, are not held in memory for all samples.

        Args:
            outputs: Result of `keep` for the batch.
            labels: Labels of the batch's samples, shape (n, ...).

        Returns:
            An array whose first axis counts samples, or a tuple of such arrays.

        Raises:
            InputError: outputs and labels do not fit.
            EngineError: the outputs hold NaN or infinity where the metric needs numbers.
        """
        return outputs

    def several(self, names: Sequence[str], samples: Sequence[Array | None], labels: Array) -> tuple[int, ...] | None:
        """Positions of the outputs that are read, for a metric that may read several (`reads_several`).

        Args:
            names: Names of the model's outputs.
            samples: One sample of each output, without a sample axis; None where samples differ in shape.
            labels: Labels of all samples, shape (N, ...).

        Returns:
            The positions, in the order in which `keep` gets the outputs; None where the metric cannot tell.
        """
        return None

    def answers(self, output: Array) -> Array | None:
        """The answer of each sample, such as its class number, shape (n,); None where the metric has no answers."""
        return None

    def prepare(self, outputs: Outputs, labels: Array) -> None:  # noqa: B027 - optional, nothing to decide by default
        """Decide, on fp32's outputs of all samples, how the outputs of all models are read.

        Args:
            outputs: Results of `keep` for fp32.
            labels: Shape (N, ...).

        Raises:
            InputError: outputs and labels do not fit.
        """

    def observe(self, reference: Outputs) -> None:  # noqa: B027 - optional, nothing to learn by default
        """Learn how outputs are read from a batch of fp32's, where they are the reference (`needs_labels` is false).

        It is called for all batches of fp32 before `condense` compares another model with it.

        Args:
            reference: Result of `keep` for a batch of fp32's outputs.
        """

    @property
    def hit_range(self) -> tuple[float, float]:
        """`score_range` of scores that are right or wrong; infinite for graded scores."""
        return (-math.inf, math.inf) if self.graded else self.score_range

    def no_better(self, outputs: Outputs, labels: Array) -> str:
        """Which trivial answer scores as well as a model, such as one and the same class for all samples.

        Args:
            outputs: Results of `keep` for fp32.
            labels: Shape (N, ...).

        Returns:
            The trivial answer and its value, for the user; empty if the model is better, or the metric cannot tell.
        """
        return ""

    def zero_is_good(self, outputs: Outputs, labels: Array) -> bool:
        """Whether a value of 0 is a good one, as of a negated error: labels of other samples then give less.

        Args:
            outputs: Results of `keep` for fp32, whose value is 0.
            labels: Shape (N, ...).
        """
        return self.compute(outputs, np.roll(labels, 1, axis=0)) < 0

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

    def paired_scores(self, outputs: Outputs, labels: Array) -> Array | None:
        """Scores that stop a hopeless trial early, shape (n,); None for a metric that cannot; by default `scores`.

        A metric that is no mean of scores may be a monotonic function of one. Its scores are in `score_range`, and the
        mean of their loss is compared with `paired_limit`.
        """
        return self.scores(outputs, labels)

    def paired_limit(self, baseline: float, limit: float) -> float:
        """Tolerable mean loss of `paired_scores`.

        Args:
            baseline: fp32's value of the metric.
            limit: Tolerable loss of the metric.
        """
        return limit

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
