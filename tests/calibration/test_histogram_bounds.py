"""Histograms of values at the ends of float32."""

from __future__ import annotations

import numpy as np
import pytest

from nc_strategies.calibration.histogram import BINS, COUNTED_TOGETHER, Histogram


@pytest.mark.filterwarnings("error")
def test_the_lowest_float32_of_a_mask_is_counted_in_the_lowest_bin():
    histogram = Histogram()
    histogram.update(np.array([np.finfo(np.float32).min, 0, 1], np.float32))
    assert np.flatnonzero(histogram.counts).tolist() == [0, BINS // 2]
    assert histogram.counts.sum() == 3


def test_many_values_are_counted_as_few_are():
    values = np.random.default_rng(0).normal(size=2 * COUNTED_TOGETHER + 7).astype(np.float32)
    values[0] = 8  # the bound is the same from the first value on
    whole, parts = Histogram(), Histogram()
    whole.update(values)
    for part in np.array_split(values, 50):
        parts.update(part)
    np.testing.assert_array_equal(whole.counts, parts.counts)
    assert whole.counts.sum() == len(values)
