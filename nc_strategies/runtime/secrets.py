"""Secrets: which names hold one, a text that does not show itself, and texts without them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

SECRET_KEY = re.compile(r"(token|secret|password|api_key)$", re.IGNORECASE)
"""Configuration keys whose values are secret."""
SECRET_URL = re.compile(r"://[^/\s@]*:[^/\s@]+@")
"""An address with a password in it."""
SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_KEY|CREDENTIAL|ACCESS_KEY|PRIVATE_KEY)", re.IGNORECASE)
"""Environment variables whose values are secret."""
MASK = "***"
LEAST_LENGTH = 6
"""Of an environment variable's value: a shorter one would mask half of what is said."""
_given: set[str] = set()


class Secret(str):
    """A text whose `repr` is masked, so that neither a notebook nor a debugger's list of variables shows it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(MASK)


def hide(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same mapping with each secret as a `Secret`."""
    return {
        key: Secret(value) if isinstance(value, str) and SECRET_KEY.search(str(key)) else value
        for key, value in values.items()
    }


def split(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Secret]]:
    """A mapping without its secrets, and the secrets."""
    secret = {key: Secret(value) for key, value in values.items() if SECRET_KEY.search(str(key)) and value is not None}
    return {key: value for key, value in values.items() if not SECRET_KEY.search(str(key))}, secret


def register_secret(value: str) -> None:
    """Mask a value in everything that is redacted from now on; for secrets that came in by Python."""
    if value:
        _given.add(str(value))


def redact(text: str) -> str:
    """The text without secrets: registered ones, and environment variables whose names say that they are secret."""
    secrets = {value for name, value in os.environ.items() if SECRET_NAME.search(name) and len(value) >= LEAST_LENGTH}
    for value in sorted(secrets | _given, key=len, reverse=True):
        text = text.replace(value, MASK)
    return text
