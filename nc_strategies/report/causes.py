"""Causes of a missed goal or a missing speed-up: one function per cause, in the order of the report."""

from __future__ import annotations

from collections.abc import Callable

from nc_strategies.report.facts import Facts, listed

Cause = Callable[[Facts], str | None]
"""Returns a sentence, or None where the cause does not apply."""


def _accuracy_not_kept(facts: Facts) -> str | None:
    if not facts.evaluated or facts.kept:
        return None
    goal = facts.goal
    trial, best = min(facts.evaluated, key=lambda pair: goal.violation(pair[1]))
    missing = [
        f"{miss:.4f}" if constraint is goal.constraints[0] else f"{miss:.4f} of {constraint.metric}"
        for constraint in goal.constraints
        if (miss := constraint.violation(best.metric(constraint.metric))) > 0
    ]
    return (
        f"No trial kept the accuracy. The closest, trial {trial.number}, reached "
        f"{best.metric('accuracy'):.4f}; {', '.join(missing)} is missing."
    )


def _nothing_gained(facts: Facts) -> str | None:
    if not facts.kept or facts.status == "met" or any(facts.goal.met(e) for _, e in facts.kept):
        return None
    return "Trials kept the accuracy, but none of them was better than fp32 with its whole 95 % interval."


def _faster_but_loses_too_much(facts: Facts) -> str | None:
    if not facts.kept or not facts.rejected:
        return None
    cost = facts.goal.cost
    trial, first = min(facts.rejected, key=lambda pair: cost(pair[1]))
    if cost(first) >= min(cost(e) for _, e in facts.kept):
        return None
    return (
        f"A faster one was found but loses too much: trial {trial.number}, {1 / cost(first):.2f} times fp32 at "
        f"{facts.run.metric} {first.metric('accuracy'):.4f}."
    )


def _operators_without_choice(facts: Facts) -> str | None:
    count = sum(o.runs == "none" for o in facts.rows)
    if not count:
        return None
    return f"{count} operators offer no choice: the engine runs them in float, or fused with a neighbour."


def _int8_not_executed(facts: Facts) -> str | None:
    names = [o.name for o in facts.rows if o.runs == "lost"]
    return f"The engine runs {listed(names)} in float although int8 was asked for." if names else None


def _operators_that_lose_accuracy(facts: Facts) -> str | None:
    priced = [f"{o.name} ({o.loss.value:+.4f} ± {o.loss.reach:.4f})" for o in facts.harmful if o.loss]
    return f"Int8 costs most accuracy in {', '.join(priced[:3])}." if priced else None


def _conversions(facts: Facts) -> str | None:
    count = facts.run.analysis.get("conversions")
    return f"{count} conversions and layout changes run between the operators." if count else None


CAUSES: tuple[Cause, ...] = (
    _accuracy_not_kept,
    _nothing_gained,
    _faster_but_loses_too_much,
    _operators_without_choice,
    _int8_not_executed,
    _operators_that_lose_accuracy,
    _conversions,
)
