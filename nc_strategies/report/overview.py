"""One run as a row of the page of many runs: plain data, whatever its files hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nc_strategies.errors import first_line
from nc_strategies.measuring.core import METRIC
from nc_strategies.problem import TrialState
from nc_strategies.report.engine import strategy_label
from nc_strategies.report.explain import STOPS, status
from nc_strategies.report.run_files import RunFiles

Row = dict[str, Any]
UNREADABLE = "unreadable"
STATUSES = ("running", "met", "missed", "failed", "unfinished", UNREADABLE)
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, RecursionError)
"""What reading a file raises that holds other things than a run writes."""
MAX_TEXT = 300
"""Largest number of characters of a text in a row."""
EXPECTED_STOPS = ("budget", "timeout", "met", "finished")
"""Reasons to stop that need no remark: the run came to its end."""


def ended(result: Mapping[str, Any]) -> Row:
    """A run that has ended.

    Args:
        result: Content of its ``result.json``.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, IndexError: it holds other things than a run writes.
    """
    stated = str(result["status"])
    if stated not in STATUSES:
        raise ValueError(f"status {stated!r}")
    row = {**_empty(), **_names(result), "status": stated, "strategy": _text(strategy_label(result))}
    stop = str(result.get("stop_reason") or "")
    if stop not in EXPECTED_STOPS and not result.get("error"):
        row["remark"] = _text(result.get("stop_note") or STOPS.get(stop, stop))
    row["problem"] = _text(result.get("error"))
    counts = result.get("trials") or {}
    row |= {name: _number(counts.get(name)) for name in ("failed", "pruned")}
    row |= {"trials": _number(counts.get("total")), "seconds": _number((result.get("seconds") or {}).get("total"))}
    row["max_trials"] = _number((result.get("budget") or {}).get("max_trials"))
    base, tuned = result.get("baseline") or {}, result.get("tuned") or {}
    row["fp32_size_bytes"] = _number(base.get("size_bytes"))
    row["goal"] = _goal(result.get("goal") or {}, base, tuned)
    if tuned:
        row |= {
            "speedup": _positive(result["speedup"]),
            "speedup_ci95": [_positive(end) for end in _pair(result["speedup_ci95"])],
            "size_bytes": _number(tuned["size_bytes"]),
            "loss_ci95": tuned.get("accuracy_loss_ci95")
            and [_number(end) for end in _pair(tuned["accuracy_loss_ci95"])],
        }
    return row


def under_way(run: RunFiles) -> Row:
    """A run that is under way, or that was ended without a result: what it has found so far.

    Args:
        run: Its files, without a result.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, IndexError: they hold other things than a run writes.
    """
    names = {group: run.name(group) for group in ("strategy", "backend", "model", "data")}
    engine = str(run.analysis.get("engine") or "")
    row = {**_empty(), **_names(names), "status": status(run)}
    row["strategy"] = _text(strategy_label({**names, "engine": engine}))
    tuning = run.config.get("tuning")
    tuning = tuning if isinstance(tuning, Mapping) else {}
    row |= {"max_trials": _number(tuning.get("max_trials")), "timeout": _number(tuning.get("timeout"))}
    row |= {
        "trials": len(run.trials),
        "failed": sum(t.state is TrialState.FAILED for t in run.trials),
        "pruned": sum(t.state is TrialState.PRUNED for t in run.trials),
        "fp32_size_bytes": _number(run.baseline.get("size_bytes")),
    }
    if not run.running:
        row["remark"] = "no result; the same command resumes it"
    elif not run.trials:
        row["remark"] = "before its first trial"
    best = run.chosen.evaluation if run.chosen else None
    reached = dict(best.metrics) if best else {}
    if run.goal is not None:
        row["goal"] = [
            _line(
                run.metric if c.metric == METRIC else c.metric,
                c.higher_is_better,
                c.threshold,
                c.baseline,
                reached.get(c.metric),
            )
            for c in run.goal.constraints
        ]
    if best is not None:
        ratio = dict(best.ratios).get("latency")
        row["speedup"] = _positive(1 / ratio) if ratio else None
        row["size_bytes"] = _number(dict(best.values).get("size_bytes"))
    return row


def unreadable(problem: str) -> Row:
    """A run whose files cannot be read.

    Args:
        problem: What is wrong, as a sentence without a full stop.
    """
    return {**_empty(), "status": UNREADABLE, "problem": _text(problem)}


def malformed(name: str, error: BaseException) -> str:
    """The problem of a file that holds other things than a run writes.

    Args:
        name: The file's name.
        error: One of `MALFORMED`.
    """
    what = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
    return f"{name} does not hold what a run writes ({what})"


def _empty() -> Row:
    """All fields of a row, without values."""
    texts = dict.fromkeys(("model", "strategy", "engine", "data", "remark", "problem"), "")
    numbers = ("speedup", "speedup_ci95", "loss_ci95", "size_bytes", "fp32_size_bytes", "trials", "max_trials")
    return {**texts, "goal": [], **dict.fromkeys((*numbers, "failed", "pruned", "seconds", "timeout"))}


def _names(stated: Mapping[str, Any]) -> Row:
    provider = (stated.get("tuned") or {}).get("provider")
    engine = f"{stated.get('backend') or ''}{f' ({provider})' if provider else ''}"
    return {"model": _text(stated.get("model")), "engine": _text(engine), "data": _text(stated.get("data"))}


def _goal(goal: Mapping[str, Any], base: Mapping[str, Any], tuned: Mapping[str, Any]) -> list[Row]:
    """The first metric and the further ones, each with what is asked and what is reached."""
    if not goal:
        return []
    before, after = base.get("metrics") or {}, tuned.get("metrics") or {}
    first = _line(
        goal["metric"], goal["higher_is_better"], goal["threshold"], base.get("accuracy"), tuned.get("accuracy")
    )
    further = goal.get("constraints") or []
    return [
        first,
        *(
            _line(c["metric"], c["higher_is_better"], c["threshold"], before.get(c["metric"]), after.get(c["metric"]))
            for c in further
        ),
    ]


def _line(metric: Any, higher: Any, asked: Any, fp32: Any, reached: Any) -> Row:
    return {
        "metric": _text(metric),
        "higher_is_better": bool(higher),
        "asked": _number(asked),
        "fp32": _number(fp32),
        "reached": _number(reached),
    }


def _text(value: Any) -> str:
    text = " ".join(str(value or "").split())
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"


def _number(value: Any) -> float | None:
    """A finite number, or None.

    Raises:
        ValueError: it is anything else.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{str(value)[:40]!r} where a number is expected")
    return value


def _positive(value: Any) -> float:
    found = _number(value)
    if found is None or found <= 0:
        raise ValueError(f"{str(value)[:40]!r} where a number above 0 is expected")
    return found


def _pair(values: Any) -> Sequence[Any]:
    if not isinstance(values, list) or len(values) != 2:
        raise ValueError(f"{str(values)[:40]!r} where two numbers are expected")
    return values
