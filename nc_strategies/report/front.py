"""The measured Pareto front of a run: its table, and sentences on it. Its chart is `charts.measured_front`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from nc_strategies.report.run_files import RunFiles


def front_of(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """The front of a result; empty without one."""
    return result.get("front") or {}


def columns(front: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the columns of `rows`."""
    metric = str(front["metric"])
    return ("point", metric, "loss", "95 %", "latency (ms)", "speed-up", "95 %", "size (kB)", "int8/fp32 ops", "trial")


def rows(front: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The points as the cells of `columns`.

    A latency is that of fp32 at the end of the run divided by the speed-up: points of different timings, which each had
    fp32 beside them, are thus comparable.
    """
    points = front.get("points", ())
    fp32 = next((float(p["latency_ms"]) for p in points if p["role"] == "fp32"), 0.0)
    return [_row(point, fp32) for point in points]


def _row(point: Mapping[str, Any], fp32_ms: float) -> tuple[str, ...]:
    loss, (low, high) = point["loss_ci95"], point["speedup_ci95"]
    fp32 = point["role"] == "fp32"
    return (
        str(point["point"]),
        f"{point['accuracy']:.4f}",
        "-" if fp32 else f"{point['loss']:+.4f}",
        f"{loss[0]:+.4f} to {loss[1]:+.4f}" if loss and not fp32 else "-",
        f"{fp32_ms / point['speedup']:.4g}",
        f"{point['speedup']:.2f}",
        "-" if fp32 else f"{low:.2f}-{high:.2f}",
        f"{point['size_bytes'] / 1000:,.0f}",
        f"{point['int8_ops']}/{point['fp32_ops']}",
        "-" if point["trial"] is None else str(point["trial"]),
    )


def remark(point: Mapping[str, Any]) -> str:
    """What a point is, and whether it keeps the goal."""
    kept = "keeps the goal" if point["keeps_goal"] else "misses the goal"
    words = [point["role"]] if point["role"] else []
    words += [] if point["role"] == "fp32" else [kept]
    words += ["dominated"] if point["dominated"] else []
    words += ["no less loss than a faster one, within the noise"] if point["within_noise"] else []
    return ", ".join(words)


def table(front: Mapping[str, Any]) -> Table:
    """The points for a terminal, from the slowest to the fastest."""
    made = Table(show_edge=False, pad_edge=False, title="measured front", title_justify="left", title_style="bold")
    for name in columns(front):
        made.add_column(Text(name), justify="right")
    made.add_column("")
    for point, cells in zip(front["points"], rows(front), strict=True):
        made.add_row(*map(Text, cells), Text(remark(point)))
    return made


def sentences(result: Mapping[str, Any]) -> list[str]:
    """The front in words; empty without one."""
    front = front_of(result)
    points = front.get("points") or []
    if len(points) <= 1:
        return []
    metric, limit = front["metric"], front["tolerated_loss"]
    words = [
        f"The measured front has {len(points)} points, from fp32 at {metric} {points[0]['accuracy']:.4f} to "
        f"{points[-1]['speedup']:.2f} times fp32 at {metric} {points[-1]['accuracy']:.4f}; "
        "nc-strategies export RUN_DIR --point K --to PATH saves one of them."
        if points[0]["role"] == "fp32"
        else f"The measured front has {len(points)} points; nc-strategies export RUN_DIR --point K --to PATH saves one."
    ]
    faster = [p for p in points if not p["keeps_goal"]]
    chosen = next((p for p in points if p["role"] == "chosen"), None)
    if faster and chosen is not None:
        best = faster[0]
        words.append(
            f"A tolerated loss of {best['loss']:.4f} instead of {limit:.4f} would allow {best['speedup']:.2f} times "
            f"fp32 (point {best['point']}) instead of {chosen['speedup']:.2f}."
        )
    return words


def view(run: RunFiles) -> dict[str, Any]:
    """What the page's template shows of the front; empty without one."""
    front = front_of(run.result)
    if len(front.get("points") or []) <= 1:
        return {}
    lines = [
        {"cells": cells, "remark": remark(point), "trial": point["trial"], "role": point["role"]}
        for point, cells in zip(front["points"], rows(front), strict=True)
    ]
    return {"columns": columns(front), "rows": lines, "asked": front["asked"], "notes": list(front["notes"])}
