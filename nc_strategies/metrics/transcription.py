"""Word and character error rates of texts that a model reads or hears."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.errors import InputError
from nc_strategies.metrics.base import Array, Metric, Outputs
from nc_strategies.metrics.settings import ErrorRateSettings
from nc_strategies.metrics.tokens import check_scores


class ErrorRate(Metric):
    """``wer`` or ``cer``: edits that turn the model's texts into the right ones, per word or token; lower is better.

    Edits are insertions, deletions and substitutions (Levenshtein distance), added up over all samples and divided by
    the length of all labels. Outputs are scores (N, steps, tokens), decoded greedily as CTC (equal neighbours are one,
    then blanks are removed) or, with `ctc` false, step by step; or token numbers (N, steps), which are taken as they
    are. An output of shape (steps, N, tokens) is turned by the run. Labels are token numbers (N, tokens), padded
    with -100. `cer` counts tokens; `wer` counts words, between tokens `space`, or tokens without one.

    Of each sample, its edits and its length are held in memory. The interval is a paired bootstrap over samples.
    """

    higher_is_better = False
    graded = True
    score_range = (0.0, math.inf)

    def __init__(self, settings: ErrorRateSettings | None = None) -> None:
        super().__init__(settings or ErrorRateSettings())
        self._length = 0.0

    def fits(self, output: Array, labels: Array) -> bool:
        """See `Metric.fits`: scores per step, or whole numbers."""
        if output.dtype.kind == "f":
            return output.ndim == 3 and output.shape[2] > 1
        return output.dtype.kind in "iu" and output.ndim == 2

    def condense(self, outputs: Array, labels: Array) -> Array:
        """Edits and length of each sample, shape (n, 2)."""
        scores = np.asarray(outputs)
        check_scores(scores, "steps", "tokens")
        decode = scores.dtype.kind == "f" and self.settings.ctc
        steps = scores.argmax(2) if scores.dtype.kind == "f" else scores
        pairs = []
        for given, label in zip(steps, labels, strict=True):
            right = np.asarray(label)
            if right.ndim != 1 or not np.array_equal(right.astype(np.int64), right):
                raise InputError(
                    "data", f"labels of shape {np.shape(labels)} are no texts", "token numbers (N, tokens)"
                )
            row = given[np.concatenate([[True], given[1:] != given[:-1]])] if decode and len(given) else given
            blank = {self.settings.blank} if decode else set()
            got, want = self._text(row.tolist(), blank), self._text(right.astype(np.int64).tolist(), blank)
            pairs.append((edit_distance(want, got), len(want)))
        return np.array(pairs, np.float64).reshape(len(pairs), 2)

    def _text(self, tokens: Sequence[int], blank: set[int]) -> Sequence[Hashable]:
        """The tokens of a text, or its words, as tuples of tokens."""
        settings = self.settings
        if settings.end is not None and settings.end in tokens:
            tokens = tokens[: list(tokens).index(settings.end)]
        removed = blank | {settings.ignore, *settings.special}
        kept = [token for token in tokens if token not in removed]
        if settings.name != "wer" or settings.space is None:
            return kept
        words: list[tuple[int, ...]] = [()]
        for token in kept:
            words = [*words, ()] if token == settings.space else [*words[:-1], (*words[-1], token)]
        return [word for word in words if word]

    def prepare(self, outputs: Array, labels: Array) -> None:
        """See `Metric.prepare`: the mean length of a label, which is the same for all models."""
        self._length = float(outputs[:, 1].mean())

    def paired_scores(self, outputs: Array, labels: Array) -> Array | None:
        """See `Metric.paired_scores`: edits relative to the mean length, whose mean is the error rate."""
        return outputs[:, 0] / self._length if self._length else None

    def compute(self, outputs: Array, labels: Array) -> float:
        """See `Metric.compute`."""
        return _rate(np.asarray(outputs))

    def resampler(self, outputs: Array, labels: Array) -> Callable[[NDArray[np.int64]], float]:
        """See `Metric.resampler`."""
        return lambda index: _rate(outputs[index])

    def no_better(self, outputs: Outputs, labels: Array) -> str:
        """See `Metric.no_better`: no text at all, whose error rate is 1."""
        value = _rate(np.asarray(outputs))
        return "1.0000 of an empty text for all samples" if value >= 1 else ""


def _rate(pairs: Array) -> float:
    edits, length = pairs.sum(0)
    if not length:
        raise InputError("data", "holds only empty texts", "token numbers as labels; -100 pads them")
    return float(edits / length)


def edit_distance(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Least number of insertions, deletions and substitutions that turn one sequence into the other.

    Source: Wagner and Fischer, "The string-to-string correction problem", Journal of the ACM 21 (1974).
    """
    row = list(range(len(other) + 1))
    for count, item in enumerate(one, 1):
        corner, row[0] = row[0], count
        for place, candidate in enumerate(other, 1):
            corner, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, corner + (item != candidate))
    return row[-1]
