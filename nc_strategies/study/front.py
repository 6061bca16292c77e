"""The measured Pareto front of accuracy and objective: which points stay, how they are spread, and ``front.json``."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nc_strategies.problem import Evaluation, Goal, Trial, TrialState
from nc_strategies.runtime.files import write_atomically
from nc_strategies.space import Config

log = logging.getLogger(__name__)
FILE = "front.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class FrontPoint:
    """A measured point of the front.

    Args:
        evaluation: Its measurement; fp32's for fp32.
        cost: `Goal.cost`: the objective relative to fp32.
        reach: Relative half-width of the 95 % interval of `cost`; 0 for fp32 and for a size.
        loss: Loss of the first constraint's metric, in its unit.
        trial: The trial that it comes from; None for fp32.
        chosen: Whether it is the model that the run has chosen.
        dominated: Whether another point is better beyond the noise. Only fp32 and the chosen model can be: they stay.
        within_noise: Whether another point is faster and has no more loss as measured, but the losses are too near each
            other for these samples to tell.
    """

    evaluation: Evaluation
    cost: float
    reach: float
    loss: float
    trial: Trial | None = None
    chosen: bool = False
    dominated: bool = False
    within_noise: bool = False

    @staticmethod
    def of_trial(trial: Trial, goal: Goal, chosen: bool = False) -> FrontPoint:
        """The point of a completely measured trial."""
        done = trial.evaluation
        assert done is not None
        spread = dict(done.spread)
        reach = max((spread.get(objective.name, 0.0) for objective in goal.objectives), default=0.0)
        return FrontPoint(done, goal.cost(done), reach, goal.loss(done), trial, chosen)

    @staticmethod
    def of_fp32(baseline: Evaluation, goal: Goal) -> FrontPoint:
        """The point of fp32, to which all others are relative."""
        # Of fp32, only the ratios of the objectives are stated, and all of them are 1.
        evaluation = replace(baseline, ratios=tuple((objective.name, 1.0) for objective in goal.objectives))
        return FrontPoint(evaluation, 1.0, 0.0, 0.0)

    @property
    def loss_reach(self) -> float:
        """Half-width of the 95 % interval of `loss`; 0 for fp32 and for a loss without an interval."""
        interval = self.evaluation.loss_ci95
        return 0.0 if interval is None or self.trial is None else (interval[1] - interval[0]) / 2

    @property
    def fixed(self) -> bool:
        """Whether the point is always listed: fp32 and the chosen model."""
        return self.chosen or self.trial is None

    @property
    def role(self) -> str:
        """``fp32``, ``chosen``, or empty."""
        return "fp32" if self.trial is None else "chosen" if self.chosen else ""


@dataclass(frozen=True)
class Front:
    """A measured front.

    Args:
        asked: Number of points that the user asked for.
        points: The points, from the slowest to the fastest.
        notes: Why there are fewer points than asked for, and which points are better than the chosen model by the goal,
            one sentence each.
    """

    asked: int
    points: tuple[FrontPoint, ...] = ()
    notes: tuple[str, ...] = ()


def tied(a: FrontPoint, b: FrontPoint, tie: float) -> bool:
    """Whether the costs of two points differ by less than `tie`, or by less than their 95 % intervals together."""
    apart = abs(math.log(a.cost / b.cost)) if min(a.cost, b.cost) > 0 else math.inf
    return apart <= max(math.log1p(tie), math.hypot(a.reach, b.reach))


def surely_better(a: FrontPoint, b: FrontPoint, tie: float) -> bool:
    """Whether one point is at least as fast as another one, and has less loss by more than the two intervals allow."""
    fast = a.cost <= b.cost or tied(a, b, tie)
    return fast and a.loss + math.hypot(a.loss_reach, b.loss_reach) < b.loss


def non_dominated(points: Sequence[FrontPoint], tie: float) -> list[FrontPoint]:
    """The points that no other one dominates as measured, from the least to the greatest loss.

    Losses are compared as measured, on the same samples. A point with more loss than another one stays only if it is
    faster beyond the noise, see `tied`: of two equally fast points, the more accurate one stays. If one of them is the
    chosen model, that one stays instead. fp32 and the chosen model stay in any case.

    Args:
        points: The points, each graph once.
        tie: Relative difference in cost up to which two points are equally fast.
    """
    kept: list[FrontPoint] = []
    for point in sorted(points, key=lambda p: (p.loss, p.cost)):
        rivals = [other for other in kept if other.cost <= point.cost or tied(other, point, tie)]
        if not rivals:
            kept.append(point)
        elif point.fixed:
            if all(tied(other, point, tie) for other in rivals):
                kept = [other for other in kept if other.fixed or other not in rivals]
                rivals = []
            sure = any(surely_better(other, point, tie) for other in rivals)
            kept.append(replace(point, dominated=sure, within_noise=bool(rivals) and not sure))
    return kept


def undecided(points: Sequence[FrontPoint], front: Sequence[FrontPoint], tie: float) -> list[FrontPoint]:
    """The other points that no point of the front dominates beyond the noise of the losses, and none equals in speed.

    Args:
        points: The points, each graph once.
        front: The points that stay, see `non_dominated`.
        tie: Relative difference in cost up to which two points are equally fast.
    """
    graphs = {p.evaluation.graph for p in front if p.trial is not None}
    return [
        replace(point, within_noise=True)
        for point in points
        if not point.fixed
        and point.evaluation.graph not in graphs
        and not any(tied(other, point, tie) or surely_better(other, point, tie) for other in front)
    ]


@dataclass(frozen=True)
class Scale:
    """Maps cost and loss to a unit square in which distances between points of a front are comparable.

    The tolerated loss is in the middle, so that both of its sides get the same room however far a loss may go.

    Args:
        tolerated: The tolerated loss; where it is not positive, the greatest loss of a point.
        least_cost: The least cost of a point.
    """

    tolerated: float
    least_cost: float

    @staticmethod
    def of(points: Sequence[FrontPoint], tolerated: float) -> Scale:
        """The scale of measured points."""
        greatest = max((p.loss for p in points), default=0.0)
        least = min((p.cost for p in points), default=1.0)
        return Scale(tolerated if tolerated > 0 else max(greatest, 1e-9), min(least, 1.0))

    def place(self, cost: float, loss: float) -> tuple[float, float]:
        """Place of a point: 0 for fp32's cost and loss, 1 for the least cost and an infinite loss."""
        span = 1.0 - self.least_cost
        saved = (1.0 - cost) / span if span > 0 else 0.0
        lost = max(loss, 0.0)
        return max(saved, 0.0), lost / (lost + self.tolerated)

    def distance(self, cost: float, loss: float, points: Sequence[FrontPoint]) -> float:
        """Distance to the nearest of some points; infinite without one."""
        here = self.place(cost, loss)
        return min((math.dist(here, self.place(p.cost, p.loss)) for p in points), default=math.inf)


