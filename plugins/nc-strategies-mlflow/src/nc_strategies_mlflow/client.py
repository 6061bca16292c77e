"""MLflow's client: quiet, impatient, and told no password that it could repeat."""

from __future__ import annotations

import logging
import os
import re
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

PASSWORD = re.compile(r"(://[^/\s:@]*):[^/\s@]+@")


def connect(uri: str | None, timeout: float) -> Any:
    """An `mlflow.MlflowClient`. Imports MLflow, which takes seconds.

    MLflow reads how long to wait and how often to try from the environment only. Variables that are set already stay.

    Args:
        uri: The store; None for ``MLFLOW_TRACKING_URI`` or MLflow's default.
        timeout: Seconds a request may take.
    """
    for name, value in {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(max(1, round(timeout))),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }.items():
        os.environ.setdefault(name, value)
    uri = without_password(uri or os.environ.get("MLFLOW_TRACKING_URI") or "")
    import mlflow

    for logger in ("mlflow", "alembic"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    return mlflow.MlflowClient(tracking_uri=uri or None)


def without_password(uri: str) -> str:
    """A server's address without user and password, which go where MLflow looks for them.

    Errors quote addresses. The address of a database stays as it is.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return uri
    for name, value in (("USERNAME", parts.username), ("PASSWORD", parts.password)):
        os.environ.setdefault(f"MLFLOW_TRACKING_{name}", unquote(value or ""))
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def may_pass(error: Exception) -> bool:
    """Whether an error may be gone at the next attempt: not when the store has understood, and refused."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        status = int(error.get_http_status_code())
        return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in (
            HTTPStatus.REQUEST_TIMEOUT,
            HTTPStatus.TOO_MANY_REQUESTS,
        )
    return isinstance(error, OSError) or type(error).__module__.startswith("sqlalchemy.")


def masked(text: str) -> str:
    """A text without the passwords of the addresses in it."""
    return PASSWORD.sub(r"\1:***@", text)
