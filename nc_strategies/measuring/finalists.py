"""Final measurement of a run: the finalists are timed side by side, and the chosen one is evaluated beside fp32."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from nc_strategies.backends.base import Executable, ExecutedOps
from nc_strategies.errors import OutOfTimeError
from nc_strategies.measuring import resolution
from nc_strategies.measuring.accuracy import loss_interval
from nc_strategies.measuring.core import MeasurerCore, Scored
from nc_strategies.measuring.ending import PATIENCE, REFERENCES, Ending
from nc_strategies.measuring.final import Final
from nc_strategies.measuring.latency import Timing
from nc_strategies.measuring.reopening import Reopening
from nc_strategies.problem import Evaluation, Goal, Trial
from nc_strategies.runtime.clock import Clock

log = logging.getLogger(__name__)
FINALISTS = 3
"""Maximum number of models that are timed side by side at the end; a preselection reduces the candidates to these."""
CLEAR_TIE = 0.005
"""Relative difference in cost that counts as none between finalists if the fastest meets the goal beyond doubt. More
accuracy then justifies no more latency."""


@dataclass(frozen=True)
class Candidate:
    """A finalist.

    Args:
        trial: Its trial.
        model: Its model, open.
        column: Its place in the timing.
        scored: Its metrics.
        evaluation: Its final measurement.
        executed: What the engine executes of it.
    """

    trial: Trial
    model: Executable
    column: int
    scored: Scored
    evaluation: Evaluation
    executed: ExecutedOps


class FinalistMeasurer(MeasurerCore):
    """Measures finalists, or returns a trial as it was measured."""

    def measure_finalists(
        self,
        trials: list[Trial],
        goal: Goal,
        tie: float,
        opened: Callable[[Trial], Executable] | None = None,
        ending: Ending | None = None,
    ) -> Final:
        """Time the finalists side by side with fp32 again, choose one, and evaluate it beside fp32.

        Args:
            trials: Candidates; the first one wins a tie.
            goal: Orders the candidates.
            tie: Relative difference in cost that counts as none with the runs of a final measurement.
            opened: Opens a candidate's model; by default, the model is built from the configuration.
            ending: Extent of the final measurement; the full one by default.

        Raises:
            OutOfTimeError: the deadline passed before the finalists were measured.
        """
        ending = ending or Ending(FINALISTS, self.settings.final_runs, compare=True, preselect=True)
        make, base = opened or self._built, self.baseline
        spent: dict[str, float] = {}
        with Clock(spent, "latency"):
            if len(trials) > FINALISTS and ending.preselect:
                trials = self._cheapest(trials, goal) if base.large else self._preselect(trials, goal)
            trials = trials[: ending.finalists]
            makers = [partial(make, trial) for trial in trials]
            if base.large:
                timing = self._in_turn(makers, ending.runs, PATIENCE)
            else:
                timing = self._sessions([*self._references(), *makers], ending.runs, PATIENCE)
        faster = int(np.argmin([timing.median_ms(0), timing.median_ms(1)]))
        candidates = []
        for column, (trial, maker) in enumerate(zip(trials, makers, strict=True), REFERENCES):
            with Clock(spent, "build"):
                model = Reopening(maker)
            candidates.append(self._candidate(trial, model, column, timing, faster, spent))
            if base.large:
                model.close()
        chosen = candidates[self._choose([c.evaluation for c in candidates], goal, tie)]
        fp32_seconds, int8, interval = base.evaluation.value("duration_s"), chosen.scored, None
        if ending.compare:
            try:
                with Clock(spent, "accuracy"):
                    if ending.repeat_fp32 or not base.kept:
                        beside = base.reference if base.large else (base.as_given, base.all_float)[faster]
                        fp32, int8, interval = self._compare(beside, chosen.model, chosen.trial)
                    else:
                        drift = timing.median_ms(faster) / base.evaluation.value("latency_ms")
                        fp32, int8, interval = self._compare_with_known(chosen, drift)
                    fp32_seconds = fp32.seconds
            except OutOfTimeError as error:
                log.warning("fp32 and the chosen model are not evaluated side by side: %s", error)
        with Clock(spent, "build"):
            evaluation = self._final_evaluation(chosen, timing, faster, int8)
            for candidate in candidates:
                candidate.model.close()
        measured = tuple(
            (c.trial.evaluation.graph, evaluation if c is chosen else c.evaluation)
            for c in candidates
            if c.trial.evaluation is not None
        )
        low, high = timing.ratio_interval(chosen.column, faster)
        latencies = {
            "latency_ms": timing.median_ms(faster),
            "duration_s": fp32_seconds,
            "as_given_latency_ms": timing.median_ms(0),
            "all_float_latency_ms": timing.median_ms(1),
        }
        return Final(
            chosen.trial,
            evaluation,
            chosen.executed,
            1 / timing.ratio(chosen.column, faster),
            (1 / high, 1 / low),
            interval,
            timing.interval_ms(chosen.column),
            _with_values(base.evaluation, latencies),
            timing.interval_ms(faster),
            tuple(spent.items()),
            measured,
        )

    def _in_turn(self, makers: Sequence[Callable[[], Executable]], runs: int, patience: float) -> Timing:
        """Time candidates of a large model one after the other, each beside new sessions of fp32's faster form.

        The slower form is not opened again: its times are those of the faster one, scaled by the baseline's ratio.
        """
        base = self.baseline
        base.reference.close()
        share = patience / max(1, len(makers))
        timing = Timing.in_turn([self._sessions([self._reference, make], runs, share) for make in makers])
        forms = [base.evaluation.value(f"{name}_latency_ms") for name in ("as_given", "all_float")]
        return timing.repeated([form / min(forms) for form in forms])

    def _candidate(
        self, trial: Trial, model: Executable, column: int, timing: Timing, faster: int, spent: dict[str, float]
    ) -> Candidate:
        """A finalist with its final measurement; one that was stopped early is evaluated on everything."""
        done = trial.evaluation
        assert done is not None
        scored = Scored(done.metrics, done.value("duration_s"), self.samples)
        if done.samples < self.samples:
            with Clock(spent, "accuracy"):
                scored = self._finite(self._score(model, trial.config))
        with Clock(spent, "build"):
            executed = model.executed()
            peak = self._peak(trial.config, model.fingerprint)
            evaluation = self._evaluation(model, executed, timing, column, faster, scored, done.seconds, peak)
        return Candidate(trial, model, column, scored, evaluation, executed)

    def _final_evaluation(self, chosen: Candidate, timing: Timing, faster: int, scored: Scored) -> Evaluation:
        """The final measurement of the chosen finalist, with the metrics of its last evaluation."""
        done, model = chosen.trial.evaluation, chosen.model
        assert done is not None
        peak = self._peak(chosen.trial.config, model.fingerprint)
        return self._evaluation(model, chosen.executed, timing, chosen.column, faster, scored, done.seconds, peak)

    def _compare(
        self, fp32: Executable, int8: Executable, trial: Trial
    ) -> tuple[Scored, Scored, tuple[float, float] | None]:
        """Evaluate fp32 and the chosen trial's model side by side; also return the interval of the loss."""
        one, other = self._predict([fp32, int8])
        labels = self.labels_of(self.metric)
        interval = loss_interval(self.metric, one.outputs, other.outputs, labels, self.higher_is_better, self.rng)
        return (
            Scored(self.baseline.evaluation.metrics, one.seconds, self.samples),
            Scored(self._values(other), other.seconds, self.samples),
            interval,
        )

    def _compare_with_known(self, chosen: Candidate, drift: float) -> tuple[Scored, Scored, tuple[float, float]]:
        """The same as `_compare` from the outputs of fp32's first evaluation.

        Args:
            chosen: The chosen candidate; if it was evaluated as a finalist, it is not evaluated again.
            drift: fp32's latency now relative to its latency then.
        """
        base, int8 = self.baseline, chosen.scored
        if not int8.kept:
            (found,) = self._predict([chosen.model])
            int8 = Scored(self._values(found), found.seconds, self.samples, found.kept)
        labels = self.labels_of(self.metric)
        interval = loss_interval(self.metric, base.kept[0], int8.kept[0], labels, self.higher_is_better, self.rng)
        seconds = base.evaluation.value("duration_s") * drift
        return Scored(base.evaluation.metrics, seconds, self.samples), int8, interval

    def _choose(self, found: Sequence[Evaluation], goal: Goal, tie: float) -> int:
        """Index of the best finalist: closest to the goal, then as fast as the fastest, then most accurate."""
        closest = min(goal.violation(e) for e in found)
        kept = [e for e in found if goal.violation(e) == closest]
        kept = [e for e in kept if goal.met(e)] or kept
        fastest = min(kept, key=goal.cost)
        if self._clear(fastest, goal):
            tie = min(tie, CLEAR_TIE)
        level = [
            i
            for i, e in enumerate(found)
            if any(e is other for other in kept) and goal.cost(e) <= goal.cost(fastest) * (1 + tie)
        ]
        return min(level, key=lambda i: goal.loss(found[i]))

    def _clear(self, evaluation: Evaluation, goal: Goal) -> bool:
        """Whether an evaluation meets the goal by at least the resolution of the samples."""
        first = goal.constraints[0]
        limit = first.loss(first.threshold)
        found = resolution.assumed(self.samples, limit, self.metric.hit_range)
        return found is not None and goal.loss(evaluation) + found.half_width <= limit

    def _built(self, trial: Trial) -> Executable:
        return self.backend.build(trial.config)

    @staticmethod
    def _cheapest(trials: list[Trial], goal: Goal) -> list[Trial]:
        """The fastest of many candidates, by the timings of their trials."""
        costs = [goal.cost(trial.evaluation) for trial in trials if trial.evaluation is not None]
        return [trials[i] for i in sorted(np.argsort(costs, kind="stable")[:FINALISTS].tolist())]

    def _preselect(self, trials: list[Trial], goal: Goal) -> list[Trial]:
        """The fastest of many candidates, by the timings of their trials and a new timing side by side."""
        timing = self._sessions(
            [self._reference, *(partial(self._built, trial) for trial in trials)], self.settings.latency_runs, 1.0
        )
        costs = []
        for index, trial in enumerate(trials, 1):
            assert trial.evaluation is not None
            ratio = timing.ratio(index, 0)
            both = tuple(
                (name, float(np.sqrt(before * ratio)) if name in ("latency", "throughput") else before)
                for name, before in trial.evaluation.ratios
            )
            costs.append(goal.cost(replace(trial.evaluation, ratios=both)))
        return [trials[i] for i in sorted(np.argsort(costs, kind="stable")[:FINALISTS].tolist())]

    def _reference(self) -> Executable:
        """A new session of the fp32 graph that trials are timed beside."""
        forms = [self.baseline.evaluation.value(f"{name}_latency_ms") for name in ("as_given", "all_float")]
        return self._references()[int(np.argmin(forms))]()

    def settle(self, trial: Trial) -> Final:
        """Return a trial as it was measured, without measuring again: for a run that is interrupted or out of time."""
        assert trial.evaluation is not None
        done = trial.evaluation
        model = self.backend.build(trial.config)
        executed = model.executed()
        model.close()
        ratio, spread = done.ratio("latency"), dict(done.spread).get("latency", 0.0)
        base, values, latency = self.baseline.evaluation, dict(done.values), done.value("latency_ms")
        # fp32's latency is the one timed beside this trial. Its other times were measured at the start of the run, when
        # the machine's speed may have differed: they are scaled to the speed during the trial.
        fp32 = latency / ratio
        drift = fp32 / base.value("latency_ms")
        times = {
            name: base.value(name) * drift
            for name in ("latency_ms", "duration_s", "as_given_latency_ms", "all_float_latency_ms")
        }

        def interval(name: str, value: float) -> tuple[float, float]:
            # Journals of earlier versions contain only the interval of the ratio.
            return (
                values.get(f"{name}_low_ms", value / (1 + spread)),
                values.get(f"{name}_high_ms", value * (1 + spread)),
            )

        return Final(
            trial,
            done,
            executed,
            1 / ratio,
            (1 / (ratio * (1 + spread)), (1 + spread) / ratio),
            None,
            interval("latency", latency),
            _with_values(base, times),
            interval("fp32_latency", fp32),
        )


def _with_values(evaluation: Evaluation, values: Mapping[str, float]) -> Evaluation:
    """An evaluation with some of its values replaced."""
    return replace(evaluation, values=tuple({**dict(evaluation.values), **values}.items()))
