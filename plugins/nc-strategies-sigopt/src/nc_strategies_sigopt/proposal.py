"""A configuration to try, and whom to tell what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nc_strategies.api import Config, Problem, Trial
from nc_strategies_sigopt.estimate import fastest
from nc_strategies_sigopt.parameters import Parameters
from nc_strategies_sigopt.refine import expected_tied_ops

EVENT = "proposal"


@dataclass(frozen=True)
class Proposal:
    """A configuration that was proposed.

    Args:
        mark: Its kind and what tells it apart: ``known int8``, ``suggestion 1a2b3c4d 7``, ``refinement 2``.
        config: What to try.
        note: Why, in a few words.
        assignments: The same in the experiment's parameters; None where these cannot express it.
        suggestion: The suggestion it comes from.
        owner: Mark of the experiment that made the suggestion.
    """

    mark: str
    config: Config
    note: str
    assignments: Mapping[str, Any] | None = None
    suggestion: str | None = None
    owner: str = ""

    @property
    def kind(self) -> str:
        """``known``, ``suggestion`` or ``refinement``."""
        return self.mark.split()[0]

    def record(self) -> dict[str, Any]:
        """A JSON-ready form; the inverse of `from_record`."""
        return {
            "event": EVENT,
            "mark": self.mark,
            "config": self.config.to_dict(),
            "note": self.note,
            "assignments": None if self.assignments is None else dict(self.assignments),
            "suggestion": self.suggestion,
            "owner": self.owner,
        }

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> Proposal:
        """Read what `record` gave."""
        return Proposal(
            record["mark"],
            Config.from_dict(record["config"]),
            record["note"],
            record["assignments"],
            record["suggestion"],
            record["owner"],
        )


def known_points(
    parameters: Parameters, problem: Problem, trials: Mapping[str, Trial], skip: str = ""
) -> Iterator[Proposal]:
    """Int8 everywhere; every other mode everywhere; then, once int8 is measured, what the estimates make of it.

    Where it keeps the goal: without the operators that the latency model expects to be faster in fp32. Else as much
    int8 as the estimates of the loss say the goal allows.

    Args:
        parameters: The experiment's parameters.
        problem: What is to be solved.
        trials: Finished trials by fingerprint; read when the next point is asked for.
        skip: Mark of the point that was proposed last, by an earlier process.
    """
    goal, chosen = problem.goal, parameters.all_int8()
    config = parameters.config(chosen)
    first_points = [("known int8", "int8 everywhere", chosen)]
    for mode in parameters.other_modes:
        first_points.append((f"known {mode}", f"{mode} where operators have it", parameters.whole_mode(mode)))
    marks = [mark for mark, _, _ in first_points]
    for mark, note, assigned in first_points[marks.index(skip) + 1 if skip in marks else 0 :]:
        if skip in ("", *marks):
            yield Proposal(mark, parameters.config(assigned), note, assigned)
    trial = trials.get(config.fingerprint)
    if skip not in ("", *marks) or trial is None or trial.evaluation is None:
        return
    if trial.ok and goal.feasible(trial.evaluation):
        faster = fastest(problem, config, parameters.estimate.tied_ops)
        if faster != config:
            yield Proposal("known fastest", faster, "int8 where the latency model expects it to be faster")
        return
    first = goal.constraints[0]
    wanted = expected_tied_ops(parameters.estimate, goal.loss(trial.evaluation), first.loss(first.threshold))
    chosen = parameters.worthwhile(wanted)
    yield Proposal("known estimate", parameters.config(chosen), "what the estimates expect", chosen)