def spread(points: Sequence[FrontPoint], count: int, tolerated: float, tie: float) -> list[FrontPoint]:
    """At most `count` points of the front, far apart from each other, from the slowest to the fastest.

    fp32 and the chosen model come first, then the points that no other one dominates, then those that one dominates
    only within the noise of the losses: as many as there is room for.

    Source: farthest-first traversal, Gonzalez, "Clustering to minimize the maximum intercluster distance", Theoretical
    Computer Science 38 (1985).

    Args:
        points: All points, each graph once.
        count: Maximum number of points.
        tolerated: The tolerated loss.
        tie: Relative difference in cost up to which two points are equally fast.
    """
    front = non_dominated(points, tie)
    scale = Scale.of(front, tolerated)
    taken = [p for p in front if p.fixed]
    rest = [p for p in front if not p.fixed]
    while rest and len(taken) < count:
        taken.append(max(rest, key=lambda p: scale.distance(p.cost, p.loss, taken)))
        rest = [p for p in rest if p is not taken[-1]]
    rest = undecided(points, front, tie)
    while rest and len(taken) < count:
        taken.append(max(rest, key=lambda p: scale.distance(p.cost, p.loss, taken)))
        rest = [p for p in rest if p is not taken[-1] and not tied(p, taken[-1], tie)]
    return ordered(taken)


