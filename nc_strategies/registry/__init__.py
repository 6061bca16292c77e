"""Components by name: those of this package and those of plugins, registered through the same hooks."""

from nc_strategies.registry.component import Component
from nc_strategies.registry.contract import CONTRACT_VERSION
from nc_strategies.registry.hookspecs import hookimpl
from nc_strategies.registry.registry import Registry, registry

__all__ = ["CONTRACT_VERSION", "Component", "Registry", "hookimpl", "registry"]
