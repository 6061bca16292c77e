"""Measurement target: a model, an engine and data behind an interface of plain data.

Arguments and results can be pickled, so that a target can run in another process, where a crash of the engine does not
end the run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nc_strategies.backends.ceiling import Ceiling
from nc_strategies.measuring.diagnosis import Diagnosis
from nc_strategies.measuring.ending import Ending
from nc_strategies.measuring.extent import Allowance, Extent
from nc_strategies.measuring.final import Final
from nc_strategies.measuring.shares import Watch
from nc_strategies.problem import Evaluation, Goal, LatencyTerms, Trial
from nc_strategies.space import Capabilities, Config, Space


@dataclass(frozen=True)
class Measured:
    """Measurement of fp32, and the directions of the metrics.

    Args:
        evaluation: fp32's evaluation.
        latency_ci95: 95 % interval of fp32's latency in milliseconds.
        higher_is_better: Direction of the first constraint's metric.
        score_range: Lowest and highest score of a sample; infinite if that metric is no mean of bounded scores, or if
            they are graded.
        directions: Directions of the further constraints' metrics, in the order of the constraints.
        outputs: Pairs (name of the constraint's value, what its metric reads), see `selection.described`.
        extent: Numbers of samples used, of those given.
    """

    evaluation: Evaluation
    latency_ci95: tuple[float, float]
    higher_is_better: bool = True
    score_range: tuple[float, float] = (-math.inf, math.inf)
    directions: tuple[bool, ...] = ()
    outputs: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    extent: Extent = field(default_factory=Extent)


@dataclass(frozen=True)
class Finish:
    """Final measurement: the chosen model and fp32, measured side by side."""

    final: Final
    baseline: Measured


class MeasurementTarget(Protocol):
    """Interface through which a study measures. Call the first four methods in the order of their definition."""

    def load(self) -> Capabilities:
        """Open the model, and return what the backend can do with it.

        Raises:
            InputError: the model cannot be used.
        """

    def facts(self) -> Mapping[str, Any]:
        """Facts as plain data: hashes of the model, the data and the calibration data, names, preprocessing.

        ``labelled`` says whether the evaluation data has labels.
        """

    def allow(self, allowance: Allowance) -> None:
        """Set how much the following preparation and the trials may read; call it before `calibrate`."""

    def calibrate(self, cautious: bool = False) -> Capabilities:
        """Check that model and data fit each other, and run fp32 on the calibration data.

        Returns what that leaves of the backend's capabilities: an operator that infinite values reach stays float.

        Args:
            cautious: Run no graph other than fp32; see `Backend.cautious`.

        Raises:
            InputError: model and data do not fit each other.
        """

    def remarks(self) -> tuple[str, ...]:
        """Changes that calibration made to the model and that the user should know; see `Backend.remarks`."""

    def recovery(self) -> tuple[Mapping[str, Any], ...]:
        """What each recovery method brought, as plain data; see `calibration.recovery.RecoveryRecord`."""

    def ceiling(self) -> Ceiling | None:
        """Speed-up of the engine's int8 operators over fp32 on this machine; see `Backend.ceiling`."""

    def baseline(self, space: Space) -> Measured:
        """Measure fp32."""

    def remember(self, evaluation: Evaluation) -> None:
        """Register an evaluation of an earlier run, so that its executed graph is not measured again."""

    def measure(self, config: Config, partial: bool = False, complete: bool = False) -> Evaluation:
        """Measure a configuration.

        Args:
            config: The configuration.
            partial: If the deadline leaves no time for all samples and timed runs, return what fits, as an estimate.
            complete: Evaluate all samples, with the interval of the loss; see `TrialMeasurer.measure`.

        Raises:
            EngineError: the engine cannot build or run it.
        """

    def rehearse(self, config: Config) -> Mapping[str, float]:
        """Estimate the seconds of a trial by stage, from a part of the data and of the timed runs.

        Raises:
            EngineError: the engine cannot build or run it.
        """

    def sensitivity(self, way: str = "") -> Mapping[str, float]:
        """Estimated sensitivity by operator; see `Sensitivity`."""

    def latency_terms(self, brief: bool = False) -> LatencyTerms:
        """Terms of the latency model; see `Problem.latency_terms`.

        Args:
            brief: See `nc_strategies.measuring.latency_model.fit_latency`.

        Raises:
            EngineError: the engine cannot run the configurations that the terms are fitted to.
        """

    def gradients(self) -> bool:
        """Whether the engine can differentiate the loaded model; see `Backend.gradients`."""

    def hessian(self, draws: int) -> Mapping[str, float]:
        """Hessian-weighted error by operator; see `Backend.hessian`.

        Raises:
            EngineError: the engine cannot differentiate the model.
        """

    def divergence(self, config: Config, batches: int = 1) -> float:
        """Noise-to-signal ratio of a configuration's outputs; see `Problem.divergence`.

        Args:
            config: The configuration.
            batches: Batches of calibration samples to average over, as far as there are so many.

        Raises:
            EngineError: the engine cannot build or run it.
        """

    def diagnose(self, config: Config, alone: Config, samples: int) -> Diagnosis:
        """Compare the output of each operator with fp32's; it needs no baseline.

        Args:
            config: The configuration whose errors accumulate.
            alone: The scheme of each operator when it alone is quantized.
            samples: Most samples: the first of the evaluation data, which ranges were not fitted to; of the calibration
                data for a model that carries state from step to step.

        Raises:
            InputError: the backend cannot read single operators.
            EngineError: the engine cannot build or run the graphs.
        """

    def settle(self, trial: Trial) -> Finish:
        """Return a trial as it was measured, without measuring again: for a run that is interrupted or out of time."""

    def finish(self, trials: Sequence[Trial], goal: Goal, tie: float, ending: Ending | None = None) -> Finish:
        """Time the finalists side by side with fp32 again, choose one, and evaluate it beside fp32.

        Args:
            trials: Candidates, the preferred one first.
            goal: Orders the candidates.
            tie: Relative difference in cost that counts as none.
            ending: Extent of the final measurement; the full one by default.
        """

    def time_front(self, trials: Sequence[Trial], runs: int) -> tuple[Evaluation, ...]:
        """Time completely measured trials side by side with fp32; see `FrontMeasurer.time_front`.

        Raises:
            EngineError: the engine cannot build or run one of them.
        """

    def save(self, final: Final, folder: Path) -> Path:
        """Save the chosen model, open it with the engine's defaults, and check that it matches the measured one.

        Raises:
            EngineError: the saved model does not match the measured one.
        """

    def replay(self, path: Path, trial: Trial, goal: Goal) -> Finish:
        """Open the model that an earlier run chose and saved, and measure it side by side with fp32.

        Args:
            path: The saved model.
            trial: The trial that it comes from.
            goal: Goal of the earlier run.

        Raises:
            EngineError: the engine cannot open or run it.
        """

    def keep(self, folder: Path) -> None:
        """Copy intermediate models, such as the model converted to another format, into the run's folder."""

    def versions(self) -> Mapping[str, str]:
        """Versions of the software that measures."""

    def until(self, deadline: float, patience: float = 0.0) -> None:
        """Set the deadline of the following calls.

        After the deadline, a call that measures raises `OutOfTimeError` between two batches of an evaluation or between
        two timed runs. If the engine runs in a separate process and does not reach such a point, that process is
        killed.

        Args:
            deadline: Point in time on the clock of `time.monotonic`; 0 for no deadline.
            patience: Seconds after the deadline in which a call may still end by itself.
        """

    def workers(self) -> Mapping[str, Any]:
        """What each process has evaluated, see `nc_strategies.measuring.shares.Usage`; empty for one process."""

    def watch(self, listener: Watch) -> None:
        """Set the function that gets `workers`, also during a call, when it has changed; never for one process."""

    def prepared(self) -> bool:
        """Whether the next call runs without loading, calibrating and measuring fp32 again."""

    def timed_on(self) -> Mapping[str, Any] | None:
        """The other machine that times, as plain data; None where this one does.

        ``target`` names it; ``processor``, ``instruction_sets``, ``cores``, ``engine`` (versions there), and after
        `baseline` ``agreement``, see `nc_strategies.measuring.remote.agreement`.
        """

    def close(self) -> None:
        """Release all resources."""
