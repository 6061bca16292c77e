"""Fidelity: how close a model's outputs are to those of fp32 on the same samples. No labels are needed."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nc_strategies.errors import EngineError, InputError
from nc_strategies.metrics.base import Array, Metric, Outputs
from nc_strategies.metrics.settings import ClassFidelitySettings, FidelitySettings

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FidelityRules:
    """Rules of the comparison with fp32."""

    most_decibels: float = 100.0
    """SQNR of equal outputs, and its greatest value: beyond the 24 bits of float32 (about 144 dB) nothing differs, and
    the rounding of one float32 engine against another leaves about 100 dB. The least value is its negative."""
    together: int = 2**20
    """Numbers that are compared together in double precision."""
    sum_tolerance: float = 1e-3
    """Difference from 1 up to which nonnegative numbers that add up to about 1 are probabilities."""
    least_probability: float = 1e-12
    """Probability that stands for 0 in a logarithm: a class that the other model rules out costs 28 nats at most."""


FIDELITY_RULES = FidelityRules()


class Fidelity(Metric):
    """A metric that compares a model's outputs with fp32's, sample by sample.

    All outputs with fractions are read, or those that ``metrics.accuracy.output`` names. The value is the mean over
    samples of a score, which is the mean over outputs. Each output counts alike, whatever its size and its unit.

    Values that are NaN or infinite in fp32 are left out, such as the minus infinity of a mask; anywhere else they fail
    the model. Where the shape of a sample's output differs from fp32's, it is compared as if all its values were 0.
    """

    needs_labels = False
    accepts_nonfinite = True
    graded = True

    def __init__(self, settings: FidelitySettings | None = None) -> None:
        super().__init__(settings or FidelitySettings())
        self._left_out = False

    @property
    def read_as(self) -> str:  # type: ignore[override]
        """See `Metric.read_as`."""
        return "what fp32 gives, without its infinite values" if self._left_out else ""

    @staticmethod
    def keep(outputs: Sequence[Array]) -> Outputs:
        """All outputs that are read; see `Metric.keep`."""
        return tuple(np.asarray(output) for output in outputs)

    def observe(self, reference: Outputs) -> None:
        """Learn from a batch of fp32's outputs, before any model is compared with them, how they are to be read.

        Raises:
            EngineError: a sample has no finite value.
        """
        for output in reference:
            if output.dtype.kind == "f" and output.size:
                finite = np.isfinite(output)
                self._left_out = self._left_out or not finite.all()
                if not finite.reshape(len(output), -1).any(1).all():
                    raise EngineError("an output of a sample holds nothing but NaN or infinity")

    def condense(self, outputs: Outputs, labels: Outputs) -> Floats:
        """Score of each sample, shape (n,).

        Args:
            outputs: The outputs that are read, each of shape (n, ...).
            labels: fp32's outputs for the same samples, in the same order.

        Raises:
            EngineError: an output holds NaN or infinity where fp32's is finite.
        """
        scores = [
            np.concatenate([self._scores(place, *pair) for pair in _pairs(reference, output)])
            for place, (output, reference) in enumerate(zip(outputs, labels, strict=True))
        ]
        return self._over_outputs(np.stack(scores))

    def _over_outputs(self, scores: Floats) -> Floats:
        """Scores of shape (outputs, n) as one per sample."""
        return np.asarray(scores.mean(0))

    @abstractmethod
    def _scores(self, place: int, reference: Array, output: Array | None) -> Floats:
        """Score of each sample for one output, shape (n,).

        Args:
            place: Position of the output among those that are read.
            reference: fp32's output, shape (n, ...); finite.
            output: The other model's, of the same shape; None where its shape differs.
        """

    def compute(self, outputs: Outputs, labels: Array) -> float:
        """See `Metric.compute`."""
        return float(np.mean(outputs))

    def scores(self, outputs: Outputs, labels: Array) -> Array:
        """See `Metric.scores`."""
        return np.asarray(outputs)


def _pairs(reference: Array, output: Array) -> Iterator[tuple[Array, Array | None]]:
    """fp32's output and the other model's, a few samples at a time, with 0 for what is not finite in fp32.

    Outputs of different shapes are compared sample by sample: an array of objects holds one array per sample.
    """
    if reference.dtype.kind == "O" or output.dtype.kind == "O":
        for one, other in zip(reference, output, strict=True):
            yield from _pairs(np.asarray(one)[None], np.asarray(other)[None])
        return
    alike = reference.shape == output.shape
    step = max(1, FIDELITY_RULES.together // max(1, math.prod(reference.shape[1:])))
    for start in range(0, len(reference), step):
        one, other = reference[start : start + step], output[start : start + step] if alike else None
        if one.dtype.kind == "f":
            finite = np.isfinite(one)
            if other is not None and not np.isfinite(other[finite]).all():
                raise EngineError("the model's output holds NaN or infinity where fp32's is finite")
            one = np.where(finite, one, 0).astype(np.float64)
            other = None if other is None else np.where(finite, other, 0).astype(np.float64)
        yield one, other


def _flat(reference: Array, output: Array | None) -> tuple[Floats, Floats]:
    """Both outputs as shape (n, numbers per sample); zeros for an output of another shape."""
    flat = np.asarray(reference, np.float64).reshape(len(reference), -1)
    return flat, np.zeros_like(flat) if output is None else np.asarray(output, np.float64).reshape(flat.shape)


class Cosine(Fidelity):
    """``cosine``: cosine of the angle between a sample's output, as one vector, and fp32's; fp32 itself has 1.

    Two vectors of zeros have 1, a vector of zeros and another one 0. A single number has no direction: it is compared
    as a vector of two numbers, whose other one is the mean magnitude of fp32's numbers over all samples.
    """

    score_range = (-1.0, 1.0)

    def __init__(self, settings: FidelitySettings | None = None) -> None:
        super().__init__(settings)
        self._magnitudes: dict[int, tuple[float, int]] = {}

    def observe(self, reference: Outputs) -> None:
        """See `Fidelity.observe`; also the magnitude of outputs of one number."""
        super().observe(reference)
        for place, output in enumerate(reference):
            if output.dtype.kind == "f" and output.size == len(output):
                total, count = self._magnitudes.get(place, (0.0, 0))
                size = np.abs(output[np.isfinite(output)].astype(np.float64)).sum()
                self._magnitudes[place] = total + float(size), count + len(output)

    def _scores(self, place: int, reference: Array, output: Array | None) -> Floats:
        one, other = _flat(reference, output)
        if one.shape[1] == 1 and place in self._magnitudes:
            total, count = self._magnitudes[place]
            beside = np.full_like(one, total / count)
            one, other = np.hstack([beside, one]), np.hstack([beside, other])
        # Scaled to a largest value of 1: squares of very large and very small values would overflow or vanish.
        one, other = _scaled(one), _scaled(other)
        lengths = np.sqrt((one**2).sum(1)), np.sqrt((other**2).sum(1))
        both = lengths[0] * lengths[1]
        cosine = np.clip((one * other).sum(1) / np.where(both == 0, 1, both), -1, 1)
        cosine[both == 0] = 0.0
        cosine[(one == other).all(1)] = 1.0
        return np.asarray(cosine)


def _scaled(flat: Floats) -> Floats:
    largest = np.abs(flat).max(1, initial=0.0, keepdims=True)
    return flat / np.where(largest == 0, 1, largest)


class Sqnr(Fidelity):
    """``sqnr``: signal-to-quantization-noise ratio of a sample's output in decibels; fp32 itself has 100.

    ``10 log10(sum(u^2) / sum((u - v)^2))`` for fp32's output u and the other model's v, from -100 to 100. An output of
    zeros has 100 without noise and -100 with any.
    """

    score_range = (-FIDELITY_RULES.most_decibels, FIDELITY_RULES.most_decibels)

    def _scores(self, place: int, reference: Array, output: Array | None) -> Floats:
        signal, other = _flat(reference, output)
        largest = np.maximum(np.abs(signal).max(1, initial=0.0), np.abs(other).max(1, initial=0.0))[:, None]
        scale = np.where(largest == 0, 1, largest)
        noise = (((other - signal) / scale) ** 2).sum(1)
        power = ((signal / scale) ** 2).sum(1)
        most = FIDELITY_RULES.most_decibels
        found = np.full(len(signal), most)
        found[(noise > 0) & (power == 0)] = -most
        finite = (noise > 0) & (power > 0)
        found[finite] = 10 * (np.log10(power[finite]) - np.log10(noise[finite]))
        return np.asarray(np.clip(found, -most, most))


class MaxAbsError(Fidelity):
    """``max_abs_error``: largest absolute difference from fp32 in a sample, in the unit of the outputs.

    The value is the mean over samples of this largest difference; fp32 itself has 0. Of several outputs the largest
    difference counts.
    """

    higher_is_better = False
    score_range = (0.0, math.inf)

    def _scores(self, place: int, reference: Array, output: Array | None) -> Floats:
        one, other = _flat(reference, output)
        return np.asarray(np.abs(one - other).max(1, initial=0.0))

    def _over_outputs(self, scores: Floats) -> Floats:
        return np.asarray(scores.max(0))


class ClassFidelity(Fidelity):
    """Common part of the comparisons of classifiers.

    The classes are on the last axis, or on the one that ``metrics.accuracy.axis`` names; all other axes but the first
    count decisions, such as tokens or pixels. One number per decision is a probability of two classes, or a logit if
    one of fp32's is below 0 or above 1.
    """

    def __init__(self, settings: ClassFidelitySettings | None = None) -> None:
        super().__init__(settings or ClassFidelitySettings())
        self._no_probabilities: set[int] = set()
        self._logits: set[int] = set()

    def observe(self, reference: Outputs) -> None:
        """See `Fidelity.observe`; also whether outputs are probabilities or logits."""
        super().observe(reference)
        for place, output in enumerate(reference):
            if output.dtype.kind != "f":
                continue
            for one, _ in _pairs(output, output):
                if one.size and (one.min() < 0 or one.max() > 1):
                    self._logits.add(place)
                classes = self._by_class(one)
                if classes.shape[-1] > 1 and np.any(np.abs(classes.sum(-1) - 1) > FIDELITY_RULES.sum_tolerance):
                    self._no_probabilities.add(place)

    def _by_class(self, output: Array) -> Array:
        """An output as shape (n, decisions, classes).

        Raises:
            InputError: it has no such axis.
        """
        if output.ndim == 1:
            return output.reshape(len(output), 1, 1)
        axis = self.settings.axis
        place = -1 if axis is None else axis
        if not (place == -1 or 1 <= place < output.ndim):
            raise InputError(
                "metrics.accuracy.axis",
                f"is {axis}, the output has shape (N, {', '.join(map(str, output.shape[1:]))})",
                f"from 1 to {output.ndim - 1}; null for the last axis",
            )
        moved = np.moveaxis(output, place, -1)
        return moved.reshape(len(output), math.prod(moved.shape[1:-1]), moved.shape[-1])


class Top1Agreement(ClassFidelity):
    """``top1_agreement``: share of decisions for which a model has the highest output at the same class as fp32.

    A model without outputs of fractions is compared on its whole numbers, such as class numbers: the share of equal
    ones. The value is the mean over samples; fp32 itself has 1. An output of another shape agrees on nothing.
    """

    score_range = (0.0, 1.0)
    graded = False
    kinds = ("f", "iub")

    def observe(self, reference: Outputs) -> None:
        """See `Fidelity.observe`; also whether a sample has several decisions."""
        super().observe(reference)
        many = len(reference) > 1 or any(
            output.dtype.kind == "O" or self._decisions(place, output).shape[1] > 1
            for place, output in enumerate(reference)
        )
        self.graded = self.graded or many

    def _scores(self, place: int, reference: Array, output: Array | None) -> Floats:
        if output is None:
            return np.zeros(len(reference))
        agree = self._decisions(place, reference) == self._decisions(place, output)
        return np.asarray(agree.mean(1) if agree.shape[1] else np.ones(len(agree)))

    def _decisions(self, place: int, output: Array) -> Array:
        """Class of each decision, shape (n, decisions)."""
        if output.dtype.kind != "f":
            return output.reshape(len(output), -1)
        classes = self._by_class(output)
        if classes.shape[-1] == 1:
            return np.asarray(classes[..., 0] > (0.0 if place in self._logits else 0.5))
        return np.asarray(classes.argmax(-1)) if classes.shape[-1] else np.zeros((len(output), 0))


class KlDivergence(ClassFidelity):
    """``kl_divergence``: Kullback-Leibler divergence of a model's probabilities from fp32's, in nats.

    ``sum(p log(p / q))`` for fp32's probabilities p and the other model's q, as the mean over decisions and samples;
    fp32 itself has 0. Logits are normalized by softmax; a single one by the logistic function.
    """

    higher_is_better = False
    score_range = (0.0, math.inf)

    def _scores(self, place: int, reference: Array, output: Array | None) -> Floats:
        one = self._log_probabilities(place, self._by_class(reference))
        other = self._log_probabilities(place, self._by_class(np.zeros_like(reference) if output is None else output))
        divergence = (np.exp(one) * (one - other)).sum(-1)
        found = divergence.mean(1) if divergence.shape[1] else np.zeros(len(divergence))
        return np.asarray(np.maximum(found, 0.0))

    def _log_probabilities(self, place: int, classes: Array) -> Floats:
        """Logarithms of probabilities, shape (n, decisions, classes), two classes for a single output."""
        least = math.log(FIDELITY_RULES.least_probability)
        single = classes.shape[-1] == 1
        if place in self._logits or (place in self._no_probabilities and not single):
            scores = np.concatenate([np.zeros_like(classes), classes], -1) if single else classes
            scores = scores - scores.max(-1, keepdims=True)
            return np.asarray(np.maximum(scores - np.log(np.exp(scores).sum(-1, keepdims=True)), least))
        shares = np.concatenate([1 - classes, classes], -1) if single else classes
        shares = np.maximum(shares, FIDELITY_RULES.least_probability)
        return np.asarray(np.log(shares / shares.sum(-1, keepdims=True)))
