"""The order in which an earlier run with several workers showed its trials to the strategy."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from nc_strategies.problem import Trial
from nc_strategies.space import Config


class Replay:
    """Repeats the order of an earlier run's proposals and trials, see `Trial.proposed`.

    A strategy with several proposals open proposes by the trials that it has seen until then. It proposes the same
    again if it sees each trial after the same number of proposals. A run with one worker needs no replay: each trial
    follows its proposal.

    Args:
        finished: Trials of the earlier run, in the order of the journal.
        numbers: Numbers that the journal has given.
    """

    def __init__(self, finished: Sequence[Trial], numbers: Sequence[int]) -> None:
        concurrent = any(trial.proposed not in (0, trial.number) for trial in finished)
        first = {trial.config.fingerprint: trial for trial in reversed(finished)}
        self._left = deque(t for t in finished if first[t.config.fingerprint] is t) if concurrent else deque[Trial]()
        self._due = {trial.config.fingerprint for trial in self._left}
        self._numbers = set(numbers)
        self._proposed = 0
        # Trials whose configuration was proposed again, but which the strategy has not seen again, by fingerprint.
        self._open: dict[str, Trial] = {}

    @property
    def active(self) -> bool:
        """Whether there are trials left to show."""
        return bool(self._left)

    @property
    def wants_proposal(self) -> bool:
        """Whether the strategy proposed more before it saw the next trial."""
        return bool(self._left) and self._proposed < (self._left[0].proposed or self._left[0].number)

    def next(self) -> Trial | None:
        """The next trial to show, None if the strategy has not proposed its configuration this time."""
        fingerprint = self._left.popleft().config.fingerprint
        self._due.discard(fingerprint)
        return self._open.pop(fingerprint, None)

    def again(self, trial: Trial, config: Config) -> bool:
        """Note that the configuration of an earlier trial was proposed again; whether `next` returns it later."""
        self._proposed = max(self._proposed, trial.number)
        if config.fingerprint in self._due:
            self._open[config.fingerprint] = replace(trial, config=config)
        return config.fingerprint in self._due

    def lost(self) -> int:
        """Note a proposal without a trial, which the earlier run had open when it ended.

        Returns:
            Its number; 0 if that is the number of another trial.
        """
        self._proposed += 1
        return 0 if self._proposed in self._numbers else self._proposed
