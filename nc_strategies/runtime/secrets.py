"""Secrets: names of secret values, a string type with a masked `repr`, and redaction of texts."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

SECRET_KEY = re.compile(r"(token|secret|password|api_key)$", re.IGNORECASE)
"""Configuration keys whose values are secret."""
SECRET_URL = re.compile(r"://[^/\s@]*:[^/\s@]+@")
"""A URL that contains a password."""
SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_KEY|CREDENTIAL|ACCESS_KEY|PRIVATE_KEY)", re.IGNORECASE)
"""Environment variables whose values are secret."""
MASK = "***"
MIN_MASKED_LENGTH = 6
"""Least length of an environment variable's value that is masked; shorter values would occur in ordinary text."""
_registered: set[str] = set()


class Secret(str):
    """A string with a masked `repr`, so that neither a notebook nor a debugger shows it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(MASK)


def hide(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a mapping in which each secret is a `Secret`."""
    return {
        key: Secret(value) if isinstance(value, str) and SECRET_KEY.search(str(key)) else value
        for key, value in values.items()
    }


def split(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Secret]]:
    """Split a mapping into values that are not secret and secrets."""
    secret = {key: Secret(value) for key, value in values.items() if SECRET_KEY.search(str(key)) and value is not None}
    return {key: value for key, value in values.items() if not SECRET_KEY.search(str(key))}, secret


def register_secret(value: str) -> None:
    """Mask a value in every text that is redacted from now on; for secrets that are passed in Python."""
    if value:
        _registered.add(str(value))


def redact(text: str) -> str:
    """Mask secrets in a text: registered ones, and values of environment variables with secret names."""
    secrets = {
        value for name, value in os.environ.items() if SECRET_NAME.search(name) and len(value) >= MIN_MASKED_LENGTH
    }
    for value in sorted(secrets | _registered, key=len, reverse=True):
        text = text.replace(value, MASK)
    return text
