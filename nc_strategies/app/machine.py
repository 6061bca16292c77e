"""``nc-strategies machine``: the processor, and the speed-up of int8 on it with each installed backend.

Run as a module, it measures one backend: an engine that aborts ends that process, not the command.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nc_strategies.app.listing import missing
from nc_strategies.app.logs import redact
from nc_strategies.backends.base import Backend
from nc_strategies.backends.ceiling import Ceiling
from nc_strategies.errors import InputError
from nc_strategies.registry import registry
from nc_strategies.report.machine import facts, ratios
from nc_strategies.runtime.child import run_child, serve
from nc_strategies.runtime.process import be_expendable
from nc_strategies.study.machine import HELPS, Machine

UNMEASURED = "unknown: it does not measure it, or died when it last tried (--again tries once more)"
NOTHING = "unknown: nothing could be measured"


@dataclass(frozen=True)
class Survey:
    """A machine, and the backends installed on it.

    Args:
        machine: The machine, without a ceiling.
        ceilings: Backend to its ceiling.
        unknown: Backend to why its ceiling is unknown.
    """

    machine: Machine
    ceilings: dict[str, Ceiling] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)


def survey(threads: int, again: bool = False) -> Survey:
    """Measure each installed backend in a separate process, or read its earlier measurement.

    Args:
        threads: Threads that a model runs with.
        again: Measure again even if the cache holds a measurement.

    Raises:
        InputError: the number of threads is not positive.
    """
    if threads < 1:
        raise InputError("--threads", f"is {threads}", "1 or more")
    found, known = Survey(Machine.here(threads)), registry()
    for name in known.names("backend"):
        component = known.components["backend", name]
        missing_packages = missing(component)
        if missing_packages:
            found.unknown[name] = f"needs {', '.join(missing_packages)}: pip install '{component.extra}'"
            continue
        try:
            answer = run_child(
                __name__, {"backend": name, "threads": threads, "again": again}, "backend", "measuring int8"
            )["ceiling"]
        except InputError as error:
            found.unknown[name] = redact(f"unknown: {error}")
            continue
        ceiling = Ceiling.from_dict(answer) if answer is not None else None
        if ceiling is None or ceiling.best is None:
            found.unknown[name] = UNMEASURED if ceiling is None else NOTHING
        if ceiling is not None:
            found.ceilings[name] = ceiling
    return found


def _on(found: Survey, name: str) -> Machine:
    here = found.machine
    return Machine(here.processor, here.instruction_sets, here.cores, here.threads, found.ceilings.get(name))


def as_dict(found: Survey) -> dict[str, Any]:
    """The survey as plain data: per backend the fields of its runs' ``result.json``, or why they are unknown."""
    names = sorted({*found.ceilings, *found.unknown})
    shared = ("processor", "instruction_sets", "cores", "threads")
    backends = {
        name: {
            **{key: value for key, value in _on(found, name).to_dict().items() if key not in shared},
            "unknown": found.unknown.get(name),
        }
        for name in names
    }
    return {**{key: found.machine.to_dict()[key] for key in shared}, "backends": backends}


def render(found: Survey) -> RenderableType:
    """The survey for a terminal."""
    parts: list[RenderableType] = [Text(f"{name}: {value}") for name, value in facts(found.machine)[:4]]
    table = Table(show_edge=False, pad_edge=False)
    for title in ("backend", "operator", "activation, weight", "times fp32"):
        table.add_column(title, justify="right" if title == "times fp32" else "left")
    for name in sorted(found.ceilings):
        for kind, scheme, ratio in ratios(_on(found, name)):
            table.add_row(name, kind, scheme, f"{ratio:.2f}")
    if table.row_count:
        parts += [Text(), table]
    parts.append(Text())
    for name in sorted({*found.ceilings, *found.unknown}):
        machine = _on(found, name)
        if name in found.unknown:
            parts.append(Text(f"{name}: {found.unknown[name]}", "yellow"))
        else:
            saturation = dict(facts(machine))["8-bit products"]
            parts.append(Text(f"{name}: 8-bit products {saturation}. {machine.sentences(name)[0]}"))
    if any(_on(found, name).low for name in found.ceilings):
        parts.append(Text(HELPS, "yellow"))
    return Group(*parts)


def _measure(request: dict[str, Any]) -> dict[str, Any]:
    be_expendable()
    backend = cast(Backend, registry().create("backend", {"name": request["backend"]}, request["threads"]))
    found = backend.ceiling(request["again"])
    return {"ceiling": found.to_dict() if found is not None else None}


if __name__ == "__main__":
    serve(_measure)
