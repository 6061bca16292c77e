"""What a number of samples can tell of a loss, and what it cannot."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nc_strategies.measuring.accuracy import Z_95

ASSUMED_DISCORDANCE = 0.02
"""Share of samples that just one of fp32 and a good int8 model has right, before anything was measured."""


@dataclass(frozen=True)
class Resolution:
    """How finely a loss can be told from another on the samples at hand.

    Args:
        half_width: Half-width of the 95 % interval of the paired loss, in the metric's unit.
        samples: Samples there are.
        limit: The loss that is tolerated, in the metric's unit.
        observed: From the final model, not from an assumption.
    """

    half_width: float
    samples: int
    limit: float
    observed: bool = False

    @property
    def enough(self) -> bool:
        """Whether a model without any loss would be told from one at the limit."""
        return self.half_width <= abs(self.limit)

    @property
    def samples_needed(self) -> int | None:
        """Samples of which the half-width would be the limit; None for a limit of zero, which no number can tell."""
        return math.ceil(self.samples * (self.half_width / self.limit) ** 2) if self.limit else None

    def text(self) -> str:
        """One sentence for a resolution that is not enough."""
        needed = f"about {self.samples_needed:,} samples" if self.samples_needed else "no number of samples"
        return (
            f"{self.samples:,} samples tell losses apart by {self.half_width:.4f} at best, the goal tolerates "
            f"{self.limit:.4f}: a model that meets it may owe that to chance; {needed} would tell"
        )


def assumed(samples: int, limit: float, score_range: tuple[float, float]) -> Resolution | None:
    """The resolution to expect before anything was measured; None for a metric whose scores are not bounded.

    Of the paired differences only the discordant ones are not zero, so that their share is the variance: McNemar,
    "Note on the sampling error of the difference between correlated proportions", Psychometrika 12 (1947).

    Args:
        samples: Evaluation samples.
        limit: The loss that is tolerated, in the metric's unit.
        score_range: Lowest and highest score of a sample.
    """
    width = score_range[1] - score_range[0]
    if not math.isfinite(width):
        return None
    # A model at the limit has lost at least that share.
    share = min(1.0, max(ASSUMED_DISCORDANCE, abs(limit) / width))
    return Resolution(Z_95 * width * math.sqrt(share / samples), samples, limit)


def observed(samples: int, limit: float, interval: tuple[float, float]) -> Resolution | None:
    """The resolution that the final model's interval shows; None where both models answered all samples alike.

    Args:
        samples: Evaluation samples.
        limit: The loss that is tolerated, in the metric's unit.
        interval: 95 % interval of the paired loss.
    """
    half = (interval[1] - interval[0]) / 2
    return Resolution(half, samples, limit, True) if half > 0 else None
