"""Accuracy over all samples, and the loss against fp32 with its interval."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.base import Executable
from nc_strategies.data.dataset import Dataset
from nc_strategies.errors import EngineError
from nc_strategies.measure.metrics import Metric

RESAMPLES = 200
Z_95 = 1.96


@dataclass(frozen=True)
class Predictions:
    """A model's first output on every evaluation sample that was read, and the engine's seconds for it.

    Args:
        outputs: Shape (N, ...).
        seconds: Time inside the engine, for these samples.
    """

    outputs: NDArray[Any]
    seconds: float


def predict(models: Sequence[Executable], data: Dataset, batch_size: int,
            enough: Callable[[NDArray[Any]], bool] | None = None) -> list[Predictions]:
    """Run models over all samples, batch by batch in turn, so that a drift of the machine's speed hits all alike.

    Args:
        models: What to run.
        data: The samples.
        batch_size: Samples in a run.
        enough: Told the first model's outputs of each batch; the rest of the samples is not read once it says so.

    Raises:
        EngineError: an output is NaN or infinite, or has no axis for the samples.
    """
    parts: list[list[NDArray[Any]]] = [[] for _ in models]
    seconds = [0.0] * len(models)
    for number, (batch, _, count) in enumerate(data.batches(batch_size)):
        order = range(len(models)) if number % 2 else reversed(range(len(models)))
        for index in order:
            before = time.perf_counter()
            output = models[index].predict(batch)[0]
            seconds[index] += time.perf_counter() - before
            if output.ndim == 0 or len(output) < count:
                raise EngineError(f"the model's first output has shape {output.shape}: no axis for the samples")
            if not np.isfinite(output).all():
                raise EngineError("the model's output holds NaN or infinity")
            parts[index].append(np.array(output[:count]))
        if enough is not None and enough(parts[0][-1]):
            break
    return [Predictions(np.concatenate(p), s) for p, s in zip(parts, seconds, strict=True)]


def loss_interval(metric: Metric, reference: NDArray[Any], outputs: NDArray[Any], labels: NDArray[Any],
                  higher_is_better: bool, rng: np.random.Generator) -> tuple[float, float]:
    """95 % interval of the loss against fp32, in the metric's unit; positive is worse than fp32.

    Both models saw the same samples, so the interval is of the paired difference: its normal interval where the
    metric is a mean over samples, else a percentile bootstrap over samples (Efron and Tibshirani, "An Introduction
    to the Bootstrap", ch. 13).
    """
    sign = 1.0 if higher_is_better else -1.0
    before, after = metric.scores(reference, labels), metric.scores(outputs, labels)
    if before is not None and after is not None:
        difference = sign * (before - after)
        spread = difference.std(ddof=1) if len(difference) > 1 else 0.0
        centre, reach = difference.mean(), Z_95 * spread / np.sqrt(len(difference))
        return float(centre - reach), float(centre + reach)
    losses = []
    for _ in range(RESAMPLES):
        index = rng.integers(len(labels), size=len(labels))
        losses.append(sign * (metric.compute(reference[index], labels[index])
                              - metric.compute(outputs[index], labels[index])))
    low, high = np.quantile(losses, [0.025, 0.975])
    return float(low), float(high)
