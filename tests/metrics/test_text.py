"""Metrics of text equal hand-computed values, and say clearly when labels do not fit."""

import numpy as np
import pytest

from nc_strategies.errors import InputError
from nc_strategies.measuring.accuracy import loss_interval
from nc_strategies.metrics.settings import AnswerSettings, CorrelationSettings, ErrorRateSettings, TokenF1Settings
from nc_strategies.metrics.similarity import Correlation, ranks
from nc_strategies.metrics.spans import Answer, TokenF1, entities
from nc_strategies.metrics.transcription import ErrorRate, edit_distance
from nc_strategies.testing import MetricSuite

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def value(metric, outputs, labels):
    kept = metric.keep(outputs if isinstance(outputs, list) else [outputs])
    return metric.compute(metric.condense(kept, labels), labels)


class TestTokenF1Suite(MetricSuite):
    def metric(self):
        return TokenF1()

    def outputs(self):
        return np.random.default_rng(0).random((40, 9, 5)).astype(np.float32)

    def labels(self):
        return np.random.default_rng(1).integers(5, size=(40, 9))


class TestAnswerSuite(MetricSuite):
    def metric(self):
        return Answer()

    def outputs(self):
        return list(np.random.default_rng(0).random((2, 40, 4)))

    def labels(self):
        return np.sort(np.random.default_rng(1).integers(4, size=(40, 2)), 1)


class TestAnswerF1Suite(TestAnswerSuite):
    def metric(self):
        return Answer(AnswerSettings("answer_f1"))


class TestWerSuite(MetricSuite):
    def metric(self):
        return ErrorRate()

    def outputs(self):
        return np.random.default_rng(0).random((40, 9, 5)).astype(np.float32)

    def labels(self):
        return np.random.default_rng(1).integers(1, 5, size=(40, 6))


class TestSpearmanSuite(MetricSuite):
    def metric(self):
        return Correlation()

    def outputs(self):
        return list(np.random.default_rng(0).normal(size=(2, 40, 6)))

    def labels(self):
        return np.random.default_rng(1).random(40)


class TestPearsonSuite(TestSpearmanSuite):
    def metric(self):
        return Correlation(CorrelationSettings("pearson"))


def tags(text):
    """Tag numbers of a line such as ``B-PER I-PER O -`` where - is not counted."""
    return [-100 if tag == "-" else TAGS.index(tag) for tag in text.split()]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("O O", set()),
        ("B-PER I-PER O", {("PER", 0, 1)}),
        ("B-PER B-PER", {("PER", 0, 0), ("PER", 1, 1)}),
        ("O I-PER I-PER", {("PER", 1, 2)}),
        ("B-PER I-LOC I-LOC", {("PER", 0, 0), ("LOC", 1, 2)}),
        ("I-LOC B-LOC O I-LOC", {("LOC", 0, 0), ("LOC", 1, 1), ("LOC", 3, 3)}),
    ],
)
def test_entities_are_those_of_seqevals_default_mode(text, found):
    assert entities([("O", "") if t == "O" else tuple(t.split("-")) for t in text.split()]) == found


def test_token_f1_counts_entities_over_all_samples():
    labels = np.array([tags("- B-PER I-PER O B-LOC -"), tags("- O B-PER I-PER - -")])
    found = np.array([tags("O B-PER I-PER O B-PER O"), tags("B-LOC O B-PER O O O")])
    # 3 true, 3 found at counted positions (the shorter one is wrong), 1 right.
    metric = TokenF1(TokenF1Settings(tags=TAGS))
    assert value(metric, found, labels) == pytest.approx(2 * 1 / 6)
    assert value(metric, np.eye(5)[found], labels) == pytest.approx(2 * 1 / 6)
    assert value(TokenF1(), found, labels) == pytest.approx(2 * 1 / 6)


def test_an_entity_goes_on_over_tokens_that_do_not_count():
    labels, found = np.array([tags("B-PER - I-PER")]), np.array([tags("B-PER O I-PER")])
    assert value(TokenF1(TokenF1Settings(tags=TAGS)), found, labels) == 1.0


def test_token_f1_is_that_of_seqeval():
    seqeval = pytest.importorskip("seqeval.metrics")
    rng = np.random.default_rng(0)
    labels, found = rng.integers(5, size=(2, 30, 12))
    named = [[[TAGS[tag] for tag in row] for row in rows] for rows in (labels, found)]
    assert value(TokenF1(TokenF1Settings(tags=TAGS)), found, labels) == pytest.approx(seqeval.f1_score(*named))


