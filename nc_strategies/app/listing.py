"""``nc-strategies list``: the components that can be chosen by name, without importing them."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution, requires

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nc_strategies.errors import InputError
from nc_strategies.registry import Component, Registry, registry
from nc_strategies.registry.component import KINDS

EXTRA = re.compile(r"^(?P<package>[\w.-]+)\[(?P<extra>[\w.-]+)\]$")
REQUIREMENT = re.compile(r"^(?P<name>[\w.-]+)[^;]*;.*extra == ['\"](?P<extra>[\w.-]+)['\"]")


def show(kind: str | None = None) -> None:
    """Print one line per component.

    Args:
        kind: Kind of the components; all kinds when None.

    Raises:
        InputError: there is no such kind.
    """
    if kind is not None and kind not in KINDS:
        raise InputError("list", f"there is no kind {kind!r}", f"one of {', '.join(KINDS)}")
    found = registry()
    console = Console()
    table = Table(show_edge=False, pad_edge=False, box=None, show_header=False)
    for _ in range(4):
        table.add_column(overflow="fold")
    for each in KINDS if kind is None else (kind,):
        for name in found.names(each):
            component = found.components[each, name]
            owner = found.owners[each, name]
            text = component.summary + (f" [{owner}]" if owner != "nc_strategies" else "")
            missing_packages = missing(component)
            note = f"needs {', '.join(missing_packages)}: pip install '{component.extra}'" if missing_packages else ""
            table.add_row(Text(each, "dim"), Text(name, "bold"), Text(text), Text(note, "yellow"))
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
    for plugin, why in found.broken.items():
        console.print(Text(f"plugin {plugin} is left out ({why})", "yellow"))


def available(found: Registry | None = None) -> dict[tuple[str, str], str]:
    """The strategies and backends that can be chosen.

    Args:
        found: The registry; this process's registry when left out.

    Returns:
        Kind and name of each component to the command that installs its missing packages; empty where none is missing.
    """
    components = (registry() if found is None else found).components
    return {
        key: f"pip install '{component.extra}'" if missing(component) else ""
        for key, component in components.items()
        if component.kind in ("strategy", "backend")
    }


def missing(component: Component) -> list[str]:
    """Packages of a component's extra that are not installed."""
    named = EXTRA.match(component.extra)
    packages = [component.extra] if component.extra and not named else []
    if named:
        try:
            lines = requires(named["package"]) or []
        except PackageNotFoundError:
            lines = []
        wanted = (REQUIREMENT.match(line) for line in lines)
        packages = [w["name"] for w in wanted if w and w["extra"] == named["extra"]]
    return [package for package in packages if not _installed(package)]


def _installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True
