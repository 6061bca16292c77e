"""The configuration's classes from plain data: from Hydra, a Python call, or a run's ``config.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nc_strategies.app.goals import state_goals
from nc_strategies.config import MeasureConfig, MetricsConfig, RunConfig, SpaceConfig, TuningConfig
from nc_strategies.errors import InputError, first_line
from nc_strategies.registry.literal import literal

SECTIONS = {"metrics": MetricsConfig, "tuning": TuningConfig, "measure": MeasureConfig, "space": SpaceConfig}
"""Keys with a fixed schema, and their classes."""
GROUPS = ("strategy", "backend", "model", "data", "executor")
"""Keys that must name a component."""
OPTIONAL = ("tracker", "isolation", "run_dir", "plan")
"""Keys that may be left out."""


def section(name: str, values: Mapping[str, Any] | None) -> Any:
    """One section of the configuration.

    Args:
        name: One of `SECTIONS`.
        values: Plain data; missing keys have their defaults.

    Raises:
        InputError: a key is not in the section, or a value has the wrong type.
    """
    given = dict(values or {})
    if name == "space":
        return _space(given)
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SECTIONS[name]), literal(given)))
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        key = getattr(error, "full_key", None)
        raise InputError(f"{name}.{key}" if key else name, first_line(error)) from None


def _space(given: dict[str, Any]) -> SpaceConfig:
    # OmegaConf would read the keys, which are regular expressions, as interpolations.
    precisions = given.pop("excluded_precisions", None) or []
    try:
        return SpaceConfig(
            **given, excluded_precisions=[precisions] if isinstance(precisions, str) else list(precisions)
        )
    except TypeError as error:
        raise InputError("space", first_line(error)) from None


def run_config(values: Mapping[str, Any]) -> RunConfig:
    """The whole configuration, checked.

    Args:
        values: Plain data by the names of `RunConfig`'s fields; other keys are ignored.

    Raises:
        InputError: a component has no name, a key is not in its section, or a value is not allowed.
    """
    groups: dict[str, Any] = {name: values.get(name) for name in GROUPS}
    for name, group in groups.items():
        if not isinstance(group, Mapping) or "name" not in group:
            raise InputError(name, f"is {group!r}", "a mapping with a name and settings")
    sections: dict[str, Any] = {name: section(name, values.get(name)) for name in SECTIONS}
    further: dict[str, Any] = {name: values[name] for name in OPTIONAL if name in values}
    config = RunConfig(**groups, **sections, **further)
    config.validate()
    state_goals(config)
    return config
