"""All that a strategy is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nc_strategies.problem.evaluation import Evaluation
from nc_strategies.problem.latency import LatencyTerms
from nc_strategies.problem.objective import Goal
from nc_strategies.space import Config, Space

if TYPE_CHECKING:
    import numpy as np

Sensitivity = Callable[[], Mapping[str, float]]
LatencyModel = Callable[[Config], float]
Divergence = Callable[[Config], float]


@dataclass(frozen=True)
class Problem:
    """A tuning problem: choose a `Config` of `space` which satisfies `goal`.

    Args:
        space: What may be chosen.
        goal: What is wanted.
        baseline: fp32, measured.
        rng: The run's random numbers; a strategy uses no others.
        budget: Trials the run may take; 0 when only time limits it.
        workers: Trials that run at the same time.
        sensitivity: Estimated loss by operator, larger is worse, or None where the backend has no estimate;
            costs nothing unless called. It gives an empty mapping where the run's time is too short for estimates.
        latency_model: Predicted cost of a configuration relative to fp32, or None; costs nothing unless called.
        latency_terms: The terms which `latency_model` adds up, for a strategy that solves; None where there are none.
        divergence: Noise-to-signal ratio of a configuration's outputs against fp32's on calibration data, larger is
            worse, or None: what a configuration does to the outputs without evaluating it; some of a trial's cost.
        state_dir: A folder of the run in which a strategy may keep what it needs to resume; None without one.
        metadata: Facts of the run for strategies which report elsewhere: model, data, space, as short texts.
    """

    space: Space
    goal: Goal
    baseline: Evaluation
    rng: np.random.Generator
    budget: int = 0
    workers: int = 1
    sensitivity: Sensitivity | None = None
    latency_model: LatencyModel | None = None
    latency_terms: Callable[[], LatencyTerms] | None = None
    divergence: Divergence | None = None
    state_dir: Path | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
