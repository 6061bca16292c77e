"""How a classifier's output is read: scores of classes, one score of two classes, or class numbers."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numpy as np

from nc_strategies.errors import InputError
from nc_strategies.metrics.base import Array

KEY = "metrics.accuracy.output"
PROBABILITY_CUT, LOGIT_CUT = 0.5, 0.0
"""Value of a single output above which a sample is of class 1: of a probability, and of a logit (its logarithm of the
odds)."""
NUMBERS = "fiub"


class Reading(StrEnum):
    """What an output holds."""

    SCORES = "scores"
    """A score per class."""
    CLASSES = "class numbers"
    """The number of the class."""
    PROBABILITY = "probability"
    """The probability of class 1 of two."""
    LOGIT = "logit"
    """The log-odds of class 1 of two."""


def per_sample(outputs: Array) -> Array:
    """Outputs as shape (N, numbers per sample), if these are one vector.

    Raises:
        InputError: samples have outputs of different shapes, of more axes than one, or of text.
    """
    array = np.asarray(outputs)
    if array.dtype.kind not in NUMBERS:
        what = "arrays of different shapes" if _holds_arrays(array) else "text, and labels are numbers"
        raise InputError(KEY, f"the output holds {what}", "an output with one vector of class scores per sample")
    if not _is_vector(array.shape[1:]):
        raise InputError(
            KEY,
            f"the output has shape (N, {', '.join(map(str, array.shape[1:]))})",
            "an output with one vector of class scores per sample, or one class number",
        )
    return array.reshape(len(array), -1)


def _holds_arrays(array: Array) -> bool:
    return array.dtype.kind == "O" and any(isinstance(sample, np.ndarray) for sample in array.flat)


def _is_vector(shape: tuple[int, ...]) -> bool:
    return sum(length != 1 for length in shape) <= 1 and 0 not in shape


def reading_of(flat: Array, labels: Array) -> Reading:
    """How to read outputs of all samples.

    One number per sample is a class number if it is an integer, or if labels beyond 0 and 1 need it. A single float is
    a logit if a value leaves 0 to 1, else a probability.

    Args:
        flat: Shape (N, numbers per sample).
        labels: Shape (N, ...).
    """
    if flat.shape[1] > 1:
        return Reading.SCORES
    if flat.dtype.kind != "f":
        return Reading.CLASSES
    if not np.isin(labels, (0, 1)).all() and np.array_equal(flat, np.round(flat)):
        return Reading.CLASSES
    return Reading.LOGIT if flat.size and (flat.min() < 0 or flat.max() > 1) else Reading.PROBABILITY


def whole_classes(labels: Array, width: int | None) -> Array:
    """Labels as class numbers, shape (N,).

    Args:
        labels: Class numbers (N,) or (N, 1), or one-hot (N, classes).
        width: Number of classes of the outputs; None where they are class numbers themselves.

    Raises:
        InputError: labels are neither.
    """
    classes = np.asarray(labels).reshape(len(labels), -1)
    if classes.shape[1] > 1 and width in (None, classes.shape[1]):
        if np.isin(classes, (0, 1)).all() and not (classes.sum(1) == 1).all():
            raise InputError(
                "data",
                "holds samples of several classes or none, which this metric does not support",
                "f1, precision and recall with threshold, or roc_auc",
            )
        classes = classes.argmax(1)[:, None]
    if classes.shape[1] != 1:
        shown = "class numbers" if width is None else f"outputs of shape ({len(labels)}, {width})"
        raise InputError(
            "data", f"labels of shape {np.shape(labels)} do not fit {shown}", "one class number per sample"
        )
    whole = classes[:, 0].astype(np.int64)
    if not np.array_equal(whole, classes[:, 0]):
        raise InputError("data", "labels are not whole numbers", "one class number per sample")
    return whole


class ClassOutputs:
    """Reads outputs of a classifier, in the way that fp32's outputs have decided.

    Args:
        threshold: Value of a single output above which a sample is of class 1; None for that of a probability or a
            logit.
    """

    def __init__(self, threshold: float | None = None) -> None:
        self.threshold = threshold
        self.reading: Reading | None = None

    def prepare(self, outputs: Array, labels: Array) -> None:
        """Decide how to read the outputs of all models, on fp32's outputs of all samples.

        Raises:
            InputError: the outputs are no class scores or numbers.
        """
        self.reading = reading_of(per_sample(outputs), labels)

    def read(self, outputs: Array, labels: Array) -> Reading:
        """How to read these outputs: as decided, otherwise by themselves."""
        flat = per_sample(outputs)
        if self.reading is not None and (flat.shape[1] > 1) == (self.reading is Reading.SCORES):
            return self.reading
        return reading_of(flat, labels)

    @property
    def read_as(self) -> str:
        """How outputs are read, for the user; empty for scores of classes."""
        if self.reading in (None, Reading.SCORES):
            return ""
        if self.reading is Reading.CLASSES:
            return "class numbers"
        return f"one {self.reading}, cut at {self.cut(self.reading):g}"

    def cut(self, reading: Reading) -> float:
        """Value of a single output above which a sample is of class 1."""
        if self.threshold is not None:
            return self.threshold
        return LOGIT_CUT if reading is Reading.LOGIT else PROBABILITY_CUT

    def scores(self, outputs: Array, reading: Reading) -> Array:
        """Scores of shape (N, classes), the highest of which is the answer; of two classes for a single output."""
        flat = per_sample(outputs)
        if flat.shape[1] > 1:
            return flat
        above = flat.astype(np.float64) - self.cut(reading)
        return np.concatenate([-above, above], 1)

    def top(self, outputs: Array, labels: Array | None = None, k: int = 1) -> Array:
        """The classes with the highest scores, shape (N, k); among equal scores the lower number comes first."""
        known = np.zeros(0) if labels is None else labels
        reading = self.read(outputs, known)
        if reading is Reading.CLASSES:
            return per_sample(outputs)
        return np.argsort(-self.scores(outputs, reading), 1, kind="stable")[:, :k]


def fit_classes(output: Array, labels: Array, numbers: bool = True, indicators: bool = False) -> bool:
    """Whether an output can be a classifier's for these labels.

    Args:
        output: The output for a few samples, shape (n, ...).
        labels: Labels of all samples.
        numbers: Whether class numbers will do.
        indicators: Whether labels are 0 or 1 for each class.
    """
    if output.dtype.kind not in NUMBERS or not _is_vector(output.shape[1:]):
        return False
    flat, truth = output.reshape(len(output), -1), np.asarray(labels).reshape(len(labels), -1)
    width = flat.shape[1]
    if indicators:
        return truth.shape[1] == width
    if truth.shape[1] > 1:
        return truth.shape[1] == width or (width == 1 and numbers and flat.dtype.kind != "f")
    if not np.array_equal(truth, np.round(truth)):
        return False
    low, high = (truth.min(), truth.max()) if truth.size else (0, 0)
    if width > 1:
        return bool(low >= 0 and high < width)
    if flat.dtype.kind != "f":
        return numbers
    return bool(low >= 0 and high <= 1) or (numbers and np.array_equal(flat, np.round(flat)))


def answers_of(output: Array) -> Array | None:
    """Class number of each sample by scores, or as they are given; None where the output has neither."""
    if output.dtype.kind not in NUMBERS or not _is_vector(output.shape[1:]):
        return None
    flat: Any = output.reshape(len(output), -1)
    if flat.shape[1] > 1:
        return np.asarray(flat.argmax(1))
    return None if flat.dtype.kind == "f" else np.asarray(flat[:, 0])
