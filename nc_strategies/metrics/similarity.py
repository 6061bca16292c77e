"""Correlation of the similarity of embeddings with what people say."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from nc_strategies.errors import InputError
from nc_strategies.metrics.base import Array, Metric, Outputs
from nc_strategies.metrics.chance import no_better, shuffled
from nc_strategies.metrics.settings import CorrelationSettings

LEAST_PAIRS = 3
"""Pairs below which a correlation says nothing: two points always lie on a line."""


class Correlation(Metric):
    """``spearman`` or ``pearson``: correlation of a model's similarities with the labels.

    The similarity of a pair is the cosine of its two embeddings. There are three ways to have pairs:

    - A sample is a pair, and the model has two outputs (N, width) or one (N, 2, width). Labels have shape (N,).
    - A sample is a pair, and the model has one output (N,) or (N, 1): its own similarity. Labels have shape (N,).
    - A sample is one text, and the model has one output (N, width). Labels have shape (N, 2): the number of the pair
      and its similarity. Samples may be in any order. A sample whose other half is not among the evaluation samples,
      because it was used for calibration, is left out.

    A correlation is no mean over samples. The interval of the loss is a paired bootstrap over pairs.
    """

    reads_several = True

    def __init__(self, settings: CorrelationSettings | None = None) -> None:
        super().__init__(settings or CorrelationSettings())

    def several(self, names: Sequence[str], samples: Sequence[Array | None], labels: Array) -> tuple[int, ...] | None:
        """See `Metric.several`: the only output, or for a label per sample the only two embeddings of equal width."""
        if len(samples) == 1:
            return (0,)
        flat = [p for p, s in enumerate(samples) if s is not None and s.dtype.kind == "f" and s.ndim == 1]
        if np.ndim(labels) == 2 and np.shape(labels)[1] == 2:
            return (flat[0],) if len(flat) == 1 else None
        widths = {sample.shape for place in flat if (sample := samples[place]) is not None}
        return (flat[0], flat[1]) if len(flat) == 2 and len(widths) == 1 else None

    @staticmethod
    def keep(outputs: Sequence[Array]) -> Outputs:
        """Embeddings (n, width), or the similarity of each pair (n,)."""
        if len(outputs) == 2:
            if outputs[0].shape != outputs[1].shape or outputs[0].ndim != 2:
                raise _no_embeddings(outputs)
            return cosines(*outputs)
        output = outputs[0]
        if output.dtype.kind == "f" and output.ndim == 3 and output.shape[1] == 2:
            return cosines(output[:, 0], output[:, 1])
        if len(outputs) != 1 or output.dtype.kind not in "fiu" or output.ndim > 2:
            raise _no_embeddings(outputs)
        return output.reshape(len(output)) if output.ndim == 2 and output.shape[1] == 1 else output

    def compute(self, outputs: Array, labels: Array) -> float:
        """See `Metric.compute`."""
        return self._value(*self._pairs(outputs, labels))

    def _pairs(self, outputs: Array, labels: Array) -> tuple[Array, Array]:
        """Similarity of each pair by the model and by the labels, both of shape (pairs,)."""
        given, truth = np.asarray(outputs), np.asarray(labels, np.float64)
        if given.ndim == 1:
            truth = truth.reshape(len(truth), -1)
            if truth.shape[1] != 1:
                raise InputError("data", f"labels of shape {np.shape(labels)}", "one similarity per pair, (N,)")
            pairs = given.astype(np.float64), truth[:, 0]
        else:
            if truth.ndim != 2 or truth.shape[1] != 2:
                raise InputError(
                    "data",
                    f"labels of shape {np.shape(labels)} do not say which embeddings are pairs",
                    "(N, 2): number of the pair and its similarity; or a model with two embeddings",
                )
            order = np.argsort(truth[:, 0], kind="stable")
            numbers, starts, counts = np.unique(truth[order, 0], return_index=True, return_counts=True)
            if (counts > 2).any():
                raise InputError("data", f"has {counts.max()} samples of pair {numbers[counts.argmax()]:g}", "two")
            first = order[starts[counts == 2]]
            second = order[starts[counts == 2] + 1]
            if not np.array_equal(truth[first, 1], truth[second, 1]):
                raise InputError("data", "the two samples of a pair have different similarities", "the same twice")
            pairs = cosines(given[first], given[second]), truth[first, 1]
        if len(pairs[0]) < LEAST_PAIRS:
            raise InputError("data", f"holds {len(pairs[0])} pairs", f"at least {LEAST_PAIRS}")
        return pairs

    def _value(self, found: Array, truth: Array) -> float:
        if self.settings.name == "spearman":
            found, truth = ranks(found), ranks(truth)
        return _pearson(found, truth)

    def resampler(self, outputs: Array, labels: Array) -> Callable[[NDArray[np.int64]], float]:
        """See `Metric.resampler`: where a sample is half a pair, positions of samples draw pairs."""
        found, truth = self._pairs(outputs, labels)

        def resample(index: NDArray[np.int64]) -> float:
            drawn = index if len(found) == len(labels) else index[: len(found)] * len(found) // len(labels)
            return self._value(found[drawn], truth[drawn])

        return resample

    def no_better(self, outputs: Array, labels: Array) -> str:
        """See `Metric.no_better`: the model's similarities in random order."""
        found, truth = self._pairs(outputs, labels)
        return no_better(self._value(found, truth), True, order=shuffled(lambda t: self._value(found, t), truth))

    def zero_is_good(self, outputs: Array, labels: Array) -> bool:
        """See `Metric.zero_is_good`."""
        return False


def _no_embeddings(outputs: Sequence[Array]) -> InputError:
    shapes = " and ".join(f"(N, {', '.join(map(str, output.shape[1:]))})" for output in outputs)
    return InputError(
        "metrics.accuracy.output",
        f"the outputs have shape {shapes}",
        "one or two embeddings (N, width), (N, 2, width), or a similarity (N,); pool tokens in the model",
    )


def cosines(one: Array, other: Array) -> Array:
    """Cosine of the angle between vectors of shape (n, width); 0 for a vector of zeros."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    lengths = np.sqrt((one**2).sum(1) * (other**2).sum(1))
    return np.asarray((one * other).sum(1) / np.where(lengths == 0, 1, lengths))


def ranks(values: Array) -> Array:
    """Ranks from 1; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place.reshape(-1)])


def _pearson(one: Array, other: Array) -> float:
    one, other = one - one.mean(), other - other.mean()
    spread = np.sqrt((one**2).sum() * (other**2).sum())
    return float((one * other).sum() / spread) if spread else 0.0
