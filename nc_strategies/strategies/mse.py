"""The strategy `mse`: operators fall back in the order of their output error."""

from __future__ import annotations

from collections.abc import Sequence

from nc_strategies.strategies.choices import Group, Scores, score
from nc_strategies.strategies.ranked import RankedFallbackStrategy
from nc_strategies.strategies.settings import MseSettings


class MseStrategy(RankedFallbackStrategy):
    """Returns operators to fp32 in the order of the error that quantizing each one causes; see the base class.

    Source: Intel Neural Compressor's documentation, "Tuning Strategies", MSE
    (https://intel.github.io/neural-compressor/latest/docs/source/tuning_strategies.html), which compares each
    operator's own output in the fp32 and in the quantized model. Here one operator at a time is quantized, and the
    error is that of the model's output relative to fp32's (`Problem.sensitivity`): an error that later operators remove
    does not count.
    """

    settings: MseSettings
    estimate = "output error"

    def scores(self, groups: Sequence[Group]) -> Scores:
        """See `RankedFallbackStrategy.scores`."""
        return score(self.problem, groups, self.problem.sensitivity, "the output error by operator")
