"""Tables and conclusions, from what was measured; pure functions of the contents of the results files."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

Results = dict[str, Any]
"""``processor``, and ``cases``: by name ``kind``, ``metric``, ``tolerable_loss``, ``judged``, and ``cells`` by tool."""
OURS, FP32 = "ours", "fp32"
SLOWER = 1.02
"""A peer counts as faster if the whole interval of our latency over its own is above this."""
ROUNDING = 1e-6
"""Of sums of equal scores in another order."""


def geometric_mean(values: Iterable[float]) -> float | None:
    """Geometric mean of positive numbers; None of none.

    Raises:
        ValueError: a number is not positive.
    """
    found = list(values)
    if any(value <= 0 for value in found):
        raise ValueError("a geometric mean needs positive numbers")
    return math.exp(sum(map(math.log, found)) / len(found)) if found else None


def met(case: Results, model: str) -> bool:
    """Whether the judge finds that a model keeps the goal. fp32 does."""
    value = case["judged"]["accuracy"].get(model)
    fp32 = case["judged"]["accuracy"][FP32]
    return value is not None and bool(value >= fp32 - case["tolerable_loss"] - ROUNDING)


def ratio(case: Results, model: str, other: str = FP32) -> tuple[float, float, float]:
    """Latency of a model relative to another, with its interval: the geometric mean over the case's lengths."""
    if model == other:
        return 1.0, 1.0, 1.0
    parts = [by[model][other] for by in case["judged"]["ratio"].values()]
    mean = [geometric_mean(part[i] for part in parts) or 1.0 for i in range(3)]
    return mean[0], mean[1], mean[2]


def gains(case: Results, model: str) -> bool:
    """Whether a model keeps the goal and beats fp32 with its whole interval."""
    return met(case, model) and ratio(case, model)[2] < 1


def shipped(case: Results) -> str:
    """What our user ships: our model if it gains, else fp32."""
    return OURS if gains(case, OURS) else FP32


def quantized(case: Results, model: str) -> bool:
    """Whether anything in a model is quantized: a tool may hand over fp32, prepared or as it was."""
    return model != FP32 and case["cells"].get(model, {}).get("quantized") is not False


def _peers(case: Results) -> list[str]:
    return [m for m in case["judged"]["accuracy"] if m not in (OURS, FP32) and quantized(case, m)]


def best_peer(case: Results) -> str:
    """What somebody ships without us: the fastest model of a peer that gains, or fp32 if none does."""
    return min([FP32, *(m for m in _peers(case) if gains(case, m))], key=lambda m: ratio(case, m)[0])


def score(case: Results) -> float:
    """Latency of what our user ships over that of what somebody ships without us; 1 where both ship fp32: a tie."""
    return ratio(case, shipped(case), best_peer(case))[0]


def faster_peers(case: Results) -> list[str]:
    """Accurate peers that are faster than what our user ships by more than 2 %, by the lower end of the interval."""
    return [m for m in _peers(case) if met(case, m) and ratio(case, shipped(case), m)[1] > SLOWER]


def only_by_peers(case: Results) -> list[str]:
    """Peers that keep the goal and beat fp32 in a case where ours does not."""
    if shipped(case) == OURS:
        return []
    return [m for m in _peers(case) if gains(case, m)]


def judged(results: Results) -> dict[str, Results]:
    """The cases that were judged."""
    return {n: c for n, c in results["cases"].items() if c.get("judged") and "accuracy" in c["judged"]}


def summary(results: Results) -> list[str]:
    """The conclusions, one line each."""
    cases = judged(results)
    if not cases:
        return ["No case has been judged."]
    mean = geometric_mean(score(c) for c in cases.values())
    challenged = [c for c in cases.values() if best_peer(c) != FP32]
    among = geometric_mean(score(c) for c in challenged)
    lost = {n: faster_peers(c) for n, c in cases.items() if faster_peers(c)}
    missed = {n: only_by_peers(c) for n, c in cases.items() if only_by_peers(c)}
    lines = [
        f"- {len(cases)} cases, {len({c['kind'] for c in cases.values()})} kinds, {results['processor']}.",
        f"- Ours over the best accurate peer (fp32 where no peer gains), geometric mean of latency: {mean:.3f}.",
        f"- Among the {len(challenged)} cases where a peer keeps the goal and beats fp32: "
        + ("-" if among is None else f"{among:.3f}")
        + ".",
        f"- Ours keeps the goal and beats fp32 in {sum(shipped(c) == OURS for c in cases.values())} cases.",
        "- Accurate peers that are faster by more than 2 %: " + (_listed(lost) or "none") + ".",
        "- Cases where only a peer keeps the goal and beats fp32: " + (_listed(missed) or "none") + ".",
    ]
    seconds = sum(cell["seconds"] for c in results["cases"].values() for cell in c["cells"].values())
    seconds += sum(c["judged"].get("seconds", 0.0) for c in cases.values())
    return [*lines, f"- Total time of all tools and the judge: {seconds / 60:.0f} minutes."]


