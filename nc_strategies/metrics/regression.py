"""Metrics of regression."""

from __future__ import annotations

import math

import numpy as np

from nc_strategies.errors import InputError
from nc_strategies.metrics.base import Array, MeanMetric, Metric
from nc_strategies.metrics.chance import Constant, no_better, one_valued, shuffled
from nc_strategies.metrics.settings import PlainSettings


def paired(outputs: Array, labels: Array) -> tuple[Array, Array]:
    """Outputs and labels as float64 of shape (N, numbers per sample).

    Raises:
        InputError: their shapes differ.
    """
    if outputs.dtype.kind not in "fiub":
        raise InputError(
            "metrics.accuracy.output", "the output gives samples text or arrays of different shapes", "numbers"
        )
    predicted, truth = outputs.reshape(len(outputs), -1), np.asarray(labels).reshape(len(labels), -1)
    if predicted.shape != truth.shape:
        raise InputError("data", f"labels of shape {np.shape(labels)} do not fit outputs of shape {outputs.shape}")
    return predicted.astype(np.float64), truth.astype(np.float64)


def fit_numbers(output: Array, labels: Array) -> bool:
    """Whether an output has as many numbers per sample as the labels, in the same order of axes.

    Args:
        output: The output for a few samples, shape (n, ...).
        labels: Labels of all samples, shape (N, ...).
    """

    def squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(length for length in shape if length != 1)

    return output.dtype.kind in "fiub" and squeezed(output.shape[1:]) == squeezed(np.shape(labels)[1:])


class _Regression(Metric):
    """Common part of the metrics of regression."""

    def fits(self, output: Array, labels: Array) -> bool:
        """See `Metric.fits`."""
        return fit_numbers(output, labels)

    def _against(self, outputs: Array, labels: Array, constant: Array, answer: str) -> str:
        """Compare the model with one answer for all samples.

        Args:
            outputs: fp32's outputs.
            labels: Shape (N, ...).
            constant: The answer, shape (numbers per sample,).
            answer: What it is.
        """
        _, truth = paired(outputs, labels)
        if one_valued(truth):
            return ""
        value, always = self.compute(outputs, labels), np.tile(constant, (len(truth), 1))
        own, other = self.scores(outputs, labels), self.scores(always, truth)
        sign = 1.0 if self.higher_is_better else -1.0
        gains = None if own is None or other is None else sign * (own - other)
        order = shuffled(lambda labels: self.compute(outputs, labels), truth)
        return no_better(value, self.higher_is_better, Constant(self.compute(always, truth), answer, gains), order)


class RegressionError(MeanMetric, _Regression):
    """``mae`` or ``mse``: mean absolute or squared error; lower is better."""

    higher_is_better = False
    score_range = (0.0, math.inf)

    def __init__(self, settings: PlainSettings) -> None:
        super().__init__(settings)

    def scores(self, outputs: Array, labels: Array) -> Array:
        """Mean error of each sample, shape (N,)."""
        predicted, truth = paired(outputs, labels)
        error = predicted - truth
        return np.asarray((np.abs(error) if self.settings.name == "mae" else error**2).mean(1))

    def no_better(self, outputs: Array, labels: Array) -> str:
        """See `Metric.no_better`: the labels' median (mae) or mean (mse) for all samples."""
        _, truth = paired(outputs, labels)
        best, answer = (np.median(truth, 0), "median") if self.settings.name == "mae" else (truth.mean(0), "mean")
        return self._against(outputs, labels, best, f"the labels' {answer} for all samples")


class RootMeanSquaredError(_Regression):
    """``rmse``: root of the mean squared error, averaged over several outputs; lower is better."""

    higher_is_better = False

    def __init__(self, settings: PlainSettings | None = None) -> None:
        super().__init__(settings or PlainSettings("rmse"))

    def compute(self, outputs: Array, labels: Array) -> float:
        """See `Metric.compute`."""
        predicted, truth = paired(outputs, labels)
        return float(np.sqrt(((predicted - truth) ** 2).mean(0)).mean())

    def no_better(self, outputs: Array, labels: Array) -> str:
        """See `Metric.no_better`: the labels' mean for all samples."""
        return self._against(outputs, labels, paired(outputs, labels)[1].mean(0), "the labels' mean for all samples")


class R2(_Regression):
    """``r2``: coefficient of determination, averaged over several outputs, by scikit-learn."""

    def __init__(self, settings: PlainSettings | None = None) -> None:
        super().__init__(settings or PlainSettings("r2"))
        from sklearn import metrics

        self._score = metrics.r2_score

    def compute(self, outputs: Array, labels: Array) -> float:
        """See `Metric.compute`."""
        predicted, truth = paired(outputs, labels)
        if len(truth) < 2:
            raise InputError("metrics.accuracy.name", "is r2, which is not defined for a single sample")
        return float(self._score(truth, predicted))

    def no_better(self, outputs: Array, labels: Array) -> str:
        """See `Metric.no_better`: the labels' mean for all samples."""
        return self._against(outputs, labels, paired(outputs, labels)[1].mean(0), "the labels' mean for all samples")
