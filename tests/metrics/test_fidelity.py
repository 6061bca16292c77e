"""Fidelity equals hand-computed values, and treats what fp32 itself gives as perfect."""

import math

import numpy as np
import pytest

from nc_strategies.errors import EngineError, InputError
from nc_strategies.measuring.accuracy import loss_interval
from nc_strategies.measuring.reference import ReferenceOutputs
from nc_strategies.metrics.fidelity import FIDELITY_RULES, Cosine, KlDivergence, MaxAbsError, Sqnr, Top1Agreement
from nc_strategies.metrics.settings import ClassFidelitySettings, KlDivergenceSettings

EVERY = [Cosine, Sqnr, Top1Agreement, KlDivergence, MaxAbsError]
PERFECT = {Cosine: 1.0, Sqnr: 100.0, Top1Agreement: 1.0, KlDivergence: 0.0, MaxAbsError: 0.0}


def scores(metric, reference, output):
    """Scores of each sample; both arguments are one output, or a list of them."""
    both = [metric.keep(given if isinstance(given, list) else [given]) for given in (reference, output)]
    metric.observe(both[0])
    return metric.condense(both[1], both[0])


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 7), (5, 3, 4), (5, 2, 3, 4)])
def test_fp32_is_perfect_to_itself(kind, dtype, shape):
    output = np.random.default_rng(0).normal(size=shape).astype(dtype)
    metric = kind()
    found = scores(metric, output, output)
    np.testing.assert_array_equal(found, np.full(5, PERFECT[kind]))
    assert metric.compute(found, np.zeros((5, 0))) == PERFECT[kind]


@pytest.mark.parametrize("kind", EVERY)
def test_values_for_samples_do_not_depend_on_the_batches(kind):
    rng = np.random.default_rng(0)
    one = rng.normal(size=(9, 4)).astype(np.float32)
    other = one + rng.normal(0, 0.2, one.shape).astype(np.float32)
    metric = kind()
    whole = scores(metric, one, other)
    halves = [metric.condense((other[part],), (one[part],)) for part in (slice(4), slice(4, 9))]
    np.testing.assert_allclose(np.concatenate(halves), whole)


def test_cosine_is_that_of_the_angle_between_the_vectors():
    one = np.array([[1.0, 0], [3, 4], [1, 0], [0, 2]])
    other = np.array([[1.0, 1], [6, 8], [-2, 0], [1, 0]])
    np.testing.assert_allclose(scores(Cosine(), one, other), [math.sqrt(0.5), 1, -1, 0], atol=1e-12)


def test_the_cosine_of_zeros_is_one_to_zeros_and_none_to_anything_else():
    one, other = np.array([[0.0, 0], [0, 0], [1, 1]]), np.array([[0.0, 0], [1, 0], [0, 0]])
    np.testing.assert_array_equal(scores(Cosine(), one, other), [1, 0, 0])


def test_the_cosine_of_single_numbers_falls_with_their_difference():
    one = np.array([[0.5], [1.5], [1.0], [-1.0]])
    other = np.array([[0.5], [1.6], [3.0], [1.0]])
    # Beside each stands the mean magnitude of fp32's, which is 1.
    near, far = (1 + 1.5 * 1.6) / math.sqrt((1 + 1.5**2) * (1 + 1.6**2)), 4 / math.sqrt(2 * 10)
    found = scores(Cosine(), one, other)
    np.testing.assert_allclose(found, [1, near, far, 0], atol=1e-12)
    assert 0.99 < found[1] < 1
    np.testing.assert_allclose(scores(Cosine(), one[:, 0], other[:, 0]), found)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_very_small_and_very_large_outputs_have_a_cosine_and_a_noise(size):
    one, other = size * np.array([[3.0, 4]]), size * np.array([[4.0, 3]])
    assert scores(Cosine(), one, other)[0] == pytest.approx(0.96)
    assert scores(Sqnr(), one, other)[0] == pytest.approx(10 * math.log10(25 / 2))


def test_sqnr_is_in_decibels_and_ends_at_its_caps():
    one = np.array([[1.0, 0], [0, 0], [0, 0], [1, 0], [1, 0]])
    other = np.array([[1.1, 0], [0, 0], [0.1, 0], [1 + 1e-9, 0], [1e9, 0]])
    np.testing.assert_allclose(scores(Sqnr(), one, other), [20, 100, -100, 100, -100])


