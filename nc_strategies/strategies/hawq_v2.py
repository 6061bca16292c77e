"""The strategy `hawq_v2`: operators fall back in the order of their Hessian-weighted quantization error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nc_strategies.errors import InputError
from nc_strategies.problem import Problem
from nc_strategies.space import Space
from nc_strategies.strategies.choices import Group, Scores, score
from nc_strategies.strategies.ranked import RankedFallbackStrategy
from nc_strategies.strategies.settings import HawqV2Settings


class HawqV2Strategy(RankedFallbackStrategy):
    """Returns operators to fp32 in the order of average Hessian trace times squared weight error; see the base class.

    The backend must be able to differentiate models. Operators without weights come last.

    Source: Dong et al., "HAWQ-V2: Hessian Aware trace-Weighted Quantization of Neural Networks", NeurIPS 2020
    (https://arxiv.org/abs/1911.03852), equation 5 and Hutchinson's estimate of the trace; as a strategy, Intel Neural
    Compressor's documentation, "Tuning Strategies", HAWQ_V2. There the Hessian is that of a loss that the user gives.
    Here it is that of the output's squared difference from fp32's, relative to the signal, which needs no labels.
    """

    settings: HawqV2Settings
    estimate = "Hessian trace"

    def __init__(self, settings: HawqV2Settings, problem: Problem) -> None:
        super().__init__(settings, problem)
        self.check_model(settings, problem.space, lambda: problem.hessian is not None)

    @classmethod
    def check_model(cls, settings: Any, space: Space, gradients: Callable[[], bool]) -> None:
        """See `Strategy.check_model`: the engine must give gradients."""
        if not gradients():
            raise InputError(
                "strategy",
                "hawq_v2 needs gradients, which this backend's engine does not give",
                "backend=tensorflow, or strategy=mse_v2, which needs none",
            )

    def scores(self, groups: Sequence[Group]) -> Scores:
        """See `RankedFallbackStrategy.scores`."""
        return score(self.problem, groups, self._hessian, "the Hessian trace by operator")

    def _hessian(self) -> Mapping[str, float]:
        assert self.problem.hessian is not None
        return self.problem.hessian(self.settings.draws)
