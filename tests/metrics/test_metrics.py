"""Metrics are what scikit-learn says they are, and say clearly when labels do not fit."""

import numpy as np
import pytest

from nc_strategies.errors import InputError
from nc_strategies.metrics.classification import ClassificationScore, LogLoss, RocAuc, Top1, TopK, class_scores
from nc_strategies.metrics.regression import R2, RegressionError, RootMeanSquaredError
from nc_strategies.metrics.settings import AucSettings, PlainSettings, SklearnSettings, TopKSettings
from nc_strategies.testing import MetricSuite

sklearn = pytest.importorskip("sklearn.metrics")

RNG = np.random.default_rng(7)
SCORES = RNG.dirichlet(np.ones(6), 300)
LABELS = RNG.integers(6, size=300)
FOUND = SCORES.argmax(1)


class TestTop1Suite(MetricSuite):
    def metric(self):
        return Top1()


class TestTopKSuite(MetricSuite):
    def metric(self):
        return TopK(TopKSettings(k=2))


class TestF1Suite(MetricSuite):
    def metric(self):
        return ClassificationScore(SklearnSettings("f1"))


class TestPrecisionSuite(MetricSuite):
    def metric(self):
        return ClassificationScore(SklearnSettings("precision", "weighted"))


class TestRecallSuite(MetricSuite):
    def metric(self):
        return ClassificationScore(SklearnSettings("recall", "micro"))


class TestLogLossSuite(MetricSuite):
    def metric(self):
        return LogLoss()


class TestRocAucSuite(MetricSuite):
    def metric(self):
        return RocAuc()


class TestMultiLabelSuite(MetricSuite):
    def metric(self):
        return ClassificationScore(SklearnSettings("f1", "macro", 0.3))

    def labels(self):
        return np.random.default_rng(4).integers(2, size=(60, 4))


class RegressionSuite(MetricSuite):
    def labels(self):
        return np.random.default_rng(3).normal(size=(60, 4))


class TestMaeSuite(RegressionSuite):
    def metric(self):
        return RegressionError(PlainSettings("mae"))


class TestMseSuite(RegressionSuite):
    def metric(self):
        return RegressionError(PlainSettings("mse"))


class TestRmseSuite(RegressionSuite):
    def metric(self):
        return RootMeanSquaredError()


class TestR2Suite(RegressionSuite):
    def metric(self):
        return R2()


def test_top1_is_accuracy():
    assert Top1().compute(SCORES, LABELS) == pytest.approx(sklearn.accuracy_score(LABELS, FOUND))


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_topk_is_top_k_accuracy(k):
    want = sklearn.top_k_accuracy_score(LABELS, SCORES, k=k, labels=np.arange(6))
    assert TopK(TopKSettings(k=k)).compute(SCORES, LABELS) == pytest.approx(want)


def test_more_places_than_classes_hold_every_class():
    assert TopK(TopKSettings(k=50)).compute(SCORES, LABELS) == 1.0


def test_ties_are_broken_as_argmax_breaks_them():
    tied = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])
    labels = np.array([0, 1, 2])
    assert Top1().scores(tied, labels).tolist() == [1.0, 0.0, 0.0] == (tied.argmax(1) == labels).astype(float).tolist()
    assert TopK(TopKSettings(k=2)).scores(tied, labels).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("k", [0, -1])
def test_less_than_one_place_is_refused(k):
    with pytest.raises(InputError, match=rf"^metrics\.accuracy\.k: is {k}; at least 1$"):
        TopK(TopKSettings(k=k))


@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
@pytest.mark.parametrize(
    ("name", "score"),
    [("f1", sklearn.f1_score), ("precision", sklearn.precision_score), ("recall", sklearn.recall_score)],
)
def test_scores_of_found_classes_are_those_of_scikit_learn(name, score, average):
    got = ClassificationScore(SklearnSettings(name, average)).compute(SCORES, LABELS)
    assert got == pytest.approx(score(LABELS, FOUND, average=average))


def test_log_loss_is_that_of_scikit_learn():
    metric = LogLoss()
    assert metric.compute(SCORES, LABELS) == pytest.approx(sklearn.log_loss(LABELS, SCORES))
    assert metric.compute(SCORES[:3], np.array([1, 1, 1])) == pytest.approx(-np.log(SCORES[:3, 1]).mean())
    assert not metric.higher_is_better


@pytest.mark.parametrize(("name", "error"), [("mae", sklearn.mean_absolute_error), ("mse", sklearn.mean_squared_error)])
@pytest.mark.parametrize("shape", [(300,), (300, 1), (300, 5)])
def test_regression_errors_are_those_of_scikit_learn(name, error, shape):
    got, want = RNG.normal(size=shape).astype(np.float32), RNG.normal(size=shape)
    metric = RegressionError(PlainSettings(name))
    assert metric.compute(got, want) == pytest.approx(error(want, got))
    assert not metric.higher_is_better


def test_a_regression_of_one_output_takes_flat_labels():
    assert RegressionError(PlainSettings("mae")).compute(np.array([[1.0], [2.0]]), np.array([1.0, 4.0])) == 1.0


@pytest.mark.parametrize(
    "labels",
    [LABELS.astype(np.uint8), LABELS[:, None], np.eye(6)[LABELS], np.eye(6, dtype=np.uint8)[LABELS]],
    ids=["uint8", "column", "one-hot", "one-hot uint8"],
)
def test_class_numbers_come_in_several_forms(labels):
    assert Top1().compute(SCORES, labels) == sklearn.accuracy_score(LABELS, FOUND)


