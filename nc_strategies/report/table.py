"""Tables of results, for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from nc_strategies.measuring.selection import sentences
from nc_strategies.report import front
from nc_strategies.report.engine import strategy_label
from nc_strategies.report.fallback import fallback_sentence, operator_counts
from nc_strategies.report.original import TIMES, better_words, keep_original, samples_text
from nc_strategies.report.swept import swept

WIDE_TERMINAL = 150
"""Characters of a terminal from which on the comparison has one row per run."""
STYLES = {"met": "bold green", "missed": "bold yellow", "failed": "bold red"}


def render(result: dict[str, Any], run_dir: str, width: int = WIDE_TERMINAL) -> RenderableType:
    """The result of one run: verdict, comparison, executed operators by type."""
    parts: list[RenderableType] = [verdict(result)]
    if result["tuned"]:
        parts += [comparison([result], width), operators(result)]
        if by_length(result):
            parts.append(lengths(result))
        if front.front_of(result).get("points"):
            parts.append(front.table(result["front"]))
        parts.append(Text(f"model: {run_dir}/{result['model_path']}", no_wrap=True, overflow="ignore"))
    notes = (
        *sentences(result.get("outputs") or {}),
        *(result.get("notices") or ()),
        fallback_sentence(result),
        _provider(result),
    )
    parts += [Text(f"note: {text}") for text in dict.fromkeys(notes) if text]
    if (Path(run_dir) / "report.html").is_file():
        parts.append(Text(f"report: {run_dir}/report.html", no_wrap=True, overflow="ignore"))
    return Group(*parts)


def _provider(result: Mapping[str, Any]) -> str:
    """On which part of its engine the saved model was measured; empty for the CPU."""
    provider = (result.get("tuned") or {}).get("provider")
    return f"the model was measured on {provider}: name it where the model is opened" if provider else ""


def verdict(result: dict[str, Any]) -> Text:
    """The verdict in one sentence: whether the goal was met, and how closely."""
    status = str(result["status"])
    if not result.get("tuned"):
        return Text(f"failed: {result.get('error') or 'no configuration could be measured'}", STYLES["failed"])
    goal, tuned = result["goal"], result["tuned"]
    sign = ">=" if goal["higher_is_better"] else "<="
    interval = tuned["accuracy_loss_ci95"]
    loss = f"; loss {interval[0]:+.4f} to {interval[1]:+.4f} with 95 %" if interval else ""
    further = "".join(
        f"{other['metric']} {tuned['metrics'][other['metric']]:.4f} (asked "
        f"{'>=' if other['higher_is_better'] else '<='} {other['threshold']:.4f}), "
        for other in goal.get("constraints", ())
    )
    text = (
        f"goal {status}: {goal['metric']} {tuned['accuracy']:.4f} (asked {sign} {goal['threshold']:.4f}{loss}), "
        f"{further}{result['speedup']:.2f} times as fast as fp32"
    )
    if status == "missed":
        advice = keep_original(result)
        text += f"{_slow(result)}{f'; {advice}' if advice else ''}; the closest model is saved"
    if samples_text(result):
        text += f"; {samples_text(result)}"
    if goal.get("certain") is False:
        needed = f"; about {goal['samples_to_decide']:,} samples would tell" if goal.get("samples_to_decide") else ""
        text += f"; which side of the limit the loss is on is within the noise of these samples{needed}"
    return Text(text, STYLES[status])


def _slow(result: dict[str, Any]) -> str:
    """Remark on a model that keeps the accuracy but is not certainly better than fp32; empty for any other."""
    if result["goal"].get("shortfall") != "objective":
        return ""
    if not set(result["objectives"]) <= TIMES:
        return f", not surely {better_words(result['objectives'])}"
    low, high = result["speedup_ci95"]
    return f" (95 %: {low:.2f} to {high:.2f}), which is not surely faster"


def comparison(results: list[dict[str, Any]], width: int = WIDE_TERMINAL) -> Table:
    """One row per run with `columns`, which include those of the published comparison; one column per run if narrow."""
    table = Table(show_edge=False, pad_edge=False)
    names, rows = columns(results), cells(results)
    if width < WIDE_TERMINAL:
        table.add_column("")
        for position in range(len(rows)):
            table.add_column(f"run {position}" if len(rows) > 1 else "", justify="right")
        for name, line in zip(names, zip(*rows, strict=True), strict=True):
            table.add_row(Text(name), *map(Text, line))
        return table
    for name in names:
        numbers = name in COLUMNS and name not in ("strategy", "backend", "status")
        table.add_column(Text(name), justify="right" if numbers else "left")
    for line in rows:
        table.add_row(*map(Text, line))
    return table


def columns(results: list[dict[str, Any]]) -> tuple[str, ...]:
    """Names of the columns: `COLUMNS`, and behind the backend the keys in which the runs of a sweep differ."""
    keys = tuple(next(iter(swept(results)), {}))
    return (*COLUMNS[:NAMED], *keys, *COLUMNS[NAMED:])


def cells(results: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The runs as the cells of `columns`."""
    apart = swept(results)
    rows = [row(result) for result in results]
    return [(*line[:NAMED], *own.values(), *line[NAMED:]) for line, own in zip(rows, apart, strict=True)]


