"""Predictions over all samples, and an interval of the loss that can be believed."""

import numpy as np
import pytest

from nc_strategies.api import Dataset, EngineError, Executable, ExecutedOps, ModelInfo, Preprocess, Raw, TensorSpec
from nc_strategies.measuring.accuracy import loss_interval, predict
from nc_strategies.metrics.base import Metric
from nc_strategies.metrics.classification import ClassificationScore, Top1
from nc_strategies.metrics.regression import RegressionError
from nc_strategies.metrics.settings import PlainSettings, SklearnSettings

SIMULATIONS = 200


class Plain(Executable):
    """A model which is a function of its input."""

    fingerprint, size_bytes = "plain", 1

    def __init__(self, function, calls=None):
        self.function = function
        self.calls = calls if calls is not None else []

    def predict(self, batch):
        self.calls.append(self)
        return [self.function(batch["x"])]

    def executed(self):
        return ExecutedOps()


def dataset(count, batch=None):
    x = TensorSpec("x", (batch, 2), np.dtype(np.float64))
    return Dataset(
        Raw("data", {"x": np.arange(2.0 * count).reshape(count, 2)}, np.arange(count)),
        Preprocess(),
        ModelInfo((x,), ()),
    )


def test_outputs_are_those_of_all_samples_in_order():
    double, half = predict([Plain(lambda x: 2 * x), Plain(lambda x: x / 2)], dataset(7), 3)
    np.testing.assert_array_equal(double.outputs, 2 * np.arange(14.0).reshape(7, 2))
    np.testing.assert_array_equal(half.outputs, np.arange(14.0).reshape(7, 2) / 2)
    assert double.seconds > 0


def test_filled_up_samples_of_a_fixed_batch_size_do_not_count():
    (found,) = predict([Plain(lambda x: x)], dataset(5, batch=4), 100)
    np.testing.assert_array_equal(found.outputs, np.arange(10.0).reshape(5, 2))


def test_outputs_are_kept_where_the_engine_uses_its_buffer_again():
    buffer = np.zeros((2, 2))

    def into_buffer(x):
        buffer[: len(x)] = x
        return buffer

    (found,) = predict([Plain(into_buffer)], dataset(6), 2)
    np.testing.assert_array_equal(found.outputs, np.arange(12.0).reshape(6, 2))


def test_models_take_turns_in_going_first():
    calls = []
    one, other = Plain(lambda x: x, calls), Plain(lambda x: x, calls)
    predict([one, other], dataset(8), 2)
    firsts = [calls[i] for i in range(0, len(calls), 2)]
    assert firsts.count(one) == firsts.count(other) == 2


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_output_that_is_not_finite_is_an_engine_error(value):
    with pytest.raises(EngineError, match="NaN or infinity"):
        predict([Plain(lambda x: np.where(x == 4, value, x))], dataset(5), 2)


@pytest.mark.parametrize("function", [lambda x: x.sum(), lambda x: x[:1]], ids=["a number", "too few"])
def test_an_output_without_an_axis_for_the_samples_is_an_engine_error(function):
    with pytest.raises(EngineError, match="no axis for the samples"):
        predict([Plain(function)], dataset(5), 2)


def classifier(rng, labels, accuracy):
    right = rng.random(len(labels)) < accuracy
    return np.eye(2)[np.where(right, labels, 1 - labels)]


def spoilt(rng, outputs, labels, share):
    """The same answers, but for a share of those that were right."""
    wrong = (outputs.argmax(1) == labels) & (rng.random(len(labels)) < share)
    return np.where(wrong[:, None], outputs[:, ::-1], outputs)


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_the_paired_interval_of_a_loss_in_accuracy_covers_it(share):
    rng, hits = np.random.default_rng(0), 0
    for _ in range(SIMULATIONS):
        labels = rng.integers(2, size=2000)
        fp32 = classifier(rng, labels, 0.9)
        low, high = loss_interval(Top1(), fp32, spoilt(rng, fp32, labels, share), labels, True, rng)
        hits += low <= 0.9 * share <= high
    assert hits / SIMULATIONS >= 0.9


def test_the_paired_interval_is_narrower_than_that_of_two_separate_accuracies():
    rng = np.random.default_rng(1)
    labels = rng.integers(2, size=2000)
    fp32 = classifier(rng, labels, 0.8)
    low, high = loss_interval(Top1(), fp32, spoilt(rng, fp32, labels, 0.02), labels, True, rng)
    assert high - low < 0.5 * 2 * 1.96 * np.sqrt(2 * 0.8 * 0.2 / 2000)


def test_the_interval_of_a_lower_is_better_metric_is_positive_for_worse():
    rng, hits = np.random.default_rng(2), 0
    metric = RegressionError(PlainSettings("mse"))
    for _ in range(SIMULATIONS):
        labels = rng.normal(size=(500, 1))
        fp32 = labels + rng.normal(0, 1.0, labels.shape)
        low, high = loss_interval(metric, fp32, fp32 + rng.normal(0, 0.5, labels.shape), labels, False, rng)
        hits += low <= 0.25 <= high
    assert hits / SIMULATIONS >= 0.9


def test_a_metric_that_is_no_mean_of_samples_gets_a_bootstrap_interval_that_covers():
    class Precision(Metric):
        def compute(self, outputs, labels):
            said = outputs.argmax(1) == 1
            return float((labels[said] == 1).mean())

    rng, hits = np.random.default_rng(3), 0
    for _ in range(100):
        labels = rng.integers(2, size=500)
        fp32, int8 = classifier(rng, labels, 0.9), classifier(rng, labels, 0.8)
        low, high = loss_interval(Precision(), fp32, int8, labels, True, rng)
        hits += low <= 0.1 <= high
    assert hits / 100 >= 0.88


def test_models_that_agree_on_all_samples_may_differ_by_what_so_few_samples_hide():
    rng = np.random.default_rng(4)
    labels = rng.integers(2, size=100)
    outputs = classifier(rng, labels, 0.9)
    low, high = loss_interval(Top1(), outputs, outputs, labels, True, rng)
    # Agresti and Min: 1.96 * sqrt(0.5 + 0.5) / (100 + 2)
    assert low == -high
    assert high == pytest.approx(1.96 / 102, rel=0.01)


def test_equal_models_have_an_interval_of_nothing_where_scores_have_no_bounds():
    rng = np.random.default_rng(4)
    labels = rng.normal(size=(100, 1))
    outputs = labels + rng.normal(size=labels.shape)
    assert loss_interval(RegressionError(PlainSettings("mse")), outputs, outputs, labels, False, rng) == (0.0, 0.0)


def test_equal_models_have_a_bootstrap_interval_of_nothing():
    rng = np.random.default_rng(4)
    labels = rng.integers(2, size=100)
    outputs = classifier(rng, labels, 0.9)
    f1 = ClassificationScore(SklearnSettings("f1"))
    assert loss_interval(f1, outputs, outputs, labels, True, rng) == (0.0, 0.0)
