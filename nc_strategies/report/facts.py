"""Facts that causes and advice are derived from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nc_strategies.problem import Constraint, Evaluation, Goal, Trial
from nc_strategies.report.operators import Operator
from nc_strategies.report.run_files import RunFiles

Available = Mapping[tuple[str, str], str]
"""Kind and name of each registered component to the command that installs its missing packages; empty where none is
missing."""


@dataclass(frozen=True)
class Facts:
    """A run with a known goal, and the components available for the next run.

    Args:
        run: The run's folder.
        goal: Its goal.
        rows: Its operators.
        status: ``met``, ``missed``, ``failed``, ``running`` or ``unfinished``.
        available: The components that can be chosen.
    """

    run: RunFiles
    goal: Goal
    rows: Sequence[Operator]
    status: str
    available: Available = field(default_factory=dict)

    @property
    def constraint(self) -> Constraint:
        """The constraint on accuracy."""
        return self.goal.constraints[0]

    @property
    def tuned(self) -> Mapping[str, Any]:
        """The final measurement of the saved model; empty without one."""
        return self.run.result.get("tuned") or {}

    @cached_property
    def evaluated(self) -> list[tuple[Trial, Evaluation]]:
        """The trials that were evaluated on all samples."""
        return [(t, t.evaluation) for t in self.run.trials if t.ok and t.evaluation is not None]

    @cached_property
    def kept(self) -> list[tuple[Trial, Evaluation]]:
        """The evaluated trials that keep the constraints."""
        return [(t, e) for t, e in self.evaluated if self.goal.feasible(e)]

    @cached_property
    def rejected(self) -> list[tuple[Trial, Evaluation]]:
        """The evaluated trials that violate a constraint."""
        return [(t, e) for t, e in self.evaluated if not self.goal.feasible(e)]

    @cached_property
    def harmful(self) -> list[Operator]:
        """Operators whose loss in int8 has a 95 % interval above zero, the largest loss first."""
        priced = [(o.loss.value, o.loss.reach, o.name, o) for o in self.rows if o.loss and o.loss.sure]
        return [row for value, *_, row in sorted(priced, key=lambda entry: entry[:3], reverse=True) if value > 0]


def listed(names: Sequence[str], most: int = 5) -> str:
    """Up to `most` names as part of a sentence, and the number of further ones."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
