"""Neural Compressor's strategies by name: what runs under the same name here, and why others do not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from nc_strategies.errors import InputError

CONSERVATIVE = "conservative"
NAME, KWARGS = "tuning_criterion.strategy", "tuning_criterion.strategy_kwargs"
NOT_INSTALLED = {
    "bayesian": "strategy gp of nc-strategies-optuna searches groups of operators with a Gaussian process",
    "tpe": "pip install nc-strategies-optuna brings it",
    "auto_mixed_precision": "it chooses among bf16, fp16 and fp32 without int8",
}
"""Strategies of Neural Compressor that the core does not have to what there is instead. A plugin may register one."""
REFUSED_SETTINGS = {
    ("hawq_v2", "hawq_v2_loss"): "the Hessian is of the output's difference from fp32's, which needs no loss function",
}
"""Pairs (strategy, setting) that are not used here to the reason."""


def strategy_of(
    name: str, settings: Mapping[str, Any], quant_level: str | int, installed: Collection[str]
) -> dict[str, Any]:
    """The strategy that Neural Compressor's names ask for.

    Args:
        name: The strategy of a `TuningCriterion`.
        settings: Its `strategy_kwargs`.
        quant_level: 0 asks for the conservative strategy.
        installed: Names of the strategies that are installed.

    Returns:
        The strategy's name and settings.

    Raises:
        InputError: the strategy or a setting is not supported, or does not fit the level.
    """
    if quant_level == 0:
        if name not in ("basic", CONSERVATIVE):
            raise InputError(
                "quant_level",
                f"is 0, which is the conservative strategy, but the strategy is {name!r}",
                "1 or auto, to run the named strategy",
            )
        name = CONSERVATIVE
    if name in NOT_INSTALLED and name not in installed:
        raise InputError(
            NAME, f"{name!r} is not supported: {NOT_INSTALLED[name]}", f"installed: {', '.join(sorted(installed))}"
        )
    for (strategy, setting), why in REFUSED_SETTINGS.items():
        if name == strategy and setting in settings:
            raise InputError(f"{KWARGS}.{setting}", f"is not used: {why}", "leave it out")
    return {"name": name, **settings}
