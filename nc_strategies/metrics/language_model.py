"""Perplexity of language models."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nc_strategies.errors import EngineError, InputError
from nc_strategies.metrics.base import Array, Metric
from nc_strategies.metrics.chance import Constant, no_better
from nc_strategies.metrics.settings import PerplexitySettings
from nc_strategies.metrics.tokens import check_classes, token_labels


class Perplexity(Metric):
    """``exp`` of the mean negative log-likelihood per token, in nats, over the tokens of all samples; lower is better.

    The output holds logits of shape (N, tokens, vocabulary). Labels are token ids of shape (N, tokens); -100 marks
    tokens that do not count, such as padding, or the tokens that a sliding window repeats as context. By default labels
    are the input's ids, and the logits at position t score the label at t + 1; `shift` false compares equal positions.

    Of each sample only the sum of its negative log-likelihoods and the number of its tokens are held in memory. The
    interval of the loss is a paired bootstrap over samples: a resample adds up these sums. A trial is stopped early by
    the logarithm of the perplexity, which is a mean over samples.

    Source: sliding windows as in Hugging Face's guide "Perplexity of fixed-length models".
    """

    higher_is_better = False
    accepts_nonfinite = True
    graded = True
    score_range = (0.0, math.inf)

    def __init__(self, settings: PerplexitySettings | None = None) -> None:
        super().__init__(settings or PerplexitySettings())
        self._vocabulary = 0
        self._tokens = 0.0

    def fits(self, output: Array, labels: Array) -> bool:
        """See `Metric.fits`: logits of each token."""
        return output.dtype.kind == "f" and output.ndim == 3 and output.shape[1] > 1 and output.shape[2] > 1

    def condense(self, outputs: Array, labels: Array) -> Array:
        """Sum of the negative log-likelihoods and number of tokens of each sample, shape (n, 2).

        Raises:
            InputError: the output holds no logits per token, or a label is not in the vocabulary.
            EngineError: the logits give no number: they hold NaN, or no probability for a token.
        """
        logits = np.asarray(outputs)
        if logits.dtype.kind != "f" or logits.ndim != 3:
            raise InputError(
                "metrics.accuracy.output",
                f"the output has shape (N, {', '.join(map(str, logits.shape[1:]))}) and type {logits.dtype}",
                "logits of shape (N, tokens, vocabulary) for perplexity",
            )
        self._vocabulary = logits.shape[2]
        ignore, shift = self.settings.ignore, self.settings.shift
        ids = token_labels(labels, logits.shape[1], ignore)
        if shift:
            logits, ids = logits[:, :-1], ids[:, 1:]
        counted = ids != ignore
        check_classes(ids, counted, self._vocabulary, "tokens of the vocabulary")
        sums = [
            _negative_log_likelihood(row[kept], own[kept]) for row, own, kept in zip(logits, ids, counted, strict=True)
        ]
        found = np.column_stack([sums, counted.sum(1)]).astype(np.float64)
        if not np.isfinite(found).all():
            raise EngineError("the model's output holds NaN or infinity, or no probability for a token of the data")
        return found

    def prepare(self, outputs: Array, labels: Array) -> None:
        """See `Metric.prepare`: the mean number of tokens of a sample, which is the same for all models."""
        self._tokens = float(outputs[:, 1].mean())

    def paired_scores(self, outputs: Array, labels: Array) -> Array | None:
        """See `Metric.paired_scores`: negative log-likelihoods whose mean is the logarithm of the perplexity."""
        return outputs[:, 0] / self._tokens if self._tokens else None

    def paired_limit(self, baseline: float, limit: float) -> float:
        """See `Metric.paired_limit`."""
        return math.log((baseline + limit) / baseline) if baseline + limit > 0 else -math.inf

    def compute(self, outputs: Array, labels: Array) -> float:
        """See `Metric.compute`."""
        return _perplexity(np.asarray(outputs))

    def resampler(self, outputs: Array, labels: Array) -> Callable[[NDArray[np.int64]], float]:
        """See `Metric.resampler`."""
        return lambda index: _perplexity(outputs[index])

    def no_better(self, outputs: Array, labels: Array) -> str:
        """See `Metric.no_better`: all tokens of the vocabulary equally probable."""
        constant = Constant(float(self._vocabulary), "equal probabilities of all tokens")
        return no_better(_perplexity(outputs), False, constant)


def _negative_log_likelihood(logits: Array, ids: Array) -> float:
    """Sum of the negative log-likelihoods of one sample.

    Args:
        logits: Shape (tokens, vocabulary).
        ids: Shape (tokens,).
    """
    if not len(ids):
        return 0.0
    with np.errstate(invalid="ignore"):
        highest = logits.max(1, keepdims=True)
        total = np.exp(logits.astype(np.float32, copy=False) - highest).sum(1, dtype=np.float64)
        own = logits[np.arange(len(ids)), ids].astype(np.float64) - highest[:, 0]
        return float((np.log(total) - own).sum())


def _perplexity(sums: Array) -> float:
    total, tokens = sums.sum(0)
    if not tokens:
        raise InputError("data", "holds no token to predict", "token ids as labels; -100 marks those that do not count")
    with np.errstate(over="ignore"):
        return float(np.exp(total / tokens))
