"""The factors of cross-layer equalization, and when it is adopted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nc_strategies.calibration.equalization import Pair, Peaks, adopt, factors
from nc_strategies.errors import EngineError


def test_factors_are_powers_of_two_that_share_the_unevenness():
    rng = np.random.default_rng(1)
    peaks = rng.lognormal(0, 2, 32)
    weight = np.abs(rng.normal(size=(32, 8)))
    found = factors(peaks, weight)
    np.testing.assert_array_equal(found, np.exp2(np.round(np.log2(found))))
    assert np.log(peaks / found).std() < 0.7 * np.log(peaks).std()


def test_a_depthwise_convolution_takes_up_all_of_it():
    peaks = np.random.default_rng(2).lognormal(0, 2, 32)
    assert np.log2(peaks / factors(peaks, np.eye(32))).std() < 0.5


@pytest.mark.parametrize(
    ("peaks", "weight"),
    [
        ([0.0, 4.0, 1.0], [[1.0], [1.0], [1.0]]),
        ([2.0, 4.0, 1.0], [[0.0], [1.0], [1.0]]),
        ([0.0, 0.0, 0.0], [[1.0], [1.0], [1.0]]),
    ],
)
def test_channels_that_are_always_zero_or_never_read_keep_their_scale(peaks, weight):
    assert factors(np.array(peaks), np.array(weight))[0] == 1.0


def test_peaks_are_those_of_all_that_was_shown():
    peaks = Peaks([Pair("a", "b", "t", 2, 1)])
    peaks.look("t", np.array([[1.0, -5.0], [2.0, 3.0]], np.float32))
    peaks.look("t", np.array([[-4.0, 0.0]], np.float32))
    peaks.look("other", np.ones((3, 3), np.float32))
    np.testing.assert_array_equal(peaks.values["t"], [4.0, 5.0])


@pytest.mark.parametrize(("when", "after", "kept"), [("auto", 0.5, True), ("auto", 0.95, False), ("always", 2.0, True)])
def test_it_is_adopted_where_int8_becomes_quieter(when, after, kept):
    used = [False]
    remarks = adopt(when, 3, lambda: after if used[-1] else 1.0, used.append)
    assert used[-1] is kept
    assert len(remarks) == kept


@pytest.mark.parametrize("noise", [float("nan"), 0.0, EngineError("int8 aborts")])
def test_where_the_noise_tells_nothing_the_model_stays_as_it_is(noise):
    def told():
        if isinstance(noise, Exception):
            raise noise
        return noise

    used = [False]
    assert adopt("auto", 3, told, used.append) == ()
    assert used[-1] is False


def test_a_model_whose_int8_outputs_stay_infinite_is_not_equalized():
    used = [False]
    assert adopt("auto", 3, lambda: math.inf, used.append) == ()
    assert used[-1] is False
