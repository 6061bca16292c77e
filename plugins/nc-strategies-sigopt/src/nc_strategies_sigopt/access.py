"""Whether the server lets us in: token and project, each with its own line when it does not."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from nc_strategies.api import InputError
from nc_strategies_sigopt import client
from nc_strategies_sigopt.calls import Calls, Denied, Refusal, ServerError, checked
from nc_strategies_sigopt.settings import KEY, SigOptSettings

log = logging.getLogger("nc_strategies.sigopt")
TOKEN = f"{KEY}.sigopt_api_token"
FORGOTTEN_AFTER = 60.0
"""Seconds for which a server that has just failed is asked only once: the wait for it was already made."""
_failed: dict[str, float] = {}
"""When each server, by its address, was last found to have failed (`time.monotonic`)."""


def say(text: str) -> None:
    """A sentence on standard error, before there is a run that could pass it on."""
    log.warning("%s", text)
    sys.stderr.write(f"warning: {text}\n")


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
        tell: Told, in a sentence each, what the user should know now.
        patient: Whether to wait for a server that does not answer; never for one that has just failed.

    Raises:
        InputError: no token, no project, or an address that is none.
    """

    def __init__(self, settings: SigOptSettings, tell: Callable[[str], None] = say, patient: bool = True) -> None:
        secret = client.token(settings)
        if not secret:
            raise InputError(
                TOKEN,
                "is missing",
                "set the environment variable SIGOPT_API_TOKEN, run `sigopt config`, "
                f"or use {KEY}.driver=local, which needs no account",
            )
        self._settings, self._tell, self._url = settings, tell, client.url(settings)
        self.project = project(settings)
        self.connection = client.http(settings, secret)
        waited = time.monotonic() - _failed.get(self._url, -FORGOTTEN_AFTER) < FORGOTTEN_AFTER
        self.calls = self.later = Calls(
            settings.request_attempts, secret, settings.request_timeout, settings.request_patience, tell
        )
        self._once = Calls(1, secret, settings.request_timeout)
        if waited or not patient:
            self.calls = self._once
        self.client = ""
        self.development = False

    def check(self) -> None:
        """See that the server takes the token and has the project, which is made if that is asked for.

        Raises:
            InputError: the token is rejected, of a kind that cannot tune, or the project is unknown.
            ServerError: the server does not answer.
        """
        try:
            self._check()
        except ServerError as error:
            if not isinstance(error, Denied | Refusal):
                _failed[self._url] = time.monotonic()
            raise
        _failed.pop(self._url, None)
        self.calls = self.later

    def _check(self) -> None:
        try:
            found = self.calls("checking the token", self._token)
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
        if getattr(found, "client", None) is None:
            raise InputError(
                TOKEN,
                "belongs to a user's session, not to a client",
                "the API token that the server's page of tokens shows, or one of SigOpt's client",
            )
        self.client = str(found.client)
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
        self._check_permission()
        self.development = bool(getattr(found, "development", False))
        if self.development:
            log.warning("SigOpt: the token is a development token: the server's suggestions are random")

    def _token(self) -> Any:
        found = self.connection.tokens("self").fetch()
        # A user's session has a token without a client; a page with status 200, which is no token, has no type either.
        return found if getattr(found, "token_type", None) is not None else checked(found, "client")

    def _check_permission(self) -> None:
        """See that the token may create an experiment, by asking for one that cannot be made.

        A member who may only read has a token that says it may write. The server looks at what the member may do
        before it looks at what is asked for, so a request without a name is refused with 403 where nothing may be
        created, and with 400 where it only lacks its name.
        """
        try:
            self._once("checking the permission", lambda: self.connection.experiments().create())
        except Denied as error:
            raise InputError(
                TOKEN,
                f"may read {self._url} but not write to it (status {error.status})",
                "the token of a member who may create experiments",
            ) from None
        except ServerError as error:
            # A refusal is what was asked for; where there was no answer, creating the experiment will tell.
            log.debug("SigOpt: checking the permission: %s", error)
        else:
            log.warning("SigOpt: the server has made an experiment without a name, which stays unused")

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
