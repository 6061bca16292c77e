"""Rounding by second moments, bias correction, smoothing factors, and which methods are adopted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nc_strategies.calibration.recovery import (
    AUTO_METHODS,
    EVERYTHING,
    METHODS,
    WEIGHTS,
    Attempt,
    RecoveryRecord,
    chosen,
    tried,
)
from nc_strategies.calibration.rounding import (
    Rows,
    error_spread,
    mean_error,
    output_noise,
    round_by_second_moments,
)
from nc_strategies.calibration.smoothing import Reader, int8_noise, searched
from nc_strategies.errors import EngineError, InputError


def correlated(rng, groups=1, count=400, depth=48):
    mixing = rng.normal(size=(groups, 6, depth))
    rows = rng.normal(size=(groups, count, 6)) @ mixing + 0.1 * rng.normal(size=(groups, count, depth))
    return rows.astype(np.float32)


@pytest.mark.parametrize("groups", [1, 3])
def test_rounding_by_second_moments_is_less_noisy_on_unseen_rows(groups):
    rng = np.random.default_rng(0)
    rows = correlated(rng, groups)
    weight = rng.normal(size=(groups, 48, 10)).astype(np.float32)
    scale = np.abs(weight).max(1, keepdims=True) / 7
    found = round_by_second_moments(weight, scale, error_spread(rows[:, :300]), -7, 7)
    assert found.dtype == np.int8
    assert np.abs(found).max() <= 7
    nearest = np.clip(np.round(weight / scale), -7, 7)
    unseen = rows[:, 300:]
    assert output_noise(weight, found * scale, unseen) < 0.3 * output_noise(weight, nearest * scale, unseen)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e12])
def test_rounding_stays_near_the_weight_for_rows_of_any_size(size):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(1, 48, 10)).astype(np.float32)
    found = round_by_second_moments(weight, np.full((1, 1, 1), 0.1), error_spread(correlated(rng) * size), -127, 127)
    assert np.abs(found * 0.1 - weight).max() < 2.0


def test_the_mean_error_is_what_the_outputs_lose_on_average():
    rng = np.random.default_rng(1)
    rows = correlated(rng, 2) + 3
    weight = rng.normal(size=(2, 48, 5)).astype(np.float32)
    rounded = np.round(weight * 2) / 2
    lost = (np.matmul(rows, weight) - np.matmul(rows, rounded)).mean(1)
    np.testing.assert_allclose(mean_error(weight, rounded, rows), lost, atol=1e-4)
    corrected = output_noise(weight, rounded, rows, mean_error(weight, rounded, rows))
    assert corrected < output_noise(weight, rounded, rows)


def reader(rng, spread):
    factors = 2.0 ** rng.integers(-spread, spread + 1, 32)
    rows = (rng.normal(size=(1, 300, 32)) * factors).astype(np.float32)
    weight = (rng.normal(size=(1, 32, 16)) / factors[:, None]).astype(np.float32)
    return Reader(weight, Rows(rows[:, :200], rows[:, 200:]), np.arange(32)[None])


def test_channels_that_differ_in_range_get_factors_that_reduce_the_noise():
    rng = np.random.default_rng(2)
    own = reader(rng, 5)
    found = searched([own], 32)
    assert found is not None
    np.testing.assert_array_equal(np.log2(found.factors), np.round(np.log2(found.factors)))
    assert found.after == int8_noise(own, found.factors, held_out=True)
    assert found.after < 0.1 * found.before


def test_channels_of_one_range_are_not_scaled():
    assert searched([reader(np.random.default_rng(2), 0)], 32) is None


def test_a_setting_names_methods_in_the_order_of_their_cost():
    assert chosen("auto") == AUTO_METHODS
    assert set(METHODS) - set(AUTO_METHODS) == {"smooth_quant_with_mul"}
    assert chosen("none") == chosen([]) == ()
    assert chosen("gptq") == ("gptq",)
    assert chosen(["gptq", "bias_correction"]) == ("bias_correction", "gptq")


@pytest.mark.parametrize("value", ["adaround", ["gptq", "other"], 3, True, None, ["gptq", ["x"]]])
def test_another_name_is_refused_in_one_line_with_what_is_allowed(value):
    with pytest.raises(InputError, match=r"^backend\.recovery.*allowed: auto, none, .*smooth_quant.*gptq$"):
        chosen(value)


class Model:
    """A model whose noise is a number, and a clock that each method advances."""

    def __init__(self):
        self.noise, self.time, self.before, self.undone = 1.0, 0.0, [], []

    def attempt(self, name, factor, seconds=1.0, operators=2):
        def fit(left):
            self.time += seconds
            if factor is None:
                raise EngineError("no kernel")
            self.before.append(self.noise)
            self.noise *= factor if operators else 1.0
            return operators

        def undo():
            self.undone.append(name)
            self.noise = self.before.pop()

        return Attempt(name, WEIGHTS if name == "gptq" else EVERYTHING, fit, undo)

    def tried(self, *attempts, seconds=100.0):
        return tried(attempts, lambda what: self.noise, seconds, lambda: self.time)


def test_a_method_stays_only_where_it_leaves_less_noise():
    model = Model()
    good, bad, flat = model.tried(
        model.attempt("bias_correction", 0.5), model.attempt("smooth_quant", 1.5), model.attempt("gptq", 0.99)
    )
    assert good == RecoveryRecord("bias_correction", 2, 1.0, 0.5, EVERYTHING, 1.0, True)
    assert (bad.adopted, bad.noise_before, bad.noise_after) == (False, 0.5, 0.75)
    assert not flat.adopted
    assert model.undone == ["smooth_quant", "gptq"]
    assert model.noise == 0.5


@pytest.mark.parametrize("factor", [math.inf, math.nan])
def test_a_method_after_which_outputs_are_not_finite_is_undone(factor):
    model = Model()
    (record,) = model.tried(model.attempt("gptq", factor))
    assert (record.adopted, record.to_dict()["noise_after"]) == (False, None)
    assert model.undone == ["gptq"]


def test_no_method_begins_after_the_time_is_over():
    model = Model()
    first, second = model.tried(
        model.attempt("bias_correction", 0.5, seconds=7.0), model.attempt("gptq", 0.5), seconds=5.0
    )
    assert first.adopted
    assert (second.adopted, second.note, second.seconds) == (False, "no time left", 0.0)


def test_a_model_that_does_not_run_and_one_without_gain_say_so():
    model = Model()
    broken, idle = model.tried(model.attempt("smooth_quant", None), model.attempt("gptq", 0.5, operators=0))
    assert broken.note == "the model does not run: no kernel"
    assert idle.note == "no operator gains from it"
    assert model.undone == []


@pytest.mark.parametrize("depth", [1, 64, 130])
def test_the_spread_of_errors_factorizes_the_inverse_of_the_second_moments(depth):
    rows = correlated(np.random.default_rng(4), 2, depth=depth)
    spread = error_spread(rows)
    peak = np.abs(rows).max()
    for group, (order, factor) in enumerate(zip(spread.order, spread.factor, strict=True)):
        ordered = (rows[group] / peak)[:, order].astype(np.float64)
        moments = ordered.T @ ordered
        moments += 0.01 * np.diag(moments).mean() * np.eye(depth)
        assert (np.diff(np.diag(moments)) <= 1e-9).all()
        np.testing.assert_allclose(moments @ (factor.T @ factor), np.eye(depth), atol=1e-2)
        assert not np.tril(factor, -1).any()
