"""Time budget of a run (``tuning.timeout``): the expected seconds of trials, estimates and the end of the run.

The budget is pure arithmetic on measured seconds; nothing here measures. The run, its plan and its progress line use
the same object.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from nc_strategies.config import MeasureConfig
from nc_strategies.measuring.ending import PATIENCE, REFERENCES, Ending, front_patience
from nc_strategies.measuring.extent import Allowance
from nc_strategies.measuring.latency import TIMING_RULES
from nc_strategies.problem import Evaluation

STAGES = ("build", "accuracy", "latency")


@dataclass(frozen=True)
class BoxRules:
    """Division of a run's time. Shares are of ``tuning.timeout`` unless stated otherwise.

    Args:
        recent_trials: Number of recent trials; the next one is expected to take as long as the slowest of them. A slow
            trial long ago is thus forgotten.
        caution: Factor on the expected seconds of a final measurement: it reopens sessions, which takes longer the
            fuller the memory is.
        end_share: Maximum share reserved for the end of the run, unless the shortest end needs more. A more thorough
            final measurement is not worth a third of the trials.
        estimate_share: Maximum share of one estimate, of the time left after a trial and the end. An estimate is useful
            only in later trials, and it is lost if its time runs out.
        save_share: Maximum share of saving models early, of the time since the first trial.
        least_patience: Minimum seconds after its deadline in which a call may still end by itself.
        patience_share: Maximum of the same time as a share: a run may end this late.
        calibration_share: Maximum share of one pass over the calibration samples, of the time left once the model is
            loaded, as for the following five.
        evaluation_share: Maximum share of fp32's evaluation. A trial takes about as long, so that some 20 of them fit.
        most_evaluation_share: The same where fewer than `ExtentRules.least_samples` samples would be left.
        timing_share: Maximum share of timing a trial, once it has the minimum number of runs.
        noise_share: Maximum share of estimating the noise of all operators.
        recovery_share: Maximum share of recovery.
        front_share: Maximum share reserved for measuring a front: the trials that fill it, and its final timing.
        save_share_of_fp32: Expected time of saving a model until one was saved, relative to building fp32 as given and
            all-float. The model is written, opened like fp32 as given, and built again for comparison.
    """

    recent_trials: int = 5
    caution: float = 1.15
    end_share: float = 0.25
    estimate_share: float = 0.35
    save_share: float = 0.1
    least_patience: float = 0.5
    patience_share: float = 0.05
    calibration_share: float = 0.1
    evaluation_share: float = 0.04
    most_evaluation_share: float = 0.08
    timing_share: float = 0.02
    noise_share: float = 0.06
    recovery_share: float = 0.05
    front_share: float = 0.3
    save_share_of_fp32: float = 1.5


@dataclass(frozen=True)
class Shortage:
    """A time budget that is too small.

    Args:
        spent: Seconds from the start of the run to the end of fp32's measurement.
        trial: Seconds of the shortest trial.
        end: Seconds of the shortest end of the run.
        growth: Seconds by which these grow in a larger budget, which uses more samples.
    """

    spent: float
    trial: float
    end: float
    growth: float = 0.0

    @property
    def needed(self) -> float:
        """Minimum seconds that the run needs."""
        return self.spent + self.trial + self.end + self.growth

    def text(self) -> str:
        """The shortage in words."""
        trial = f"one trial about {_seconds(self.trial)}, " if self.trial else ""
        return (
            f"at least {_seconds(self.needed)} are needed here: until fp32 was measured it took "
            f"{_seconds(self.spent)}, {trial}saving a model takes about {_seconds(self.end)}"
        )


class TimeBox:
    """Time budget of a run: the time spent, the time left, and what fits into it.

    Until a trial was measured or rehearsed, it is expected to take as long as fp32's measurement.

    Args:
        timeout: Seconds of the whole run; 0 for no limit.
        measure: Configuration section ``measure``, for the numbers of timed runs.
        finalists: Maximum number of models that are timed side by side in the final measurement.
        sessions: Maximum number of sessions in which each finalist is timed.
        clock: Monotonic clock in seconds; `time.monotonic` by default.
        front: Number of points of the measured front; 0 for none.
    """

    def __init__(
        self,
        timeout: float,
        measure: MeasureConfig,
        finalists: int,
        sessions: int,
        clock: Callable[[], float] | None = None,
        front: int = 0,
    ) -> None:
        self._front = front
        self.timeout, self._measure, self._finalists, self._sessions = timeout, measure, finalists, sessions
        self._clock, self.rules = clock or time.monotonic, BoxRules()
        self.begin = self._clock()
        self.restart = 0.0
        """Seconds that a new worker takes to load, calibrate and measure fp32 again."""
        self.thinking = 0.0
        """Seconds that the strategy takes per proposal."""
        self._fp32: Evaluation | None = None
        self._rehearsed: dict[str, float] = {}
        self._trials: deque[Evaluation] = deque(maxlen=self.rules.recent_trials)
        self._recent: deque[float] = deque(maxlen=self.rules.recent_trials)
        self._saving = 0.0

    @property
    def limited(self) -> bool:
        """Whether the run has a time limit."""
        return self.timeout > 0

    @property
    def end(self) -> float:
        """Deadline of the run on the box's clock; 0 for none."""
        return self.begin + self.timeout if self.limited else 0.0

    @property
    def spent(self) -> float:
        """Seconds since the run began."""
        return self._clock() - self.begin

    def rewind(self, spent: float) -> None:
        """Set the start of the run to `spent` seconds ago."""
        self.begin = self._clock() - spent

    @property
    def left(self) -> float:
        """Seconds left; infinite without a limit."""
        return self.end - self._clock() if self.limited else math.inf

    def fp32_measured(self, evaluation: Evaluation) -> None:
        """Record fp32's measurement, the last step before the first trial."""
        self._fp32, self.restart = evaluation, self.spent

    def rehearsed(self, seconds: Mapping[str, float]) -> None:
        """Record the seconds of a rehearsed trial by stage."""
        self._rehearsed = dict(seconds)

    def trial_measured(self, evaluation: Evaluation) -> None:
        """Record a measured trial.

        One that stopped early does not predict how long a complete one takes, and one whose graph was known predicts
        nothing.
        """
        seconds = dict(evaluation.seconds)
        if set(STAGES) <= set(seconds):
            self._recent.append(sum(seconds.values()))
        if self._complete(evaluation):
            self._trials.append(evaluation)

    def _complete(self, evaluation: Evaluation) -> bool:
        return evaluation.samples >= self.fp32.samples and set(STAGES) <= set(dict(evaluation.seconds))

    def saved(self, seconds: float) -> None:
        """Record the seconds of saving a model."""
        self._saving = max(self._saving, seconds)

    @property
    def fp32(self) -> Evaluation:
        """fp32's measurement; available after `fp32_measured`."""
        assert self._fp32 is not None, "fp32 is measured first"
        return self._fp32

    @property
    def trial(self) -> dict[str, float]:
        """Expected seconds of the next trial by stage."""
        if self._trials:
            return {stage: max(dict(e.seconds)[stage] for e in self._trials) for stage in STAGES}
        if self._rehearsed:
            return dict(self._rehearsed)
        seconds = dict(self.fp32.seconds)
        return {
            "build": self._fp32_build / REFERENCES,
            "accuracy": seconds.get("accuracy", 0.0),
            "latency": seconds.get("latency", 0.0),
        }

    @property
    def trial_seconds(self) -> float:
        """Expected seconds of the next trial."""
        return sum(self.trial.values())

    @property
    def next_seconds(self) -> float:
        """Expected seconds of the next trial if it stops early as the recent ones did."""
        return max(self._recent, default=self.trial_seconds)

    def allowance(self) -> Allowance:
        """How much the preparation and the trials may read, from the time that is left."""
        if not self.limited:
            return Allowance()
        left, rules = max(self.left, 0.0), self.rules
        return Allowance(
            rules.calibration_share * left,
            rules.evaluation_share * left,
            rules.most_evaluation_share * left,
            rules.timing_share * left,
            rules.noise_share * left,
            recovery_seconds=rules.recovery_share * left,
        )

    @property
    def run_seconds(self) -> float:
        """Seconds of one run of a trial's model."""
        return max((e.run_ms for e in self._trials), default=self.fp32.run_ms) / 1e3

    @property
    def build_seconds(self) -> float:
        """Seconds to build a trial's model."""
        return self.trial["build"]

    @property
    def save_seconds(self) -> float:
        """Seconds to save a model and check it."""
        return self._saving or self.rules.save_share_of_fp32 * self._fp32_build

    @property
    def least_trial(self) -> float:
        """Seconds of the shortest trial: all samples and the minimum number of timed runs."""
        timing = _timing(2 * self.run_seconds, TIMING_RULES.least_runs)
        return self.trial["build"] + self.trial["accuracy"] + min(timing, self.trial["latency"])

    @property
    def least_end(self) -> float:
        """Seconds of the shortest end: the best trial's model is built and saved, nothing is measured again."""
        return self.build_seconds + self.save_seconds

    def end_seconds(self, candidates: int) -> float:
        """Seconds of the planned end: the final measurement, saving, and the measured front.

        Args:
            candidates: Number of trials that their timings cannot distinguish.
        """
        return self.final_seconds(candidates) + self.front_seconds

    def final_seconds(self, candidates: int) -> float:
        """Seconds of the most thorough final measurement that fits the time reserved for it, and of saving.

        Args:
            candidates: Number of trials that their timings cannot distinguish.
        """
        most = self.rules.end_share * self.timeout if self.limited else math.inf
        pruned = bool(self._recent) and not self._trials
        best = next((e for e in self._endings(candidates, pruned) if e.seconds + self.save_seconds <= most), None)
        return self.least_end if best is None else max(self.least_end, best.seconds + self.save_seconds)

    def ending(self, candidates: int, pruned: bool = False, prepared: bool = True) -> Ending | None:
        """The most thorough final measurement that ends in time; None if there is only time to save.

        Args:
            candidates: Number of trials that their timings cannot distinguish.
            pruned: The candidates stopped early and must first be evaluated on all samples.
            prepared: See `trial_fits`.
        """
        left = (self.deadline - self._clock() if self.limited else math.inf) - (0.0 if prepared else self.restart)
        reserved = self.front_timing_seconds(self._front) if self._front else 0.0
        for room in dict.fromkeys((left - reserved, left)):
            found = next((e for e in self._endings(candidates, pruned) if e.seconds <= room), None)
            if found is not None:
                return found
        return None

    @property
    def front_seconds(self) -> float:
        """Seconds reserved for the measured front: a trial for each point but fp32 and the chosen, and the timing."""
        if not self._front:
            return 0.0
        needed = max(0, self._front - 2) * (self.trial_seconds + self.thinking)
        needed += self.front_timing_seconds(self._front)
        return min(needed, self.rules.front_share * self.timeout) if self.limited else needed

    def front_timing_seconds(self, points: int, runs: int | None = None) -> float:
        """Seconds of the final timing of a front.

        Args:
            points: Number of its points, with fp32, which is timed in any case.
            runs: Timed runs per model; the least number by default.
        """
        runs = self._least_front_runs if runs is None else runs
        models = max(0, points - 1)
        patience = front_patience(models, self._finalists)
        return self.rules.caution * self._sessions_seconds(models, REFERENCES, runs, patience)

    @property
    def _least_front_runs(self) -> int:
        return min(self._measure.final_runs, self._sessions * TIMING_RULES.least_runs)

    def front_trial_fits(self, points: int, candidates: int, prepared: bool = True) -> bool:
        """Whether a trial that fills a gap of the front leaves time for the end and for timing the front.

        Args:
            points: Number of the front's points, with fp32 and that trial.
            candidates: Number of trials that their timings cannot distinguish.
            prepared: See `trial_fits`.
        """
        if not self.limited:
            return True
        needed = self.trial_seconds + self.thinking + self.final_seconds(candidates) + self.patience
        return needed + self.front_timing_seconds(points) + (0.0 if prepared else self.restart) <= self.left

    def front_extent(self, models: int, prepared: bool = True) -> tuple[int, int] | None:
        """Number of models of a front to time, and of timed runs per model, that end in time; None without time.

        Args:
            models: Number of models to time beside fp32.
            prepared: See `trial_fits`.
        """
        left = (self.left - self.patience if self.limited else math.inf) - (0.0 if prepared else self.restart)
        shapes = [(models, self._measure.final_runs)]
        shapes += [(count, self._least_front_runs) for count in range(models, 0, -1)]
        shapes += [(1, TIMING_RULES.least_runs)]
        return next((s for s in shapes if self.front_timing_seconds(s[0] + 1, s[1]) <= left), None)

    def _endings(self, candidates: int, pruned: bool = False) -> Iterator[Ending]:
        """Final measurements from the most to the least thorough."""
        final = self._measure.final_runs
        short = min(final, self._sessions * TIMING_RULES.least_runs)
        count = min(candidates, self._finalists)
        shapes = [
            (count, final, True, candidates > count),
            (count, final, True, False),
            *((n, short, True, False) for n in range(count, 0, -1)),
            (1, TIMING_RULES.least_runs, True, False),
            (1, TIMING_RULES.least_runs, False, False),
        ]
        for finalists, runs, compare, preselect in dict.fromkeys(shapes):
            seconds = self._ending_seconds(finalists, runs, compare, pruned)
            if preselect:
                seconds += self._sessions_seconds(candidates, 1, self._measure.latency_runs, 1.0)
            yield Ending(
                finalists, runs, compare, preselect, seconds * self.rules.caution, repeat_fp32=not self.limited
            )

    def _ending_seconds(self, finalists: int, runs: int, compare: bool, pruned: bool) -> float:
        fp32 = 0.0 if self.limited else self._fp32_accuracy
        evaluations = (fp32 + self.trial["accuracy"] if compare else 0.0) + (
            finalists * self.trial["accuracy"] if pruned else 0.0
        )
        timing = self._sessions_seconds(finalists, REFERENCES, runs, PATIENCE)
        return timing + finalists * self.build_seconds + evaluations

    def _sessions_seconds(self, models: int, references: int, runs: int, patience: float) -> float:
        """Seconds to build and time models and fp32's references in several sessions."""
        sessions = min(self._sessions, max(1, runs // TIMING_RULES.least_runs))
        built = models * self.build_seconds + references / REFERENCES * self._fp32_build
        once = models * self.run_seconds + references * self._fp32_run
        limit = self._measure.latency_timeout * patience / sessions
        return sessions * (built + _timing(once, math.ceil(runs / sessions), limit))

    @property
    def _fp32_build(self) -> float:
        return dict(self.fp32.seconds).get("build", 0.0)

    @property
    def _fp32_accuracy(self) -> float:
        return dict(self.fp32.seconds).get("accuracy", 0.0)

    @property
    def _fp32_run(self) -> float:
        values = dict(self.fp32.values)
        return (
            max(values.get("as_given_latency_ms", 0.0), values.get("all_float_latency_ms", 0.0), self.fp32.run_ms) / 1e3
        )

    @property
    def sample_seconds(self) -> float:
        """Seconds to run one evaluation sample through a model."""
        samples = self.fp32.samples
        # A user's function that evaluates models counts no samples.
        return self.trial["accuracy"] / samples if samples else self.run_seconds / self._measure.batch_size

    @property
    def patience(self) -> float:
        """Seconds after a deadline in which a call may end by itself: it checks the deadline once per batch."""
        samples = self.fp32.samples
        share = min(self._measure.evaluation_batch_size, samples) / samples if samples else 1.0
        batch = self.trial["accuracy"] * share
        rules = self.rules
        return min(max(rules.least_patience, 2 * batch), max(rules.least_patience, rules.patience_share * self.timeout))

    @property
    def deadline(self) -> float:
        """Deadline of a trial, after which a model can still be saved; 0 for none."""
        return self.end - self.least_end - self.patience if self.limited else 0.0

    def trial_fits(self, any_measured: bool, prepared: bool = True, save: bool = False) -> bool:
        """Whether the next trial is expected to leave enough time for the end of the run.

        Args:
            any_measured: A trial was measured. For the first trial, time for the shortest trial and end is enough.
            prepared: The engine has loaded, calibrated and measured fp32. Otherwise a new worker must do so first.
            save: The best model so far is saved before the trial.
        """
        if not self.limited:
            return True
        if any_measured:
            # A trial that does not stop early is a better model: for it, the end may be the shortest one.
            usual = self.next_seconds + self.end_seconds(self._finalists)
            needed = self.thinking + max(usual, self.trial_seconds + self.least_end + self.patience)
        else:
            needed = self.least_trial + self.least_end
        return needed + (0.0 if prepared else self.restart) + (self.least_end if save else 0.0) <= self.left

    def may_save(self, spent: float, since: float) -> bool:
        """Whether saving a new best model early takes little time compared with the trials.

        Args:
            spent: Seconds spent on saving early so far.
            since: Seconds since the first trial began.
        """
        return spent + self.least_end <= self.rules.save_share * since

    def settling_fits(self, prepared: bool) -> bool:
        """Whether the shortest end of the run fits.

        Args:
            prepared: See `trial_fits`.
        """
        return self.least_end + (0.0 if prepared else self.restart) <= self.left

    def after(self, seconds: float) -> float:
        """Deadline in `seconds` from now on the box's clock; 0 (none) for an infinite number."""
        return self._clock() + seconds if math.isfinite(seconds) else 0.0

    @property
    def spare_seconds(self) -> float:
        """Seconds left without one more trial and the planned end; infinite without a limit."""
        if not self.limited:
            return math.inf
        return max(0.0, self.left - self.trial_seconds - self.end_seconds(self._finalists))

    def estimate_seconds_left(self) -> float:
        """Seconds that an estimate may take; infinite without a limit."""
        return self.rules.estimate_share * self.spare_seconds

    def shortage(self, any_measured: bool = False) -> Shortage | None:
        """The shortage of time for fp32, one trial and the end; None if they fit.

        Args:
            any_measured: An earlier run has measured trials.
        """
        found = Shortage(self.restart, 0.0 if any_measured else self.least_trial, self.least_end)
        if not self.limited or found.needed <= self.timeout:
            return None
        # fp32 and a trial are evaluated and timed for a share of the time: T' = needed + share * (T' - T).
        share = 2 * (self.rules.most_evaluation_share + self.rules.timing_share)
        return replace(found, growth=share / (1 - share) * (found.needed - self.timeout))

    @property
    def used(self) -> float:
        """Share of the time for trials that is used, from 0 to 1; 0 without a limit."""
        if not self.limited:
            return 0.0
        room = self.timeout - self.restart - self.end_seconds(self._finalists)
        return min(1.0, max(0.0, (self.spent - self.restart) / room)) if room > 0 else 1.0

    def remaining(self, trials: int | None) -> float:
        """Maximum seconds until the end of the run.

        Args:
            trials: Number of trials left; None if only time limits them.
        """
        needed = (
            math.inf
            if trials is None
            else trials * (self.trial_seconds + self.thinking) + self.end_seconds(self._finalists if trials else 1)
        )
        return max(0.0, min(needed, self.left))

    def trials_that_fit(self, trials: int | None) -> int | None:
        """Number of trials that fit into the time left; None for no limit.

        Args:
            trials: Maximum number of trials; None for no limit.
        """
        if not self.limited:
            return trials
        room = self.left - self.end_seconds(self._finalists)
        fit = math.floor(room / max(self.trial_seconds + self.thinking, 1e-9) + 1e-9)
        fit = max(fit, int(self.trial_fits(any_measured=False)))
        return fit if trials is None else min(fit, trials)


def _timing(once: float, runs: int, limit: float = 0.0) -> float:
    """Expected seconds to time models side by side.

    Args:
        once: Seconds of one run of all models.
        runs: Timed runs per model, each after an untimed one.
        limit: Seconds after which the timing stops, once there are enough runs; 0 for no limit.
    """
    if limit and once:
        runs = min(runs, max(TIMING_RULES.least_runs, math.ceil(limit / (2 * once))))
    return once * (TIMING_RULES.warm_up_runs + 2 * runs)


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{math.ceil(seconds)} s"
