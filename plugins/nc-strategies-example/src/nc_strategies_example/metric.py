"""The metric ``brier``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.api import InputError, MeanMetric


class Brier(MeanMetric):
    """Squared distance of the predicted probabilities from the truth, 0 to 2; lower is better.

    Unlike accuracy it sees how sure a model is. Source: Brier, "Verification of forecasts expressed in terms of
    probability", Monthly Weather Review 78 (1950).
    """

    higher_is_better = False
    score_range = (0.0, 2.0)

    def scores(self, outputs: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
        """Each sample's score.

        Args:
            outputs: Probabilities, shape (N, classes).
            labels: Class numbers, shape (N,).

        Raises:
            InputError: outputs and labels do not fit.
        """
        if outputs.ndim != 2 or np.shape(labels) != (len(outputs),):
            raise InputError(
                "data",
                f"labels of shape {np.shape(labels)} do not fit outputs of shape {outputs.shape}",
                "one class number a sample",
            )
        classes = np.asarray(labels).astype(int)
        if len(classes) and not 0 <= classes.min() <= classes.max() < outputs.shape[1]:
            raise InputError(
                "data",
                f"labels run from {classes.min()} to {classes.max()}",
                f"the model has {outputs.shape[1]} classes",
            )
        # Scores must keep to their range, also where an int8 model's outputs are no probabilities any more.
        probabilities = np.clip(outputs.astype(np.float64), 0.0, None)
        total = probabilities.sum(1, keepdims=True)
        probabilities = np.divide(
            probabilities, total, out=np.full_like(probabilities, 1 / outputs.shape[1]), where=total > 0
        )
        return np.asarray(((probabilities - np.eye(outputs.shape[1])[classes]) ** 2).sum(1))
