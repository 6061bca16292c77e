"""Whether the server lets us in: token and project, each with its own line when it does not."""

from __future__ import annotations

import os
from typing import Any

from nc_strategies.api import InputError
from nc_strategies_sigopt import client
from nc_strategies_sigopt.calls import Calls, Denied, Refusal, ServerError, checked
from nc_strategies_sigopt.settings import KEY, SigOptSettings

TOKEN = f"{KEY}.sigopt_api_token"


def chosen_driver(settings: SigOptSettings) -> str:
    """The driver, with ``auto`` resolved."""
    if settings.driver != "auto":
        return settings.driver
    return "http" if client.token(settings) else "local"


def project(settings: SigOptSettings) -> str:
    """The project's id.

    Raises:
        InputError: there is none.
    """
    found = settings.sigopt_project_id or os.environ.get("SIGOPT_PROJECT")
    if not found:
        raise InputError(
            f"{KEY}.sigopt_project_id", "is missing", f"name a project of the server, or use {KEY}.driver=local"
        )
    return found


class Access:
    """An open door to a server.

    Args:
        settings: Where it is and what opens it.

    Raises:
        InputError: no token, no project, or an address that is none.
    """

    def __init__(self, settings: SigOptSettings) -> None:
        secret = client.token(settings)
        if not secret:
            raise InputError(
                TOKEN,
                "is missing",
                "set the environment variable SIGOPT_API_TOKEN, run `sigopt config`, "
                f"or use {KEY}.driver=local, which needs no account",
            )
        self._settings = settings
        self.project = project(settings)
        self.connection = client.http(settings, secret)
        self.calls = Calls(settings.request_attempts, secret, settings.request_timeout)
        self.client = ""

    def check(self) -> None:
        """See that the server takes the token and has the project, which is made if that is asked for.

        Raises:
            InputError: the token is rejected or the project is unknown.
            ServerError: the server does not answer.
        """
        try:
            self.client = self.calls("checking the token", self._client)
        except Denied as error:
            raise InputError(
                TOKEN,
                f"is rejected by {client.url(self._settings)} (status {error.status})",
                "a token that is valid there",
            ) from None
        except Refusal as error:
            raise InputError(
                f"{KEY}.sigopt_api_url", f"{client.url(self._settings)} is not a SigOpt API server ({error})"
            ) from None
        projects = self.connection.clients(self.client).projects
        try:
            self.calls("checking the project", lambda: checked(projects(self.project).fetch(), "id"))
        except (Refusal, Denied) as error:
            if error.status != 404 or not self._settings.create_project:
                why = "is not a project of this server" if error.status == 404 else f"cannot be used ({error})"
                raise InputError(
                    f"{KEY}.sigopt_project_id",
                    f"{self.project!r} {why}",
                    f"one that exists, or {KEY}.create_project=true",
                ) from None
            self._create(projects)

    def _client(self) -> str:
        return str(checked(self.connection.tokens("self").fetch(), "client").client)

    def _create(self, projects: Any) -> None:
        try:
            self.calls(
                "creating the project", lambda: checked(projects().create(id=self.project, name=self.project), "id")
            )
        except (Refusal, Denied) as error:
            if error.status != 409:
                raise InputError(f"{KEY}.create_project", f"{self.project!r} cannot be created ({error})") from None


def check(settings: SigOptSettings) -> None:
    """See, before anything else is done, that a run with these settings can begin.

    Raises:
        InputError: it cannot.
    """
    driver = chosen_driver(settings)
    if driver == "lite":
        from nc_strategies_sigopt.lite import LiteDriver

        LiteDriver()
    if driver != "http":
        return
    access = Access(settings)
    try:
        access.check()
    except ServerError as error:
        if settings.on_server_failure == "stop":
            raise unreachable(settings, error) from None


def unreachable(settings: SigOptSettings, error: Exception) -> InputError:
    """The error of a server that does not answer when a run begins."""
    return InputError(
        f"{KEY}.sigopt_api_url",
        f"{client.url(settings)} does not answer as it should ({error})",
        f"a SigOpt API server, {KEY}.on_server_failure=local, or {KEY}.driver=local",
    )
