"""Exit statuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MET, INTERNAL, INPUT, MISSED, INTERRUPTED = 0, 1, 2, 3, 130


def of_result(result: Mapping[str, Any]) -> int:
    """The exit status of a result."""
    if "exit_status" in result:
        return int(result["exit_status"])
    if result["stop_reason"] == "interrupted":
        return INTERRUPTED
    if result["status"] == "failed" and result["stop_reason"] == "timeout" and not result["trials"]["total"]:
        return INPUT  # the time limit was too small; the engine has not failed
    return {"met": MET, "missed": MISSED}.get(result["status"], INTERNAL)


def worst(statuses: list[int]) -> int:
    """The exit status of a sweep: that of its worst job."""
    order = (MET, MISSED, INPUT, INTERNAL, INTERRUPTED)
    return max(statuses, key=lambda s: order.index(s) if s in order else order.index(INTERNAL), default=MET)
