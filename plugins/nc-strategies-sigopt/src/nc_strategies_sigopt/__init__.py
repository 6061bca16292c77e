"""The SigOpt strategy: a search directed by a SigOpt server, or by the same API in this process."""

from nc_strategies.api import Component, hookimpl
from nc_strategies_sigopt.settings import CommandLineSettings, SigOptSettings

__all__ = ["SigOptSettings", "ncs_components", "ncs_contract"]
ncs_contract = 1


@hookimpl
def ncs_components() -> list[Component]:
    """See the hook."""
    return [
        Component(
            "strategy",
            "sigopt",
            "nc_strategies_sigopt.strategy:SigOptStrategy",
            CommandLineSettings,
            "nc-strategies-sigopt",
            "groups of operators by sensitivity, searched by SigOpt or locally",
        )
    ]
