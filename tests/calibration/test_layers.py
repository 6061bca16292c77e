"""Facts about an operator's tensors, against plain formulas on the same numbers."""

import numpy as np
import pytest

from nc_strategies.calibration.layers import (
    RULES,
    ActivationRange,
    NoiseSum,
    TensorStatistics,
    decibel,
    weight_facts,
)


def facts(values, span=None, axis=1, runs=3):
    statistics = TensorStatistics(axis, span)
    for part in np.array_split(values, runs):
        statistics.update(part)
    return statistics.facts("t", "output")


@pytest.fixture
def values():
    return np.random.default_rng(0).normal(size=(12, 16, 5, 5)).astype(np.float32)


def ratio_db(signal, output, channel=...):
    """Ratio in dB, of one channel if `channel` says so; squares are relative to those of their sample."""
    signal, output = np.asarray(signal, float), np.asarray(output, float)
    total = (signal.reshape(len(signal), -1) ** 2).sum(1)
    power = (signal[:, channel].reshape(len(signal), -1) ** 2).sum(1) / total
    noise = ((output - signal)[:, channel].reshape(len(signal), -1) ** 2).sum(1) / total
    return 10 * np.log10(power.sum() / noise.sum())


def test_a_sample_beyond_all_ranges_does_not_hide_the_others(values):
    output = values + np.random.default_rng(1).normal(0, 0.1, values.shape)
    values[3] *= 1000
    output[3] = 0.1 * values[3]
    total = NoiseSum(1)
    total.update(values, output)
    # Of 12 samples one keeps a noise of 0.81; the squares of that sample alone would give 0.9 dB.
    assert total.db() == pytest.approx(10 * np.log10(12 / (0.81 + 11 * 0.01)), abs=0.1)
    assert 10 * np.log10((values**2).sum() / ((output - values) ** 2).sum()) < 1


def test_a_run_without_values_adds_nothing():
    total = NoiseSum(1)
    total.update(np.zeros((0, 3)), np.zeros((0, 3)))
    assert total.db() is None


def test_samples_without_a_signal_count_like_the_others():
    signal = np.array([[0.0, 0.0], [3.0, 4.0]])
    total = NoiseSum(1)
    total.update(signal, signal + 1)
    # Relative to the mean of the squares where a sample has none.
    assert total.db() == pytest.approx(10 * np.log10(1 / (2 / 12.5 + 2 / 25)), abs=1e-6)


def test_ratio_is_relative_to_each_sample_over_all_runs(values):
    output = values + np.random.default_rng(1).normal(0, 0.1, values.shape)
    total = NoiseSum(1)
    for signal, other in zip(np.array_split(values, 4), np.array_split(output, 4), strict=True):
        total.update(signal, other)
    assert total.db() == pytest.approx(ratio_db(values, output), abs=1e-6)
    channels = [ratio_db(values, output, c) for c in range(16)]
    assert total.median_channel_db() == pytest.approx(np.median(channels), abs=1e-6)


def test_a_large_channel_hides_the_others_from_the_ratio_but_not_from_its_median(values):
    values[:, 3] *= 1000
    span = ActivationRange(-4000.0, 4000.0, 254)
    found = facts(values, span)
    assert found.sqnr_db > 35
    assert found.median_channel_db < 1
    assert found.outliers == 1
    assert found.outlier_channels[0][0] == 3
    peaks = np.abs(values).max((0, 2, 3))
    assert found.outlier_channels[0][1] == pytest.approx(peaks[3] / np.median(peaks), rel=1e-6)


def test_a_channel_within_the_ratio_of_the_median_is_no_outlier(values):
    peaks = np.abs(values).max((0, 2, 3))
    values[:, 3] *= 0.9 * RULES.outlier_ratio * np.median(peaks) / peaks[3]
    assert facts(values).outliers == 0


def test_dead_channels_are_those_constant_on_all_samples(values):
    values[:, 2] = 0
    values[:, 5] = 7.5
    values[:6, 9] = 1  # varies in later runs
    found = facts(values)
    assert (found.dead, found.dead_channels) == (2, (2, 5))


