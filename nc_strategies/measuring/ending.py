"""How thoroughly the end of a run measures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ending:
    """How the finalists are measured.

    Args:
        finalists: How many are timed side by side with fp32.
        runs: Timed runs of each.
        compare: Evaluate the chosen one beside fp32 on all samples, for the interval of the loss; else the metrics are
            those of its trial, and there is no interval.
        preselect: Time all candidates once to find the finalists; else the first ones are taken.
        seconds: What it takes, with saving the model left out.
    """

    finalists: int
    runs: int
    compare: bool
    preselect: bool
    seconds: float = 0.0
