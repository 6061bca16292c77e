"""Extent of the final measurement of a run."""

from __future__ import annotations

from dataclasses import dataclass

REFERENCES = 2
"""Models of a final timing that are fp32: as given, and all-float. They are its first columns."""
PATIENCE = 3.0
"""Time limit of a final timing of as many models as there are finalists at most, as a multiple of that of a trial."""


def front_patience(models: int, finalists: int) -> float:
    """Time limit of the final timing of a front, as a multiple of that of a trial: more models have longer.

    Args:
        models: Number of models beside fp32.
        finalists: Maximum number of finalists.
    """
    return PATIENCE * max(1.0, (REFERENCES + models) / (REFERENCES + finalists))


@dataclass(frozen=True)
class Ending:
    """Extent of the final measurement of a run.

    Args:
        finalists: Number of models that are timed side by side with fp32.
        runs: Timed runs per model.
        compare: Evaluate the chosen model beside fp32 on all samples, which gives the interval of the loss. Otherwise
            its metrics are those of its trial, and the loss has no interval.
        preselect: Time all candidates once to choose the finalists. Otherwise the first candidates are the finalists.
        seconds: Expected seconds of the final measurement, without saving the model.
        repeat_fp32: Evaluate fp32 again where the chosen model is evaluated beside it. Otherwise the outputs of its
            first evaluation are used, and its time for all samples follows the machine's speed in the final timing.
    """

    finalists: int
    runs: int
    compare: bool
    preselect: bool
    seconds: float = 0.0
    repeat_fp32: bool = True