CELL = ("ended", "seconds", "goal_seconds", "quantized")
"""Of a tool's result, what the table and the conclusions need."""
JUDGED = ("accuracy", "sizes", "latency_ms", "ratio", "refused", "seconds", "onnxruntime")
"""The same of the judge's."""


def kept(results: Results) -> Results:
    """What the table and the conclusions need, numbers rounded, for a file that is kept with the project."""
    cases = {}
    for name, case in results["cases"].items():
        cells = {}
        for tool, cell in case["cells"].items():
            # Whether there is a model, not where it is; a reason where the table has it, cut as there.
            error = _short(cell["error"]) if cell["ended"] == "failed" else None
            short = {key: cell.get(key) for key in CELL} | {"model": bool(cell["model"]), "error": error}
            cells[tool] = short | {"result": {"status": (cell.get("result") or {}).get("status")}}
        found = case.get("judged")
        if found:
            refused = {tool: _short(error) for tool, error in found.get("refused", {}).items()}
            found = {key: found[key] for key in JUDGED if key in found} | {"refused": refused}
        cases[name] = {**case, "cells": cells, "judged": found}
    rounded: Results = _rounded({**results, "cases": cases})
    return rounded


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


def _listed(found: dict[str, list[str]]) -> str:
    return ", ".join(f"{name} ({', '.join(tools)})" for name, tools in found.items())


HEADER = ("case", "model", "goal", "metric", "latency / fp32 (95 %)", "size", "to goal (s)", "seconds")


def table(results: Results) -> list[str]:
    """All rows in Markdown, also those that we lose: one a case and tool."""
    lines = [f"| {' | '.join(HEADER)} |", f"| {' | '.join('---' for _ in HEADER)} |"]
    for name, case in results["cases"].items():
        for tool in (FP32, *case["cells"]):
            lines.append(f"| {' | '.join(row(name, case, tool))} |")
    return lines


def row(name: str, case: Results, tool: str) -> tuple[str, ...]:
    """One row of the table."""
    cell, found = case["cells"].get(tool) or {}, case.get("judged") or {}
    value = found.get("accuracy", {}).get(tool)
    where = f"{name}: {case['kind']}" if tool == FP32 else name
    goal = cell.get("goal_seconds")
    times = ("" if goal is None else f"{goal:.0f}", f"{cell['seconds']:.0f}" if cell else "")
    if value is None:
        return where, tool, outcome(case, tool), "", "", "", *times
    parts = found["ratio"].items()
    at = [
        ("" if length == "all" else f"{length}: ")
        + ("1" if tool == FP32 else "{:.3f} ({:.3f}-{:.3f})".format(*by[tool][FP32]))
        for length, by in parts
    ]
    size = found["sizes"][tool] / found["sizes"][FP32]
    latency = f"1 ({found['latency_ms'][FP32]:.2f} ms)" if tool == FP32 else "; ".join(at)
    return where, tool, outcome(case, tool), f"{value:.4f}", latency, f"{size:.2f}", *times


def outcome(case: Results, tool: str) -> str:
    """One word, with the reason where it failed.

    It is met, missed, fp32 (nothing is quantized), refused (the engine does not open the model), capped or failed.
    """
    if tool == FP32:
        return ""
    cell, found = case["cells"][tool], case.get("judged") or {}
    if tool in found.get("refused", {}):
        return f"refused: {_short(found['refused'][tool])}"
    if tool in found.get("accuracy", {}):
        return "fp32" if not quantized(case, tool) else "met" if met(case, tool) else "missed"
    if tool == OURS and (cell.get("result") or {}).get("status"):
        return str(cell["result"]["status"])
    if cell["model"]:
        return "not judged"
    if cell["ended"] == "finished":
        return "missed, no model"
    return f"{cell['ended']}: {_short(cell['error'])}" if cell["ended"] == "failed" else str(cell["ended"])


def _short(text: str | None) -> str:
    return (text or "").replace("|", "/").replace("\n", " ")[:70]
