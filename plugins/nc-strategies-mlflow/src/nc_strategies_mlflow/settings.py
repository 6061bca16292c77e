"""Settings, in a module that imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from nc_strategies.api import InputError

SCHEMES = ("http", "https", "databricks", "sqlite", "postgresql", "mysql", "mssql")
KEY = "tracker"


@dataclass
class MlflowSettings:
    """Settings of `MlflowTracker`.

    Args:
        uri: The store: ``http://HOST:PORT`` or ``sqlite:///FILE``; else the environment's ``MLFLOW_TRACKING_URI``, else
            MLflow's own default.
        experiment: Name of the experiment; made when it is not there.
        run_name: Name of the run; left out: model, strategy and backend.
        model: Whether to store the tuned model too.
        timeout: Seconds after which a request to a server has failed.
        wait: Seconds that the end of a run waits at most for what is still to be sent, while the store answers.

    Raises:
        InputError: a value that is not allowed.
    """

    name: str = "mlflow"
    uri: str | None = None
    experiment: str = "nc-tune"
    run_name: str | None = None
    model: bool = True
    timeout: float = 5.0
    wait: float = 300.0

    def __post_init__(self) -> None:
        if self.uri is not None:
            _check_uri(self.uri)
        if not self.experiment.strip():
            raise InputError(f"{KEY}.experiment", "is empty")
        for key in ("timeout", "wait"):
            if not getattr(self, key) > 0:
                raise InputError(f"{KEY}.{key}", f"is {getattr(self, key)}", "more than 0 seconds")


def _check_uri(uri: str) -> None:
    try:
        parts = urlsplit(uri)
        secret = parts.password is not None or (parts.scheme in ("http", "https") and parts.username is not None)
    except ValueError:
        raise InputError(f"{KEY}.uri", "is not a URI", "http://HOST:PORT or sqlite:///FILE") from None
    if secret:
        # What was given is not repeated: it holds the secret.
        raise InputError(
            f"{KEY}.uri",
            "holds a user or password, which the run's own files would show",
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_TOKEN, or the "
            "whole as MLFLOW_TRACKING_URI, in the environment",
        )
    known = parts.scheme.partition("+")[0] in SCHEMES or uri == "databricks"
    if not known or (parts.scheme in ("http", "https") and not parts.hostname):
        raise InputError(f"{KEY}.uri", f"is {uri!r}", "http://HOST:PORT or sqlite:///FILE")
