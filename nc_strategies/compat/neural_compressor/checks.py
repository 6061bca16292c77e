"""Checks of single values. A check returns the normalized value or raises an error that names the allowed values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from nc_strategies.errors import InputError

Check = Callable[[str, Any], Any]
"""A function of a configuration key, for errors, and a value."""


def one_of(*allowed: Any, refused: Mapping[str, str] | None = None) -> Check:
    """A check for one of these values; `refused` maps values that are not supported to the reason."""
    names = f"allowed: {', '.join(map(str, allowed))}"

    def check(key: str, value: Any) -> Any:
        if isinstance(value, str) and value in (refused or {}):
            raise InputError(key, f"{value!r} is not supported: {(refused or {})[value]}", names)
        # The types are compared too, because True equals 1.
        if not any(type(value) is type(option) and value == option for option in allowed):
            raise InputError(key, f"is {value!r}", names)
        return value

    return check


def number(least: float = -math.inf, whole: bool = False) -> Check:
    """A check for a finite number, which may be given as a string."""

    def check(key: str, value: Any) -> Any:
        kind = "a whole number" if whole else "a number"
        try:
            number = float("nan") if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            raise InputError(key, f"is {value!r}", f"expected {kind}") from None
        if not math.isfinite(number) or (whole and number != int(number)):
            raise InputError(key, f"is {value!r}", f"expected {kind}")
        if number < least:
            raise InputError(key, f"is {value!r}", f"at least {least:g}")
        return int(number) if whole else number

    return check


def empty(why: str) -> Check:
    """A check for an empty value; the reason `why` explains why the option is not supported."""

    def check(key: str, value: Any) -> Any:
        if value is None or value is False or (isinstance(value, (str, list, tuple, dict)) and not value):
            return value
        raise InputError(key, f"is not supported: {why}", "leave it out")

    return check


def text(key: str, value: Any) -> str:
    """Check for a string."""
    if not isinstance(value, str):
        raise InputError(key, f"is {value!r}", "expected a text")
    return value


def flag(key: str, value: Any) -> Any:
    """Check for True or False."""
    return one_of(True, False)(key, value)


def or_none(check: Check) -> Check:
    """A check for None or a value that another check accepts."""
    return lambda key, value: None if value is None else check(key, value)


def listed(value: Any) -> list[Any]:
    """One or several values as a list; an empty list for None."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


class Checked:
    """A dataclass whose attributes are checked and normalized whenever they are set."""

    _prefix: ClassVar[str] = ""
    _checks: ClassVar[Mapping[str, Check]] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        known = {f.name for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        if name not in known and not hasattr(type(self), name):
            raise InputError(
                f"{self._prefix}{name}",
                f"is not an option of {type(self).__name__}",
                f"allowed: {', '.join(sorted(known))}",
            )
        check = self._checks.get(name)
        object.__setattr__(self, name, check(f"{self._prefix}{name}", value) if check else value)
