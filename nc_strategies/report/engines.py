"""A comparison across engines: the saved models of several runs, timed side by side on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nc_strategies.errors import InputError
from nc_strategies.measuring.latency import Timing
from nc_strategies.report.fallback import operator_counts
from nc_strategies.report.result import write_json
from nc_strategies.runtime.files import write_atomically

FILE, TEXT = "engines.json", "engines.md"
NOTHING: dict[str, Any] = {"groups": []}
"""What a sweep on one engine leaves."""
SCHEMA_VERSION = 1
COLUMNS = (
    "run",
    "engine",
    "strategy",
    "accuracy",
    "latency here (ms)",
    "ratio",
    "fp32 here (ms)",
    "int8/fp32 ops",
    "size (kB)",
    "status",
)
NUMBERS = slice(3, 9)
"""Columns with figures."""
TIMED_KEYS = ("latency_ms", "latency_ms_ci95", "ratio", "ratio_ci95", "fp32_latency_ms", "fp32_latency_ms_ci95")
"""Keys of a row that hold what was measured here."""


def engine_label(backend: Mapping[str, Any]) -> str:
    """Name of an engine: its backend, with the execution provider where that is not the CPU."""
    provider = str(backend.get("provider") or "cpu")
    return str(backend.get("name", "")) + ("" if provider == "cpu" else f" ({provider})")


def row(run: str, result: Mapping[str, Any], engine: str) -> dict[str, Any]:
    """What a run's result says, in front of what is measured now.

    Args:
        run: Name of the run.
        result: Content of its ``result.json``.
        engine: See `engine_label`.
    """
    tuned, goal = result.get("tuned") or {}, result.get("goal") or {}
    return {
        "run": run,
        "engine": engine or str(result.get("backend", "")),
        "backend": str(result.get("backend", "")),
        "strategy": str(result.get("strategy", "")),
        "status": str(result.get("status", "")),
        "error": str(result.get("error") or ""),
        "metric": goal.get("metric"),
        "higher_is_better": goal.get("higher_is_better"),
        "accuracy": tuned.get("accuracy"),
        "int8_ops": tuned.get("int8_ops"),
        "fp32_ops": tuned.get("fp32_ops"),
        "fallback_ops": tuned.get("fallback_ops", 0),
        "size_bytes": tuned.get("size_bytes"),
        **dict.fromkeys(TIMED_KEYS),
        "untimed": "",
    }


def add_timing(
    rows: Sequence[dict[str, Any]], timing: Timing, columns: Sequence[int | None], fp32: Sequence[int | None]
) -> dict[str, Any]:
    """Add what was measured to rows, and choose among them.

    Args:
        rows: Rows of `row`.
        timing: Latencies of saved models and of fp32, side by side.
        columns: Column of each row's saved model; None if it was not timed.
        fp32: Column of fp32 on each row's engine; None if it was not timed.

    Returns:
        ``choice`` (the run to choose; None where no run meets its goal), ``equal`` (other runs as fast as it within
        the noise) and ``note`` (the same in words).
    """
    timed = [(line, column) for line, column in zip(rows, columns, strict=True) if column is not None]
    fastest = min((column for _, column in timed), key=timing.median_ms, default=None)
    for line, column, plain in zip(rows, columns, fp32, strict=True):
        if column is not None and fastest is not None:
            line["latency_ms"], line["latency_ms_ci95"] = timing.median_ms(column), list(timing.interval_ms(column))
            line["ratio"] = timing.ratio(column, fastest)
            line["ratio_ci95"] = list(timing.ratio_interval(column, fastest))
        if plain is not None:
            line["fp32_latency_ms"] = timing.median_ms(plain)
            line["fp32_latency_ms_ci95"] = list(timing.interval_ms(plain))
    return choose(timed, timing, [column for column in fp32 if column is not None])


def choose(timed: Sequence[tuple[Mapping[str, Any], int]], timing: Timing, fp32: Sequence[int]) -> dict[str, Any]:
    """The fastest run that meets its goal; of runs that are equally fast within the noise, the most accurate.

    Args:
        timed: Rows and their columns.
        timing: See `add_timing`.
        fp32: Columns of fp32, of all engines.

    Returns:
        See `add_timing`.
    """
    met = [(line, column) for line, column in timed if line["status"] == "met"]
    if not met:
        return {"choice": None, "equal": [], "note": _nothing_met(timed)}
    base = min((place for _, place in met), key=timing.median_ms)
    equal = [(line, column) for line, column in met if column == base or timing.ratio_interval(column, base)[0] <= 1]
    line, column = max(equal, key=lambda each: _goodness(each[0]))
    others = [other for other, place in equal if place != column]
    words = [f"choose {_name(line)}"]
    if others:
        names = " and ".join(_name(other) for other in others)
        words[0] += f": {names} {'is' if len(others) == 1 else 'are'} as fast within the noise, and not more accurate"
        if _goodness(line) == max(_goodness(other) for other in others):
            words[0] = f"choose {_name(line)} or {names}: they are equally fast within the noise"
    elif len(met) > 1:
        after, place = min((each for each in met if each[1] != base), key=lambda each: timing.median_ms(each[1]))
        low, high = timing.ratio_interval(place, base)
        ratio = timing.ratio(place, base)
        words[0] += f": the fastest that meets its goal; {_name(after)} takes {ratio:.2f} times as long"
        words[0] += f" (95 %: {low:.2f} to {high:.2f})"
    else:
        words[0] += ": the only one that was timed and meets its goal"
    if fp32 and timing.ratio_interval(min(fp32, key=timing.median_ms), column)[1] < 1:
        words.append("fp32 of one of these engines is faster than it")
    return {"choice": line["run"], "equal": [other["run"] for other in others], "note": "; ".join(words)}


def _nothing_met(timed: Sequence[tuple[Mapping[str, Any], int]]) -> str:
    if not timed:
        return "no saved model could be timed"
    return "no run that was timed meets its goal: keep fp32, on the engine where it is fastest"


def _goodness(line: Mapping[str, Any]) -> float:
    accuracy = float(line["accuracy"])
    return accuracy if line["higher_is_better"] in (True, None) else -accuracy


def _name(line: Mapping[str, Any]) -> str:
    return f"{line['engine']} (run {line['run']})"


def cells(line: Mapping[str, Any]) -> tuple[str, ...]:
    """A row as the cells of `COLUMNS`."""
    why = line["error"] if line["status"] == "failed" else line["untimed"]
    status = f"{line['status']}: {why}" if why else str(line["status"])
    ratio, reach = line["ratio"], line["ratio_ci95"]
    return (
        str(line["run"]),
        str(line["engine"]),
        str(line["strategy"]),
        "-" if line["accuracy"] is None else f"{line['accuracy']:.4f}",
        _milliseconds(line, "latency_ms"),
        "-" if ratio is None else "1.00" if ratio == 1 else f"{ratio:.2f} ({reach[0]:.2f}-{reach[1]:.2f})",
        _milliseconds(line, "fp32_latency_ms"),
        "-" if line["int8_ops"] is None else operator_counts(line),
        "-" if line["size_bytes"] is None else f"{line['size_bytes'] / 1000:,.0f}",
        status,
    )


def _milliseconds(line: Mapping[str, Any], key: str) -> str:
    if line[key] is None:
        return "-"
    low, high = line[f"{key}_ci95"]
    return f"{line[key]:.3g} ({low:.3g}-{high:.3g})"


def title(group: Mapping[str, Any]) -> str:
    """What the models of a group have in common, and how they were timed."""
    return (
        f"Engines: {group['model']}, batches of {group['batch_size']}, {group['threads']} thread"
        f"{'' if group['threads'] == 1 else 's'}; timed in turns, each engine in its own process"
    )


def render(found: Mapping[str, Any]) -> RenderableType:
    """The comparison for a terminal."""
    parts: list[RenderableType] = []
    for group in found["groups"]:
        table = Table(show_edge=False, pad_edge=False)
        for place, name in enumerate(COLUMNS):
            table.add_column(Text(name), justify="right" if place in range(*NUMBERS.indices(99)) else "left")
        for line in group["rows"]:
            table.add_row(*map(Text, cells(line)))
        parts += [Text(title(group), "bold"), table, *(Text(f"note: {text}") for text in notes(group))]
    return Group(*parts)


def notes(group: Mapping[str, Any]) -> list[str]:
    """What to choose, and what limits the comparison."""
    return [text for text in (group["note"], *group.get("remarks", ())) if text]


def markdown(found: Mapping[str, Any]) -> str:
    """The comparison as text."""
    lines: list[str] = []
    for group in found["groups"]:
        lines += ["", title(group), "", "| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
        lines += ["| " + " | ".join(c.replace("|", "\\|") for c in cells(line)) + " |" for line in group["rows"]]
        lines += [line for text in notes(group) for line in ("", f"note: {text}")]
    return "".join(f"{line}\n" for line in lines)


def by_run(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """For each run, what was measured of it, and what to choose in its group."""
    return {
        line["run"]: {
            **{key: line[key] for key in ("engine", *TIMED_KEYS)},
            "group": number,
            "chosen": line["run"] == group["choice"],
            "note": group["note"],
        }
        for number, group in enumerate(found["groups"])
        for line in group["rows"]
    }


def write(folder: Path, found: Mapping[str, Any]) -> None:
    """Write ``engines.json``."""
    write_json(folder / FILE, found)


def write_files(folder: Path, found: Mapping[str, Any]) -> None:
    """Write ``engines.json`` and ``engines.md``.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder, found)
        write_atomically(folder / TEXT, markdown(found).lstrip())
    except OSError as error:
        raise InputError("--to", f"{folder} cannot be written ({error.strerror})") from None


def read(folder: Path) -> dict[str, Any]:
    """Content of ``engines.json``; no groups where the file is missing or cannot be read."""
    try:
        found = json.loads((folder / FILE).read_text())
    except (OSError, ValueError):
        return NOTHING
    return found if isinstance(found, dict) and "groups" in found else NOTHING
