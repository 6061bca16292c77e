"""Metrics of a model's outputs against labels."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.errors import InputError, first_line
from nc_strategies.measure.settings import PlainSettings, SklearnSettings, TopKSettings

Array = NDArray[Any]


class Metric(ABC):
    """A number for a model's outputs on labelled samples.

    Args:
        settings: The metric's own settings, an instance of the schema it is registered with.
    """

    higher_is_better = True
    score_range: tuple[float, float] = (-math.inf, math.inf)
    """Lowest and highest value of `scores`: what is bounded can be stopped early; see `PairedTest`."""

    def __init__(self, settings: Any = None) -> None:
        self.settings = settings

    @abstractmethod
    def compute(self, outputs: Array, labels: Array) -> float:
        """The metric over all samples.

        Args:
            outputs: The model's first output, shape (N, ...).
            labels: Shape (N, ...).

        Raises:
            InputError: outputs and labels do not fit.
        """

    def scores(self, outputs: Array, labels: Array) -> Array | None:
        """Each sample's own share, shape (N,), when the metric is their mean; else None."""
        return None


class MeanMetric(Metric):
    """A metric which is the mean of a score for each sample, so that two models can be compared sample by sample."""

    @abstractmethod
    def scores(self, outputs: Array, labels: Array) -> Array:
        """Each sample's score, shape (N,)."""

    def compute(self, outputs: Array, labels: Array) -> float:
        """See `Metric.compute`."""
        return float(np.mean(self.scores(outputs, labels)))


def class_scores(outputs: Array, labels: Array) -> tuple[Array, Array]:
    """Outputs as (N, classes), labels as (N,) class numbers.

    Raises:
        InputError: outputs are not scores of classes, or a label is not one of the classes.
    """
    flat = outputs.reshape(len(outputs), -1)
    if flat.shape[1] == 1:
        flat = np.concatenate([1 - flat, flat], 1)
    classes = np.asarray(labels).reshape(len(labels), -1)
    if classes.shape[1] == flat.shape[1] and flat.shape[1] > 1:
        classes = classes.argmax(1)[:, None]
    if classes.shape[1] != 1:
        raise InputError("data", f"labels of shape {np.shape(labels)} do not fit outputs of shape {outputs.shape}",
                         "one class number a sample")
    classes = classes[:, 0]
    whole = classes.astype(np.int64)
    if not np.array_equal(whole, classes):
        raise InputError("data", "labels are not whole numbers", "one class number a sample")
    classes = whole
    if len(classes) and (classes.min() < 0 or classes.max() >= flat.shape[1]):
        raise InputError("data", f"labels run from {classes.min()} to {classes.max()}",
                         f"the model has {flat.shape[1]} classes: 0 to {flat.shape[1] - 1}")
    return flat, classes


class TopK(MeanMetric):
    """Share of samples whose class is among the `k` highest outputs; ``top1`` is accuracy."""

    score_range = (0.0, 1.0)

    def __init__(self, settings: TopKSettings | None = None) -> None:
        super().__init__(settings or TopKSettings())
        if self.settings.k < 1:
            raise InputError("metrics.accuracy.k", f"is {self.settings.k}", "at least 1")

    def scores(self, outputs: Array, labels: Array) -> Array:
        """1 where the class is among the highest, else 0."""
        flat, classes = class_scores(outputs, labels)
        own = flat[np.arange(len(flat)), classes]
        # Ties count for the class with the lower number, as argmax has it.
        higher = (flat > own[:, None]).sum(1)
        lower_index = np.arange(flat.shape[1]) < classes[:, None]
        ahead = higher + ((flat == own[:, None]) & lower_index).sum(1)
        valid = np.isfinite(own)
        return np.asarray((ahead < self.settings.k) & valid, np.float64)


class Top1(TopK):
    """Accuracy: share of samples whose highest output is their class."""

    def __init__(self, settings: PlainSettings | None = None) -> None:
        super().__init__(TopKSettings("top1", 1))


class ClassificationScore(Metric):
    """``f1``, ``precision``, ``recall`` or ``log_loss`` by scikit-learn."""

    def __init__(self, settings: SklearnSettings) -> None:
        super().__init__(settings)
        self.higher_is_better = settings.name != "log_loss"
        from sklearn import metrics

        self._sklearn = metrics

    def compute(self, outputs: Array, labels: Array) -> float:
        """See `Metric.compute`."""
        metrics = self._sklearn
        flat, classes = class_scores(outputs, labels)
        if self.settings.name == "log_loss":
            total = flat.sum(1, keepdims=True)
            if flat.min() < 0 or np.any(total <= 0):
                raise InputError("metrics.accuracy.name", "is log_loss, but the model gives no probabilities",
                                 "outputs of a softmax or sigmoid")
            return float(metrics.log_loss(classes, flat / total, labels=np.arange(flat.shape[1])))
        score = {"f1": metrics.f1_score, "precision": metrics.precision_score, "recall": metrics.recall_score}
        found = flat.argmax(1)
        try:
            return float(score[self.settings.name](classes, found, average=self.settings.average, zero_division=0))
        except ValueError as error:
            raise InputError("metrics.accuracy.average", f"is {self.settings.average!r} ({first_line(error)})",
                             "macro, micro or weighted; binary for two classes") from None


class RegressionError(MeanMetric):
    """``mae`` or ``mse``: mean absolute or squared error; lower is better."""

    higher_is_better = False
    score_range = (0.0, math.inf)

    def __init__(self, settings: PlainSettings) -> None:
        super().__init__(settings)

    def scores(self, outputs: Array, labels: Array) -> Array:
        """Each sample's mean error."""
        got, want = outputs.reshape(len(outputs), -1), np.asarray(labels).reshape(len(labels), -1)
        if got.shape != want.shape:
            raise InputError("data", f"labels of shape {np.shape(labels)} do not fit outputs of shape {outputs.shape}")
        error = got.astype(np.float64) - want
        return np.asarray((np.abs(error) if self.settings.name == "mae" else error**2).mean(1))
