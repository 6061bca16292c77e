"""The trial loop: the strategy proposes, the executor measures, the journal records, the strategy observes."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from dataclasses import dataclass, replace
from queue import SimpleQueue

from nc_strategies.config import TuningConfig
from nc_strategies.errors import EngineError, LostWorkerError, OutOfTimeError, TargetError, first_line
from nc_strategies.problem import Evaluation, Prediction, Trial, TrialState
from nc_strategies.runtime.secrets import redact
from nc_strategies.space import Config
from nc_strategies.strategies.base import Strategy
from nc_strategies.study.journal import Journal
from nc_strategies.study.pace import Pace
from nc_strategies.study.replay import Replay
from nc_strategies.study.study import Study, StudyListener

log = logging.getLogger(__name__)
MAX_REPEATS = 1000
"""Consecutive proposals of known configurations after which a strategy counts as exhausted."""

MAX_LOSSES = 2
"""Lost workers after which a trial has failed: the configuration may be what ends them."""
LOST = (LostWorkerError, BrokenExecutor, CancelledError)
"""Errors of a future whose worker was lost."""

Measure = Callable[[Config], Evaluation]
Ended = SimpleQueue[Future[Evaluation]]
"""Trials that have ended and wait for the loop, in the order in which they ended."""


@dataclass(frozen=True)
class _Proposal:
    """A proposal whose trial has not ended; see `Trial` for the fields.

    Args:
        stage: The strategy's stage.
        losses: Workers that were lost while they measured it.
    """

    number: int
    config: Config
    note: str
    predicted: Prediction | None
    stage: str
    losses: int = 0


class TrialLoop:
    """Runs a strategy until the budget is used, the goal is met, or the strategy has finished.

    Args:
        study: Study that receives the trials.
        strategy: Proposes configurations.
        measure: Measures one configuration; any exception makes a failed trial.
        journal: Records each trial before the strategy sees it.
        executor: Runs `measure`.
        workers: Maximum number of concurrent trials.
        budget: Configuration section ``tuning``, for its stopping criteria.
        listener: Notified of the run's events.
        finished: Trials of an earlier run in the order of the journal, which are not measured again. The strategy sees
            them between the same proposals as in the earlier run, however many workers that had.
        name: The strategy's name, for error messages.
        pace: Rules for when trials may start.
        confirm: Measures the study's candidates as at the end of a run, and returns whether the chosen model meets the
            goal. Called while no trial is running, if the run stops once the goal is met.
        wait: Waits for the next trial that ends, and takes it from the queue. An executor with a clock of its own moves
            it on here, in its method ``next_ended``.
    """

    def __init__(
        self,
        study: Study,
        strategy: Strategy,
        measure: Measure,
        journal: Journal,
        executor: Executor,
        workers: int,
        budget: TuningConfig,
        listener: StudyListener,
        finished: list[Trial],
        name: str = "",
        pace: Pace | None = None,
        confirm: Callable[[], bool] = lambda: True,
        wait: Callable[[Ended], Future[Evaluation]] = SimpleQueue.get,
    ) -> None:
        self.study = study
        self.strategy = strategy
        self.measure = measure
        self.journal = journal
        self.executor = executor
        self.workers = workers
        self.budget = budget
        self.listener = listener
        self.name = name
        self.pace = pace or Pace()
        self.confirm = confirm
        self.wait = wait
        # What a time limit has cut short is measured again.
        self._earlier = [t for t in finished if t.evaluation is None or not t.evaluation.partial]
        # A trial that was stopped early may have been measured completely later, for a front. The strategy must see
        # again what it saw then, which is the first.
        self._finished = {trial.config.fingerprint: trial for trial in reversed(self._earlier)}
        self._seen: dict[str, Trial] = {}
        self._pending: dict[Future[Evaluation], _Proposal] = {}
        # Callbacks fill a queue: `concurrent.futures.wait` looks at every pending trial for each one that ends.
        self._ended: Ended = SimpleQueue()
        self._queue: deque[_Proposal] = deque()
        self._open: set[str] = set()
        self._number = max((max(trial.number, trial.proposed) for trial in finished), default=0)
        self._replay = Replay(self._earlier, [trial.number for trial in finished])
        self._waiting: dict[str, int] = {}
        self._repeats = 0
        self._failures = 0
        self._late = False

    def run(self) -> str:
        """Run all trials.

        Returns:
            Stop reason: ``budget``, ``timeout``, ``met``, ``failures``, ``finished``, ``stopped`` (by the strategy,
            before its end) or ``interrupted``.
        """
        try:
            reason = self._loop()
        except KeyboardInterrupt:
            log.warning("interrupted: the trial under way is dropped, what was measured is kept")
            for future in self._pending:
                future.cancel()
            reason = "interrupted"
        except OutOfTimeError:
            reason = "timeout"
        # With a larger budget, a strategy may propose other configurations: the earlier trials still count as results.
        taken = {trial.number for trial in self._seen.values()}
        self.study.trials += [trial for trial in self._earlier if trial.number not in taken]
        return reason

    def _loop(self) -> str:
        while True:
            promising = self.budget.stop_when == "met" and bool(self.study.candidates)
            if promising and not self._pending:
                if self.confirm():
                    return "met"
                continue
            reason = self._stop_reason()
            if not promising and self._advance(reason):
                continue
            if not self._pending:
                return reason or self._stop_reason() or ("stopped" if self.strategy.stopped else "finished")
            # What was measured is recorded before an error of another trial may end the run.
            for future in sorted(self._those_ended(), key=lambda future: _error_of(future) is not None):
                self._complete(future)

    def _those_ended(self) -> list[Future[Evaluation]]:
        """Trials that have ended, at least one."""
        ended = [self.wait(self._ended)]
        while not self._ended.empty():
            ended.append(self._ended.get())
        return ended

    def _stop_reason(self) -> str:
        used = len(self.study.trials) + len(self._open)
        if self.budget.max_trials and used >= self.budget.max_trials:
            return "budget"
        if self._failures >= self.budget.max_consecutive_failures > 0:
            return "failures"
        if self._late or not self.pace.room():
            return "timeout"
        return ""

    def _advance(self, reason: str) -> bool:
        """Show a trial of an earlier run, start a trial, or ask for a proposal; False if nothing can be done now.

        Args:
            reason: Why no further proposal may be made; empty if it may.
        """
        if self._replay.active:
            if self._replay.wants_proposal and not reason and self._propose():
                return True
            trial = self._replay.next()
            if trial is not None:
                self._take(trial)
            return True
        if len(self._pending) >= self.workers:
            return False
        if self._queue and reason in ("", "budget"):  # the budget includes them
            return self._start(self._queue.popleft())
        return not reason and self._propose()

    def _propose(self) -> bool:
        """Handle one proposal; False if no further proposal can be handled now."""
        config = self.strategy.propose()
        if config is None:
            return False
        if not self.study.space.contains(config):
            raise ValueError(f"strategy {self.name} proposed a configuration outside the space")
        fingerprint = config.fingerprint
        known = self._seen.get(fingerprint)
        if known is not None:
            self._repeats += 1
            log.info("configuration %s was proposed again: answered from trial %d", fingerprint, known.number)
            self.strategy.observe(known)
            return self._repeats < MAX_REPEATS
        if fingerprint in self._open:
            self._waiting[fingerprint] = self._waiting.get(fingerprint, 0) + 1
            return False
        self._repeats = 0
        self._open.add(fingerprint)
        earlier = self._finished.get(fingerprint)
        if earlier is not None:
            if not self._replay.again(earlier, config):
                self._take(replace(earlier, config=config))
            return True
        number = self._replay.lost() if self._replay.active else 0
        if not number:
            self._number += 1
        # Read now: a serial executor measures immediately, and the note belongs to this proposal.
        strategy = self.strategy
        proposal = _Proposal(number or self._number, config, strategy.note, strategy.predicted, strategy.stage)
        if self._replay.active:
            self._queue.append(proposal)
            return True
        return self._start(proposal)

    def _start(self, proposal: _Proposal) -> bool:
        """Start a trial; False if there is no longer time for it."""
        if not self.pace.prepare():
            self._late = True
            self._open.discard(proposal.config.fingerprint)
            return False
        self.listener.trial_started(proposal.number, proposal.stage)
        try:
            future = self.executor.submit(self.measure, proposal.config)
        except BrokenExecutor as error:
            raise TargetError(
                "executor", f"has lost its workers ({first_line(error)})", "the same command goes on with this run"
            ) from error
        self._pending[future] = proposal
        future.add_done_callback(self._ended.put)
        return True

    def _complete(self, future: Future[Evaluation]) -> None:
        proposal = self._pending.pop(future)
        number = proposal.number
        error = _error_of(future)
        if isinstance(error, TargetError):
            raise error  # no configuration is at fault: the same command goes on with this one
        if isinstance(error, OutOfTimeError):
            log.info("trial %d is dropped: %s", number, error)
            raise error
        if isinstance(error, LOST) and proposal.losses + 1 < MAX_LOSSES:
            log.warning("trial %d is measured again: its worker was lost (%s)", number, first_line(error))
            self._queue.appendleft(replace(proposal, losses=proposal.losses + 1))
            return
        trial = Trial(
            number,
            proposal.config,
            TrialState.FAILED,
            note=proposal.note,
            predicted=proposal.predicted,
            proposed=self._number,
        )
        if error is None:
            found = future.result()
            state = TrialState.OK if found.samples >= self.study.baseline.samples else TrialState.PRUNED
            trial = replace(trial, state=state, evaluation=found)
        else:
            trial = replace(trial, error=self._failure(number, error))
        self._failures = self._failures + 1 if trial.state is TrialState.FAILED else 0
        self.journal.append(trial)
        self._take(trial)

    @staticmethod
    def _failure(number: int, error: BaseException) -> str:
        """Log a failed trial; return why it failed, in one line."""
        # The text goes into the journal, and an exception of a user's function may contain credentials.
        if isinstance(error, LOST):
            text, unexpected = redact(f"its worker was lost {MAX_LOSSES} times ({first_line(error)})"), None
        elif isinstance(error, EngineError):
            text, unexpected = redact(first_line(error)), None
        else:
            text, unexpected = redact(f"{type(error).__name__}: {first_line(error)}"), error
        log.warning("trial %d failed: %s", number, text, exc_info=unexpected)
        return text

    def _take(self, trial: Trial) -> None:
        self.study.trials.append(trial)
        self.pace.finished(trial)
        self._seen[trial.config.fingerprint] = trial
        self._open.discard(trial.config.fingerprint)
        for _ in range(1 + self._waiting.pop(trial.config.fingerprint, 0)):
            self.strategy.observe(trial)
        self.listener.trial_finished(self.study, trial)


def _error_of(future: Future[Evaluation]) -> BaseException | None:
    try:
        return future.exception()
    except CancelledError as error:
        return error
