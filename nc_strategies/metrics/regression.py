"""Metrics of regression."""

from __future__ import annotations

import math

import numpy as np

from nc_strategies.errors import InputError
from nc_strategies.metrics.base import Array, MeanMetric, Metric
from nc_strategies.metrics.settings import PlainSettings


def paired(outputs: Array, labels: Array) -> tuple[Array, Array]:
    """Outputs and labels as float64 of shape (N, numbers per sample).

    Raises:
        InputError: their shapes differ.
    """
    predicted, truth = outputs.reshape(len(outputs), -1), np.asarray(labels).reshape(len(labels), -1)
    if predicted.shape != truth.shape:
        raise InputError("data", f"labels of shape {np.shape(labels)} do not fit outputs of shape {outputs.shape}")
    return predicted.astype(np.float64), truth.astype(np.float64)


class RegressionError(MeanMetric):
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


class RootMeanSquaredError(Metric):
    """``rmse``: root of the mean squared error, averaged over several outputs; lower is better."""

    higher_is_better = False

    def __init__(self, settings: PlainSettings | None = None) -> None:
        super().__init__(settings or PlainSettings("rmse"))

    def compute(self, outputs: Array, labels: Array) -> float:
        """See `Metric.compute`."""
        predicted, truth = paired(outputs, labels)
        return float(np.sqrt(((predicted - truth) ** 2).mean(0)).mean())


class R2(Metric):
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
