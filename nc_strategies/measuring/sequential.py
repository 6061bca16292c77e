"""Paired sequential test of the accuracy loss: stop reading samples once the goal is out of reach or safely met."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class StoppingRules:
    """Rules for stopping a trial before all samples are read."""

    error: float = 1e-3
    """Maximum probability that a model which meets the goal is dropped: a few percent over all trials of a run."""
    least_share: float = 0.1
    """Minimum share of the samples to read, so that strategies can learn from the estimate of a dropped model."""
    samples_between_checks: int = 50
    """Minimum number of samples between two checks, for engines that take one sample at a time."""
    stakes: tuple[float, ...] = (0.3, 0.6)
    """Shares of the capital that are bet. They suit losses of a third and of two thirds of the discordant samples."""
    tolerance: float = 1e-12
    """Differences of scores below this value are rounding errors."""


STOPPING_RULES = StoppingRules()
Floats = NDArray[np.float64]


class Verdict(StrEnum):
    """Conclusion from the samples read so far about the loss over all samples."""

    OPEN = "open"
    OUT_OF_REACH = "out of reach"
    SAFELY_MET = "safely met"


def log_capital(differences: Floats, population: int, limit: float, low: float) -> Floats:
    """Logarithm of the capital of a bettor against the claim that the mean over all samples is at most `limit`.

    The samples are drawn without replacement from a finite population of differences, none below `low`. If the claim
    holds, the remaining differences have a mean of at most ``m = (population * limit - sum drawn) / remaining``. A bet
    of a share of the capital on the next difference being above m is then fair or worse. The capital is therefore a
    nonnegative supermartingale: the probability that it ever reaches ``1 / error`` is at most `error`, no matter how
    often it is checked (Ville's inequality). The capital is divided among several stakes and never moved between them.

    Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86 (2024),
    section 5, and "Confidence sequences for sampling without replacement", NeurIPS 2020.

    Args:
        differences: Differences drawn so far, in their order, on the last axis; shape (..., n).
        population: Size N of the population.
        limit: Claimed upper bound of the mean over the population.
        low: Lowest possible difference.

    Returns:
        Logarithm of the capital after each draw, shape (..., n); infinite where the claim has become impossible.
    """
    drawn = differences.shape[-1]
    before = np.cumsum(differences, -1) - differences
    fair = (population * limit - before) / (population - np.arange(drawn))
    room = fair - low
    impossible = np.logical_or.accumulate(room < -STOPPING_RULES.tolerance, -1)
    gain = (differences - fair) / np.maximum(room, STOPPING_RULES.tolerance)
    logs = np.full(differences.shape, -np.inf)
    for stake in STOPPING_RULES.stakes:
        growth = np.cumsum(np.log1p(np.maximum(stake * gain, -stake)), -1)
        np.logaddexp(logs, growth - math.log(len(STOPPING_RULES.stakes)), out=logs)
    return np.where(impossible, np.inf, logs)


class PairedTest:
    """Decides whether a model's loss against fp32 over all samples can still be within a limit.

    All models read the samples in the same random order. The test compares both models' scores sample by sample. fp32's
    scores bound the remaining differences: a sample that fp32 answers wrongly cannot be lost.

    Args:
        reference: fp32's scores of all samples in the order in which they are read, shape (N,).
        limit: Tolerable mean loss, in the unit of the scores.
        score_range: Lowest and highest possible score.
        higher_is_better: Direction of the scores.
        error: Maximum probability of a wrong `Verdict.OUT_OF_REACH`, and of a wrong `Verdict.SAFELY_MET`.
        least: Minimum number of samples to read before any verdict.
    """

    def __init__(
        self,
        reference: NDArray[np.float64],
        limit: float,
        score_range: tuple[float, float],
        higher_is_better: bool = True,
        error: float = STOPPING_RULES.error,
        least: int = 0,
    ) -> None:
        self._sign = 1.0 if higher_is_better else -1.0
        self._reference = np.asarray(reference, np.float64)
        self._limit = limit + STOPPING_RULES.tolerance
        self._level = -math.log(error)
        self._least = least
        worst, best = score_range if higher_is_better else score_range[::-1]
        # Bounds of each sample's difference; infinite if scores are unbounded.
        self._low, self._high = self._sign * (self._reference - best), self._sign * (self._reference - worst)
        self._looked = 0
        self.differences: Floats = np.zeros(0)

    @property
    def possible(self) -> bool:
        """Whether the scores are bounded on the side that `Verdict.OUT_OF_REACH` needs."""
        return bool(np.isfinite(self._low).all())

    @property
    def samples(self) -> int:
        """Number of samples read."""
        return len(self.differences)

    @property
    def loss(self) -> float:
        """Mean loss over the samples read, as an estimate for all samples."""
        return float(self.differences.mean())

    def read(self, scores: NDArray[np.float64]) -> Verdict:
        """Read the model's scores of the next samples.

        Args:
            scores: The model's scores, shape (n,).

        Returns:
            Verdict after these samples.
        """
        start = self.samples
        new = self._sign * (self._reference[start : start + len(scores)] - scores)
        self.differences = np.concatenate([self.differences, new])
        next_look = max(self._least, self._looked + STOPPING_RULES.samples_between_checks)
        if self.samples < min(next_look, len(self._reference)):
            return Verdict.OPEN
        self._looked = self.samples
        return self._verdict()

    def _verdict(self) -> Verdict:
        count, total = len(self._reference), float(self.differences.sum())
        allowed = count * self._limit
        if self.possible:
            if total + self._low[self.samples :].sum() > allowed:
                return Verdict.OUT_OF_REACH
            if log_capital(self.differences, count, self._limit, float(self._low.min())).max() >= self._level:
                return Verdict.OUT_OF_REACH
        if np.isfinite(self._high).all():
            if total + self._high[self.samples :].sum() <= allowed:
                return Verdict.SAFELY_MET
            mirrored = log_capital(-self.differences, count, -self._limit, -float(self._high.max()))
            if mirrored.max() >= self._level:
                return Verdict.SAFELY_MET
        return Verdict.OPEN
