"""A plugin to copy: the strategy ``bisect``, the backend ``numpy_mlp``, its model format ``mlp``, the metric ``brier``.

This module is loaded at every start, also for ``--help``: it imports nothing heavy.
"""

from nc_strategies.api import Component, hookimpl
from nc_strategies_example.settings import BisectSettings, BrierSettings, MlpSettings, NumpySettings

__all__ = ["ncs_components", "ncs_config_paths", "ncs_contract"]
ncs_contract = 1


@hookimpl
def ncs_components() -> list[Component]:
    """See the hook."""
    return [
        Component(
            "strategy",
            "bisect",
            "nc_strategies_example.strategy:BisectStrategy",
            BisectSettings,
            summary="the fewest of the most sensitive operators in fp32, found by halving",
        ),
        Component(
            "backend",
            "numpy_mlp",
            "nc_strategies_example.backend:NumpyBackend",
            NumpySettings,
            summary="multi-layer perceptrons, int8 products in numpy",
        ),
        Component(
            "model", "mlp", "nc_strategies_example.model:MlpModel", MlpSettings, summary="an .npz file of layers"
        ),
        Component(
            "metric",
            "brier",
            "nc_strategies_example.metric:Brier",
            BrierSettings,
            summary="Brier score of class probabilities; lower is better",
        ),
    ]


@hookimpl
def ncs_config_paths() -> list[str]:
    """See the hook."""
    return ["pkg://nc_strategies_example.conf"]
