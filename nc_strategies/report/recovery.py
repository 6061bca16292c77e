"""What each recovery method brought: sentences for ``explain``, and the rows of a table on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nc_strategies.report.run_files import RunFiles


def records(run: RunFiles) -> Sequence[Mapping[str, Any]]:
    """The records of a run, see `nc_strategies.calibration.recovery.RecoveryRecord`; none of an older run."""
    return run.result.get("recovery") or run.analysis.get("recovery") or []


def sentences(run: RunFiles) -> list[str]:
    """One sentence per method that was tried, and one per reason why others were not."""
    found = [_sentence(record) for record in records(run) if record["noise_after"] is not None]
    reasons: dict[str, list[str]] = {}
    for record in records(run):
        if record["noise_after"] is None:
            reasons.setdefault(str(record["note"]) or "the output was not finite", []).append(str(record["method"]))
    return found + [f"Recovery by {', '.join(names)} is not in use: {note}." for note, names in reasons.items()]


def _sentence(record: Mapping[str, Any]) -> str:
    count, before, after = int(record["operators"]), float(record["noise_before"]), float(record["noise_after"])
    use = "is in use" if record["adopted"] else "is not in use"
    return (
        f"Recovery by {record['method']} on {count} operator{'' if count == 1 else 's'} {use}: the output's noise by "
        f"{record['noise_of']} goes from {before:.2g} to {after:.2g} on samples that it was not fitted on "
        f"({record['seconds']:.1f} s)."
    )


def table(run: RunFiles) -> list[dict[str, str]]:
    """The rows of the page's table, with text in each cell."""

    def number(value: Any) -> str:
        return "" if value is None else f"{float(value):.2g}"

    return [
        {
            "method": str(record["method"]),
            "operators": str(record["operators"]),
            "noise_of": str(record["noise_of"]),
            "before": number(record["noise_before"]),
            "after": number(record["noise_after"]),
            "seconds": f"{float(record['seconds']):.1f}",
            "use": "in use" if record["adopted"] else "not in use",
            "note": str(record["note"]),
        }
        for record in records(run)
    ]