def test_shares_clipped_and_unused_are_counted(values):
    span = ActivationRange(-1.0, 4.1, 255)
    found = facts(values, span)
    half = 5.1 / 255 / 2
    assert found.clipped == pytest.approx(((values < -1 - half) | (values > 4.1 + half)).mean(), abs=1e-9)
    assert found.unused == pytest.approx(1 - (min(values.max(), 4.1) + 1) / 5.1, abs=1e-6)
    integers = np.clip(np.round(values / 0.02), -50, 205) * 0.02
    assert found.sqnr_db == pytest.approx(ratio_db(values, integers), abs=1e-4)


def test_levels_that_most_values_share_show_a_stretched_range(values):
    values[0, 0, 0, 0] = 400.0
    found = facts(values, ActivationRange(0.0, 400.0, 255))
    width = np.quantile(values, 0.995) - np.quantile(values, 0.005)
    assert found.central_levels == pytest.approx(width / (400 / 255), abs=0.3)


def test_bars_are_the_histogram_over_values_and_range(values):
    found = facts(values, ActivationRange(-10.0, 10.0, 254))
    assert found.bar_range == (-10.0, 10.0)
    counted = np.histogram(values, np.linspace(-10, 10, RULES.bars + 1))[0] / values.size
    assert sum(found.bars) == pytest.approx(1)
    np.testing.assert_allclose(found.bars, counted, atol=2e-3)


def test_no_error_and_an_output_that_is_not_finite_have_ratios_of_their_own(values):
    total = NoiseSum(1)
    total.update(values, values)
    assert total.db() == RULES.exact_db
    broken = values.copy()
    broken[0, 0, 0, 0] = np.nan
    total.update(values, broken)
    assert total.db() == RULES.broken_db
    assert decibel(0.0, 1.0) == RULES.broken_db


def test_infinite_masks_are_left_out(values):
    masked = values.copy()
    masked[:, :, 0] = -np.inf
    total = NoiseSum(-1)
    total.update(masked, np.where(np.isinf(masked), 0, masked + 0.1))
    inside = masked[np.isfinite(masked)].astype(float)
    rest = masked[:, :, 1:]
    assert total.db() == pytest.approx(ratio_db(rest, rest + 0.1), abs=1e-3)
    assert facts(masked).low == pytest.approx(inside.min())


def test_a_tensor_without_channels_is_one_channel():
    found = facts(np.arange(10, dtype=np.float32), axis=1)
    assert (found.channels, found.dead) == (1, 0)
    assert facts(np.zeros((0, 4), np.float32)) is None


def test_an_axis_whose_length_changes_counts_no_channels():
    rng = np.random.default_rng(4)
    runs = [rng.normal(size=(3, length)).astype(np.float32) for length in (18, 25, 18)]
    statistics, total = TensorStatistics(-1, ActivationRange(-4.0, 4.0, 254)), NoiseSum(-1)
    for values in runs:
        statistics.update(values)
        total.update(values, values + 0.5)
    found, every = statistics.facts("t", "input"), np.concatenate([r.ravel() for r in runs]).astype(float)
    assert (found.channels, found.dead, found.low) == (1, 0, every.min())
    relative = [0.25 * row.size / (row.astype(float) ** 2).sum() for run in runs for row in run]
    assert total.db() == pytest.approx(10 * np.log10(9 / sum(relative)), abs=1e-4)


def test_weight_facts_are_those_of_its_rounding():
    weight = np.random.default_rng(2).normal(size=(6, 3, 3, 3)).astype(np.float32)
    weight[1] *= 50
    weight[4] = 0
    scale = np.abs(weight).max() / 127
    used = np.round(weight / scale) * scale
    found = weight_facts(weight, used, 0, "per_tensor")
    expected = 10 * np.log10((weight.astype(float) ** 2).sum() / ((used - weight).astype(float) ** 2).sum())
    assert found.sqnr_db == pytest.approx(expected, abs=1e-4)
    peaks = np.abs(weight).max((1, 2, 3))
    assert found.spread == pytest.approx(peaks[1] / np.median(peaks[peaks > 0]), rel=1e-6)
    assert (found.channels, found.zero_channels) == (6, 1)
