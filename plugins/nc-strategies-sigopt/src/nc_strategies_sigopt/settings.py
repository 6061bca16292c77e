"""Settings, in a module that imports nothing heavy."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from nc_strategies.api import InputError

DRIVERS = ("auto", "http", "local", "lite")
ON_SERVER_FAILURE = ("local", "stop")
DEFAULT_NAME = "nc-tune"
LONGEST_PROJECT = 32
KEY = "strategy"


@dataclass
class SigOptSettings:
    """Settings of `SigOptStrategy`.

    Args:
        driver: ``http``: a SigOpt API server; ``local``: the same API in this process, without an account; ``lite``:
            the package ``sigoptlite``; ``auto``: ``http`` where there is a token, else ``local``.
        sigopt_project_id: The project on the server; needed with ``http``.
        sigopt_experiment_name: The experiment's name.
        sigopt_experiment_id: An older name of `sigopt_experiment_name`.
        sigopt_api_url: The server; else the environment's ``SIGOPT_API_URL``, else the client's default.
        sigopt_api_token: Python only. Else the environment's ``SIGOPT_API_TOKEN``, else what SigOpt's own client has
            stored.
        create_project: Create the project when the server does not have it.
        on_server_failure: ``local``: go on in this process from the observations so far; ``stop``: keep the best.
        request_timeout: Seconds after which a request counts as failed.
        request_attempts: Attempts at a request, at least, before the server counts as failed.
        request_patience: Seconds for which a request is tried again, at least, before the server counts as failed; a
            server that is started again takes about 8 s.

    Raises:
        InputError: a value that is not allowed.
    """

    name: str = "sigopt"
    driver: str = "auto"
    sigopt_project_id: str | None = None
    sigopt_experiment_name: str = DEFAULT_NAME
    sigopt_experiment_id: str | None = None
    sigopt_api_url: str | None = None
    sigopt_api_token: str | None = field(default=None, repr=False)
    create_project: bool = False
    on_server_failure: str = "local"
    request_timeout: float = 30.0
    request_attempts: int = 4
    request_patience: float = 60.0

    def __post_init__(self) -> None:
        _one_of("driver", self.driver, DRIVERS)
        _one_of("on_server_failure", self.on_server_failure, ON_SERVER_FAILURE)
        project = self.sigopt_project_id
        if project is not None and not re.fullmatch(rf"[a-z0-9\-_.]{{1,{LONGEST_PROJECT}}}", project):
            raise InputError(
                f"{KEY}.sigopt_project_id",
                f"is {project!r}",
                f"1 to {LONGEST_PROJECT} of lower-case letters, digits, hyphens, underscores and periods",
            )
        if not self.request_timeout > 0:
            raise InputError(f"{KEY}.request_timeout", f"is {self.request_timeout}", "more than 0 seconds")
        if self.request_attempts < 1:
            raise InputError(f"{KEY}.request_attempts", f"is {self.request_attempts}", "at least 1")
        if not 0 <= self.request_patience < math.inf:
            raise InputError(f"{KEY}.request_patience", f"is {self.request_patience}", "0 seconds or more")
        if not self.experiment_name:
            raise InputError(f"{KEY}.sigopt_experiment_name", "is empty")

    @property
    def experiment_name(self) -> str:
        """The experiment's name, by whichever of its two keys it was given."""
        if self.sigopt_experiment_name == DEFAULT_NAME and self.sigopt_experiment_id is not None:
            return self.sigopt_experiment_id
        return self.sigopt_experiment_name


@dataclass
class CommandLineSettings(SigOptSettings):
    """What configuration files and the command line may set: everything but the token.

    Raises:
        InputError: see `SigOptSettings`; or a token was given.
    """

    def __post_init__(self) -> None:
        if self.sigopt_api_token is not None:
            raise InputError(
                f"{KEY}.sigopt_api_token",
                "is refused on the command line and in configuration files, "
                "where other users, the shell's history and the run's own files would show it",
                "set the environment variable SIGOPT_API_TOKEN, or run `sigopt config`",
            )
        super().__post_init__()


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{KEY}.{key}", f"is {value!r}", f"allowed: {', '.join(allowed)}")
