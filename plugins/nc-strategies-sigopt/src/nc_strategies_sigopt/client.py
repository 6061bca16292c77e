"""SigOpt's client: importing it safely, finding the token, opening a connection."""

from __future__ import annotations

import functools
import importlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nc_strategies.api import InputError
from nc_strategies_sigopt.settings import KEY, SigOptSettings

DEFAULT_PROJECT = "nc-strategies"


@functools.cache
def client() -> Any:
    """The package ``sigopt``, imported now.

    It refuses to be imported in a folder whose name holds no ASCII letter or digit, unless the environment names a
    project, and beside a configuration file of its own which it cannot read.
    """
    with _environment(SIGOPT_PROJECT=DEFAULT_PROJECT):
        try:
            return importlib.import_module("sigopt")
        except (ValueError, OSError):
            with tempfile.TemporaryDirectory() as empty, _environment(SIGOPT_HOME=empty):
                return importlib.import_module("sigopt")


def part(name: str) -> Any:
    """A module of the package ``sigopt``."""
    return importlib.import_module(f"{client().__name__}.{name}")


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def token(settings: SigOptSettings) -> str | None:
    """The API token, from the Python API, the environment or what SigOpt's client has stored; None without one.

    Raises:
        InputError: the client's configuration file cannot be read.
    """
    given = settings.sigopt_api_token or os.environ.get("SIGOPT_API_TOKEN")
    if not given:
        config = part("config").Config
        try:
            given = config().api_token
        except (ValueError, OSError, AttributeError):
            raise InputError(
                "SigOpt's client configuration",
                f"{_home() / 'client' / 'config.json'} cannot be read",
                f"repair or remove it, set SIGOPT_API_TOKEN, or use {KEY}.driver=local",
            ) from None
    return str(given).strip() or None if given else None


def _home() -> Path:
    return Path(os.environ.get("SIGOPT_HOME") or "~/.sigopt").expanduser()


def url(settings: SigOptSettings) -> str:
    """Where the server is.

    Raises:
        InputError: it is not a web address, or holds a password.
    """
    default = part("request_driver").DEFAULT_API_URL
    found = str(settings.sigopt_api_url or os.environ.get("SIGOPT_API_URL") or default).rstrip("/")
    try:
        parts = urlsplit(found)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        valid = False
    if not valid:
        raise InputError(
            f"{KEY}.sigopt_api_url",
            "is not the address of a server",
            "http://host:port or https://host, without user and password",
        )
    return found


def http(settings: SigOptSettings, secret: str) -> Any:
    """A connection to a server."""
    return client().Connection(
        driver="http", client_token=secret, api_url=url(settings), timeout=settings.request_timeout
    )


def in_process(driver: Any) -> Any:
    """A connection to a driver in this process."""
    return client().Connection(driver=lambda: driver)


def scrub(text: str, secret: str | None) -> str:
    """One line of text without the token."""
    text = re.sub(r"\s+", " ", text).strip()
    return text.replace(secret, "***") if secret else text
