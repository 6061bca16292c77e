"""What a run would do, and about how long it would take, without running it."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, field

from nc_strategies.measuring import resolution
from nc_strategies.measuring.resolution import Resolution
from nc_strategies.space import Space
from nc_strategies.study.machine import Machine, find_machine
from nc_strategies.study.study import StudyListener
from nc_strategies.study.tune import Setup, make_goal, make_space


@dataclass(frozen=True)
class Plan:
    """A run to be.

    Args:
        model: The model's name.
        strategy: The strategy's name.
        backend: The backend's name.
        samples: Evaluation samples.
        types: Operator type to (operators, schemes that the first of them can take).
        configurations: Size of the space.
        preparation: Seconds until the first trial.
        trial: Seconds of a trial by stage.
        trials: Trials at most; None when only time limits them.
        timeout: Seconds after which no new trial starts; 0 for none.
        resolution: What the samples can tell; None where nothing can be said of it.
        machine: What the run would measure on.
    """

    model: str
    strategy: str
    backend: str
    samples: int
    types: dict[str, tuple[int, int]]
    configurations: int
    preparation: float
    trial: dict[str, float] = field(default_factory=dict)
    trials: int | None = None
    timeout: float = 0.0
    resolution: Resolution | None = None
    machine: Machine | None = None

    @property
    def trial_seconds(self) -> float:
        """Seconds of a trial."""
        return sum(self.trial.values())

    @property
    def seconds(self) -> float:
        """Seconds of the run, the final measurement left out."""
        return self.preparation + remaining(
            self.trials, self.trial_seconds, self.timeout - self.preparation if self.timeout else math.inf
        )

    @property
    def expected_trials(self) -> int:
        """Trials that fit."""
        spent = max(0.0, self.seconds - self.preparation)
        fit = math.ceil(spent / max(self.trial_seconds, 1e-9) - 1e-9)
        return fit if self.trials is None else min(self.trials, fit)


def remaining(trials: int | None, trial_seconds: float, time_left: float = math.inf) -> float:
    """Seconds that a run goes on trying, at most.

    Args:
        trials: Trials left; None for no limit.
        trial_seconds: Seconds of a trial.
        time_left: Seconds left.
    """
    return max(0.0, min(math.inf if trials is None else trials * trial_seconds, time_left))


def plan(setup: Setup, listener: StudyListener) -> Plan:
    """Load, calibrate, measure fp32 and rehearse a trial of the default configuration; nothing is left behind.

    Args:
        setup: What the run would work with.
        listener: Told what happens.

    Raises:
        InputError: model, data, overrides and settings do not fit each other.
        EngineError: the default configuration cannot be built.
    """
    config, target, begin = setup.config, setup.target, time.perf_counter()
    listener.stage("loading the model")
    space = make_space(config, target.load())
    listener.stage("calibrating")
    target.calibrate()
    listener.stage("measuring fp32")
    measured = target.baseline(space)
    preparation = time.perf_counter() - begin
    listener.stage("rehearsing a trial")
    trial = dict(target.rehearse(space.default()))
    constraint = make_goal(config, measured).constraints[0]
    samples = measured.evaluation.samples
    limit = constraint.loss(constraint.threshold)
    trials = min(space.size(), config.tuning.max_trials or space.size())
    return Plan(
        str(target.facts()["model_name"]),
        str(config.strategy["name"]),
        str(config.backend["name"]),
        samples,
        _types(space),
        space.size(),
        preparation,
        trial,
        trials,
        config.tuning.timeout,
        resolution.assumed(samples, limit, measured.score_range),
        find_machine(target, config.measure.threads),
    )


def _types(space: Space) -> dict[str, tuple[int, int]]:
    counts = Counter(op.type for op in space.quantizable)
    first = {op.type: len(space.schemes(space.group_of[op.name])) for op in reversed(space.quantizable)}
    return {kind: (count, first[kind]) for kind, count in sorted(counts.items())}
