"""What a run knows while it goes on, and leaves when it has ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from nc_strategies.measuring.final import Final
from nc_strategies.measuring.resolution import Resolution
from nc_strategies.problem import Evaluation, Goal, LatencyTerms, Trial, TrialState
from nc_strategies.problem.objective import Shortfall
from nc_strategies.space import Space
from nc_strategies.study.machine import Machine
from nc_strategies.study.timebox import TimeBox


class Status(StrEnum):
    """How a run ended: goal met, goal missed with the closest model saved, or no model at all."""

    MET = "met"
    MISSED = "missed"
    FAILED = "failed"


@dataclass
class Study:
    """A run.

    Args:
        run_dir: Where it leaves its files.
        space: What may be chosen.
        goal: What is wanted.
        baseline: fp32, measured.
        baseline_ci95: 95 % interval of fp32's latency in milliseconds.
        metadata: Identity of the run.
        model: The model's name, for reports.
        trials: Finished trials in the order in which the strategy saw them.
        seconds: Seconds by stage: `load`, `calibrate`, `build`, `accuracy` and `latency` (of fp32, the trials and the
            finalists), `ceiling`, `strategy` with the estimates that it asked for, `save`; and `total`.
        estimate_seconds: Seconds of each sort of estimate.
        resolution: What the evaluation samples can tell; None where nothing can be said of it.
        sensitivity: Noise-to-signal ratio by operator in int8; None when no strategy asked for it.
        latency_terms: The terms of the latency model; None when no strategy asked for it.
        stop_note: Why the strategy ended, in its own words; empty where it did not, or says nothing of it.
        remarks: What calibration did to the model that its user should know, a sentence each.
        machine: What it measures on; None before that is known.
        box: The run's time and what fits into it; None before that is known.
        confirmed: Final measurements of executed graphs, by the graph's fingerprint: they count instead of the trial's.
        notices: What the strategy told the user during this run, a sentence each.
    """

    run_dir: Path
    space: Space
    goal: Goal
    baseline: Evaluation
    baseline_ci95: tuple[float, float]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    engine: str = ""
    trials: list[Trial] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    estimate_seconds: dict[str, float] = field(default_factory=dict)
    stop_reason: str = ""
    stop_note: str = ""
    status: Status = Status.FAILED
    final: Final | None = None
    model_path: Path | None = None
    versions: dict[str, str] = field(default_factory=dict)
    earlier_versions: dict[str, str] = field(default_factory=dict)
    resolution: Resolution | None = None
    sensitivity: Mapping[str, float] | None = None
    latency_terms: LatencyTerms | None = None
    remarks: tuple[str, ...] = ()
    machine: Machine | None = None
    notices: list[str] = field(default_factory=list)
    confirmed: dict[str, Evaluation] = field(default_factory=dict)
    box: TimeBox | None = None

    def latest(self, trial: Trial) -> Evaluation | None:
        """The last measurement of what a trial executes: the final one where there is one."""
        done = trial.evaluation
        return None if done is None else self.confirmed.get(done.graph, done)

    @property
    def best(self) -> Trial | None:
        """The trial to be preferred so far, by the last measurement of each."""
        latest = [replace(t, evaluation=self.latest(t)) for t in self.trials]
        found = self.goal.best(latest)
        return None if found is None else self.trials[next(i for i, t in enumerate(latest) if t is found)]

    @property
    def candidates(self) -> list[Trial]:
        """Trials that meet the goal, and of whose executed graph there is no final measurement yet."""
        return [
            t
            for t in self.trials
            if t.ok
            and t.evaluation is not None
            and t.evaluation.graph not in self.confirmed
            and self.goal.met(t.evaluation)
        ]

    @property
    def shortfall(self) -> Shortfall | None:
        """Why the final model does not meet the goal; None when it does, or there is none."""
        return self.goal.shortfall(self.final.evaluation) if self.final else None

    @property
    def limit(self) -> float:
        """The loss that is tolerated, in the metric's unit."""
        constraint = self.goal.constraints[0]
        return constraint.loss(constraint.threshold)

    @property
    def certain(self) -> bool | None:
        """Whether the final loss is on its side of the limit with 95 % confidence; None without a final model."""
        if self.final is None or self.final.accuracy_loss_ci95 is None:
            return None
        low, high = self.final.accuracy_loss_ci95
        return not low <= self.limit < high

    def count(self, state: TrialState) -> int:
        """Trials that ended in a state."""
        return sum(t.state is state for t in self.trials)


class StudyListener:
    """Told what a run does; every method does nothing unless overridden."""

    def stage(self, text: str) -> None:
        """A stage begins: loading, calibrating, fp32 baseline, tuning, final measurement."""

    def started(self, study: Study, max_trials: int, timeout: float) -> None:
        """The baseline is measured, trials begin."""

    def notice(self, text: str) -> None:
        """The user should know this now, in one sentence."""

    def trial_started(self, number: int, stage: str) -> None:
        """A trial begins."""

    def trial_finished(self, study: Study, trial: Trial) -> None:
        """A trial has ended and is in the journal."""

    def finished(self, study: Study) -> None:
        """The run has ended."""
