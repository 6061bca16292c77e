"""The registry of installed components."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

import pluggy
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nc_strategies.errors import InputError, first_line
from nc_strategies.registry import builtin, hookspecs
from nc_strategies.registry.component import Component
from nc_strategies.registry.contract import check_contract
from nc_strategies.registry.literal import literal
from nc_strategies.study.tracker import Tracker

log = logging.getLogger(__name__)


class Registry:
    """Built-in components and those of all installed plugins.

    A plugin is left out if it cannot be loaded, was written for an unsupported contract, or raises in a hook. `broken`
    then maps its name to the error.

    Args:
        points: Entry points to load; by default those of the group ``nc_strategies``.
    """

    def __init__(self, points: list[EntryPoint] | None = None) -> None:
        self.manager = pluggy.PluginManager(hookspecs.GROUP)
        self.manager.add_hookspecs(hookspecs)
        self.manager.register(builtin, name="nc_strategies")
        self.broken: dict[str, str] = {}
        self.components: dict[tuple[str, str], Component] = {}
        self.owners: dict[tuple[str, str], str] = {}
        for point in sorted(entry_points(group=hookspecs.GROUP) if points is None else points, key=lambda p: p.name):
            self._load(point)
        # Built-ins are registered first, whatever order a plugin requests, so that no plugin can take their names.
        for implementation in sorted(
            self.manager.hook.ncs_components.get_hookimpls(), key=lambda hook: hook.plugin is not builtin
        ):
            self._collect(implementation)

    def _load(self, point: EntryPoint) -> None:
        # pluggy's own loader stops at the first plugin that raises.
        plugin = None
        try:
            plugin = point.load()
            check_contract(plugin)
            self.manager.register(plugin, name=point.name)
            self.manager.check_pending()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - no exception of a plugin may stop the tool
            self._leave_out(point.name, error, plugin)

    def _collect(self, implementation: pluggy.HookImpl) -> None:
        name = implementation.plugin_name
        try:
            components = list(cast(Iterable[Component], implementation.function()))
            names = [(c.kind, c.name) for c in components if isinstance(c, Component)]
            if len(set(names)) != len(names):
                raise ValueError("ncs_components returned two components of one kind and name")
            for component in components:
                if not isinstance(component, Component):
                    raise TypeError(f"ncs_components returned {component!r}, not a Component")
                key = (component.kind, component.name)
                if key in self.components:
                    raise ValueError(f"{component.kind} {component.name!r} is already registered by {self.owners[key]}")
        except Exception as error:  # noqa: BLE001 - as above
            self._leave_out(name, error, implementation.plugin)
            return
        for component in components:
            self.components[component.kind, component.name] = component
            self.owners[component.kind, component.name] = name

    def _leave_out(self, name: str, error: BaseException, plugin: object) -> None:
        self.broken[name] = f"{type(error).__name__}: {first_line(error)}"
        if plugin is not None and self.manager.is_registered(plugin):
            self.manager.unregister(plugin)

    def names(self, kind: str) -> list[str]:
        """Names of the components of a kind."""
        return sorted(name for k, name in self.components if k == kind)

    def get(self, kind: str, name: str, key: str = "") -> Component:
        """Look up a component.

        Args:
            kind: Its kind.
            name: Its name.
            key: Configuration key that the error names.

        Raises:
            InputError: there is no such component; the message lists the available ones.
        """
        component = self.components.get((kind, name))
        if component is None:
            known = self.names(kind)
            close = difflib.get_close_matches(str(name), known, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise InputError(key or kind, f"no {kind} {name!r}", f"{hint}available: {', '.join(known)}")
        return component

    def settings(self, kind: str, config: Any, key: str = "") -> Any:
        """A component's settings, validated against its schema.

        Raises:
            InputError: the component or a key is unknown, a value has the wrong type, or a required value is missing.
        """
        plain = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else config
        key = key or kind
        if not isinstance(plain, Mapping):
            raise InputError(key, f"is {plain!r}", "a mapping with a name and settings")
        values = {str(name): value for name, value in plain.items()}
        component = self.get(kind, str(values.get("name")), f"{key}.name")
        if component.schema is None:
            if set(values) - {"name"}:
                raise InputError(f"{key}.{min(set(values) - {'name'})}", f"{kind} {component.name!r} has no settings")
            return None
        values = _known(component, component.schema, values, key)
        try:
            merged = OmegaConf.merge(OmegaConf.structured(component.schema), OmegaConf.create(literal(values)))
            return OmegaConf.to_object(merged)
        except OmegaConfBaseException as error:
            where = f"{key}.{error.full_key}" if getattr(error, "full_key", None) else key
            raise InputError(where, first_line(error)) from None

    def target(self, component: Component) -> Any:
        """Import a component's class.

        Raises:
            InputError: a required package is not installed; the message says what to install.
        """
        module, _, attribute = component.target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except ImportError as error:
            if not component.extra:
                raise
            raise self._missing(component, error) from error

    def _missing(self, component: Component, error: ImportError) -> InputError:
        return InputError(
            f"{component.kind}={component.name}",
            f"a package is missing ({first_line(error)})",
            f"pip install '{component.extra}'",
        )

    def create(self, kind: str, config: Any, *args: Any, key: str = "", **kwargs: Any) -> Any:
        """Create a component from its section of the configuration.

        Args:
            kind: Its kind.
            config: A mapping with its ``name`` and settings.
            *args: Further arguments of the class, after the settings.
            key: Configuration key of the section, for errors.
            **kwargs: Further keyword arguments of the class.

        Raises:
            InputError: see `settings` and `target`.
        """
        settings = self.settings(kind, config, key)
        component = self.get(kind, str(config["name"]))
        try:
            return self.target(component)(settings, *args, **kwargs)
        except ImportError as error:
            if not component.extra:
                raise
            raise self._missing(component, error) from error

    def config_paths(self) -> list[tuple[str, str]]:
        """Pairs (plugin name, search path) of the plugins' configuration files."""
        paths = []
        for implementation in self.manager.hook.ncs_config_paths.get_hookimpls():
            try:
                returned = cast(Iterable[str], implementation.function())
                paths += [(implementation.plugin_name, str(path)) for path in returned]
            except Exception as error:  # noqa: BLE001 - no exception of a plugin may stop the tool
                self.broken[implementation.plugin_name] = f"{type(error).__name__}: {first_line(error)}"
        return paths

    @contextmanager
    def observing(self, name: str, tracker: Tracker) -> Iterator[None]:
        """Call a tracker's hooks inside this context, and close it at the end. Its exceptions are logged.

        Args:
            name: Its name.
            tracker: The tracker.
        """
        self.manager.register(tracker, name=f"tracker={name}")
        try:
            yield
        finally:
            self.manager.unregister(tracker)
            try:
                tracker.close()
            except Exception:  # as above
                log.exception("tracker=%s failed to close", name)

    def notify(self, hook: str, **arguments: Any) -> None:
        """Call an observer hook of every plugin. An exception is logged and never breaks a run."""
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            try:
                wanted = {name: arguments[name] for name in implementation.argnames}
                implementation.function(**wanted)
            except Exception:  # as above
                log.exception("plugin %s failed in %s; the run goes on", implementation.plugin_name, hook)


def _known(component: Component, schema: type, values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Values of settings that a component has; those of others may stand there as None.

    Raises:
        InputError: unknown key, or a value that must be given is missing.
    """
    allowed = {f.name for f in dataclasses.fields(schema)}
    unknown = [name for name, value in values.items() if name not in allowed and value is not None]
    if unknown:
        raise InputError(
            f"{key}.{unknown[0]}",
            f"is not a setting of {component.kind} {component.name!r}",
            f"allowed: {', '.join(sorted(allowed))}",
        )
    missing = [name for name in values if name in allowed and values[name] == "???"]
    if missing:
        raise InputError(f"{key}.{missing[0]}", "is missing", f"{component.kind} {component.name!r} needs it")
    return {name: value for name, value in values.items() if name in allowed}


@functools.cache
def registry() -> Registry:
    """The registry of this process."""
    return Registry()
