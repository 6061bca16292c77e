"""The tracker ``mlflow``: runs, trials and models on an MLflow server or in a local database."""

from nc_strategies.api import Component, hookimpl
from nc_strategies_mlflow.settings import MlflowSettings

__all__ = ["MlflowSettings", "ncs_components", "ncs_contract"]
ncs_contract = 1


@hookimpl
def ncs_components() -> list[Component]:
    """See the hook."""
    return [
        Component(
            "tracker",
            "mlflow",
            "nc_strategies_mlflow.tracker:MlflowTracker",
            MlflowSettings,
            "nc-strategies-mlflow",
            "runs, trials and models on an MLflow server or in a local database",
        )
    ]
