"""What every metric must do."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.measure.metrics import Metric


class MetricSuite:
    """Inherit, and implement `metric`; give `outputs` and `labels` where the default classes do not fit."""

    def metric(self) -> Metric:
        """The metric under test."""
        raise AssertionError("a MetricSuite must implement metric()")

    def outputs(self) -> NDArray[Any]:
        """Outputs of a model, shape (N, ...)."""
        scores = np.random.default_rng(0).random((60, 4))
        return np.asarray(scores / scores.sum(1, keepdims=True), np.float32)

    def labels(self) -> NDArray[Any]:
        """Labels, shape (N, ...)."""
        return np.asarray(np.random.default_rng(1).integers(4, size=60))

    def test_it_gives_a_finite_number(self) -> None:
        value = self.metric().compute(self.outputs(), self.labels())
        assert isinstance(value, float)
        assert np.isfinite(value)

    def test_scores_average_to_the_metric(self) -> None:
        scores = self.metric().scores(self.outputs(), self.labels())
        if scores is not None:
            assert scores.shape == (len(self.labels()),)
            assert np.isclose(scores.mean(), self.metric().compute(self.outputs(), self.labels()))

    def test_the_order_of_samples_does_not_matter(self) -> None:
        order = np.random.default_rng(2).permutation(len(self.labels()))
        before = self.metric().compute(self.outputs(), self.labels())
        assert np.isclose(before, self.metric().compute(self.outputs()[order], self.labels()[order]))
