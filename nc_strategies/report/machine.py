"""The machine of a run, for the page and the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nc_strategies.report.run_files import RunFiles
from nc_strategies.study.machine import Machine

UNKNOWN = "unknown"


def machine_of(run: RunFiles) -> Machine | None:
    """The machine of a run; None for a run of a version that did not record it."""
    data: Any = run.result.get("machine") or run.analysis.get("machine")
    try:
        return Machine.from_dict(data) if data else None
    except (ValueError, KeyError, TypeError):
        return None


def ceiling_sentences(run: RunFiles) -> list[str]:
    """Sentences on the largest speed-up of int8 on the machine; empty where the run did not record it."""
    found = machine_of(run)
    return found.sentences(run.name("backend")) if found is not None else []


def facts(machine: Machine) -> list[tuple[str, str]]:
    """Properties of a machine as pairs (name, value)."""
    saturates = machine.ceiling.saturates if machine.ceiling is not None else None
    return [
        ("processor", machine.processor),
        ("instruction sets", ", ".join(machine.instruction_sets) or UNKNOWN),
        ("cores", str(machine.cores)),
        ("threads", str(machine.threads)),
        (
            "8-bit products",
            {True: "saturate, weights get 7 bits", False: "do not saturate, weights get 8 bits", None: UNKNOWN}[
                saturates
            ],
        ),
        ("int8 ceiling", f"{machine.best:.2f} times fp32" if machine.best is not None else UNKNOWN),
        *([("measured on", machine.target)] if machine.target else []),
    ]


def ratios(machine: Machine) -> Sequence[tuple[str, str, float]]:
    """Operator type, int8 scheme, and its speed-up over fp32."""
    if machine.ceiling is None:
        return []
    return [(kind, name, ratio) for kind, schemes in machine.ceiling.ratios.items() for name, ratio in schemes.items()]
