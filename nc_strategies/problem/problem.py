"""The tuning problem that a strategy receives."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from nc_strategies.problem.evaluation import Evaluation
from nc_strategies.problem.latency import LatencyTerms
from nc_strategies.problem.objective import Goal
from nc_strategies.space import Config, Space

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

LatencyModel = Callable[[Config], float]


class Divergence(Protocol):
    """Estimates the noise of a configuration."""

    def __call__(self, config: Config, batches: int = 1, /) -> float:
        """The noise-to-signal ratio of the configuration's outputs.

        Args:
            config: The configuration.
            batches: Batches of calibration samples to average over.
        """


class Sensitivity(Protocol):
    """Estimates the loss of each operator."""

    def __call__(self, way: str = "") -> Mapping[str, float]:
        """The estimated loss by operator, larger is worse.

        Args:
            way: ``dynamic``, ``weight_only int8`` or another quantization mode with its weight type, for the operators
                that offer it; empty for each operator's default scheme.
        """


@dataclass(frozen=True)
class Problem:
    """A tuning problem: choose a `Config` of `space` that satisfies `goal`.

    The estimates (`sensitivity`, `latency_model`, `latency_terms`, `divergence`) are functions that compute on demand;
    each is None if the backend has no such estimate.

    Args:
        space: The search space.
        goal: The goal.
        baseline: Measured values of fp32.
        rng: The run's random generator; a strategy must use no other.
        budget: Number of trials that the run may take; 0 if only time limits it.
        workers: Number of trials that run at the same time.
        sensitivity: Returns the estimated loss by operator, larger is worse; None if the backend has no estimate. It
            costs nothing unless called, and returns an empty mapping if the run's time is too short for estimates. It
            takes a quantization mode, see `Sensitivity`.
        latency_model: Returns the predicted latency of a configuration relative to fp32, or None; costs nothing unless
            called.
        latency_terms: Returns the terms that `latency_model` adds up, for a strategy that solves for a configuration;
            None if there are none.
        divergence: Returns the noise-to-signal ratio of a configuration's outputs against fp32's on calibration data,
            or None; larger is worse. It costs a fraction of a trial.
        hessian: Returns the average Hessian trace times the squared weight error by operator, larger is worse, from a
            number of random vectors; None if the engine gives no gradients. It returns an empty mapping if the run's
            time is too short.
        state_dir: Folder of the run in which a strategy may store what it needs to resume; None without one.
        metadata: Short texts about model, data and space, for strategies that report to a service.
        time_used: Returns the share of the run's time for trials that is used, from 0 to 1; 0 without a time limit. Far
            fewer trials than `budget` may fit into a time limit.
        seconds_left: Returns the seconds left for proposals and further trials, without one more trial and the end of
            the run; infinite without a time limit.
        notice: Shows one sentence to the user at once: on the terminal, in the result and on the page.
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
    time_used: Callable[[], float] = lambda: 0.0
    seconds_left: Callable[[], float] = lambda: math.inf
    notice: Callable[[str], None] = log.warning
    hessian: Callable[[int], Mapping[str, float]] | None = None
