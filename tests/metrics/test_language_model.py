"""Perplexity equals hand-computed values, whatever the batches, the padding and the windows."""

import math

import numpy as np
import pytest

from nc_strategies.data.windows import sliding_windows
from nc_strategies.errors import EngineError, InputError
from nc_strategies.measuring.accuracy import loss_interval
from nc_strategies.metrics.language_model import Perplexity
from nc_strategies.metrics.settings import PerplexitySettings
from nc_strategies.testing import MetricSuite


def perplexity(logits, labels, **settings):
    metric = Perplexity(PerplexitySettings(**settings))
    return metric.compute(metric.condense(logits, labels), labels)


class TestSuite(MetricSuite):
    def metric(self):
        return Perplexity()

    def outputs(self):
        return np.random.default_rng(0).normal(size=(30, 7, 11)).astype(np.float32)

    def labels(self):
        return np.random.default_rng(1).integers(11, size=(30, 7))


def test_the_logits_at_a_position_score_the_next_token():
    # p(1 | 0) = 1/2, p(2 | 0 1) = 1/4; the last position predicts nothing.
    logits = np.log([[[1 / 4, 1 / 2, 1 / 4], [1 / 4, 1 / 2, 1 / 4], [0.1, 0.1, 0.8]]]).astype(np.float32)
    assert perplexity(logits, np.array([[0, 1, 2]])) == pytest.approx(math.exp((math.log(2) + math.log(4)) / 2))


def test_shifted_labels_are_scored_at_their_own_position():
    logits = np.log([[[1 / 4, 1 / 2, 1 / 4], [1 / 4, 1 / 2, 1 / 4]]]).astype(np.float32)
    assert perplexity(logits, np.array([[1, 2]]), shift=False) == pytest.approx(math.sqrt(8))


def test_long_and_short_samples_count_by_their_tokens():
    logits = np.zeros((2, 4, 5), np.float32)
    logits[0, :, 0] = 3
    labels = np.array([[0, 0, 0, 0], [1, 1, -100, -100]])
    first = math.log(4 + math.exp(3)) - 3
    assert perplexity(logits, labels) == pytest.approx(math.exp((3 * first + math.log(5)) / 4))


@pytest.mark.parametrize("extra", [-1, 2])
def test_outputs_of_another_length_than_the_labels_are_compared_where_labels_count(extra):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(3, 6, 4)), np.full((3, 6), -100)
    labels[:, :4] = rng.integers(4, size=(3, 4))
    want = perplexity(logits, labels)
    other = logits[:, :extra] if extra < 0 else np.concatenate([logits, np.zeros((3, extra, 4))], 1)
    assert perplexity(other, labels) == pytest.approx(want)


def test_a_label_beyond_the_outputs_is_refused():
    with pytest.raises(InputError, match="labels for 5 tokens, the output 4 positions"):
        perplexity(np.zeros((1, 4, 3)), np.ones((1, 5)))


@pytest.mark.parametrize(
    ("labels", "problem"),
    [([[0, 3]], "from 3 to 3"), ([[0, -1]], "from -1"), ([[0, 0.5]], "whole"), ([0], "per token")],
)
def test_labels_that_are_no_ids_of_the_vocabulary_are_refused(labels, problem):
    with pytest.raises(InputError, match=problem):
        perplexity(np.zeros((1, 2, 3)), np.array(labels))


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 2)])
def test_an_output_without_logits_per_token_is_refused(shape):
    with pytest.raises(InputError, match="vocabulary"):
        perplexity(np.zeros(shape), np.zeros((4, 3)))


def test_data_without_a_token_to_predict_is_refused():
    with pytest.raises(InputError, match="no token to predict"):
        perplexity(np.zeros((2, 3, 4)), np.full((2, 3), -100))


def test_impossible_tokens_do_not_count_and_an_impossible_label_is_an_error():
    logits = np.zeros((1, 3, 3))
    logits[:, :, 2] = -np.inf
    assert perplexity(logits, np.array([[0, 1, 0]])) == pytest.approx(2)
    with pytest.raises(EngineError, match="no probability"):
        perplexity(logits, np.array([[0, 1, 2]]))


def test_nan_is_an_engine_error():
    with pytest.raises(EngineError, match="NaN"):
        perplexity(np.full((1, 3, 3), np.nan), np.array([[0, 1, 2]]))


def test_large_logits_do_not_overflow():
    assert perplexity(np.full((1, 3, 4), 1e30, np.float32), np.array([[0, 1, 2]])) == pytest.approx(4)


def test_a_model_as_good_as_equal_probabilities_is_worthless():
    metric, labels = Perplexity(), np.random.default_rng(0).integers(5, size=(20, 6))
    flat = metric.condense(np.zeros((20, 6, 5)), labels)
    assert "5.0000 of equal probabilities" in metric.no_better(flat, labels)
    good = metric.condense(5 * np.eye(5)[np.roll(labels, -1, 1)], labels)
    assert metric.no_better(good, labels) == ""


def test_the_paired_interval_covers_a_loss_that_all_samples_share():
    rng, metric = np.random.default_rng(0), Perplexity()
    labels = rng.integers(6, size=(200, 9))
    truth = np.eye(6)[np.roll(labels, -1, 1)]
    noise = rng.normal(size=truth.shape)
    fp32 = metric.condense(3 * truth + noise, labels)
    int8 = metric.condense(2.9 * truth + noise, labels)
    loss = metric.compute(int8, labels) - metric.compute(fp32, labels)
    low, high = loss_interval(metric, fp32, int8, labels, False, rng)
    assert 0 < low <= loss <= high < 2 * loss


@pytest.mark.parametrize(("length", "stride"), [(4, None), (4, 2), (5, 1), (8, 3), (20, 10)])
def test_each_token_counts_in_one_window_and_sees_what_came_before(length, stride):
    text = np.arange(10, 21)
    ids, labels = sliding_windows(text, length, stride, pad=1)
    counted = labels[labels != -100]
    np.testing.assert_array_equal(counted, text)
    assert ids.shape == labels.shape
    assert ids.shape[1] == length
    np.testing.assert_array_equal(ids[labels != -100], counted)
    assert (labels[1:, : length - (stride or length - 1)] == -100).all()


@pytest.mark.parametrize(("ids", "length", "stride"), [([1], 4, 2), ([1, 2, 3], 1, 1), ([1, 2, 3], 4, 4)])
def test_windows_that_cannot_be_cut_are_refused(ids, length, stride):
    with pytest.raises(InputError):
        sliding_windows(ids, length, stride)


def test_trials_are_stopped_by_the_logarithm_of_the_perplexity():
    rng, metric = np.random.default_rng(0), Perplexity()
    labels = rng.integers(6, size=(40, 9))
    labels[::3, 5:] = -100
    fp32 = metric.condense(rng.normal(size=(40, 9, 6)), labels)
    metric.prepare(fp32, labels)
    value = metric.compute(fp32, labels)
    assert metric.paired_scores(fp32, labels).mean() == pytest.approx(math.log(value))
    assert metric.paired_limit(value, 0.1 * value) == pytest.approx(math.log(1.1))
    int8 = metric.condense(rng.normal(size=(40, 9, 6)), labels)
    loss = metric.paired_scores(int8, labels).mean() - metric.paired_scores(fp32, labels).mean()
    within = loss <= metric.paired_limit(value, 0.1 * value)
    assert within == (metric.compute(int8, labels) <= 1.1 * value)