@pytest.mark.parametrize(
    "labels",
    [LABELS.astype(np.float32), LABELS.astype(np.float64)[:, None], LABELS > 2],
    ids=["float32", "float64 column", "bool"],
)
def test_class_numbers_may_be_stored_as_floats_or_truth_values(labels):
    want = sklearn.accuracy_score(labels.reshape(-1).astype(int), FOUND)
    assert Top1().compute(SCORES, labels) == want


def test_outputs_with_more_axes_are_flattened():
    assert Top1().compute(SCORES[:, None, None, :], LABELS) == sklearn.accuracy_score(LABELS, FOUND)


def test_one_output_is_the_probability_of_the_second_class():
    probability, labels = np.array([[0.9], [0.2], [0.6]]), np.array([1, 0, 0])
    assert Top1().compute(probability, labels) == pytest.approx(2 / 3)
    want = sklearn.log_loss(labels, probability[:, 0])
    assert LogLoss().compute(probability, labels) == pytest.approx(want)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 6]), r"^data: labels run from 0 to 6; the model has 6 classes: 0 to 5$"),
        (np.array([-1, 2]), r"^data: labels run from -1 to 2; the model has 6 classes: 0 to 5$"),
        (np.zeros((2, 3)), r"^data: labels of shape \(2, 3\) do not fit outputs of shape \(2, 6\); one class number"),
    ],
)
def test_labels_that_do_not_fit_are_an_input_error(labels, message):
    with pytest.raises(InputError, match=message):
        class_scores(SCORES[:2], labels)


def test_regression_labels_that_do_not_fit_are_an_input_error():
    with pytest.raises(InputError, match=r"^data: labels of shape \(3, 2\) do not fit outputs of shape \(3, 4\)$"):
        RegressionError(PlainSettings("mse")).compute(np.zeros((3, 4)), np.zeros((3, 2)))


@pytest.mark.parametrize("average", ["mean", "binary"])
def test_an_average_that_does_not_fit_is_an_input_error(average):
    with pytest.raises(InputError, match=r"^metrics\.accuracy\.average"):
        ClassificationScore(SklearnSettings("f1", average)).compute(SCORES, LABELS)


def test_log_loss_of_outputs_that_are_no_probabilities_is_an_input_error():
    with pytest.raises(InputError, match="probabilities"):
        LogLoss().compute(RNG.normal(size=(300, 6)), LABELS)


@pytest.mark.parametrize("average", ["macro", "weighted"])
def test_roc_auc_of_many_classes_is_scikit_learns_for_probabilities_and_logits(average):
    want = sklearn.roc_auc_score(LABELS, SCORES, multi_class="ovr", average=average)
    metric = RocAuc(AucSettings(average=average))
    assert metric.compute(SCORES, LABELS) == pytest.approx(want)
    assert metric.compute(np.log(SCORES) + 3, LABELS) == pytest.approx(want)
    assert metric.compute(SCORES, np.eye(6)[LABELS]) == pytest.approx(want)


@pytest.mark.parametrize("columns", [1, 2])
def test_roc_auc_of_two_classes_is_that_of_scikit_learn(columns):
    scores, labels = RNG.random(200), RNG.integers(2, size=200)
    outputs = scores[:, None] if columns == 1 else np.column_stack([1 - scores, scores])
    assert RocAuc().compute(outputs, labels) == pytest.approx(sklearn.roc_auc_score(labels, scores))


def test_roc_auc_without_samples_of_a_class_is_an_input_error():
    with pytest.raises(InputError, match="roc_auc, which cannot be computed"):
        RocAuc().compute(SCORES[:4], np.array([0, 1, 2, 2]))


MULTI = RNG.integers(2, size=(300, 6))


@pytest.mark.parametrize("average", ["macro", "micro", "samples"])
@pytest.mark.parametrize(
    ("name", "score"),
    [("f1", sklearn.f1_score), ("precision", sklearn.precision_score), ("recall", sklearn.recall_score)],
)
def test_several_classes_a_sample_are_scored_as_scikit_learn_does(name, score, average):
    got = ClassificationScore(SklearnSettings(name, average, 0.15)).compute(SCORES, MULTI)
    assert got == pytest.approx(score(MULTI, SCORES > 0.15, average=average, zero_division=0))
    assert RocAuc().compute(SCORES, MULTI) == pytest.approx(sklearn.roc_auc_score(MULTI, SCORES))


def test_a_threshold_for_a_single_output():
    scores, labels = RNG.random((200, 1)), RNG.integers(2, size=200)
    got = ClassificationScore(SklearnSettings("f1", "binary", 0.7)).compute(scores, labels)
    assert got == pytest.approx(sklearn.f1_score(labels, scores[:, 0] > 0.7))


def test_several_classes_a_sample_are_refused_by_metrics_of_one():
    with pytest.raises(InputError, match="several classes or none"):
        Top1().compute(SCORES, MULTI)


@pytest.mark.parametrize("shape", [(300,), (300, 5)])
def test_rmse_and_r2_are_those_of_scikit_learn(shape):
    got, want = RNG.normal(size=shape), RNG.normal(size=shape)
    assert RootMeanSquaredError().compute(got, want) == pytest.approx(sklearn.root_mean_squared_error(want, got))
    assert R2().compute(got, want) == pytest.approx(sklearn.r2_score(want, got))
    assert (RootMeanSquaredError.higher_is_better, R2.higher_is_better) == (False, True)


def test_log_loss_of_a_sample_is_finite_when_its_class_has_no_probability():
    assert LogLoss().scores(np.array([[1.0, 0.0]], np.float32), np.array([1]))[0] == pytest.approx(15.9, abs=0.1)
