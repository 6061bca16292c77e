"""Evaluations supplied by the user: a function of the model, or a metric object with ``update`` and ``result``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.errors import InputError
from nc_strategies.metrics.base import Metric

NAME = "eval_func"
BATCH = 100
"""Samples per call of ``update``."""


def number(key: str, value: Any) -> float:
    """The result of a user's evaluation as a number. NaN and infinity are accepted; the caller judges them.

    Raises:
        InputError: the result is not one number.
    """
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "fiub":
        shown = f"an array of shape {array.shape}" if array.size > 1 else repr(value)
        raise InputError(key, f"returned {shown}", "expected one number")
    return float(array.reshape(()))


class UserEvaluation(Metric):
    """A function of the user that evaluates a model and returns its accuracy.

    It returns one number per model and no scores per sample. Models are therefore not compared sample by sample, and
    there is no confidence interval of the loss.

    Args:
        function: A function from a model, as an object of its framework (see `Backend.native`), to a number.
        higher_is_better: Direction of the number.
    """

    def __init__(self, function: Callable[[Any], Any], higher_is_better: bool = True) -> None:
        super().__init__()
        self.function = function
        self.higher_is_better = higher_is_better

    def evaluate(self, model: Any) -> float:
        """Evaluate a model.

        Raises:
            InputError: the function did not return a number.
        """
        return number(NAME, self.function(model))

    def compute(self, outputs: NDArray[Any], labels: NDArray[Any]) -> float:
        """See `Metric.compute`.

        Raises:
            InputError: always, because the function evaluates a model.
        """
        raise InputError(NAME, "evaluates models, not outputs")


class UserMetric(Metric):
    """A metric object of the user with ``reset()``, ``update(predictions, labels)`` and ``result()``.

    Args:
        metric: The object, or its class, which is instantiated once per model.
        higher_is_better: Direction of the metric.

    Raises:
        InputError: a method is missing.
    """

    def __init__(self, metric: Any, higher_is_better: bool = True) -> None:
        super().__init__()
        needed = ("update", "result") if isinstance(metric, type) else ("reset", "update", "result")
        missing = [name for name in needed if not callable(getattr(metric, name, None))]
        if missing:
            raise InputError(
                "eval_metric",
                f"{type(metric).__name__} has no {' and no '.join(missing)}",
                "an object with reset(), update(predictions, labels) and result()",
            )
        self.metric = metric
        self.higher_is_better = higher_is_better

    def compute(self, outputs: NDArray[Any], labels: NDArray[Any]) -> float:
        """See `Metric.compute`."""
        metric = self.metric() if isinstance(self.metric, type) else self.metric
        if metric is self.metric:
            metric.reset()
        for start in range(0, len(outputs), BATCH):
            metric.update(outputs[start : start + BATCH], labels[start : start + BATCH])
        return number("eval_metric", metric.result())
