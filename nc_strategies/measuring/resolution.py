"""Resolution of the accuracy loss: the smallest loss that the evaluation samples can distinguish from none."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nc_strategies.measuring.accuracy import Z_95

ASSUMED_DISCORDANCE = 0.02
"""Assumed share of discordant samples before any measurement: those that exactly one of fp32 and a good int8 model
answers correctly."""


@dataclass(frozen=True)
class Resolution:
    """Resolution of the loss with the available samples.

    Args:
        half_width: Half-width of the 95 % interval of the paired loss, in the metric's unit.
        samples: Number of evaluation samples.
        limit: Tolerable loss, in the metric's unit.
        observed: The half-width is that of the final model, not of an assumed share of discordant samples.
    """

    half_width: float
    samples: int
    limit: float
    observed: bool = False

    @property
    def enough(self) -> bool:
        """Whether a model without any loss can be distinguished from one at the limit."""
        return self.half_width <= abs(self.limit)

    @property
    def samples_needed(self) -> int | None:
        """Samples at which the half-width equals the limit; None for a limit of zero, which no number can resolve."""
        return math.ceil(self.samples * (self.half_width / self.limit) ** 2) if self.limit else None

    def text(self) -> str:
        """One sentence about a resolution that is not enough."""
        needed = f"about {self.samples_needed:,} samples" if self.samples_needed else "no number of samples"
        return (
            f"{self.samples:,} samples tell losses apart by {self.half_width:.4f} at best, the goal tolerates "
            f"{self.limit:.4f}: a model that meets it may owe that to chance; {needed} would tell"
        )


def samples_to_decide(samples: int, limit: float, interval: tuple[float, float]) -> int | None:
    """Number of samples at which the interval of a loss would no longer contain the limit; None if no number would do.

    The half-width shrinks with the square root of the number of samples; the loss itself is taken as it was measured.

    Args:
        samples: Number of evaluation samples.
        limit: Tolerable loss, in the metric's unit.
        interval: 95 % interval of the paired loss.
    """
    low, high = interval
    distance = abs(limit - (low + high) / 2)
    return math.ceil(samples * ((high - low) / 2 / distance) ** 2) if distance else None


def assumed(samples: int, limit: float, score_range: tuple[float, float]) -> Resolution | None:
    """Resolution expected before any measurement; None for a metric with unbounded scores.

    Only discordant samples have nonzero paired differences, so their share is the variance: McNemar, "Note on the
    sampling error of the difference between correlated proportions", Psychometrika 12 (1947).

    Args:
        samples: Number of evaluation samples.
        limit: Tolerable loss, in the metric's unit.
        score_range: Lowest and highest score of a sample.
    """
    width = score_range[1] - score_range[0]
    if not math.isfinite(width):
        return None
    # A model at the limit has at least this share of discordant samples.
    share = min(1.0, max(ASSUMED_DISCORDANCE, abs(limit) / width))
    return Resolution(Z_95 * width * math.sqrt(share / samples), samples, limit)


def observed(samples: int, limit: float, interval: tuple[float, float]) -> Resolution | None:
    """Resolution given by the final model's interval; None if both models answered all samples alike.

    Args:
        samples: Number of evaluation samples.
        limit: Tolerable loss, in the metric's unit.
        interval: 95 % interval of the paired loss.
    """
    half = (interval[1] - interval[0]) / 2
    return Resolution(half, samples, limit, True) if half > 0 else None
