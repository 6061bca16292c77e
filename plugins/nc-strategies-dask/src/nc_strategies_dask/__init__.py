"""The executor ``dask``: the samples of each trial are evaluated on a Dask cluster."""

from nc_strategies.api import Component, hookimpl
from nc_strategies_dask.settings import DaskSettings

__all__ = ["DaskSettings", "ncs_components", "ncs_contract"]
ncs_contract = 1


@hookimpl
def ncs_components() -> list[Component]:
    """See the hook."""
    return [
        Component(
            "executor",
            "dask",
            "nc_strategies_dask.executor:DaskExecutor",
            DaskSettings,
            "nc-strategies-dask",
            "one trial after the other, its samples evaluated on a Dask cluster",
        )
    ]
