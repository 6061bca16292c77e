"""Explanation of a run: how it ended, why it is not faster or missed its goal, what to try next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nc_strategies.report import engine, front, predictions, recovery
from nc_strategies.report.advice import RULES
from nc_strategies.report.causes import CAUSES
from nc_strategies.report.facts import Available, Facts
from nc_strategies.report.fallback import fallback_sentence
from nc_strategies.report.machine import ceiling_sentences
from nc_strategies.report.operators import Operator, operators
from nc_strategies.report.original import keep_original, samples_text
from nc_strategies.report.run_files import RunFiles
from nc_strategies.report.table import STYLES

STOPS = {
    "budget": "its budget of trials was used",
    "timeout": "its time was used",
    "met": "the goal was met",
    "finished": "the strategy had nothing left to try",
    "failures": "too many trials failed in a row",
    "interrupted": "it was interrupted",
    "stopped": "the strategy stopped before its end",
}


def status(run: RunFiles) -> str:
    """``met``, ``missed`` or ``failed`` of an ended run; ``running`` or ``unfinished`` of one without a result."""
    stated = run.result.get("status")
    return str(stated) if stated else "running" if run.running else "unfinished"


def headline(run: RunFiles) -> str:
    """The verdict of a run as a headline."""
    if keep_original(run.result):
        return "Goal missed: keep the original model"
    return {
        "met": "Goal met",
        "missed": "Goal missed: the closest model is saved",
        "failed": "No model",
        "running": "Running",
    }.get(status(run), "Unfinished: the same command resumes it")


def goal_sentence(run: RunFiles) -> str:
    """The goal of a run as a sentence."""
    goal = run.goal
    if goal is None:
        return "It ended before its goal was known."
    asked = goal.constraints[0]
    sign = "at least" if asked.higher_is_better else "at most"
    loss = f"{asked.tolerable_loss:.2%} of" if asked.criterion == "relative" else f"{asked.tolerable_loss:g} from"
    wanted = " and ".join(o.name for o in goal.objectives)
    return (
        f"Asked for: {run.metric} {sign} {asked.threshold:.4f} (a loss of up to {loss} fp32's "
        f"{asked.baseline:.4f}), and {wanted} as much better than fp32's as can be found."
    )


def verdict(run: RunFiles) -> list[str]:
    """How the run ended: sentences with 95 % intervals."""
    tuned = run.result.get("tuned")
    if run.running or not run.result:
        best = run.chosen
        words = [f"{len(run.trials)} trials are measured so far.", *engine.engine_sentences(run)]
        if best is not None and best.evaluation is not None:
            gain = run.gain(best.evaluation)
            words.append(
                f"The best is trial {best.number}: {run.metric} {best.evaluation.metric('accuracy'):.4f}"
                + (f" at {gain:.2f} times fp32." if gain else ".")
            )
        return words
    if not tuned:
        error = str(run.result.get("error") or "no configuration could be measured.")
        return [f"{error[:1].upper()}{error[1:]}"]
    low, high = run.result["speedup_ci95"]
    words = [f"The int8 model is {run.result['speedup']:.2f} times as fast as fp32 (95 %: {low:.2f} to {high:.2f})."]
    loss = run.goal.constraints[0].loss(tuned["accuracy"]) if run.goal else 0.0
    interval = tuned.get("accuracy_loss_ci95")
    reach = f" (95 %: {interval[0]:+.4f} to {interval[1]:+.4f})" if interval else ""
    words.append(f"Its {run.metric} is {tuned['accuracy']:.4f}, a loss of {loss:+.4f}{reach}.")
    words.append(
        f"Its size is {tuned['size_bytes'] / run.baseline['size_bytes']:.0%} of fp32's; "
        f"{tuned['int8_ops']} operators execute in int8, {tuned['fp32_ops']} in float."
    )
    words += [
        f"{text[0].upper()}{text[1:]}."
        for text in (fallback_sentence(run.result), keep_original(run.result), samples_text(run.result))
        if text
    ]
    stop = STOPS.get(str(run.result.get("stop_reason")), str(run.result.get("stop_reason")))
    stop = run.result.get("stop_note") or stop
    total = run.result["seconds"].get("total", 0.0)
    words.append(f"The run ended after {len(run.trials)} trials and {total:.0f} s because {stop}.")
    words += engine.engine_sentences(run)
    return words + front.sentences(run.result)


def why(run: RunFiles, rows: Sequence[Operator]) -> list[str]:
    """Causes of a missing speed-up or a missed goal."""
    words: list[str] = [*engine.notices(run), *(run.analysis.get("remarks") or []), *recovery.sentences(run)]
    words += ceiling_sentences(run)
    if run.goal is None:
        return words
    facts = Facts(run, run.goal, rows, status(run))
    return words + [text for cause in CAUSES if (text := cause(facts))] + predictions.remarks(run)


def advice(run: RunFiles, rows: Sequence[Operator], available: Available | None = None) -> list[str]:
    """What to try next.

    Args:
        run: The run's folder.
        rows: Its operators.
        available: The components that can be chosen. Advice to use another component includes the command that installs
            it. When left out, only the strategies of the core count as installed.
    """
    if run.goal is None:
        return []
    facts = Facts(run, run.goal, rows, status(run), available or {})
    return [text for rule in RULES if (text := rule(facts))]


def render(run: RunFiles, available: Available | None = None) -> RenderableType:
    """The explanation for a terminal; `available` as for `advice`."""
    rows = operators(run)
    parts: list[Any] = [
        Text(headline(run), STYLES.get(status(run), "bold")),
        Text(goal_sentence(run)),
        Text(" ".join(verdict(run))),
    ]
    for title, lines in (("Why", why(run, rows)), ("Try next", advice(run, rows, available))):
        if lines:
            parts += [Text(f"\n{title}", "bold"), *(Text(f"- {line}") for line in lines)]
    floats = [o for o in rows if o.runs in ("fp32", "lost")]
    if floats:
        table = Table(show_edge=False, pad_edge=False)
        for name in ("operator", "type", "why"):
            table.add_column(name, overflow="fold")
        for row in floats:
            table.add_row(Text(row.name), Text(row.type or "-"), Text(row.reason))
        parts += [Text("\nIn float", "bold"), table]
    return Group(*parts)