@pytest.mark.parametrize(
    ("settings", "labels", "problem"),
    [
        ({"tags": ["O", "PER"]}, [[0, 0]], "tags: holds 'PER'"),
        ({"tags": ["O", "B-PER"]}, [[0, 2]], "from 0 to 2"),
        ({}, [[0, 5]], "from 0 to 5"),
        ({}, [0], "per token"),
    ],
)
def test_tags_that_do_not_fit_are_refused(settings, labels, problem):
    with pytest.raises(InputError, match=problem):
        value(TokenF1(TokenF1Settings(**settings)), np.zeros((1, 2, 5)), np.array(labels))


def logits(spans, length=6):
    """Start and end scores whose best spans are these."""
    places = np.arange(length)
    return [np.array([[float(p == span[side]) for p in places] for span in spans]) for side in (0, 1)]


def test_answers_are_exact_or_overlap():
    labels = np.array([[1, 2], [0, 0], [3, 4]])
    outputs = logits([(1, 2), (0, 0), (2, 4)])
    assert value(Answer(), outputs, labels) == pytest.approx(2 / 3)
    assert value(Answer(AnswerSettings("answer_f1")), outputs, labels) == pytest.approx((1 + 1 + 2 * 2 / 5) / 3)


def test_the_best_of_several_right_answers_counts():
    labels = np.array([[[1, 2], [3, 4]], [[0, 0], [-1, -1]]])
    assert value(Answer(), logits([(3, 4), (0, 0)]), labels) == 1.0


def test_an_answer_never_ends_before_it_starts_and_has_a_longest_length():
    start, end = np.array([[0, 0, 0, 5.0]]), np.array([[4.0, 0, 0, 1]])
    assert value(Answer(), [start, end], np.array([[3, 3]])) == 1.0
    outputs = [np.array([[5.0, 0, 0, 0.5]]), np.array([[0, 1.0, 0, 5]])]
    assert value(Answer(), outputs, np.array([[0, 3]])) == 1.0
    assert value(Answer(AnswerSettings(longest=2)), outputs, np.array([[0, 1]])) == 1.0


def test_start_and_end_are_found_by_their_names_or_their_number():
    samples = [np.zeros((6, 8)), np.zeros(6), np.zeros(6)]
    assert Answer().several(["x", "end_logits", "Start"], samples, np.zeros((4, 2))) == (2, 1)
    assert Answer().several(["x", "y", "z"], samples, np.zeros((4, 2))) == (1, 2)
    assert Answer().several(["x", "y", "z", "w"], [*samples, np.zeros(6)], np.zeros((4, 2))) is None
    assert Answer().several(["x"], [np.zeros((6, 2))], np.zeros((4, 2))) == (0,)
    both = np.stack(logits([(1, 2)]), 2)
    assert value(Answer(), both, np.array([[1, 2]])) == 1.0


@pytest.mark.parametrize("labels", [[[2, 1]], [[0, 6]], [[[-1, -1]]], [[0.5, 1]], [3]])
def test_labels_that_are_no_answers_are_refused(labels):
    with pytest.raises(InputError, match="answers"):
        value(Answer(), logits([(1, 2)]), np.array(labels))


@pytest.mark.parametrize(
    ("one", "other", "edits"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("abc", "abc", 0), ("ab", "ba", 2)],
)
def test_edit_distances_are_known_ones(one, other, edits):
    assert edit_distance(one, other) == edits


def ctc(rows, tokens=4):
    return np.eye(tokens)[np.array(rows)]


def test_equal_neighbours_are_one_and_blanks_part_them():
    labels = np.array([[1, 1, 2, -100], [3, -100, -100, -100]])
    outputs = ctc([[1, 1, 0, 1, 2, 2], [0, 3, 3, 0, 0, 2]])
    # The first is right, the second has one insertion; 4 tokens in all.
    assert value(ErrorRate(ErrorRateSettings("cer")), outputs, labels) == pytest.approx(1 / 4)


def test_words_are_between_spaces():
    labels = np.array([[1, 2, 3, 1, 3, 2]])
    outputs = ctc([[1, 2, 3, 1, 0, 1, 3, 2]])
    assert value(ErrorRate(ErrorRateSettings("wer", space=3)), outputs, labels) == pytest.approx(1 / 3)
    assert value(ErrorRate(ErrorRateSettings("cer", space=3)), outputs, labels) == pytest.approx(1 / 6)
    assert value(ErrorRate(ErrorRateSettings("wer")), outputs, labels) == pytest.approx(1 / 6)


