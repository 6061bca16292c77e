"""A plan as text for the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nc_strategies.report import machine
from nc_strategies.space.space import magnitude
from nc_strategies.study.plan import Plan


def render(plan: Plan) -> RenderableType:
    """The search space, the expected time, and whether the data can resolve the goal."""
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("operator type")
    table.add_column("operators", justify="right")
    table.add_column("choices each", justify="right")
    for kind, (count, choices) in plan.types.items():
        table.add_row(kind, str(count), str(choices))
    stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in plan.trial.items())
    limited = f", {duration(plan.timeout)} in all" if plan.timeout else ""
    parts: list[RenderableType] = [
        Text(f"{plan.strategy} on {plan.backend}: {plan.model}, {plan.samples:,} evaluation samples"),
        table,
        Text(f"configurations: {magnitude(plan.configurations)}"),
        Text(f"seconds a trial: {plan.trial_seconds:.2f} ({stages})"),
        Text(f"trials: at most {plan.expected_trials:,}{limited}"),
        Text(
            f"time: at most about {duration(plan.seconds)}, {duration(plan.preparation)} of it before the first "
            f"trial, about {duration(plan.end)} to measure the best again and save it"
        ),
    ]
    if plan.fewer_samples:
        parts.append(Text(f"note: {plan.fewer_samples}"))
    if plan.shortage:
        parts.append(
            Text(
                f"warning: tuning.timeout={plan.timeout:g} is too short, the run would be refused: {plan.shortage}",
                "bold yellow",
            )
        )
    if plan.resolution is not None and not plan.resolution.enough:
        parts.append(Text(f"warning: the goal is finer than the data: {plan.resolution.text()}", "bold yellow"))
    if plan.machine is not None:
        parts += [Text(f"{name}: {value}") for name, value in machine.facts(plan.machine)]
        parts.append(Text(" ".join(plan.machine.sentences(plan.backend)), "bold yellow" if plan.machine.low else ""))
    return Group(*parts)


def duration(seconds: float) -> str:
    """Seconds as text in s, min or h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