def ordered(points: Sequence[FrontPoint]) -> list[FrontPoint]:
    """Points from the slowest to the fastest, fp32 first among equals."""
    return sorted(points, key=lambda p: (-p.cost, p.trial is not None, p.loss))


def as_dict(front: Front, goal: Goal, metric: str, whole: bool = True) -> dict[str, Any]:
    """A front as plain data, as in ``front.json``.

    Args:
        front: The front.
        goal: The run's goal.
        metric: Name of the accuracy metric.
        whole: Include configurations and evaluations, from which a point is built or its measurement read again.
    """
    first = goal.constraints[0]
    return {
        "schema_version": SCHEMA_VERSION,
        "asked": front.asked,
        "metric": metric,
        "higher_is_better": first.higher_is_better,
        "threshold": first.threshold,
        "tolerated_loss": first.loss(first.threshold),
        "objectives": [objective.name for objective in goal.objectives],
        "notes": list(front.notes),
        "points": [_point(place, point, goal, metric, whole) for place, point in enumerate(front.points, 1)],
    }


def _point(place: int, point: FrontPoint, goal: Goal, metric: str, whole: bool) -> dict[str, Any]:
    done, values = point.evaluation, dict(point.evaluation.values)
    first = goal.constraints[0].metric
    interval = (0.0, 0.0) if point.trial is None else done.loss_ci95
    ratio, reach = dict(done.ratios).get("latency", 1.0), dict(done.spread).get("latency", 0.0)
    trial = point.trial
    return {
        "point": place,
        "role": point.role,
        "trial": trial.number if trial else None,
        "accuracy": done.metric(first),
        "metrics": {metric if name == first else name: value for name, value in done.metrics},
        "samples": done.samples,
        "loss": point.loss,
        "loss_ci95": list(interval) if interval else None,
        "keeps_goal": goal.feasible(done),
        "cost": point.cost,
        "cost_ci95": [point.cost / (1 + point.reach), point.cost * (1 + point.reach)],
        "latency_ms": values["latency_ms"],
        "fp32_latency_ms": values.get("fp32_latency_ms", values["latency_ms"]),
        "speedup": 1 / ratio,
        "speedup_ci95": [1 / (ratio * (1 + reach)), (1 + reach) / ratio],
        "size_bytes": int(values["size_bytes"]),
        "int8_ops": done.int8_ops,
        "fp32_ops": done.fp32_ops,
        "dominated": point.dominated,
        "within_noise": point.within_noise,
        "fingerprint": trial.config.fingerprint if trial else None,
        **({"config": trial.config.to_dict() if trial else None, "evaluation": done.to_dict()} if whole else {}),
    }


def write(folder: Path, front: Front, goal: Goal, metric: str) -> None:
    """Write ``front.json`` into the run's folder atomically.

    Raises:
        EngineError: the file cannot be written.
    """
    write_atomically(folder / FILE, json.dumps(as_dict(front, goal, metric), indent=1, allow_nan=False) + "\n")


def read_trials(data: Mapping[str, Any]) -> list[Trial]:
    """The points of ``front.json`` but fp32 as trials with their final measurements.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: the data is not that of ``front.json``.
    """
    return [read_point(point) for point in data["points"] if point["role"] != "fp32"]


def read_point(point: Mapping[str, Any]) -> Trial:
    """One point of ``front.json`` as a trial; the errors are those of `read_trials`."""
    evaluation = Evaluation.from_dict(point["evaluation"])
    return Trial(int(point["trial"]), Config.from_dict(point["config"]), TrialState.OK, evaluation, resumed=True)


def read_earlier(folder: Path) -> dict[str, Evaluation]:
    """Final measurements of an earlier run's front by executed graph; empty without a file that can be read."""
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        trials = read_trials(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s cannot be read: %s; its points are timed again", path, error)
        return {}
    return {trial.evaluation.graph: trial.evaluation for trial in trials if trial.evaluation is not None}
