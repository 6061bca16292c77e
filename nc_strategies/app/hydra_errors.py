"""Hydra's and OmegaConf's errors as one line each: key, problem, what is allowed."""

from __future__ import annotations

import dataclasses
import re

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from nc_strategies.errors import InputError, first_line

AMBIGUOUS = re.compile(r"Ambiguous value for argument '(?P<key>[^=']+)=")
"""Hydra's message where a list of a sweep is given without the flag of a sweep."""


def as_input_error(error: Exception) -> InputError:
    """Convert an error of composing the configuration to an `InputError`.

    Args:
        error: A `HydraException` or an `OmegaConfBaseException`.
    """
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        options = ", ".join(str(option) for option in error.options or ())
        return InputError(group or "configuration", f"there is no {name!r}", f"allowed: {options}" if options else "")
    if isinstance(error, OverrideParseException):
        key, equals, value = str(error.override).partition("=")
        allowed = f"""in quotes of its own: "{key}='{value}'\"""" if equals and value else "expected key=value"
        return InputError(str(error.override), f"cannot be read ({first_line(error)})", allowed)
    if ambiguous := AMBIGUOUS.search(str(error)):
        return InputError(ambiguous["key"], "holds several values, separated by commas", "-m tries each of them")
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return _of_key(cause)
    return InputError("configuration", first_line(error))


def _of_key(cause: OmegaConfBaseException) -> InputError:
    key, schema = str(cause.full_key), cause.object_type
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        known = [field.name for field in dataclasses.fields(schema)] if dataclasses.is_dataclass(schema) else []
        return InputError(key, "is not a key", f"allowed: {', '.join(known)}" if known else "")
    return InputError(key, first_line(Exception(cause.msg or str(cause))))
