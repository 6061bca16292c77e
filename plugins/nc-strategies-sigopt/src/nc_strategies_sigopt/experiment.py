"""One experiment on one engine: create or find it, ask for suggestions, report observations once each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nc_strategies_sigopt.calls import Calls, Refusal, checked

log = logging.getLogger("nc_strategies.sigopt")
MARK = "nc_key"
"""Metadata key which tells an observation, and an experiment, apart from all others."""


@dataclass(frozen=True)
class Suggestion:
    """What the engine wants tried.

    Args:
        number: Its id.
        assignments: What to try.
        source: ``opening`` or ``optimizer``, by the number of observations before it; empty where that is not known.
    """

    number: str
    assignments: Mapping[str, Any]
    source: str = ""


class Experiment:
    """An experiment, by its id.

    Args:
        connection: A `sigopt.Connection`.
        calls: Sends the requests.
        number: The experiment's id.
        posted: Marks of the observations that it is known to have.
    """

    def __init__(self, connection: Any, calls: Calls, number: str, posted: Iterable[str] = ()) -> None:
        self.number = number
        self._calls = calls
        self._resource = connection.experiments(number)
        self._posted = set(posted)
        self._asked: set[str] = set()
        self._budget: int | None = None
        self._bandwidth: int | None = None

    @staticmethod
    def create(
        connection: Any, calls: Calls, definition: dict[str, Any], find: Callable[[], str | None] | None = None
    ) -> Experiment:
        """Make an experiment.

        Args:
            connection: A `sigopt.Connection`.
            calls: Sends the request.
            definition: The experiment in the API's form.
            find: Looks for the one which an earlier attempt may have made.
        """

        def send() -> str:
            return str(checked(connection.experiments().create(**definition), "id").id)

        made = Experiment(connection, calls, calls("creating the experiment", send, find))
        made._budget, made._bandwidth = definition["observation_budget"], definition["parallel_bandwidth"]
        return made

    @staticmethod
    def find(connection: Any, client: str, project: str, mark: str) -> str | None:
        """The id of the experiment with a mark in a project, or None."""
        pages = connection.clients(client).projects(project).experiments().fetch()
        try:
            return next((str(e.id) for e in pages.iterate_pages() if (e.metadata or {}).get(MARK) == mark), None)
        except Refusal:
            return None

    def check(self) -> None:
        """See that it is there.

        Raises:
            ServerError: it is not.
        """
        found = self._calls("fetching the experiment", lambda: checked(self._resource.fetch(), "id"))
        self._budget = getattr(found, "observation_budget", None)
        self._bandwidth = getattr(found, "parallel_bandwidth", None) or 1  # the API's default

    @property
    def observations(self) -> int:
        """How many observations it is known to have."""
        return len(self._posted)

    def allow(self, observations: int) -> None:
        """See that its budget is at least so many observations.

        A server does not change the budget of an experiment with several optimized metrics: it stays as it is.
        """
        if self._budget is None or self._budget >= observations:
            return
        try:
            self._calls(
                "raising the budget", lambda: checked(self._resource.update(observation_budget=observations), "id")
            )
            self._budget = observations
        except Refusal as error:
            log.info("SigOpt: the budget of the experiment stays %d: %s", self._budget, error)
            self._budget = None

    def allow_open(self, suggestions: int) -> None:
        """See that it expects so many open suggestions at a time: its ``parallel_bandwidth``.

        A server that does not change it still makes suggestions, for as many workers as it was told before.
        """
        if self._bandwidth is None or self._bandwidth == suggestions:
            return
        try:
            self._calls(
                "changing the parallel bandwidth",
                lambda: checked(self._resource.update(parallel_bandwidth=suggestions), "id"),
            )
            self._bandwidth = suggestions
        except Refusal as error:
            log.info("SigOpt: the parallel bandwidth of the experiment stays %d: %s", self._bandwidth, error)

    def suggest(self) -> Suggestion:
        """A new suggestion, or one which was made although its answer was lost."""

        def send() -> Suggestion:
            return self._read(self._resource.suggestions().create())

        found = self._calls("asking for a suggestion", send, lambda: next(iter(self.unknown_open()), None))
        self._asked.add(found.number)
        return found

    def knows(self, numbers: Iterable[str]) -> None:
        """Suggestions that were taken earlier."""
        self._asked.update(numbers)

    def unknown_open(self) -> list[Suggestion]:
        """Open suggestions that nobody has taken: a process was killed before it could."""
        pages = self._resource.suggestions().fetch(state="open")
        found = [self._read(s) for s in pages.iterate_pages()]
        return sorted((s for s in found if s.number not in self._asked), key=lambda s: int(s.number))

    def reopen(self) -> list[Suggestion]:
        """Take the open suggestions that nobody has taken."""
        found = self._calls("listing open suggestions", self.unknown_open)
        self._asked.update(s.number for s in found)
        return found

    def has(self, mark: str) -> bool:
        """Whether an observation is known to be there."""
        return mark in self._posted

    def observe(self, mark: str, observation: dict[str, Any]) -> None:
        """Report an observation, unless it is there already.

        Args:
            mark: Tells it apart from all others of this experiment.
            observation: The observation in the API's form.
        """
        if mark in self._posted:
            return
        data = {**observation, "metadata": {**observation.get("metadata", {}), MARK: mark}}

        def send() -> bool:
            checked(self._resource.observations().create(**data), "id")
            return True

        def recover() -> bool | None:
            self._fetch_posted()
            return mark in self._posted or None

        self._calls("reporting an observation", send, recover)
        self._posted.add(mark)

    def look_up(self) -> None:
        """Learn which observations are there: those whose report was not noted before a process was killed."""
        self._calls("listing observations", self._fetch_posted)

    def _fetch_posted(self) -> None:
        pages = self._resource.observations().fetch()
        for one in pages.iterate_pages():
            mark = (one.metadata or {}).get(MARK)
            if mark is not None:
                self._posted.add(str(mark))

    @staticmethod
    def _read(answer: Any) -> Suggestion:
        found = checked(answer, "id", "assignments")
        return Suggestion(str(found.id), dict(found.assignments))
