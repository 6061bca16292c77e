"""A run in words: how it ended, why it is not faster or why it missed, what to try next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nc_strategies.report.operators import Operator, operators
from nc_strategies.report.run_files import RunFiles
from nc_strategies.report.table import STYLES

UNSTEADY = 0.25
"""Relative difference between a trial's speed-up and the final one from which the machine is called unsteady."""
LATE = 0.8
"""A best trial that comes after this share of the budget suggests that a larger one would find a better."""
STOPS = {
    "budget": "its budget of trials was used",
    "timeout": "its time was used",
    "met": "the goal was met",
    "finished": "the strategy had nothing left to try",
    "failures": "too many trials failed in a row",
    "interrupted": "it was interrupted",
    "stopped": "the strategy stopped before its end",
}
KINDS = {"latency": "as fast as", "throughput": "the throughput of", "size": "as small as"}


def status(run: RunFiles) -> str:
    """``met``, ``missed`` or ``failed`` of an ended run; ``running`` or ``unfinished`` of one without a result."""
    stated = run.result.get("status")
    return str(stated) if stated else "running" if run.running else "unfinished"


def headline(run: RunFiles) -> str:
    """The verdict in a few words."""
    return {
        "met": "Goal met",
        "missed": "Goal missed: the closest model is saved",
        "failed": "No model",
        "running": "Running",
    }.get(status(run), "Unfinished: the same command resumes it")


def goal_sentence(run: RunFiles) -> str:
    """What was asked for."""
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
    """How it ended, in sentences with their intervals."""
    tuned = run.result.get("tuned")
    if run.running or not run.result:
        best = run.chosen
        words = [f"{len(run.trials)} trials are measured so far."]
        if best is not None and best.evaluation is not None:
            gain = run.gain(best.evaluation)
            words.append(
                f"The best is trial {best.number}: {run.metric} {best.evaluation.metric('accuracy'):.4f}"
                + (f" at {gain:.2f} times fp32." if gain else ".")
            )
        return words
    if not tuned:
        return [str(run.result.get("error") or "No configuration could be measured.")]
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
    stop = STOPS.get(str(run.result.get("stop_reason")), str(run.result.get("stop_reason")))
    total = run.result["seconds"].get("total", 0.0)
    words.append(f"The run ended after {len(run.trials)} trials and {total:.0f} s because {stop}.")
    return words


def why(run: RunFiles, rows: Sequence[Operator]) -> list[str]:
    """Why the model is not faster, or why the goal was missed."""
    goal = run.goal
    words: list[str] = list(run.analysis.get("remarks") or [])
    if goal is None:
        return words
    done = [(t, t.evaluation) for t in run.trials if t.ok and t.evaluation is not None]
    kept = [(t, e) for t, e in done if goal.feasible(e)]
    if done and not kept:
        trial, best = min(done, key=lambda pair: goal.violation(pair[1]))
        words.append(
            f"No trial kept the accuracy. The closest, trial {trial.number}, reached "
            f"{best.metric('accuracy'):.4f}; {goal.violation(best):.4f} is missing."
        )
    elif kept and all(goal.cost(e) >= 1 for _, e in kept):
        words.append("Trials kept the accuracy, but none of them was better than fp32.")
    faster = [(t, e) for t, e in done if not goal.feasible(e)]
    if kept and faster:
        trial, first = min(faster, key=lambda pair: goal.cost(pair[1]))
        if goal.cost(first) < min(goal.cost(e) for _, e in kept):
            words.append(
                f"A faster one was found but loses too much: trial {trial.number}, "
                f"{1 / goal.cost(first):.2f} times fp32 at {run.metric} {first.metric('accuracy'):.4f}."
            )
    fixed = [o for o in rows if o.runs == "none"]
    if fixed:
        words.append(
            f"{len(fixed)} operators offer no choice: the engine runs them in float, or fused with a neighbour."
        )
    lost = [o.name for o in rows if o.runs == "lost"]
    if lost:
        words.append(f"The engine runs {_names(lost)} in float although int8 was asked for.")
    costly = sorted(
        ((o.loss.value, o.loss.reach, o.name) for o in rows if o.loss and o.loss.sure and o.loss.value > 0),
        reverse=True,
    )
    if costly:
        words.append(
            "Int8 costs most accuracy in "
            + ", ".join(f"{name} ({value:+.4f} ± {reach:.4f})" for value, reach, name in costly[:3])
            + "."
        )
    conversions = run.analysis.get("conversions")
    if conversions:
        words.append(f"{conversions} conversions and layout changes run between the operators.")
    return words


