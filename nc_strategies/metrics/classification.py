"""Metrics of classifiers."""

from __future__ import annotations

import math

import numpy as np

from nc_strategies.errors import InputError, first_line
from nc_strategies.metrics.base import Array, MeanMetric, Metric
from nc_strategies.metrics.chance import Constant, no_better, one_valued, shuffled, shuffled_hits
from nc_strategies.metrics.class_outputs import (
    KEY,
    ClassOutputs,
    Reading,
    answers_of,
    fit_classes,
    per_sample,
    whole_classes,
)
from nc_strategies.metrics.settings import AucSettings, PlainSettings, SklearnSettings, Top1Settings, TopKSettings


def class_scores(outputs: Array, labels: Array) -> tuple[Array, Array]:
    """Outputs as shape (N, classes), and labels as class numbers of shape (N,).

    Raises:
        InputError: outputs are not class scores, or a label is not one of the classes.
    """
    flat = _two_columns(per_sample(outputs))
    classes = whole_classes(labels, flat.shape[1])
    check_range(classes, flat.shape[1])
    return flat, classes


def check_range(classes: Array, count: int) -> None:
    """Check class numbers against the number of a model's classes.

    Raises:
        InputError: a label is not one of the classes.
    """
    if len(classes) and (classes.min() < 0 or classes.max() >= count):
        raise InputError(
            "data",
            f"labels run from {classes.min()} to {classes.max()}",
            f"the model has {count} classes: 0 to {count - 1}",
        )


def _check_threshold(threshold: float | None) -> None:
    if threshold is not None and not math.isfinite(threshold):
        raise InputError("metrics.accuracy.threshold", f"is {threshold}", "a finite number")


class TopK(MeanMetric):
    """Share of samples whose class is among the `k` highest outputs; ``top1`` is accuracy."""

    score_range = (0.0, 1.0)

    def __init__(self, settings: TopKSettings | None = None) -> None:
        super().__init__(settings or TopKSettings())
        if self.settings.k < 1:
            raise InputError("metrics.accuracy.k", f"is {self.settings.k}", "at least 1")
        _check_threshold(self.settings.threshold)
        self._outputs = ClassOutputs(self.settings.threshold)

    @property
    def read_as(self) -> str:  # type: ignore[override]
        """See `Metric.read_as`."""
        return self._outputs.read_as

    def fits(self, output: Array, labels: Array) -> bool:
        """See `Metric.fits`."""
        return fit_classes(output, labels, numbers=self.settings.k == 1)

    def answers(self, output: Array) -> Array | None:
        """See `Metric.answers`."""
        return answers_of(output)

    def prepare(self, outputs: Array, labels: Array) -> None:
        """See `Metric.prepare`."""
        self._outputs.prepare(outputs, labels)
        if self.settings.threshold is not None and self._outputs.reading in (Reading.SCORES, Reading.CLASSES):
            raise InputError(
                "metrics.accuracy.threshold",
                f"is {self.settings.threshold:g}, but the output holds {self._outputs.reading}",
                "an output with one number per sample, for two classes",
            )

    def scores(self, outputs: Array, labels: Array) -> Array:
        """1 where the class is among the highest, else 0."""
        reading = self._outputs.read(outputs, labels)
        if reading is Reading.CLASSES:
            if self.settings.k > 1:
                raise InputError(
                    "metrics.accuracy.k", f"is {self.settings.k}, but the output holds class numbers", "1, or scores"
                )
            return np.asarray(per_sample(outputs)[:, 0] == whole_classes(labels, None), np.float64)
        flat = self._outputs.scores(outputs, reading)
        classes = whole_classes(labels, flat.shape[1])
        check_range(classes, flat.shape[1])
        own = flat[np.arange(len(flat)), classes]
        # Among equal outputs the class with the lower number comes first, as for argmax.
        higher = (flat > own[:, None]).sum(1)
        lower_index = np.arange(flat.shape[1]) < classes[:, None]
        ahead = higher + ((flat == own[:, None]) & lower_index).sum(1)
        valid = np.isfinite(own)
        return np.asarray((ahead < self.settings.k) & valid, np.float64)

    def no_better(self, outputs: Array, labels: Array) -> str:
        """See `Metric.no_better`: the most frequent classes for all samples, or the answers in random order.

        If all samples are of one class, the share that is right by guessing among the model's classes.
        """
        scores, k = self.scores(outputs, labels), self.settings.k
        value = float(scores.mean())
        if value == 1:
            return ""
        width = max(2, per_sample(outputs).shape[1])
        classes = whole_classes(labels, None if self._outputs.reading is Reading.CLASSES else width)
        counts = np.bincount(np.unique(classes, return_inverse=True)[1].reshape(-1))
        if len(counts) <= k:
            if self._outputs.reading is Reading.CLASSES or k >= width:
                return ""
            return no_better(value, True, Constant(k / width, f"a random class of {width}"))
        frequent = np.unique(classes)[np.argsort(-counts, kind="stable")[:k]]
        always = np.isin(classes, frequent)
        answer = f"class {frequent[0]} for all samples" if k == 1 else f"the {k} most frequent classes for all samples"
        answers = self._outputs.top(outputs, labels, k)
        return no_better(
            value,
            True,
            Constant(float(always.mean()), answer, scores - always),
            shuffled_hits(answers, classes),
        )