def test_the_largest_difference_is_that_of_a_sample_and_of_all_outputs():
    one, other = np.array([[1.0, 2], [5, 5]]), np.array([[1.5, 1], [5, 5]])
    np.testing.assert_allclose(scores(MaxAbsError(), one, other), [1, 0])
    np.testing.assert_allclose(scores(MaxAbsError(), [one, one], [other, one + 3]), [3, 3])


def test_agreement_is_the_share_of_equal_highest_classes():
    one = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]])
    other = np.array([[0.2, 0.3, 0.1], [0, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(scores(Top1Agreement(), one, other), [1, 0, 1])


def test_agreement_counts_each_token():
    metric, one = Top1Agreement(), np.eye(3)[[[0, 1, 2, 0]]]
    np.testing.assert_array_equal(scores(metric, one, np.eye(3)[[[0, 1, 0, 0]]]), [0.75])
    assert metric.graded


def test_one_decision_for_each_sample_is_right_or_wrong():
    metric = Top1Agreement()
    scores(metric, np.eye(3), np.eye(3))
    assert not metric.graded
    assert metric.hit_range == (0, 1)


@pytest.mark.parametrize(("values", "cut"), [([[0.2], [0.9], [0.6]], 0.5), ([[-2.0], [0.3], [3.0]], 0.0)])
def test_a_single_number_is_cut_as_the_probability_or_logit_that_fp32_shows_it_to_be(values, cut):
    one = np.array(values)
    other = one + np.array([[0.1], [-0.35], [0]])
    want = (one > cut) == (other > cut)
    np.testing.assert_array_equal(scores(Top1Agreement(), one, other), want[:, 0])


def test_class_numbers_agree_where_they_are_equal():
    np.testing.assert_array_equal(scores(Top1Agreement(), np.array([1, 2, 3]), np.array([1, 0, 3])), [1, 0, 1])
    tokens = np.array([[1, 2], [3, 4]])
    np.testing.assert_array_equal(scores(Top1Agreement(), tokens, np.array([[1, 0], [3, 4]])), [0.5, 1])


def test_the_axis_of_the_classes_can_be_named():
    one = np.moveaxis(np.eye(3)[[[0, 1, 2, 0]]], -1, 1)
    other = np.moveaxis(np.eye(3)[[[0, 1, 0, 0]]], -1, 1)
    assert scores(Top1Agreement(ClassFidelitySettings(axis=1)), one, other)[0] == 0.75
    with pytest.raises(InputError, match=r"metrics\.accuracy\.axis: is 3"):
        scores(Top1Agreement(ClassFidelitySettings(axis=3)), one, other)


def test_divergence_of_probabilities_and_of_their_logits_is_the_same():
    p, q = np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([[0.25, 0.75], [0.9, 0.1]])
    want = [0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75), 0]
    np.testing.assert_allclose(scores(KlDivergence(), p, q), want, atol=1e-12)
    np.testing.assert_allclose(scores(KlDivergence(), np.log(p) - 3, np.log(q) + 5), want, atol=1e-12)


def test_divergence_of_a_single_probability_or_logit_is_that_of_two_classes():
    p, q = np.array([[0.5], [0.9]]), np.array([[0.25], [0.9]])
    want = [0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75), 0]
    np.testing.assert_allclose(scores(KlDivergence(), p, q), want, atol=1e-12)
    np.testing.assert_allclose(
        scores(KlDivergence(), np.log(p / (1 - p)) - [[2], [0]], np.log(q / (1 - q)) - [[2], [0]])[1:], [0], atol=1e-12
    )


def test_divergence_is_finite_where_a_class_is_ruled_out():
    found = scores(KlDivergence(), np.array([[1.0, 0]]), np.array([[0.0, 1]]))
    assert found[0] == pytest.approx(-math.log(FIDELITY_RULES.least_probability))


def test_divergence_takes_the_axis_that_is_named():
    p, q = np.array([[[0.5], [0.5]]]), np.array([[[0.25], [0.75]]])
    want = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert scores(KlDivergence(KlDivergenceSettings(axis=1)), p, q)[0] == pytest.approx(want)


@pytest.mark.parametrize(
    ("kind", "want"), [(Cosine, 0.5), (Sqnr, (100 - 10 * math.log10(2)) / 2), (Top1Agreement, 0.5)]
)
def test_each_of_several_outputs_counts_alike_whatever_its_size(kind, want):
    small, large = np.array([[0.0, 1.0]]), 1e6 * np.ones((1, 50))
    wrong = np.array([[1.0, 0.0]])
    assert scores(kind(), [small, large], [wrong, large])[0] == pytest.approx(want)


@pytest.mark.parametrize(
    ("kind", "want"),
    [(Cosine, 0.0), (Sqnr, 0.0), (Top1Agreement, 0.0), (MaxAbsError, 4.0), (KlDivergence, None)],
)
def test_an_output_of_another_shape_is_compared_as_zeros(kind, want):
    one, other = np.array([[1.0, 4.0]]), np.ones((1, 3))
    value = scores(kind(), one, other)[0]
    if want is None:
        p = np.exp([1.0, 4]) / np.exp([1.0, 4]).sum()
        want = float((p * np.log(p / 0.5)).sum())
    assert value == pytest.approx(want)


@pytest.mark.parametrize("kind", EVERY)
def test_samples_of_different_shapes_are_compared_one_by_one(kind):
    def ragged(*arrays):
        whole = np.empty(len(arrays), object)
        for place, array in enumerate(arrays):
            whole[place] = np.asarray(array, float)
        return whole

    one = ragged([[0.1, 0.9]], [[0.5, 0.5], [0.2, 0.8]])
    found = kind().condense((one,), (one,))
    np.testing.assert_array_equal(found, [PERFECT[kind]] * 2)


@pytest.mark.parametrize("kind", EVERY)
def test_what_is_infinite_in_fp32_is_left_out(kind):
    metric, one = kind(), np.array([[1.0, -np.inf, 2.0]])
    assert scores(metric, one, np.array([[1.0, -7.0, 2.0]]))[0] == PERFECT[kind]
    assert "infinite" in metric.read_as
    assert scores(metric, one, one)[0] == PERFECT[kind]


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_infinity_where_fp32_is_finite_is_an_engine_error(kind, value):
    with pytest.raises(EngineError, match="where fp32's is finite"):
        scores(kind(), np.array([[1.0, 2.0]]), np.array([[1.0, value]]))


def test_an_fp32_without_a_finite_value_is_an_engine_error():
    with pytest.raises(EngineError, match="nothing but NaN"):
        scores(Cosine(), np.array([[1.0], [np.nan]]), np.array([[1.0], [1.0]]))


@pytest.mark.parametrize("kind", [Cosine, Sqnr, MaxAbsError, KlDivergence])
def test_graded_scores_have_the_interval_of_their_own_spread(kind):
    rng, metric = np.random.default_rng(0), kind()
    one = rng.normal(size=(200, 10))
    found = scores(metric, one, one + rng.normal(0, 0.02, one.shape))
    perfect = np.full(200, PERFECT[kind])
    low, high = loss_interval(metric, perfect, found, np.zeros((200, 0)), metric.higher_is_better, rng)
    loss = abs(found.mean() - PERFECT[kind])
    assert 0 < low < loss < high < 2 * loss


@pytest.mark.parametrize("memory", [0, 200, 10**6])
@pytest.mark.parametrize("ragged", [False, True])
def test_the_outputs_of_fp32_are_given_as_they_were_stored(memory, ragged):
    rng = np.random.default_rng(0)
    store, batches = ReferenceOutputs(memory), []
    for number in range(4):
        length = 3 + number * ragged
        batches.append((rng.normal(size=(5, length)).astype(np.float32), rng.integers(9, size=(5,))))
        store.append(batches[-1], np.arange(5 * number, 5 * number + 5))
    assert store.count == 20
    for place, batch in enumerate(batches):
        for want, got in zip(batch, store.rows(np.arange(5 * place, 5 * place + 5)), strict=True):
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got, want)
    every = [row for batch in batches for row in batch[0]]
    for places in (range(3, 12), (17, 3, 4, 16, 5, 2, 0, 1)):
        across = store.rows(np.array(places))[0]
        assert len(across) == len(places)
        for place, got in zip(places, across, strict=True):
            np.testing.assert_array_equal(got, every[place])
