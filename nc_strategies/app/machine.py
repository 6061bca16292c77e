"""``nc-strategies machine``: the processor, and the speed-up of int8 on it with each installed backend.

Run as a module, it measures one backend: an engine that aborts ends that process, not the command.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, cast

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nc_strategies.app.listing import missing
from nc_strategies.app.logs import redact
from nc_strategies.app.target import requirements
from nc_strategies.backends.base import Backend
from nc_strategies.backends.ceiling import Ceiling
from nc_strategies.errors import EngineError, InputError, MissingEngineError
from nc_strategies.measuring.remote.connection import Target
from nc_strategies.measuring.remote.session import Engine, RemoteSession
from nc_strategies.registry import registry
from nc_strategies.report.machine import facts, ratios
from nc_strategies.runtime.child import run_child, serve
from nc_strategies.runtime.process import be_expendable
from nc_strategies.runtime.ssh import Address
from nc_strategies.study.machine import HELPS, Machine

UNMEASURED = "unknown: it does not measure it, or died when it last tried (--again tries once more)"
NOTHING = "unknown: nothing could be measured"
TARGET_OPTION = "--target"
OF_RUNS = ("engine", "agreement")
"""Fields of a machine in ``result.json`` that say nothing without a run."""


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
        _note(found, name, Ceiling.from_dict(answer) if answer is not None else None)
    return found


def survey_target(target: str, ssh_config: str | None, threads: int, again: bool = False) -> Survey:
    """Measure each backend that is installed on another machine; see `survey`.

    Args:
        target: The machine, as in ``measure.target``.
        ssh_config: See ``measure.ssh_config``.
        threads: Threads that a model runs with.
        again: Measure again even if the cache there holds a measurement.

    Raises:
        InputError: the number of threads is not positive; the machine cannot be reached or has no nc-strategies.
    """
    if threads < 1:
        raise InputError("--threads", f"is {threads}", "1 or more")
    address, known = Address.parse(target, TARGET_OPTION), registry()
    with closing(RemoteSession(Target(address, ssh_config, key=TARGET_OPTION), None)) as session:
        found = Survey(Machine.there({**session.machine(), "target": target}, threads))
    for name in known.names("backend"):
        component = known.components["backend", name]
        place = Target(address, ssh_config, requirements(component), TARGET_OPTION)
        engine = Engine.named(component.target, component.schema, threads)
        with closing(RemoteSession(place, engine)) as session:
            try:
                ceiling = session.ceiling(again)
            except (MissingEngineError, EngineError) as error:
                found.unknown[name] = redact(f"unknown: {error}")
                continue
        _note(found, name, ceiling)
    return found


def _note(found: Survey, name: str, ceiling: Ceiling | None) -> None:
    """Enter a backend's ceiling, or that it is unknown."""
    if ceiling is None or ceiling.best is None:
        found.unknown[name] = UNMEASURED if ceiling is None else NOTHING
    if ceiling is not None:
        found.ceilings[name] = ceiling


def _on(found: Survey, name: str) -> Machine:
    return replace(found.machine, ceiling=found.ceilings.get(name))


def as_dict(found: Survey) -> dict[str, Any]:
    """The survey as plain data: per backend the fields of its runs' ``result.json``, or why they are unknown."""
    names = sorted({*found.ceilings, *found.unknown})
    shared = ("processor", "instruction_sets", "cores", "threads", "target")
    backends = {
        name: {
            **{key: value for key, value in _on(found, name).to_dict().items() if key not in (*shared, *OF_RUNS)},
            "unknown": found.unknown.get(name),
        }
        for name in names
    }
    described = found.machine.to_dict()
    return {**{key: described[key] for key in shared}, "versions": described["engine"], "backends": backends}


def render(found: Survey) -> RenderableType:
    """The survey for a terminal."""
    machine = found.machine
    parts: list[RenderableType] = [Text(f"target: {machine.target}")] if machine.target else []
    parts += [Text(f"{name}: {value}") for name, value in facts(machine)[:4]]
    if machine.engine:
        parts.append(Text(f"versions: {', '.join(f'{name} {version}' for name, version in machine.engine.items())}"))
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
        own = _on(found, name)
        if name in found.unknown:
            parts.append(Text(f"{name}: {found.unknown[name]}", "yellow"))
        else:
            saturation = dict(facts(own))["8-bit products"]
            parts.append(Text(f"{name}: 8-bit products {saturation}. {own.sentences(name)[0]}"))
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
