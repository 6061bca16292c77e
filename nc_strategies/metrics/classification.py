"""Metrics of classifiers."""

from __future__ import annotations

import math

import numpy as np

from nc_strategies.errors import InputError, first_line
from nc_strategies.metrics.base import Array, MeanMetric, Metric
from nc_strategies.metrics.settings import AucSettings, PlainSettings, SklearnSettings, TopKSettings


def class_scores(outputs: Array, labels: Array) -> tuple[Array, Array]:
    """Outputs as shape (N, classes), and labels as class numbers of shape (N,).

    Raises:
        InputError: outputs are not class scores, or a label is not one of the classes.
    """
    flat = _two_columns(outputs.reshape(len(outputs), -1))
    classes = np.asarray(labels).reshape(len(labels), -1)
    if classes.shape[1] == flat.shape[1] and flat.shape[1] > 1:
        if np.isin(classes, (0, 1)).all() and not (classes.sum(1) == 1).all():
            raise InputError(
                "data",
                "holds samples of several classes or none, which this metric does not support",
                "f1, precision and recall with threshold, or roc_auc",
            )
        classes = classes.argmax(1)[:, None]
    if classes.shape[1] != 1:
        raise InputError(
            "data",
            f"labels of shape {np.shape(labels)} do not fit outputs of shape {outputs.shape}",
            "one class number per sample",
        )
    classes = classes[:, 0]
    whole = classes.astype(np.int64)
    if not np.array_equal(whole, classes):
        raise InputError("data", "labels are not whole numbers", "one class number per sample")
    classes = whole
    if len(classes) and (classes.min() < 0 or classes.max() >= flat.shape[1]):
        raise InputError(
            "data",
            f"labels run from {classes.min()} to {classes.max()}",
            f"the model has {flat.shape[1]} classes: 0 to {flat.shape[1] - 1}",
        )
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
        # Among equal outputs the class with the lower number comes first, as for argmax.
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
    """``f1``, ``precision`` or ``recall`` by scikit-learn.

    The predicted class is the one with the highest output. With a `threshold`, every class whose output exceeds it is
    predicted; labels are then 0 or 1 per class, shape (N, classes), or (N,) for a single output.
    """

    def __init__(self, settings: SklearnSettings) -> None:
        super().__init__(settings)
        from sklearn import metrics

        self._score = {"f1": metrics.f1_score, "precision": metrics.precision_score, "recall": metrics.recall_score}[
            settings.name
        ]

    def compute(self, outputs: Array, labels: Array) -> float:
        """See `Metric.compute`."""
        threshold, average = self.settings.threshold, self.settings.average
        if threshold is None:
            flat, truth = class_scores(outputs, labels)
            predicted = flat.argmax(1)
        else:
            flat = outputs.reshape(len(outputs), -1)
            truth = indicators(flat, labels)
            predicted = (flat > threshold).astype(np.int64)
            truth, predicted = (truth[:, 0], predicted[:, 0]) if flat.shape[1] == 1 else (truth, predicted)
        try:
            return float(self._score(truth, predicted, average=average, zero_division=0))
        except ValueError as error:
            raise InputError(
                "metrics.accuracy.average",
                f"is {average!r} ({first_line(error)})",
                "macro, micro or weighted; binary for two classes; samples for several classes per sample",
            ) from None


class RocAuc(Metric):
    """Area under the ROC curve by scikit-learn: for two classes, one class against the rest, or multi-label.

    With one class per sample, outputs that are not probabilities (logits) pass through a softmax first.
    """

    def __init__(self, settings: AucSettings | None = None) -> None:
        super().__init__(settings or AucSettings())
        from sklearn import metrics

        self._score = metrics.roc_auc_score

    def compute(self, outputs: Array, labels: Array) -> float:
        """See `Metric.compute`."""
        flat, average = outputs.reshape(len(outputs), -1), self.settings.average
        several = np.asarray(labels).reshape(len(labels), -1).shape[1] > 1
        try:
            if several:
                return float(self._score(indicators(flat, labels), flat, average=average))
            flat, classes = class_scores(outputs, labels)
            if np.unique(classes).size < flat.shape[1]:
                raise ValueError("not every class has a sample")
            if flat.shape[1] == 2:
                return float(self._score(classes, flat[:, 1] - flat[:, 0]))
            return float(self._score(classes, _probabilities(flat), average=average, multi_class="ovr"))
        except ValueError as error:
            raise InputError(
                "metrics.accuracy.name",
                f"is roc_auc, which cannot be computed ({first_line(error)})",
                "samples of every class, and average macro, micro or weighted",
            ) from None


class LogLoss(MeanMetric):
    """Cross-entropy, in nats; lower is better."""

    higher_is_better = False
    score_range = (0.0, math.inf)

    def __init__(self, settings: PlainSettings | None = None) -> None:
        super().__init__(settings or PlainSettings("log_loss"))

    def scores(self, outputs: Array, labels: Array) -> Array:
        """Cross-entropy of each sample; probabilities are clipped to a distance of machine epsilon from 0 and 1."""
        flat, classes = class_scores(outputs, labels)
        total = flat.sum(1, keepdims=True)
        if flat.min() < 0 or np.any(total <= 0):
            raise InputError(
                "metrics.accuracy.name",
                "is log_loss, but the model's outputs are no probabilities",
                "outputs of a softmax or sigmoid",
            )
        shares = flat / total
        epsilon = np.finfo(shares.dtype).eps
        own = np.clip(shares[np.arange(len(shares)), classes], epsilon, 1 - epsilon)
        return np.asarray(-np.log(own.astype(np.float64)))


def indicators(flat: Array, labels: Array) -> Array:
    """Labels as indicators 0 and 1, shape (N, classes).

    Args:
        flat: Outputs, shape (N, classes).
        labels: Indicators of the same shape, or (N,) for a single output.

    Raises:
        InputError: labels have another shape or other values.
    """
    truth = np.asarray(labels).reshape(len(labels), -1)
    if truth.shape != flat.shape or not np.isin(truth, (0, 1)).all():
        raise InputError(
            "data",
            f"labels of shape {np.shape(labels)} do not fit outputs of shape {flat.shape}",
            "0 or 1 for each class",
        )
    return truth.astype(np.int64)


def _two_columns(flat: Array) -> Array:
    return np.concatenate([1 - flat, flat], 1) if flat.shape[1] == 1 else flat


def _probabilities(flat: Array) -> Array:
    values = flat.astype(np.float64)
    total = values.sum(1, keepdims=True)
    if values.min() >= 0 and np.allclose(total, 1, atol=1e-3):
        return np.asarray(values / total)
    values = np.exp(values - values.max(1, keepdims=True))
    return np.asarray(values / values.sum(1, keepdims=True))
