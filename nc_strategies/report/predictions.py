"""Predicted against measured cost of trials: accuracy and coverage of the strategy's predictions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nc_strategies.problem import Goal, Trial
from nc_strategies.report.run_files import RunFiles

Z_95 = 1.96
MIN_PREDICTED_TRIALS = 3
"""Fewest predicted trials for which a coverage is reported."""
MAX_INTERVAL_RATIO = 1.5
"""Largest end of an interval, as a multiple of the largest predicted or measured cost: one interval does not compress
the scale."""
WITHIN, OUTSIDE = "within its interval", "outside its interval"


@dataclass(frozen=True)
class Compared:
    """One trial's cost relative to fp32, predicted and measured.

    Args:
        trial: Its number.
        cost: Predicted cost.
        sd: Predicted standard deviation of the measured cost.
        measured: Measured cost.
    """

    trial: int
    cost: float
    sd: float
    measured: float

    @property
    def interval(self) -> tuple[float, float]:
        """The predicted 95 % interval."""
        return self.cost - Z_95 * self.sd, self.cost + Z_95 * self.sd

    @property
    def within(self) -> bool:
        """Whether the measured cost lies in the predicted interval."""
        low, high = self.interval
        return low <= self.measured <= high


def compared(goal: Goal | None, trials: Iterable[Trial]) -> list[Compared]:
    """Predicted against measured cost of each trial that has both, in the order of the trials."""
    if goal is None:
        return []
    names = [o.name for o in goal.objectives]
    return [
        Compared(t.number, t.predicted.cost, t.predicted.cost_sd, goal.cost(t.evaluation))
        for t in trials
        if t.predicted is not None
        and t.evaluation is not None
        and all(name in dict(t.evaluation.ratios) for name in names)
    ]


def coverage(rows: Sequence[Compared]) -> float | None:
    """Share of the trials whose measured cost lies in the predicted 95 % interval; None without a trial."""
    return sum(r.within for r in rows) / len(rows) if rows else None


def scatter(rows: Sequence[Compared]) -> float:
    """Root mean square of the relative error, measured over predicted cost less 1."""
    return float(np.sqrt(np.mean([(r.measured / r.cost - 1) ** 2 for r in rows if r.cost > 0] or [0.0])))


def remarks(run: RunFiles) -> list[str]:
    """Remarks on the predictions; none below the fewest predicted trials."""
    rows = compared(run.goal, run.trials)
    if len(rows) < MIN_PREDICTED_TRIALS:
        return []
    return [
        f"The strategy predicted the cost of {len(rows)} trials before it measured them: "
        f"{sum(r.within for r in rows)} lie in their 95 % intervals, and measured costs differ from predicted ones "
        f"by {scatter(rows):.1%} (root mean square)."
    ]


def chart(run: RunFiles) -> dict[str, Any] | None:
    """Predicted cost with its 95 % interval and measured cost of each trial; None without a prediction."""
    rows = compared(run.goal, run.shown)
    if not rows or run.goal is None:
        return None
    top = MAX_INTERVAL_RATIO * max(max(r.cost, r.measured) for r in rows)
    values = [
        {
            "trial": r.trial,
            "predicted": round(r.cost, 5),
            "low": round(max(r.interval[0], 0.0), 5),
            "high": round(min(r.interval[1], top), 5),
            "measured": round(r.measured, 5),
            "state": WITHIN if r.within else OUTSIDE,
        }
        for r in rows
    ]
    present = [state for state in (WITHIN, OUTSIDE) if any(v["state"] == state for v in values)]
    colours, shapes = {WITHIN: "var(--kept)", OUTSIDE: "var(--missed)"}, {WITHIN: "circle", OUTSIDE: "triangle-up"}
    x = {
        "field": "trial",
        "type": "quantitative",
        "title": "trial",
        "scale": {"domain": [0, rows[-1].trial + 1], "nice": False},
        "axis": {"tickMinStep": 1, "format": "d"},
    }
    names = " and ".join(o.name for o in run.goal.objectives)
    y = {"type": "quantitative", "title": f"{names} relative to fp32", "scale": {"zero": False}}
    tip = [
        {"field": "trial"},
        {"field": "state"},
        *({"field": name, "format": ".3f"} for name in ("measured", "predicted", "low", "high")),
    ]
    layer = [
        {
            "mark": {"type": "rule", "color": "var(--front)", "strokeWidth": 2},
            "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "tooltip": tip},
        },
        {
            "mark": {"type": "tick", "color": "var(--front)", "thickness": 2, "size": 14},
            "encoding": {"x": x, "y": {**y, "field": "predicted"}, "tooltip": tip},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 75, "opacity": 0.9},
            "encoding": {
                "x": x,
                "y": {**y, "field": "measured"},
                "tooltip": tip,
                "color": {
                    "field": "state",
                    "type": "nominal",
                    "title": None,
                    "scale": {"domain": present, "range": [colours[s] for s in present]},
                },
                "shape": {
                    "field": "state",
                    "type": "nominal",
                    "title": None,
                    "scale": {"domain": present, "range": [shapes[s] for s in present]},
                },
            },
        },
    ]
    text = (
        f"Predicted and measured cost of {len(rows)} trials; {sum(r.within for r in rows)} lie in the 95 % "
        "interval that was predicted. The journal holds the same numbers."
    )
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "description": text,
        "width": "container",
        "height": 220,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "data": {"values": values},
        "layer": layer,
    }
