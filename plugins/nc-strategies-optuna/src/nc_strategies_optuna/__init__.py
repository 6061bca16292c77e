"""Strategies on Optuna's samplers: ``tpe``, ``gp``, ``nsga2``, ``cmaes``, and any sampler by name.

This module is loaded at every start, also for ``--help``: it imports nothing heavy.
"""

from nc_strategies.api import Component, hookimpl
from nc_strategies_optuna.settings import (
    CmaEsSettings,
    GpSettings,
    Nsga2Settings,
    OptunaSettings,
    SamplerSettings,
    TpeSettings,
)

__all__ = [
    "CmaEsSettings",
    "GpSettings",
    "Nsga2Settings",
    "OptunaSettings",
    "SamplerSettings",
    "TpeSettings",
    "ncs_components",
    "ncs_contract",
]
ncs_contract = 1


@hookimpl
def ncs_components() -> list[Component]:
    """See the hook."""
    return [
        Component(
            "strategy",
            name,
            "nc_strategies_optuna.strategy:OptunaStrategy",
            schema,
            "nc-strategies-optuna",
            summary,
        )
        for name, schema, summary in (
            ("tpe", TpeSettings, "groups of operators by sensitivity, searched by Optuna's TPE"),
            ("gp", GpSettings, "the same by Optuna's Gaussian process; needs torch"),
            ("nsga2", Nsga2Settings, "loss against cost as two objectives, by Optuna's NSGA-II"),
            ("cmaes", CmaEsSettings, "groups of operators as real numbers, by Optuna's CMA-ES"),
            ("optuna", OptunaSettings, "any sampler of Optuna by its name, in strategy.sampler"),
        )
    ]
