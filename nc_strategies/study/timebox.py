"""What fits into ``tuning.timeout``: one estimate of what trials, estimates and the end of a run cost.

Pure arithmetic on measured seconds: the run, its plan and its progress line ask the same object. Nothing here measures.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from nc_strategies.config import MeasureConfig
from nc_strategies.measuring.ending import Ending
from nc_strategies.measuring.latency import TIMING_RULES
from nc_strategies.problem import Evaluation

STAGES = ("build", "accuracy", "latency")
FP32_MODELS = 2
"""fp32 as given and the backend's all-float graph: both are timed at the end."""


@dataclass(frozen=True)
class BoxRules:
    """How time is divided. Shares are of ``tuning.timeout``, or of what the docstring names.

    Args:
        recent_trials: The dearest of so many trials stands for the next one, so that one slow trial long ago does not.
        caution: What an estimated end is multiplied with before it is taken to fit: sessions are opened anew, which
            takes longer the fuller the memory is.
        end_share: The time that is held back for the end is no more than this, unless the shortest end needs more:
            a better last comparison is not worth a third of the trials.
        estimate_share: Of the time beside that for a trial and the end, what one estimate may take: it only pays in the
            trials after it, and is lost when it takes longer.
        save_share: Of the time since the first trial, what saving models early may take.
        least_patience: Seconds after its deadline in which a call may end by itself, at least.
        patience_share: The same, at most: a run may end this much late.
        save_share_of_fp32: Seconds that saving a model takes, relative to building fp32 both ways, until it was
            measured: it is written, opened as fp32 as given was, and built once more for comparison.
    """

    recent_trials: int = 5
    caution: float = 1.15
    end_share: float = 0.25
    estimate_share: float = 0.35
    save_share: float = 0.1
    least_patience: float = 0.5
    patience_share: float = 0.05
    save_share_of_fp32: float = 1.5


@dataclass(frozen=True)
class Shortage:
    """A box that is too small.

    Args:
        spent: Seconds until fp32 was measured.
        trial: Seconds of the shortest trial.
        end: Seconds of the shortest end.
    """

    spent: float
    trial: float
    end: float

    @property
    def needed(self) -> float:
        """Seconds that are needed at least."""
        return self.spent + self.trial + self.end

    def text(self) -> str:
        """The same in words."""
        trial = f"one trial about {_seconds(self.trial)}, " if self.trial else ""
        return (
            f"at least {_seconds(self.needed)} are needed here: until fp32 was measured it took "
            f"{_seconds(self.spent)}, {trial}saving a model takes about {_seconds(self.end)}"
        )


