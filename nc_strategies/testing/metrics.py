"""Test suite for metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.metrics.base import Metric, Outputs, rows


class MetricSuite:
    """Tests that every metric must pass: inherit, and implement `metric`.

    Override `outputs` and `labels` if the default, a classifier of four classes, does not fit.
    """

    def metric(self) -> Metric:
        """The metric under test."""
        raise AssertionError("a MetricSuite must implement metric()")

    def outputs(self) -> NDArray[Any] | list[NDArray[Any]]:
        """A model's output, shape (N, ...), or a list of its outputs."""
        scores = np.random.default_rng(0).random((60, 4))
        return np.asarray(scores / scores.sum(1, keepdims=True), np.float32)

    def labels(self) -> NDArray[Any]:
        """Labels, shape (N, ...)."""
        return np.asarray(np.random.default_rng(1).integers(4, size=60))

    def kept(self, part: slice = slice(None)) -> Outputs:
        """Result of `Metric.keep` and `Metric.condense` for a part of the samples."""
        outputs, metric = self.outputs(), self.metric()
        kept = metric.keep([array[part] for array in (outputs if isinstance(outputs, list) else [outputs])])
        return metric.condense(kept, self.labels()[part])

    def test_it_gives_a_finite_number(self) -> None:
        value = self.metric().compute(self.kept(), self.labels())
        assert isinstance(value, float)
        assert np.isfinite(value)

    def test_scores_average_to_the_metric(self) -> None:
        scores = self.metric().scores(self.kept(), self.labels())
        if scores is not None:
            assert scores.shape == (len(self.labels()),)
            assert np.isclose(scores.mean(), self.metric().compute(self.kept(), self.labels()))

    def test_the_order_of_samples_does_not_matter(self) -> None:
        order = np.random.default_rng(2).permutation(len(self.labels()))
        before = self.metric().compute(self.kept(), self.labels())
        assert np.isclose(before, self.metric().compute(rows(self.kept(), order), self.labels()[order]))

    def test_what_it_keeps_of_batches_is_what_it_keeps_of_all(self) -> None:
        count = len(self.labels())
        whole, first, second = self.kept(), self.kept(slice(count // 2)), self.kept(slice(count // 2, None))
        parts = zip(whole, first, second, strict=True) if isinstance(whole, tuple) else [(whole, first, second)]
        for everything, head, tail in parts:
            np.testing.assert_array_equal(everything, np.concatenate([head, tail]))

    def test_a_resample_is_the_metric_over_its_samples(self) -> None:
        index = np.random.default_rng(3).integers(len(self.labels()), size=len(self.labels()))
        resample = self.metric().resampler(self.kept(), self.labels())
        for chosen in (index, index[::-1]):
            want = self.metric().compute(rows(self.kept(), chosen), self.labels()[chosen])
            assert np.isclose(resample(chosen), want)
