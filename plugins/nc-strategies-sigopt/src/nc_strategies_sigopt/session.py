"""The experiment of a run: on the engine that was chosen, resumed where it was left, moved when its server fails."""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nc_strategies.api import InputError, Problem
from nc_strategies_sigopt import access, client, form
from nc_strategies_sigopt.calls import Calls, Denied, Refusal, ServerError
from nc_strategies_sigopt.experiment import Experiment, Suggestion
from nc_strategies_sigopt.lines import Lines
from nc_strategies_sigopt.parameters import Parameters
from nc_strategies_sigopt.settings import KEY, SigOptSettings

log = logging.getLogger("nc_strategies.sigopt")
STATE, LOCAL = "sigopt.jsonl", "sigopt_local.jsonl"
HTTP, LOCAL_ENGINE, LITE = "http", "local", "lite"


@dataclass(frozen=True)
class Report:
    """An observation to report.

    Args:
        mark: Tells it apart from all others of the run.
        assignments: What was tried.
        outcome: What came of it, in the API's form.
        suggestion: The suggestion it answers.
        owner: Mark of the experiment which made that suggestion.
    """

    mark: str
    assignments: Mapping[str, Any]
    outcome: Mapping[str, Any]
    suggestion: str | None = None
    owner: str = ""


class Session:
    """One experiment, and what it takes to find it again.

    Args:
        settings: The strategy's settings.
        problem: What is to be solved.
        parameters: What the experiment searches.
        seed: Seed of an engine in this process.

    Raises:
        InputError: the server does not let us in.
    """

    def __init__(self, settings: SigOptSettings, problem: Problem, parameters: Parameters, seed: int) -> None:
        self._settings, self._problem, self._parameters, self._seed = settings, problem, parameters, seed
        self._folder: Path | None = problem.state_dir
        self.state = Lines(self._folder / STATE if self._folder else None)
        self.stopped = ""
        self._reports: dict[str, Report] = {}
        self._reopened: deque[Suggestion] = deque()
        self._experiment: Experiment | None = None
        earlier = [r for r in self.state.records if r["event"] == "engine"]
        self.engine = str(earlier[-1]["engine"]) if earlier else access.chosen_driver(settings)
        self.owner = str(earlier[-1]["owner"]) if earlier else ""
        try:
            self._open()
        except ServerError as error:
            self._fail(error)

    def _open(self) -> None:
        if self.engine == HTTP:
            self._open_http()
        elif self.engine == LITE:
            from nc_strategies_sigopt.lite import LiteDriver

            self.owner = ""
            self._begin(client.in_process(LiteDriver()), Calls(1))
        else:
            from nc_strategies_sigopt.local import LocalDriver

            driver = LocalDriver(self._folder / LOCAL if self._folder else None, self._seed)
            self._begin(client.in_process(driver), Calls(1))

    def _open_http(self) -> None:
        door = access.Access(self._settings)
        try:
            door.check()
        except ServerError as error:
            if self._settings.on_server_failure == "stop":
                raise access.unreachable(self._settings, error) from None
            raise
        try:
            self._begin(door.connection, door.calls, door)
        except Refusal as error:
            if self.state.records and self._known_number():
                raise
            raise InputError(
                f"{KEY}.sigopt_project_id" if "project" in str(error) else KEY,
                f"the server refuses the experiment: {error}",
            ) from None

    def _begin(self, connection: Any, calls: Calls, door: access.Access | None = None) -> None:
        """Find this run's experiment, or make it."""
        number = self._known_number()
        mark = self.owner

        def find() -> str | None:
            return Experiment.find(connection, door.client, door.project, mark) if door and mark else None

        if not mark:
            self.owner = mark = uuid.uuid4().hex
            self.state.append({"event": "engine", "engine": self.engine, "owner": mark})
        elif number is None and door is not None:
            number = calls("looking for the experiment", lambda: find() or "") or None
        if number is not None:
            self._experiment = Experiment(connection, calls, number, self._noted("posted", "mark"))
            self._experiment.check()
            self._experiment.knows(self._noted("proposal", "suggestion"))
            self._experiment.look_up()
            self._reopened.extend(self._experiment.reopen())
        else:
            definition = form.experiment(
                self._problem, self._parameters, self._settings.experiment_name, door.project if door else None, mark
            )
            self._experiment = Experiment.create(connection, calls, definition, find if door else None)
        if self._known_number() is None:
            self.state.append({"event": "experiment", "id": self._experiment.number, "owner": mark})
        log.info("SigOpt: experiment %s on engine %s", self._experiment.number, self.engine)

    def _known_number(self) -> str | None:
        return next(
            (str(r["id"]) for r in self.state.records if r["event"] == "experiment" and r["owner"] == self.owner), None
        )

    def _noted(self, event: str, field: str) -> list[str]:
        return [
            str(r[field])
            for r in self.state.records
            if r["event"] == event and r.get("owner") == self.owner and r.get(field) is not None
        ]

    def suggest(self) -> Suggestion | None:
        """What the engine wants tried next; None when it has failed and the run is to stop."""
        if self._reopened:
            return self._reopened.popleft()
        while self._experiment is not None and not self.stopped:
            try:
                return self._experiment.suggest()
            except ServerError as error:
                self._fail(error)
        return None

    def report(self, report: Report) -> None:
        """Report an observation once, to this engine and to any that takes its place."""
        self._reports[report.mark] = report
        if self._experiment is None or self.stopped:
            return
        try:
            self._send(report)
        except ServerError as error:
            self._fail(error)

    def _send(self, report: Report) -> None:
        experiment = self._experiment
        assert experiment is not None
        mine = report.suggestion is not None and report.owner == self.owner
        what: dict[str, Any] = {"suggestion": report.suggestion} if mine else {"assignments": dict(report.assignments)}
        if experiment.has(report.mark):
            return
        experiment.observe(report.mark, {**what, **report.outcome})
        self.state.append({"event": "posted", "owner": self.owner, "mark": report.mark})

    def _fail(self, error: ServerError) -> None:
        """The engine has failed for good: go on without it, or stop."""
        if self.engine == LOCAL_ENGINE:
            raise error
        why = "rejects the token" if isinstance(error, Denied) else "fails"
        if self.engine == HTTP and self._settings.on_server_failure == "stop":
            self.stopped = f"the SigOpt server {why}: {error}"
            log.error("%s; no further trials (%s.on_server_failure=stop)", self.stopped, KEY)
            return
        log.warning(
            "the SigOpt server %s: %s; going on in this process from %d observations", why, error, len(self._reports)
        )
        self.engine, self.owner = LOCAL_ENGINE, ""
        self._reopened.clear()
        self._open()
        for report in self._reports.values():
            self._send(report)