def test_tokens_are_taken_as_they_are_up_to_the_end_of_the_text():
    labels = np.array([[7, 5, 5, 2, 0, 0]])
    found = np.array([[7, 5, 5, 6, 2, 9]])
    metric = ErrorRate(ErrorRateSettings("cer", end=2, special=[7]))
    assert value(metric, found, labels) == pytest.approx(1 / 2)
    scores = np.eye(10)[found]
    assert value(ErrorRate(ErrorRateSettings("cer", ctc=False, end=2, special=[7])), scores, labels) == pytest.approx(
        1 / 2
    )


def test_an_error_rate_of_one_is_that_of_an_empty_text():
    metric, labels = ErrorRate(), np.array([[1, 2]])
    assert "empty text" in metric.no_better(metric.condense(ctc([[0, 0]]), labels), labels)
    assert metric.no_better(metric.condense(ctc([[1, 0]]), labels), labels) == ""


@pytest.mark.parametrize("labels", [np.full((2, 3), -100), np.zeros((2, 3))])
def test_empty_texts_have_no_error_rate(labels):
    with pytest.raises(InputError, match="only empty texts"):
        value(ErrorRate(), ctc([[1, 2], [1, 2]]), labels)


def test_equal_values_share_their_rank():
    np.testing.assert_array_equal(ranks(np.array([3.0, 1, 3, 2])), [3.5, 1, 3.5, 2])


def test_correlations_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    outputs, labels = rng.normal(size=(30, 1)), rng.integers(5, size=30).astype(float)
    assert value(Correlation(), outputs, labels) == pytest.approx(stats.spearmanr(outputs[:, 0], labels)[0])
    pearson = Correlation(CorrelationSettings("pearson"))
    assert value(pearson, outputs, labels) == pytest.approx(stats.pearsonr(outputs[:, 0], labels)[0])


@pytest.mark.parametrize("name", ["spearman", "pearson"])
def test_each_way_to_have_pairs_gives_the_same_correlation(name):
    rng, metric = np.random.default_rng(0), Correlation(CorrelationSettings(name))
    one, other, truth = rng.normal(size=(20, 5)), rng.normal(size=(20, 5)), rng.random(20)
    similarity = (one * other).sum(1) / np.sqrt((one**2).sum(1) * (other**2).sum(1))
    want = value(metric, similarity, truth)
    assert value(metric, [one, other], truth) == pytest.approx(want)
    assert value(metric, np.stack([one, other], 1), truth) == pytest.approx(want)
    order = rng.permutation(42)
    texts = np.concatenate([one, other, rng.normal(size=(2, 5))])[order]
    labels = np.stack([[*range(20), *range(20), 77, 78], [*truth, *truth, 9, 9]], 1)[order]
    assert value(metric, texts, labels) == pytest.approx(want)
    low, high = loss_interval(metric, texts, texts + 0.1 * rng.normal(size=texts.shape), labels, True, rng)
    assert -0.3 < low < high < 0.3


def test_a_correlation_no_better_than_that_of_a_random_order_is_worthless():
    rng, metric = np.random.default_rng(0), Correlation()
    labels = rng.random(200)
    assert "random order" in metric.no_better(rng.random(200), labels)
    assert metric.no_better(labels + 0.1 * rng.random(200), labels) == ""


@pytest.mark.parametrize(
    ("outputs", "labels", "problem"),
    [
        (np.zeros((4, 3)), np.zeros(4), "pairs"),
        (np.zeros((4, 3, 5)), np.zeros(4), "pool tokens"),
        (np.zeros(4), np.zeros((4, 2)), "one similarity per pair"),
        (np.zeros((4, 3)), np.zeros((4, 2)), "4 samples of pair 0"),
        (np.zeros((4, 3)), np.array([[0, 1], [0, 2], [1, 3], [1, 3]]), "different similarities"),
        (np.zeros(2), np.zeros(2), "holds 2 pairs"),
    ],
)
def test_labels_that_do_not_fit_the_embeddings_are_refused(outputs, labels, problem):
    with pytest.raises(InputError, match=problem):
        value(Correlation(), outputs, labels)


def test_the_scores_that_stop_trials_of_an_error_rate_have_its_value_as_their_mean():
    metric, labels = ErrorRate(), np.array([[1, 2, 3], [1, -100, -100]])
    pairs = metric.condense(ctc([[1, 2, 0, 0], [2, 0, 3, 0]]), labels)
    metric.prepare(pairs, labels)
    assert metric.paired_scores(pairs, labels).mean() == pytest.approx(metric.compute(pairs, labels)) == 3 / 4