COLUMNS = (
    "strategy",
    "backend",
    "FP32 baseline",
    "int8 accuracy",
    "int8 duration (s)",
    "fp32 duration (s)",
    "speed-up",
    "95 %",
    "int8/fp32 ops",
    "trials",
    "seconds",
    "status",
)

NAMED = 2
"""Number of `COLUMNS` that name a run, in front of its figures."""


def row(result: dict[str, Any]) -> tuple[str, ...]:
    """A run as the cells of `COLUMNS`."""
    strategy = strategy_label(result)
    if not result.get("tuned"):
        return (strategy, result["backend"], *["-"] * 9, f"failed: {result.get('error', '')}".strip(": "))
    base, tuned, trials = result["baseline"], result["tuned"], result["trials"]
    low, high = result["speedup_ci95"]
    return (
        strategy,
        result["backend"],
        f"{base['accuracy']:.4f}",
        f"{tuned['accuracy']:.4f}",
        f"{tuned['duration_s']:.2f}",
        f"{base['duration_s']:.2f}",
        f"{result['speedup']:.2f}",
        f"{low:.2f}-{high:.2f}",
        operator_counts(tuned),
        str(trials["total"]),
        f"{result['seconds']['total']:.0f}",
        str(result["status"]),
    )


def operators(result: dict[str, Any]) -> Table:
    """Executed operators by type."""
    table = Table(show_edge=False, pad_edge=False)
    for name in ("operator type", "int8", "fp32"):
        table.add_column(name, justify="left" if name == "operator type" else "right")
    for kind, count in result["tuned"]["ops"].items():
        table.add_row(kind, str(count["int8"]), str(count["fp32"]))
    return table


def lengths(result: dict[str, Any]) -> Table:
    """Latency at each length of the samples."""
    table = Table(show_edge=False, pad_edge=False)
    for name in length_columns(result):
        table.add_column(name, justify="right")
    for cells in length_rows(result):
        table.add_row(*cells)
    return table


LENGTH_COLUMNS = ("length", "weight", "fp32 (ms)", "tuned (ms)", "of fp32")
PHASE_COLUMNS = ("phase", "context", "weight", "fp32 (ms/token)", "tuned (ms/token)", "of fp32")


def by_length(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Latency at each length, or of each phase of a decoder; empty where all samples have one shape."""
    tuned = result["tuned"]
    return list(tuned.get("latency_by_length") or tuned.get("latency_by_phase") or ())


def length_columns(result: dict[str, Any]) -> tuple[str, ...]:
    """Names of the columns of `length_rows`."""
    return PHASE_COLUMNS if result["tuned"].get("latency_by_phase") else LENGTH_COLUMNS


def length_rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Latency at each length as the cells of `length_columns`; empty where all samples have one shape."""
    return [
        (
            *([one["phase"]] if "phase" in one else []),
            f"{one['length']:,}",
            f"{one['weight']:.2f}",
            f"{one['fp32_ms']:.3g}",
            f"{one['ms']:.3g}",
            f"{one['ratio']:.2f}",
        )
        for one in by_length(result)
    ]


def show(make: Callable[[int], RenderableType]) -> None:
    """Print what `make` returns for the width of standard output; a file or pipe counts as 200 characters wide."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(make(console.width))