class Top1(TopK):
    """Accuracy: share of samples whose highest output is their class."""

    def __init__(self, settings: Top1Settings | PlainSettings | None = None) -> None:
        super().__init__(TopKSettings("top1", 1, getattr(settings, "threshold", None)))


class ClassificationScore(Metric):
    """``f1``, ``precision`` or ``recall`` by scikit-learn.

    The predicted class is the one with the highest output. With a `threshold`, every class whose output exceeds it is
    predicted; labels are then 0 or 1 per class, shape (N, classes), or (N,) for a single output. Without one, a single
    output is cut as `ClassOutputs` says.
    """

    def __init__(self, settings: SklearnSettings) -> None:
        super().__init__(settings)
        from sklearn import metrics

        self._score = {"f1": metrics.f1_score, "precision": metrics.precision_score, "recall": metrics.recall_score}[
            settings.name
        ]

        _check_threshold(settings.threshold)
        self._outputs = ClassOutputs(settings.threshold)

    @property
    def read_as(self) -> str:  # type: ignore[override]
        """See `Metric.read_as`."""
        return self._outputs.read_as

    def fits(self, output: Array, labels: Array) -> bool:
        """See `Metric.fits`."""
        return fit_classes(output, labels, indicators=self.settings.threshold is not None)

    def answers(self, output: Array) -> Array | None:
        """See `Metric.answers`."""
        return answers_of(output)

    def prepare(self, outputs: Array, labels: Array) -> None:
        """See `Metric.prepare`."""
        self._outputs.prepare(outputs, labels)

    def compute(self, outputs: Array, labels: Array) -> float:
        """See `Metric.compute`."""
        return self._value(*self._answers(outputs, labels))

    def _answers(self, outputs: Array, labels: Array) -> tuple[Array, Array]:
        """True and predicted classes of each sample, shape (N,), or indicators of shape (N, classes)."""
        threshold, reading, flat = self.settings.threshold, self._outputs.read(outputs, labels), per_sample(outputs)
        if threshold is not None and reading is not Reading.CLASSES:
            truth = indicators(flat, labels)
            predicted = (flat > threshold).astype(np.int64)
            return (truth[:, 0], predicted[:, 0]) if flat.shape[1] == 1 else (truth, predicted)
        if reading is Reading.CLASSES:
            return whole_classes(labels, None), flat[:, 0].astype(np.int64)
        scores = self._outputs.scores(outputs, reading)
        truth = whole_classes(labels, scores.shape[1])
        check_range(truth, scores.shape[1])
        return truth, scores.argmax(1)

    def _value(self, truth: Array, predicted: Array) -> float:
        average = self.settings.average
        try:
            return float(self._score(truth, predicted, average=average, zero_division=0))
        except ValueError as error:
            raise InputError(
                "metrics.accuracy.average",
                f"is {average!r} ({first_line(error)})",
                "macro, micro or weighted; binary for two classes; samples for several classes per sample",
            ) from None

    def no_better(self, outputs: Array, labels: Array) -> str:
        """See `Metric.no_better`: the model's answers in random order.

        Of a model that always gives one answer, these are its answers. The best constant answer does not serve: the
        recall of saying yes always is 1.
        """
        truth, predicted = self._answers(outputs, labels)
        if one_valued(truth) or np.array_equal(truth, predicted):
            return ""
        order = shuffled(lambda labels: self._value(labels, predicted), truth)
        return no_better(self._value(truth, predicted), True, None, order)


class RocAuc(Metric):
    """Area under the ROC curve by scikit-learn: for two classes, one class against the rest, or multi-label.

    With one class per sample, outputs that are not probabilities (logits) pass through a softmax first.
    """

    def __init__(self, settings: AucSettings | None = None) -> None:
        super().__init__(settings or AucSettings())
        from sklearn import metrics

        self._score = metrics.roc_auc_score

    def fits(self, output: Array, labels: Array) -> bool:
        """See `Metric.fits`."""
        return output.dtype.kind == "f" and fit_classes(output, labels, numbers=False)

    def no_better(self, outputs: Array, labels: Array) -> str:
        """See `Metric.no_better`: the model's scores in random order, which have 0.5 on average."""
        value = self.compute(outputs, labels)
        if value == 1:
            return ""
        return no_better(value, True, None, shuffled(lambda order: self.compute(outputs, order), np.asarray(labels)))

    def compute(self, outputs: Array, labels: Array) -> float:
        """See `Metric.compute`."""
        flat, average = per_sample(outputs), self.settings.average
        if flat.dtype.kind != "f" and flat.shape[1] == 1:
            raise InputError(KEY, "names an output of class numbers, which have no order of scores", "one of scores")
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

    def fits(self, output: Array, labels: Array) -> bool:
        """See `Metric.fits`."""
        return output.dtype.kind == "f" and fit_classes(output, labels, numbers=False)

    def no_better(self, outputs: Array, labels: Array) -> str:
        """See `Metric.no_better`: the shares of the classes as probabilities for all samples."""
        scores = self.scores(outputs, labels)
        _, classes = class_scores(outputs, labels)
        _, place, counts = np.unique(classes, return_inverse=True, return_counts=True)
        if len(counts) < 2:
            return ""
        always = -np.log(counts / len(classes))[place.reshape(-1)]
        constant = Constant(float(always.mean()), "the classes' shares as probabilities for all samples")
        return no_better(float(scores.mean()), False, constant)

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