class TimeBox:
    """The time of a run, what was spent, and what else fits.

    Until a trial was measured, fp32's own seconds stand for a trial's.

    Args:
        timeout: Seconds of the whole run; 0 for no limit.
        measure: How much is timed.
        finalists: Models that are timed side by side at the end, at most.
        sessions: Times that each of them is opened anew, at most.
        clock: Seconds that never go back; `time.monotonic` when left out.
        rules: How time is divided.
    """

    def __init__(
        self,
        timeout: float,
        measure: MeasureConfig,
        finalists: int,
        sessions: int,
        clock: Callable[[], float] | None = None,
        rules: BoxRules | None = None,
    ) -> None:
        self.timeout, self._measure, self._finalists, self._sessions = timeout, measure, finalists, sessions
        self._clock, self.rules = clock or time.monotonic, rules or BoxRules()
        self.begin = self._clock()
        self.restart = 0.0
        """Seconds that a new worker takes to load, calibrate and measure fp32 again."""
        self.thinking = 0.0
        """Seconds that the strategy takes for a proposal."""
        self._fp32: Evaluation | None = None
        self._rehearsed: dict[str, float] = {}
        self._trials: deque[Evaluation] = deque(maxlen=self.rules.recent_trials)
        self._saving = 0.0

    @property
    def limited(self) -> bool:
        """Whether there is a limit at all."""
        return self.timeout > 0

    @property
    def end(self) -> float:
        """The moment at which the run has to be over, by the clock; 0 for none."""
        return self.begin + self.timeout if self.limited else 0.0

    @property
    def spent(self) -> float:
        """Seconds since the run began."""
        return self._clock() - self.begin

    def rewind(self, spent: float) -> None:
        """Take the run to have begun so many seconds ago."""
        self.begin = self._clock() - spent

    @property
    def left(self) -> float:
        """Seconds left; infinite without a limit."""
        return self.end - self._clock() if self.limited else math.inf

    def fp32_measured(self, evaluation: Evaluation) -> None:
        """Everything before the first trial was done."""
        self._fp32, self.restart = evaluation, self.spent

    def rehearsed(self, seconds: Mapping[str, float]) -> None:
        """Seconds by stage of a trial, from a rehearsal."""
        self._rehearsed = dict(seconds)

    def trial_measured(self, evaluation: Evaluation) -> None:
        """A trial was measured; one that stopped early, or whose graph was known, says nothing of the next one."""
        if self._complete(evaluation):
            self._trials.append(evaluation)

    def _complete(self, evaluation: Evaluation) -> bool:
        return evaluation.samples >= self.fp32.samples and set(STAGES) <= set(dict(evaluation.seconds))

    def saved(self, seconds: float) -> None:
        """Saving a model took so long."""
        self._saving = max(self._saving, seconds)

    @property
    def fp32(self) -> Evaluation:
        """fp32's measurement, once `fp32_measured` was called."""
        assert self._fp32 is not None, "fp32 is measured first"
        return self._fp32

    @property
    def trial(self) -> dict[str, float]:
        """Seconds by stage of the next trial."""
        if self._trials:
            return {stage: max(dict(e.seconds)[stage] for e in self._trials) for stage in STAGES}
        if self._rehearsed:
            return dict(self._rehearsed)
        seconds = dict(self.fp32.seconds)
        return {
            "build": self._fp32_build / FP32_MODELS,
            "accuracy": seconds.get("accuracy", 0.0),
            "latency": seconds.get("latency", 0.0),
        }

    @property
    def trial_seconds(self) -> float:
        """Seconds of the next trial."""
        return sum(self.trial.values())

    @property
    def run_seconds(self) -> float:
        """Seconds of one run of a trial's model."""
        return max((e.value("latency_ms") for e in self._trials), default=self.fp32.value("latency_ms")) / 1e3

    @property
    def build_seconds(self) -> float:
        """Seconds to build a trial's model."""
        return self.trial["build"]

    @property
    def save_seconds(self) -> float:
        """Seconds to save a model and look at it."""
        return self._saving or self.rules.save_share_of_fp32 * self._fp32_build

    @property
    def least_trial(self) -> float:
        """Seconds of the shortest trial: everything is evaluated, and as little as possible timed."""
        timing = _timing(2 * self.run_seconds, TIMING_RULES.least_runs)
        return self.trial["build"] + self.trial["accuracy"] + min(timing, self.trial["latency"])

    @property
    def least_end(self) -> float:
        """Seconds of the shortest end: the best trial's model is built and saved, nothing is measured again."""
        return self.build_seconds + self.save_seconds

    def end_seconds(self, candidates: int) -> float:
        """Seconds of the end that is planned: the best one that fits what may be held back for it.

        Args:
            candidates: Trials which timing does not tell apart.
        """
        most = self.rules.end_share * self.timeout if self.limited else math.inf
        best = next((e for e in self._endings(candidates) if e.seconds + self.save_seconds <= most), None)
        return self.least_end if best is None else max(self.least_end, best.seconds + self.save_seconds)

    def ending(self, candidates: int, pruned: bool = False, prepared: bool = True) -> Ending | None:
        """How the end is to be measured so that it is over in time; None where only saving is left.

        Args:
            candidates: Trials which timing does not tell apart.
            pruned: They stopped early, and have to be evaluated on all samples before anything can be said of them.
            prepared: See `trial_fits`.
        """
        left = (self.deadline - self._clock() if self.limited else math.inf) - (0.0 if prepared else self.restart)
        return next((e for e in self._endings(candidates, pruned) if e.seconds <= left), None)

    def _endings(self, candidates: int, pruned: bool = False) -> Iterator[Ending]:
        """Endings from the most to the least that is measured."""
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
            yield Ending(finalists, runs, compare, preselect, seconds * self.rules.caution)

    def _ending_seconds(self, finalists: int, runs: int, compare: bool, pruned: bool) -> float:
        evaluations = (self._fp32_accuracy + self.trial["accuracy"] if compare else 0.0) + (
            finalists * self.trial["accuracy"] if pruned else 0.0
        )
        timing = self._sessions_seconds(finalists, FP32_MODELS, runs, 3.0)
        return timing + finalists * self.build_seconds + evaluations

    def _sessions_seconds(self, models: int, references: int, runs: int, patience: float) -> float:
        """Seconds to build and time models and fp32's references in several sessions."""
        sessions = min(self._sessions, max(1, runs // TIMING_RULES.least_runs))
        built = models * self.build_seconds + references / FP32_MODELS * self._fp32_build
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
            max(values.get("as_given_latency_ms", 0.0), values.get("all_float_latency_ms", 0.0), values["latency_ms"])
            / 1e3
        )

    @property
    def sample_seconds(self) -> float:
        """Seconds to run one evaluation sample through a model."""
        samples = self.fp32.samples
        # A function of the user's that evaluates models counts no samples.
        return self.trial["accuracy"] / samples if samples else self.run_seconds / self._measure.batch_size

    @property
    def patience(self) -> float:
        """Seconds after a deadline in which a call may end by itself: it looks at the time once a batch."""
        samples = self.fp32.samples
        share = min(self._measure.evaluation_batch_size, samples) / samples if samples else 1.0
        batch = self.trial["accuracy"] * share
        rules = self.rules
        return min(max(rules.least_patience, 2 * batch), max(rules.least_patience, rules.patience_share * self.timeout))

    @property
    def deadline(self) -> float:
        """The moment at which a trial has to end by itself, so that a model can still be saved; 0 for none."""
        return self.end - self.least_end - self.patience if self.limited else 0.0

    def trial_fits(self, any_measured: bool, prepared: bool = True, save: bool = False) -> bool:
        """Whether a trial is expected to end while there is time for the end of the run.

        Args:
            any_measured: A trial was measured; for the first one, the shortest trial and end are enough.
            prepared: The engine has loaded, calibrated and measured fp32; else a new worker has to do that first.
            save: The best model so far is saved first.
        """
        if not self.limited:
            return True
        if any_measured:
            needed = self.trial_seconds + self.thinking + self.end_seconds(self._finalists)
        else:
            needed = self.least_trial + self.least_end
        return needed + (0.0 if prepared else self.restart) + (self.least_end if save else 0.0) <= self.left

    def may_save(self, spent: float, since: float) -> bool:
        """Whether saving a new best model early is cheap beside the trials.

        Args:
            spent: Seconds that were spent on this so far.
            since: Seconds since the first trial began.
        """
        return spent + self.least_end <= self.rules.save_share * since

    def settling_fits(self, prepared: bool) -> bool:
        """Whether the shortest end fits.

        Args:
            prepared: See `trial_fits`.
        """
        return self.least_end + (0.0 if prepared else self.restart) <= self.left

    def after(self, seconds: float) -> float:
        """The moment in so many seconds, by the clock; 0 for an infinite number of them."""
        return self._clock() + seconds if math.isfinite(seconds) else 0.0

    def estimate_seconds_left(self) -> float:
        """Seconds that an estimate may take; infinite without a limit."""
        if not self.limited:
            return math.inf
        room = self.left - self.trial_seconds - self.end_seconds(self._finalists)
        return max(0.0, self.rules.estimate_share * room)

    def shortage(self, any_measured: bool = False) -> Shortage | None:
        """What is missing for fp32, one trial and the end; None where they fit.

        Args:
            any_measured: There are trials of an earlier run already.
        """
        found = Shortage(self.restart, 0.0 if any_measured else self.least_trial, self.least_end)
        return found if self.limited and found.needed > self.timeout else None

    def remaining(self, trials: int | None) -> float:
        """Seconds until the end of the run, at most.

        Args:
            trials: Trials that are left; None where only time limits them.
        """
        needed = (
            math.inf
            if trials is None
            else trials * (self.trial_seconds + self.thinking) + self.end_seconds(self._finalists if trials else 1)
        )
        return max(0.0, min(needed, self.left))

    def trials_that_fit(self, trials: int | None) -> int | None:
        """Trials that fit into what is left; None for any number.

        Args:
            trials: Trials at most; None for no limit.
        """
        if not self.limited:
            return trials
        room = self.left - self.end_seconds(self._finalists)
        fit = math.floor(room / max(self.trial_seconds + self.thinking, 1e-9) + 1e-9)
        fit = max(fit, int(self.trial_fits(any_measured=False)))
        return fit if trials is None else min(fit, trials)


def _timing(once: float, runs: int, limit: float = 0.0) -> float:
    """Seconds to time models side by side.

    Args:
        once: Seconds of one run of each of them.
        runs: Timed runs, each after an untimed one.
        limit: Seconds after which the timing ends, once there were enough runs; 0 for none.
    """
    if limit and once:
        runs = min(runs, max(TIMING_RULES.least_runs, math.ceil(limit / (2 * once))))
    return once * (TIMING_RULES.warm_up_runs + 2 * runs)


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{math.ceil(seconds)} s"
