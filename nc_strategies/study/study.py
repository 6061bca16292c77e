"""State of a run, and its results after it has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from nc_strategies.measuring.extent import Extent
from nc_strategies.measuring.final import Final
from nc_strategies.measuring.resolution import Resolution
from nc_strategies.problem import Evaluation, Goal, LatencyTerms, Trial, TrialState
from nc_strategies.problem.objective import Shortfall
from nc_strategies.space import Space
from nc_strategies.study.front import Front
from nc_strategies.study.machine import Machine
from nc_strategies.study.ranking import Ranking
from nc_strategies.study.timebox import TimeBox


class Status(StrEnum):
    """Outcome of a run: goal met, goal missed (the closest model is saved), or no model."""

    MET = "met"
    MISSED = "missed"
    FAILED = "failed"


@dataclass
class Study:
    """State and results of a run.

    Args:
        run_dir: Folder of the run's files.
        space: Search space.
        goal: Constraints and objectives of the run.
        baseline: fp32's measurement.
        baseline_ci95: 95 % interval of fp32's latency in milliseconds.
        metadata: Identity of the run; see `setup.identity`.
        model: The model's name, for reports.
        trials: Finished trials in the order in which the strategy saw them.
        seconds: Seconds by stage: `load`, `calibrate`, `build`, `accuracy` and `latency` (of fp32, the trials and the
            finalists), `ceiling`, `strategy` (including the estimates that it requested), `save`, `front` (its final
            timing), and `total`.
        estimate_seconds: Seconds by type of estimate.
        resolution: Resolution of the loss with the evaluation samples; None if it cannot be determined.
        sensitivity: Noise-to-signal ratio by operator in int8; None if no strategy requested it.
        mode_sensitivity: The same for each other quantization mode that a strategy requested.
        latency_terms: Terms of the latency model; None if no strategy requested them.
        stop_note: The strategy's reason for its end; empty if it did not end the run or gave none.
        remarks: Which outputs the metrics read, and changes that calibration made to the model, one sentence each.
        recovery: What each recovery method brought, see `calibration.recovery.RecoveryRecord`.
        outputs: What each metric reads, by the metric's name; see `measuring.selection.described`.
        machine: The machine that the run measures on; None before it is known.
        box: Time budget of the run; None before it is known.
        confirmed: Final measurements by fingerprint of the executed graph; they replace those of the trials.
        extent: Numbers of samples used, of those given.
        error: Reason why the run has no model, in one line; empty if it has one.
        workers: What each process evaluated, see `measuring.shares.Usage`; empty for one process.
        front: The measured Pareto front; None if the user asked for none.
        notices: What the strategy told the user during this run, one sentence each.
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
    mode_sensitivity: dict[str, Mapping[str, float]] = field(default_factory=dict)
    latency_terms: LatencyTerms | None = None
    remarks: tuple[str, ...] = ()
    recovery: Sequence[Mapping[str, Any]] = ()
    outputs: Mapping[str, Any] = field(default_factory=dict)
    machine: Machine | None = None
    notices: list[str] = field(default_factory=list)
    confirmed: dict[str, Evaluation] = field(default_factory=dict)
    box: TimeBox | None = None
    extent: Extent = field(default_factory=Extent)
    error: str = ""
    workers: Mapping[str, Any] = field(default_factory=dict)
    front: Front | None = None
    _ranking: Ranking | None = field(default=None, init=False, repr=False, compare=False)

    def latest(self, trial: Trial) -> Evaluation | None:
        """The latest measurement of a trial's executed graph: the final one if there is one."""
        done = trial.evaluation
        return None if done is None else self.confirmed.get(done.graph, done)

    @property
    def best(self) -> Trial | None:
        """The best trial so far, by the latest measurement of each."""
        return self._ranked().best(self.trials, self.confirmed)

    def _ranked(self) -> Ranking:
        if self._ranking is None:
            self._ranking = Ranking(self.goal)
        return self._ranking

    @property
    def candidates(self) -> list[Trial]:
        """Trials that meet the goal and whose executed graph has no final measurement yet."""
        met = self._ranked().met(self.trials, self.confirmed)
        return [t for t in met if t.evaluation is not None and t.evaluation.graph not in self.confirmed]

    @property
    def shortfall(self) -> Shortfall | None:
        """Reason why the final model does not meet the goal; None if it does, or if there is no final model."""
        return self.goal.shortfall(self.final.evaluation) if self.final else None

    @property
    def limit(self) -> float:
        """Tolerable loss, in the metric's unit."""
        constraint = self.goal.constraints[0]
        return constraint.loss(constraint.threshold)

    @property
    def certain(self) -> bool | None:
        """Whether the limit is outside the 95 % interval of the final loss; None without a final model or interval."""
        if self.final is None or self.final.accuracy_loss_ci95 is None:
            return None
        low, high = self.final.accuracy_loss_ci95
        return not low <= self.limit < high

    def count(self, state: TrialState) -> int:
        """Number of trials that ended in a state."""
        return sum(t.state is state for t in self.trials)


class StudyListener:
    """Receives the events of a run; by default, every method does nothing."""

    def stage(self, text: str) -> None:
        """A stage begins: loading, calibrating, fp32 baseline, tuning, final measurement."""

    def started(self, study: Study, max_trials: int, timeout: float) -> None:
        """fp32 has been measured, and the trials begin."""

    def notice(self, text: str) -> None:
        """One sentence that the user should read now."""

    def trial_started(self, number: int, stage: str) -> None:
        """A trial begins."""

    def trial_finished(self, study: Study, trial: Trial) -> None:
        """A trial has ended and is recorded in the journal."""

    def workers(self, study: Study) -> None:
        """`Study.workers` has changed, also during a trial, as several processes evaluate."""

    def finished(self, study: Study) -> None:
        """The run has ended."""
