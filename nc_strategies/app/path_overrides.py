"""Paths on the command line: quoted for Hydra's grammar, which reads many file names as something else.

Hydra reads ``=``, ``,``, brackets, quotes, ``#`` and every character outside ASCII in a value as its own grammar or
refuses them, and OmegaConf replaces ``${...}``. A file may have any of them in its name.
"""

from __future__ import annotations

import re
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from nc_strategies.registry.literal import literal

PATH_KEY = re.compile(
    r"^(?P<mark>\+{0,2})(?P<key>run_dir|measure\.ssh_config|hydra\.sweep\.dir|model\.(model|weights)|data\.(dataset|tokenizer)"
    r"|[\w.@/-]+[._](path|target|dir|file|folder))$"
)
"""Keys whose values are paths, or targets that may start with the path of a file, with Hydra's marks before them."""
INPUT_KEY = re.compile(r"^(model|data|metrics|measure\.target)\b")
"""Keys that a sweep may have several values of: files that exist before the run, and machines."""
SWEEP_FUNCTION = re.compile(r"^(choice|range|interval|glob|shuffle|sort|tag)\(.*\)$", re.DOTALL)
QUOTES = ("'", '"')


def quote_path(argument: str, sweep: bool) -> str:
    """An override whose key takes a path, with the value quoted where Hydra would read another value from it.

    A value that Hydra reads as it stands, a quoted one, and an interpolation stay as they are, unless a file of exactly
    that name exists. In a sweep, commas separate values; a comma belongs to a name if a file of that name exists.

    Args:
        argument: One argument of the command line.
        sweep: Whether the command line asks for a sweep.

    Returns:
        The argument, unchanged if its key takes no path.
    """
    key, equals, value = argument.partition("=")
    named = PATH_KEY.match(key)
    if not equals or not value or named is None:
        return argument
    names, swept = [value], bool(INPUT_KEY.match(named["key"]))
    if sweep and swept and not _exists(value):
        if SWEEP_FUNCTION.match(value) or (value.startswith(QUOTES) and _parse(key, value) is not None):
            return argument
        names = _names(value.split(","))
    elif swept and "," in value and not _exists(value) and all(_exists(part) for part in value.split(",")):
        names = value.split(",")  # Several files without the flag of a sweep, which Hydra's message then names.
    return f"{key}={','.join(_quoted(key, name) for name in names)}"


def _names(parts: list[str]) -> list[str]:
    """The values of a sweep: parts between commas, joined again where a file of the joined name exists."""
    names: list[str] = []
    while parts:
        ends = [end for end in range(len(parts), 1, -1) if _exists(",".join(parts[:end]))]
        end = ends[0] if ends else 1
        names.append(",".join(parts[:end]))
        parts = parts[end:]
    return names


def _quoted(key: str, name: str) -> str:
    """One value in the form in which Hydra reads it as this name."""
    parsed = _parse(key, name)
    read = parsed.value() if parsed is not None else None
    simple = parsed is not None and not parsed.is_sweep_override() and not isinstance(read, list | dict)
    # The value as it stands is this name, or it says another one in Hydra's own grammar.
    there = _exists(name)
    as_meant = simple and (str(read) == name or (not there and (read is None or isinstance(read, str))))
    if as_meant and not ("${" in name and there):
        return name
    return QuotedString(literal(name) if there else name, Quote.single).with_quotes()


def _parse(key: str, value: str) -> Override | None:
    """A value as Hydra reads it; None where it cannot."""
    try:
        return OverridesParser.create().parse_override(f"{key}={value}")
    except HydraException:
        return None


def _exists(name: str) -> bool:
    """Whether a path exists, or the file of a target ``path/to/file.py:function``."""
    for text in filter(None, (name, name.rpartition(":")[0])):
        try:
            if Path(text).exists() or Path(text).expanduser().exists():
                return True
        except (OSError, ValueError, RuntimeError):  # A name that no file can have, or a home that is not known.
            continue
    return False
