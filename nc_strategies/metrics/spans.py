"""Metrics of spans of tokens: entities that a tagger finds, and answers in a text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from nc_strategies.errors import InputError
from nc_strategies.metrics.base import Array, MeanMetric, Metric, Outputs
from nc_strategies.metrics.settings import AnswerSettings, TokenF1Settings
from nc_strategies.metrics.tokens import check_classes, check_scores, token_labels

OUTSIDE = ("O", "")
Span = tuple[str, int, int]
"""Type, first and last position of an entity."""


def entities(tags: Sequence[tuple[str, str]]) -> set[Span]:
    """Entities of one sequence, as seqeval finds them in its default mode, which follows conlleval.

    An entity starts at B, and at I after O or after another type. It ends before the next start and before O.

    Args:
        tags: Pairs (B, I or O; type).
    """
    found: set[Span] = set()
    start, previous = 0, OUTSIDE
    for place, (prefix, kind) in enumerate([*tags, OUTSIDE]):
        inside = previous[0] != "O"
        begins = prefix == "B" or (prefix == "I" and (not inside or kind != previous[1]))
        if inside and (begins or prefix == "O"):
            found.add((previous[1], start, place - 1))
        if begins:
            start = place
        previous = (prefix, kind)
    return found


class TokenF1(Metric):
    """``token_f1``: micro F1 of entities, as seqeval computes it: type, first and last token must be right.

    Outputs are scores (N, tokens, tags), or tag numbers (N, tokens). Labels are tag numbers (N, tokens); tokens with
    the label -100 are removed from both, such as special tokens and the later parts of a word. Of each sample, three
    counts are held in memory: right, found and true entities. The interval is a paired bootstrap over samples.

    Raises:
        InputError: a tag is not of the form O, B-TYPE or I-TYPE.
    """

    def __init__(self, settings: TokenF1Settings | None = None) -> None:
        super().__init__(settings or TokenF1Settings())
        self._tags = None if self.settings.tags is None else [_tag(str(name)) for name in self.settings.tags]

    def fits(self, output: Array, labels: Array) -> bool:
        """See `Metric.fits`: scores per token, or as many whole numbers as there are labels."""
        if output.dtype.kind == "f":
            return output.ndim == 3 and output.shape[2] > 1
        return output.ndim == 2 and output.shape[1:] == np.shape(labels)[1:2]

    def condense(self, outputs: Array, labels: Array) -> Array:
        """Right, found and true entities of each sample, shape (n, 3)."""
        scores = np.asarray(outputs)
        check_scores(scores, "tokens", "tags")
        truth = token_labels(labels, scores.shape[1], self.settings.ignore)
        counted = truth != self.settings.ignore
        known = len(self._tags) if self._tags is not None else scores.shape[2] if scores.dtype.kind == "f" else None
        if known is not None:
            check_classes(truth, counted, known, "tags")
        predicted = scores.argmax(2) if scores.dtype.kind == "f" else scores
        counts = np.empty((len(truth), 3))
        for place, (found, true, kept) in enumerate(zip(predicted, truth, counted, strict=True)):
            got, want = (entities([self._named(int(tag)) for tag in row[kept]]) for row in (found, true))
            counts[place] = len(got & want), len(got), len(want)
        return counts

    def _named(self, tag: int) -> tuple[str, str]:
        if self._tags is None:
            return OUTSIDE if tag <= 0 else ("B" if tag % 2 else "I", str((tag - 1) // 2))
        return self._tags[tag] if 0 <= tag < len(self._tags) else OUTSIDE

    def compute(self, outputs: Array, labels: Array) -> float:
        """See `Metric.compute`."""
        return _f1(np.asarray(outputs))

    def resampler(self, outputs: Array, labels: Array) -> Callable[[NDArray[np.int64]], float]:
        """See `Metric.resampler`."""
        return lambda index: _f1(outputs[index])

    def zero_is_good(self, outputs: Outputs, labels: Array) -> bool:
        """See `Metric.zero_is_good`."""
        return False


def _tag(name: str) -> tuple[str, str]:
    if name == "O":
        return OUTSIDE
    if not re.match("[BI](-|$)", name):
        raise InputError("metrics.accuracy.tags", f"holds {name!r}", "O, B-TYPE or I-TYPE for each tag number")
    return name[0], name[2:]


def _f1(counts: Array) -> float:
    right, found, true = counts.sum(0)
    return float(2 * right / (found + true)) if found + true else 0.0


class Answer(MeanMetric):
    """``answer_exact_match`` and ``answer_f1``: where a text answers a question, as a first and a last token.

    Outputs are start and end scores, both (N, tokens), or one output (N, tokens, 2). The answer is the span with the
    largest sum of both scores of at most `longest` tokens. Labels are first and last position, shape (N, 2); or of
    several right answers, shape (N, answers, 2), where -1 stands for none, and the best counts. A question without an
    answer has the label (0, 0), as in SQuAD 2.

    A sample's score is 1 for exactly a right answer, or the F1 of the shared tokens. Tokens are counted, unlike in
    SQuAD's own script, which counts words.
    """

    score_range = (0.0, 1.0)
    reads_several = True

    def __init__(self, settings: AnswerSettings | None = None) -> None:
        super().__init__(settings or AnswerSettings())
        self.exact = self.settings.name != "answer_f1"
        self.graded = not self.exact
        if self.settings.longest < 1:
            raise InputError("metrics.accuracy.longest", f"is {self.settings.longest}", "at least 1")

    def several(self, names: Sequence[str], samples: Sequence[Array | None], labels: Array) -> tuple[int, ...] | None:
        """See `Metric.several`: the outputs whose names contain start and end, or the only two of scores per token."""
        flat = [place for place, sample in enumerate(samples) if _floats(sample, 1)]
        named = [[place for place in flat if word in names[place].lower()] for word in ("start", "end")]
        if all(len(found) == 1 for found in named):
            return named[0][0], named[1][0]
        if len(flat) == 2:
            return flat[0], flat[1]
        pairs = [p for p, s in enumerate(samples) if s is not None and _floats(s, 2) and s.shape[1] == 2]
        return (pairs[0],) if len(pairs) == 1 else None

    @staticmethod
    def keep(outputs: Sequence[Array]) -> Outputs:
        """Start and end scores, shape (n, 2, tokens)."""
        if len(outputs) == 1 and outputs[0].ndim == 3 and outputs[0].shape[2] == 2:
            return np.moveaxis(outputs[0], 2, 1)
        if (
            len(outputs) != 2
            or any(o.ndim != 2 or o.dtype.kind != "f" for o in outputs)
            or len({o.shape for o in outputs}) != 1
        ):
            shapes = " and ".join(str(("N", *output.shape[1:])) for output in outputs)
            raise InputError(
                "metrics.accuracy.output",
                f"the outputs have shapes {shapes}",
                "start and end scores, both (N, tokens): metrics.accuracy.output=[START,END]",
            )
        return np.stack(outputs, 1)

    def condense(self, outputs: Array, labels: Array) -> Array:
        """Score of each sample, shape (n,)."""
        truth = np.asarray(labels)
        truth = truth[:, None] if truth.ndim == 2 else truth
        whole = truth.astype(np.int64)
        if truth.ndim != 3 or truth.shape[2] != 2 or not np.array_equal(whole, truth):
            raise InputError(
                "data", f"labels of shape {np.shape(labels)} are no answers", "first and last position, (N, 2)"
            )
        found = np.empty(len(whole))
        for place, (scores, answers) in enumerate(zip(outputs, whole, strict=True)):
            right = [(int(a), int(b)) for a, b in answers if a >= 0]
            length = scores.shape[1]
            if not right or any(not first <= last < length for first, last in right):
                raise InputError(
                    "data",
                    f"a sample's answers are {answers.tolist()}, the output has {length} positions",
                    "first and last position of at least one answer; (0, 0) for none",
                )
            span = self._span(scores)
            found[place] = max(float(span == answer) if self.exact else _overlap(span, answer) for answer in right)
        return found

    def _span(self, scores: Array) -> tuple[int, int]:
        """First and last position of the best span; scores have shape (2, tokens)."""
        start, end = scores.astype(np.float64)
        best, span = -np.inf, (0, 0)
        for length in range(min(self.settings.longest, len(start))):
            total = start[: len(start) - length] + end[length:]
            first = int(total.argmax())
            if total[first] > best:
                best, span = float(total[first]), (first, first + length)
        return span

    def scores(self, outputs: Array, labels: Array) -> Array:
        """See `Metric.scores`."""
        return np.asarray(outputs)


def _floats(sample: Array | None, axes: int) -> bool:
    return sample is not None and sample.dtype.kind == "f" and sample.ndim == axes


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> float:
    shared = min(one[1], other[1]) - max(one[0], other[0]) + 1
    return 2 * max(shared, 0) / (one[1] - one[0] + other[1] - other[0] + 2)
