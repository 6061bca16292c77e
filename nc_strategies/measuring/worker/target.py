"""A target in a worker process: an engine that aborts, hangs or exhausts the memory costs one trial, not the run."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from nc_strategies.backends.ceiling import Ceiling
from nc_strategies.config import TuningConfig
from nc_strategies.errors import EngineError, InputError, NcsError, OutOfTimeError, TargetError
from nc_strategies.measuring.diagnosis import Diagnosis
from nc_strategies.measuring.ending import Ending
from nc_strategies.measuring.extent import Allowance, Extent
from nc_strategies.measuring.final import Final
from nc_strategies.measuring.shares import Watch, summed
from nc_strategies.measuring.target import Finish, Measured
from nc_strategies.measuring.worker.messages import Request
from nc_strategies.measuring.worker.process import DiedError, InterruptedCallError, Limits, WorkerProcess
from nc_strategies.problem import Evaluation, Goal, LatencyTerms, Trial
from nc_strategies.space import Capabilities, Config, Space

log = logging.getLogger(__name__)
PREPARING_CALLS = {
    "load": "loading the model",
    "allow": "dividing the time",
    "calibrate": "running it on the calibration data",
    "baseline": "measuring fp32",
}
"""Calls that are repeated in a new worker, with descriptions for error messages."""
FINAL_CALLS = {
    "finish": "measuring the best again",
    "time_front": "timing the front",
    "save": "saving the model",
    "keep": "copying the model",
    "replay": "measuring the saved model",
    "diagnose": "comparing operators with fp32",
}
RESUME_HINT = "; what was measured is kept, and the same command with the same run_dir goes on from there"
CLOSE_SECONDS = 10.0
"""Seconds in which a worker ends its connection to another machine."""
UNLIMITED_CALLS = {"facts", "versions", "timed_on", "remarks", "recovery", "remember", "workers", "close"}
"""Calls without a time limit: they run no model."""
INTERRUPT_GRACE_SECONDS = 5.0
"""Seconds between asking a call to end and killing its process."""
LEAST_TRIAL_TIMEOUT, TRIAL_FACTOR, ENDING_FACTOR = 60.0, 20.0, 10.0


@dataclass
class _Usage:
    """What processes have evaluated, see `MeasurementTarget.workers`.

    Args:
        before: For earlier workers.
        now: For this one, as it said last.
        listener: See `MeasurementTarget.watch`.
    """

    before: Mapping[str, Any] = field(default_factory=dict)
    now: Mapping[str, Any] = field(default_factory=dict)
    listener: Watch | None = None

    @property
    def total(self) -> Mapping[str, Any]:
        return summed(self.before, self.now)

    def hear(self, usage: Mapping[str, Any]) -> None:
        self.now = usage
        if self.listener is not None:
            self.listener(self.total)

    def restarted(self) -> None:
        ended = {key: value for key, value in self.now.items() if key != "evaluation"}
        self.before, self.now = summed(self.before, ended), {}


class WorkerTarget:
    """A `MeasurementTarget` in a separate process, which starts immediately.

    Calls from several threads wait for each other: there is one engine, and nothing may disturb its timings.

    Args:
        factory: ``module:function`` that creates the target in the worker.
        settings: Argument of the factory; it can be pickled and contains no secrets.
        tuning: Provides the limits `trial_timeout`, `stage_timeout` and `memory_limit`.
        remote: Whether the worker measures on another machine, where it has to clear up at its end.
    """

    def __init__(self, factory: str, settings: Any, tuning: TuningConfig, remote: bool = False) -> None:
        self._remote = remote
        self._usage = _Usage()
        self._make: Callable[[], WorkerProcess] = functools.partial(
            WorkerProcess, factory, settings, tuning.memory_limit, self._usage.hear
        )
        self._tuning = tuning
        self._child: WorkerProcess | None = self._make()
        self._ready = True
        self._lock = threading.RLock()
        self._prepared: list[tuple[Request, Any]] = []
        self._known: dict[str, Evaluation] = {}
        self._deadline = self._patience = 0.0
        self._baseline_seconds = 0.0
        self.restarts = 0

    def until(self, deadline: float, patience: float = INTERRUPT_GRACE_SECONDS) -> None:
        """See `MeasurementTarget.until`. A worker that overruns the deadline is interrupted, then killed."""
        self._deadline, self._patience = deadline, patience

    def prepared(self) -> bool:
        """See `MeasurementTarget.prepared`."""
        return self._child is not None and self._ready and bool(self._prepared)

    def close(self) -> None:
        """See `MeasurementTarget.close`. The worker has exited when this returns."""
        with self._lock:
            if self._remote and self._child is not None and self._child.idle:
                try:
                    self._child.call(Request("close"), Limits(CLOSE_SECONDS))
                except NcsError as error:
                    log.info("the worker could not end its connection in order: %s", error)
            self._kill()

    def load(self) -> Capabilities:
        """See `MeasurementTarget.load`."""
        return cast(Capabilities, self._call("load"))

    def facts(self) -> Mapping[str, Any]:
        """See `MeasurementTarget.facts`."""
        return cast(Mapping[str, Any], self._call("facts"))

    def allow(self, allowance: Allowance) -> None:
        """See `MeasurementTarget.allow`."""
        self._call("allow", allowance)

    def calibrate(self, cautious: bool = False) -> Capabilities:
        """See `MeasurementTarget.calibrate`."""
        return cast(Capabilities, self._call("calibrate", **({"cautious": True} if cautious else {})))

    def remarks(self) -> tuple[str, ...]:
        """See `MeasurementTarget.remarks`."""
        return cast(tuple[str, ...], self._call("remarks"))

    def recovery(self) -> tuple[Mapping[str, Any], ...]:
        """See `MeasurementTarget.recovery`."""
        return cast(tuple[Mapping[str, Any], ...], self._call("recovery"))

    def ceiling(self) -> Ceiling | None:
        """See `MeasurementTarget.ceiling`."""
        return cast(Ceiling | None, self._call("ceiling"))

    def baseline(self, space: Space) -> Measured:
        """See `MeasurementTarget.baseline`."""
        measured = cast(Measured, self._call("baseline", space))
        self._fix(measured.extent)
        return measured

    def remember(self, evaluation: Evaluation) -> None:
        """See `MeasurementTarget.remember`."""
        self._call("remember", evaluation)

    def measure(self, config: Config, partial: bool = False, complete: bool = False) -> Evaluation:
        """See `MeasurementTarget.measure`."""
        asked = {name: True for name, given in (("partial", partial), ("complete", complete)) if given}
        return cast(Evaluation, self._call("measure", config, **asked))

    def rehearse(self, config: Config) -> Mapping[str, float]:
        """See `MeasurementTarget.rehearse`."""
        return cast(Mapping[str, float], self._call("rehearse", config))

    def sensitivity(self, way: str = "") -> Mapping[str, float]:
        """See `MeasurementTarget.sensitivity`."""
        return cast(Mapping[str, float], self._call("sensitivity", way))

    def latency_terms(self, brief: bool = False) -> LatencyTerms:
        """See `MeasurementTarget.latency_terms`."""
        return cast(LatencyTerms, self._call("latency_terms", brief))

    def gradients(self) -> bool:
        """See `MeasurementTarget.gradients`."""
        return cast(bool, self._call("gradients"))

    def hessian(self, draws: int) -> Mapping[str, float]:
        """See `MeasurementTarget.hessian`."""
        return cast(Mapping[str, float], self._call("hessian", draws))

    def divergence(self, config: Config, batches: int = 1) -> float:
        """See `MeasurementTarget.divergence`."""
        return cast(float, self._call("divergence", config, batches))

    def diagnose(self, config: Config, alone: Config, samples: int) -> Diagnosis:
        """See `MeasurementTarget.diagnose`."""
        return cast(Diagnosis, self._call("diagnose", config, alone, samples))

    def settle(self, trial: Trial) -> Finish:
        """See `MeasurementTarget.settle`."""
        return cast(Finish, self._call("settle", trial))

    def finish(self, trials: Sequence[Trial], goal: Goal, tie: float, ending: Ending | None = None) -> Finish:
        """See `MeasurementTarget.finish`."""
        return cast(Finish, self._call("finish", list(trials), goal, tie, ending))

    def save(self, final: Final, folder: Path) -> Path:
        """See `MeasurementTarget.save`."""
        return cast(Path, self._call("save", final, folder))

    def time_front(self, trials: Sequence[Trial], runs: int) -> tuple[Evaluation, ...]:
        """See `MeasurementTarget.time_front`."""
        return cast(tuple[Evaluation, ...], self._call("time_front", list(trials), runs))

    def replay(self, path: Path, trial: Trial, goal: Goal) -> Finish:
        """See `MeasurementTarget.replay`."""
        return cast(Finish, self._call("replay", path, trial, goal))

    def keep(self, folder: Path) -> None:
        """See `MeasurementTarget.keep`."""
        self._call("keep", folder)

    def workers(self) -> Mapping[str, Any]:
        """See `MeasurementTarget.workers`."""
        if self._child is not None and self._ready:
            self._usage.now = cast(Mapping[str, Any], self._call("workers"))
        return self._usage.total

    def watch(self, listener: Watch) -> None:
        """See `MeasurementTarget.watch`."""
        self._usage.listener = listener

    def timed_on(self) -> Mapping[str, Any] | None:
        """See `MeasurementTarget.timed_on`."""
        return cast(Mapping[str, Any] | None, self._call("timed_on"))

    def versions(self) -> Mapping[str, str]:
        """See `MeasurementTarget.versions`."""
        return cast(Mapping[str, str], self._call("versions"))

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            request = Request(method, args, kwargs)
            if method in PREPARING_CALLS:
                return self._prepare(request)
            if self._child is None or not self._ready:
                self._restart()
            answer = self._run(request)
            if isinstance(answer, Evaluation):
                self._known[answer.graph] = answer
            elif method == "remember":
                self._known[args[0].graph] = args[0]
            return answer

    def _prepare(self, request: Request) -> Any:
        """Make a preparing call. If it kills the worker, the model or the data is at fault.

        Calibration may run all operators in int8. A crash in it may thus not be the model's fault, so calibration is
        repeated with only fp32.
        """
        begin = time.monotonic()
        try:
            answer = self._run(request)
        except DiedError as error:
            if request.method == "calibrate" and error.crashed and not request.kwargs:
                log.warning("%s while %s; once more, with nothing but fp32", error, PREPARING_CALLS["calibrate"])
                self._restart()
                return self._prepare(Request("calibrate", kwargs={"cautious": True}))
            raise InputError(
                "model", f"{error} while {PREPARING_CALLS[request.method]}", "the log holds what it said last"
            ) from None
        self._prepared.append((request, answer))
        if request.method == "baseline":
            self._baseline_seconds = time.monotonic() - begin
        return answer

    def _fix(self, extent: Extent) -> None:
        """Let a new worker use as many samples as this one, whatever its speed."""
        self._prepared = [
            (Request("allow", (request.args[0].fixed(extent),)), answer)
            if request.method == "allow"
            else (request, answer)
            for request, answer in self._prepared
        ]

    def _restart(self) -> None:
        """Start a new worker, and bring it to the state of the last one before the call that killed it."""
        self._kill()
        self.restarts += 1
        log.info("a new worker loads, calibrates and measures fp32 again")
        self._child, self._ready = self._make(), False
        try:
            for request, before in self._prepared:
                answer = self._run(request)
                if request.method == "load" and answer != before:
                    raise EngineError("the model has changed while the run went on")
            if self._prepared:
                for evaluation in self._known.values():
                    self._run(Request("remember", (evaluation,)))
        except TargetError:
            raise
        except InputError as error:
            raise EngineError(f"a new worker cannot prepare the model again: {error}") from error
        self._ready = True

    def _run(self, request: Request) -> Any:
        """Make one call in the worker, and kill the worker if its state is unknown afterwards."""
        if self._child is None:
            self._child, self._ready = self._make(), not self._prepared
        limits = self._limits(request.method)
        try:
            return self._child.call(replace(request, deadline=limits.deadline), limits)
        except InterruptedCallError as error:
            if error.by_deadline:
                raise OutOfTimeError(f"the run's time ended in {request.method}") from None
            raise EngineError(error.reason) from None
        except DiedError as error:
            self._log_last_words(self._child)
            self._kill()
            if error.by_deadline:
                raise OutOfTimeError(f"the run's time ended in {request.method}") from None
            if request.method in FINAL_CALLS:
                kept = "" if request.method in ("replay", "diagnose") else RESUME_HINT
                raise EngineError(f"{error} while {FINAL_CALLS[request.method]}{kept}") from None
            raise
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and self._child.idle:
                raise  # the worker ended its call on request, and remains usable
            if not self._child.idle:
                self._kill()
            raise

    def _limits(self, method: str) -> Limits:
        tuning = self._tuning
        if method in UNLIMITED_CALLS:
            return Limits()
        if method in PREPARING_CALLS or method == "diagnose":
            return Limits(tuning.stage_timeout, self._deadline, patience=self._patience, setting="tuning.stage_timeout")
        seconds = tuning.trial_timeout
        if seconds is None:
            seconds = LEAST_TRIAL_TIMEOUT + TRIAL_FACTOR * self._baseline_seconds
        if method in FINAL_CALLS:
            return Limits(
                seconds * ENDING_FACTOR, self._deadline, patience=self._patience, setting="tuning.trial_timeout"
            )
        return Limits(seconds, self._deadline, INTERRUPT_GRACE_SECONDS, self._patience, "tuning.trial_timeout")

    def _log_last_words(self, child: WorkerProcess) -> None:
        words = child.last_words()
        if words:
            log.error("the worker's last output:\n%s", words)

    def _kill(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            self._usage.restarted()
