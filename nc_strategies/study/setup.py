"""What a run is built from: its components, and what follows from its configuration."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from nc_strategies.config import AUTO, RunConfig
from nc_strategies.measuring.core import MEMORY_SPREAD, METRIC, SESSIONS
from nc_strategies.measuring.finalists import FINALISTS
from nc_strategies.measuring.target import Measured, MeasurementTarget
from nc_strategies.problem import Constraint, Goal, Objective, Problem
from nc_strategies.problem.objective import LATENCY_TIE
from nc_strategies.space import Capabilities, Overrides, Space
from nc_strategies.space.reasons import nothing_to_quantize
from nc_strategies.strategies.base import Strategy
from nc_strategies.study.timebox import TimeBox

SCHEMA_VERSION = 1
"""Version of what ``result.json`` and a run's identity hold."""


@dataclass
class Setup:
    """Components of a run.

    Args:
        config: The whole configuration. The run reads its sections; the fields below are built from its groups.
        target: Measures the models.
        make_strategy: Creates the strategy for a problem.
        executor: Runs trials; has an attribute ``workers``, and may have a method ``next_ended``, see `TrialLoop`.
        resolved: The configuration as plain data without secrets, for ``config.yaml``.
        check_model: Refuses a model that the strategy cannot tune; see `Strategy.check_model`.
    """

    config: RunConfig
    target: MeasurementTarget
    make_strategy: Callable[[Problem], Strategy]
    executor: Any
    resolved: Mapping[str, Any] = field(default_factory=dict)
    check_model: Callable[[Space, Callable[[], bool]], None] = lambda space, gradients: None


def make_box(config: RunConfig) -> TimeBox:
    """The time budget of a run that begins now."""
    return TimeBox(config.tuning.timeout, config.measure, FINALISTS, SESSIONS, front=config.tuning.front)


def make_space(config: RunConfig, capabilities: Capabilities) -> Space:
    """The search space after the user's overrides.

    Raises:
        InputError: an override does not fit the model, or no operator can run in int8.
    """
    overrides = config.space
    space = Space(
        capabilities, Overrides(overrides.op_type_dict, overrides.op_name_dict, tuple(overrides.excluded_precisions))
    )
    if not space.quantizable:
        raise nothing_to_quantize(capabilities)
    return space


def choose_metric(setup: Setup) -> str:
    """Replace the metric ``auto`` in the configuration by the one that it stands for; see `MetricsConfig.choose`.

    Args:
        setup: Components of the run, whose model is loaded.

    Returns:
        One sentence about a comparison with fp32 that the user did not ask for; empty for any other metric.
    """
    metrics = setup.config.metrics
    if metrics.accuracy["name"] != AUTO:
        return ""
    labelled = bool(setup.target.facts().get("labelled", True))
    # In place: whoever was given the configuration before, such as a tracker, sees the metric too.
    chosen = metrics.choose(labelled)
    metrics.name, metrics.accuracy = chosen.name, chosen.accuracy
    if isinstance(stated := setup.resolved.get("metrics"), dict):
        stated.update(name=chosen.name, accuracy=dict(chosen.accuracy))
    if labelled:
        return ""
    return (
        f"the data has no labels: fp32's own outputs on the same samples are the reference (metrics=fidelity, "
        f"{chosen.accuracy['name']})"
    )


def make_goal(config: RunConfig, baseline: Measured) -> Goal:
    """The goal, relative to fp32's measurement."""
    (criterion, loss), metrics = config.tuning.goal, config.metrics
    value = baseline.evaluation.metric(METRIC)
    constraint = Constraint.from_baseline(METRIC, value, baseline.higher_is_better, criterion, loss)
    further = tuple(
        Constraint.from_baseline(
            asked.name,
            baseline.evaluation.metric(asked.name),
            direction,
            asked.criterion or criterion,
            loss if asked.tolerable_loss is None else asked.tolerable_loss,
        )
        for asked, direction in zip(metrics.further(), baseline.directions, strict=True)
    )
    weights = metrics.weights or [1.0] * len(metrics.objectives)
    ties = {"size": 0.0, "memory": MEMORY_SPREAD}
    objectives = tuple(
        Objective(name, weight, ties.get(name, LATENCY_TIE))
        for name, weight in zip(metrics.objectives, weights, strict=True)
    )
    return Goal((constraint, *further), objectives, baseline.evaluation.samples)


def identity(setup: Setup, space: str) -> dict[str, Any]:
    """Facts that must be equal to resume a run. The budget is not among them, so that it can be raised.

    Args:
        setup: Components of the run.
        space: Fingerprint of the space.
    """
    config = setup.config
    held = {key: value for key, value in setup.target.facts().items() if key not in ("model_name", "labelled")}
    criterion, loss = config.tuning.goal
    facts = {
        "schema_version": SCHEMA_VERSION,
        "strategy": dict(config.strategy),
        "backend": dict(config.backend),
        # Whether a poor baseline is allowed changes no measurement, and runs of earlier versions had no such key.
        "metrics": {key: value for key, value in asdict(config.metrics).items() if key != "allow_poor_baseline"},
        "criterion": criterion,
        "tolerable_loss": loss,
        "early_stop": config.tuning.early_stop,
        "seed": config.tuning.seed,
        **held,
        "space": space,
        "threads": config.measure.threads,
        "batch_size": config.measure.batch_size,
        # Runs of earlier versions had no such keys.
        **{
            name: list(found)
            for name in ("lengths", "context_lengths")
            if (found := getattr(config.measure, name)) is not None
        },
        **({"target": config.measure.target} if config.measure.target is not None else {}),
        **({"accuracy_on": config.measure.accuracy_on} if config.measure.accuracy_on != "host" else {}),
    }
    # Convert to the types that are read back from the file, such as lists instead of tuples.
    return cast(dict[str, Any], json.loads(json.dumps(facts)))
