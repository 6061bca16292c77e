"""The processes that share evaluations, as the progress line and the page show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from nc_strategies.measuring.shares import HERE
from nc_strategies.report.run_files import RunFiles

NOT_YET = "No evaluation has been shared: one is if fp32 takes at least a second for all samples."


def short(workers: Mapping[str, Any]) -> str:
    """A few words for the progress line; empty for one process.

    Args:
        workers: See `nc_strategies.measuring.shares.Sharing.to_dict`.
    """
    if not workers:
        return ""
    if workers.get("alone"):
        return f"1 of {workers['workers']} processes evaluates"
    parts = [f"{workers['workers']} processes"]
    if workers["idle_share"] is not None:
        parts.append(f"{workers['idle_share']:.0%} idle")
    if state := workers.get("evaluation"):
        parts.append(f"batch {state['done']} of {state['batches']}")
    return ", ".join(parts)


def view(run: RunFiles) -> dict[str, Any]:
    """What the page shows: ``rows``, ``notes`` and ``dashboard``; empty for one process."""
    found = run.result.get("executor") if run.result and not run.running else run.analysis.get("workers")
    if not found or "workers" not in found:
        return {}
    state = found.get("evaluation") if run.running else None
    rows = [
        {
            "name": name,
            "doing": _doing(name, found, state) if run.running else "",
            "batches": count,
            "seconds": found["busy_seconds"].get(name, 0.0),
            "idle": found.get("idle_shares", {}).get(name),
        }
        for name, count in found["batches"].items()
    ]
    return {"count": found["workers"], "rows": rows, "notes": _notes(found, state), "dashboard": _link(found)}


def _doing(name: str, found: Mapping[str, Any], state: Mapping[str, Any] | None) -> str:
    """What a process does now."""
    if state is not None:
        last = state["latest"].get(name)
        return "no batch of this evaluation yet" if last is None else f"has returned batch {last} of {state['batches']}"
    if name == HERE:
        return "builds and times, or evaluates alone"
    return "takes part no more" if found.get("alone") else "waits while a model is built and timed"


def _notes(found: Mapping[str, Any], state: Mapping[str, Any] | None) -> list[str]:
    notes = []
    if state is not None:
        notes.append(f"An evaluation is under way: {state['done']} of {state['batches']} batches.")
    if found["idle_share"] is not None:
        notes.append(
            f"Evaluations were shared for {found['shared_seconds']:.1f} s, and all processes together were idle in "
            f"{found['idle_share']:.0%} of that time. Nothing is timed in it."
        )
    elif not found.get("alone"):
        notes.append(NOT_YET)
    silent = found["workers"] - len(found["batches"])
    if found["batches"] and silent > 0:
        notes.append(f"{silent} of {found['workers']} processes returned no batch.")
    if found["lost"]:
        times = "once" if found["lost"] == 1 else f"{found['lost']} times"
        notes.append(f"Processes were lost {times}; this process evaluated what they had.")
    if found.get("alone"):
        notes.append(f"This process evaluates alone: {found['alone']}.")
    return notes


def _link(found: Mapping[str, Any]) -> str:
    """Address of the executor's own page; empty where there is none that a browser should open."""
    address = str(found.get("dashboard", ""))
    return address if urlsplit(address).scheme in ("http", "https") else ""