def advice(run: RunFiles, rows: Sequence[Operator]) -> list[str]:
    """What to try next."""
    goal, tuned = run.goal, run.result.get("tuned")
    words: list[str] = []
    if goal is None:
        return words
    asked, limit = goal.constraints[0], run.result.get("budget", {}).get("max_trials", 0)
    interval = (tuned or {}).get("accuracy_loss_ci95")
    if tuned and interval and status(run) == "met":
        room = asked.loss(asked.threshold)
        if interval[1] > room:
            count = (run.result.get("measure") or {}).get("samples") or "evaluation"
            needed = (run.result.get("goal") or {}).get("samples_needed")
            more = f"about {needed:,} samples tell such losses apart" if needed else "evaluate more to be sure"
            words.append(
                f"The loss is within what is tolerated on these {count} samples, but could be up to "
                f"{interval[1]:.4f} on others like them ({room:.4f} is tolerated): {more}."
            )
    best = run.chosen
    if best is not None and run.result.get("stop_reason") == "budget" and best.number > LATE * len(run.trials):
        words.append(
            f"The best came late (trial {best.number} of {len(run.trials)}): tuning.max_trials="
            f"{2 * max(limit, len(run.trials))} in the same run_dir goes on from here."
        )
    timed = run.gain(best.evaluation) if best is not None and best.evaluation is not None else None
    again = run.result.get("speedup")
    if timed and again and "latency" in [o.name for o in goal.objectives] and abs(timed / again - 1) > UNSTEADY:
        words.append(
            f"Timing is unsteady: the chosen model was {timed:.2f} times as fast as fp32 in its trial and "
            f"{again:.2f} times in the final measurement. Run on a machine that does nothing else."
        )
    if status(run) == "missed" and tuned:
        violation = max(0.0, asked.violation(tuned["accuracy"]))
        if violation > 0:
            loss = asked.loss(tuned["accuracy"]) / (abs(asked.baseline) if asked.criterion == "relative" else 1)
            words.append(f"tuning.tolerable_loss={loss + 5e-4:.3f} would accept the closest model.")
            words.append("More or more typical calibration samples (data.calibration_samples) narrow the ranges.")
        else:
            words.append(
                "Accuracy is kept, speed is not gained: this processor or engine may have no fast int8 "
                "kernels for this model; try another backend, or metrics=accuracy_size."
            )
    if status(run) in ("missed", "met") and run.name("strategy") in ("random", "basic"):
        words.append("strategy=sigopt searches groups of operators with a model of what it has seen.")
    failed = Counter(t.error for t in run.trials if t.error)
    for error, count in failed.most_common(1):
        words.append(f"{count} trials failed, most often with: {error}")
    if (run.result.get("measure") or {}).get("threads", 1) > 1:
        words.append("measure.threads=1 makes timing several times less noisy.")
    floats = [o for o in rows if o.asked == "fp32" and o.loss and o.loss.sure and o.loss.value > 0]
    if floats and status(run) == "missed":
        words.append(
            f"Retrain with fake quantization, or change the layers, where int8 hurts: "
            f"{_names([o.name for o in floats])}."
        )
    return words


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def render(run: RunFiles) -> RenderableType:
    """The explanation for a terminal."""
    rows = operators(run)
    parts: list[Any] = [
        Text(headline(run), STYLES.get(status(run), "bold")),
        Text(goal_sentence(run)),
        Text(" ".join(verdict(run))),
    ]
    for title, lines in (("Why", why(run, rows)), ("Try next", advice(run, rows))):
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
