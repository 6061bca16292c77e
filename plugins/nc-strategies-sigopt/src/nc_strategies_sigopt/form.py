"""The problem in the API's form: metrics, experiment, observations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nc_strategies_optuna.parameters import Parameters
from nc_strategies_optuna.refine import deviation

from nc_strategies.api import Evaluation, Problem, Trial, TrialState
from nc_strategies_sigopt.experiment import MARK

MOST_OPTIMIZED = 2
COST = "cost"
DEFAULT_BUDGET = 100
LONGEST_VALUE = 500


def metrics(problem: Problem) -> list[dict[str, Any]]:
    """Constraints with the goal's thresholds, and at most two quantities to minimize, relative to fp32."""
    goal = problem.goal
    constraints = [
        {
            "name": c.metric,
            "objective": "maximize" if c.higher_is_better else "minimize",
            "strategy": "constraint",
            "threshold": float(c.threshold),
        }
        for c in goal.constraints
    ]
    return [
        *constraints,
        *({"name": name, "objective": "minimize", "strategy": "optimize"} for name in _optimized(problem)),
    ]


def _optimized(problem: Problem) -> list[str]:
    names = [o.name for o in problem.goal.objectives]
    return names if len(names) <= MOST_OPTIMIZED else [COST]


def definition(parameters: Parameters) -> list[dict[str, Any]]:
    """The parameters in the API's form, integers alone.

    A server's opening is the product of the categories and the integers, but only the number of the integers where
    there are no categories (`opening`).
    """
    return [
        {"name": name, "type": "int", "bounds": {"min": 0, "max": max(top, 1)}}
        for name, top in parameters.tops().items()
    ]


def aliases(parameters: Parameters) -> dict[str, str]:
    """What each parameter stands for, within the API's limits for metadata."""
    tied_ops = parameters.estimate.tied_ops
    found = {
        name: ", ".join(op for step in steps for index in step for op in tied_ops[index])
        for name, steps in parameters.groups.items()
    }
    names = {name: option for name, (option, _) in parameters.options.items()}
    for name, values in parameters.choices.items():
        shown = ", ".join(f"{place} is {value}" for place, value in enumerate(values))
        found[name] = f"{names[name]}: {shown}" if name in names else shown
    return {
        name: text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..." for name, text in found.items()
    }


def experiment(problem: Problem, parameters: Parameters, name: str, project: str | None, mark: str) -> dict[str, Any]:
    """What creates the experiment."""
    facts = {**problem.metadata, **aliases(parameters), MARK: mark}
    return {
        "name": name,
        **({"project": project} if project else {}),
        "parameters": definition(parameters),
        "metrics": metrics(problem),
        "observation_budget": budget(problem),
        "parallel_bandwidth": bandwidth(problem),
        "metadata": {key: str(value)[:LONGEST_VALUE] for key, value in facts.items()},
    }


def budget(problem: Problem, answered: int = 1) -> int:
    """Observations that the experiment gets.

    Args:
        problem: Its budget is one of trials.
        answered: Observations without a trial: fp32, and suggestions that stand for what is known.
    """
    return (problem.budget or DEFAULT_BUDGET) + answered


def bandwidth(problem: Problem) -> int:
    """Suggestions that may be open at the same time: one for each worker."""
    return max(1, problem.workers)


def outcome(problem: Problem, trial: Trial) -> dict[str, Any]:
    """What came of a trial: finite values of all metrics, or a failure.

    A pruned trial counts with its estimates: that it misses the goal is known, and about by how much.
    """
    done = trial.evaluation
    found = values(problem, done) if done is not None else None
    facts = {
        "trial": str(trial.number),
        "fingerprint": trial.config.fingerprint,
        **({"pruned_after": str(done.samples)} if done and trial.state is TrialState.PRUNED else {}),
    }
    if found is None:
        return {"failed": True, "metadata": {**facts, "error": (trial.error or "no finite values")[:LONGEST_VALUE]}}
    return {"values": found, "metadata": facts}


def values(problem: Problem, evaluation: Evaluation, baseline: bool = False) -> list[dict[str, Any]] | None:
    """Values in plain Python floats; None when one is missing or not finite.

    Args:
        problem: What is to be solved.
        evaluation: What was measured.
        baseline: It is fp32, whose objectives are 1 by definition.
    """
    spread: Mapping[str, float] = dict(evaluation.spread)
    found = []
    try:
        for constraint in problem.goal.constraints:
            found.append({"name": constraint.metric, "value": float(evaluation.metric(constraint.metric))})
        for name in _optimized(problem):
            value = (
                1.0 if baseline else float(problem.goal.cost(evaluation) if name == COST else evaluation.ratio(name))
            )
            sd = deviation(value, float(spread.get(name, 0.0)))
            found.append(
                {"name": name, "value": value, **({"value_stddev": sd} if math.isfinite(sd) and sd > 0 else {})}
            )
    except KeyError:
        return None
    return found if all(math.isfinite(one["value"]) for one in found) else None  # type: ignore[arg-type]
