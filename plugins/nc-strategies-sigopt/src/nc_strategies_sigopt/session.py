"""The experiment of a run: on the engine that was chosen, moved when its server fails, and back when it answers."""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nc_strategies_optuna.parameters import Parameters

from nc_strategies.api import InputError, Problem
from nc_strategies_sigopt import access, client, form
from nc_strategies_sigopt.calls import Calls, Denied, Refusal, ServerError
from nc_strategies_sigopt.experiment import Experiment, Suggestion
from nc_strategies_sigopt.lines import Lines
from nc_strategies_sigopt.opening import opening
from nc_strategies_sigopt.settings import KEY, SigOptSettings

log = logging.getLogger("nc_strategies.sigopt")
STATE, LOCAL = "sigopt.jsonl", "sigopt_local.jsonl"
HTTP, LOCAL_ENGINE, LITE = "http", "local", "lite"
AWAY = "away"
LOOK_AFTER = 30.0
"""Seconds between two looks whether a server that has failed answers again."""
GOING_BACK = (
    f"it is asked again every {LOOK_AFTER:.0f} s and at the end, and told what was measured meanwhile; after the run, "
    "the same command with a larger tuning.max_trials in the same run_dir goes back to it"
)
"""What leads back to the server."""
LOOK_SHARE = 0.1
"""Largest share of the time that goes into such looks, where each waits for an answer that does not come."""


@dataclass(frozen=True)
class Report:
    """An observation to report.

    Args:
        mark: Tells it apart from all others of the run.
        assignments: What was tried.
        outcome: What came of it, in the API's form.
        suggestion: The suggestion it answers.
        owner: Mark of the experiment which made that suggestion.
        answered: It was known already, and took no trial.
    """

    mark: str
    assignments: Mapping[str, Any]
    outcome: Mapping[str, Any]
    suggestion: str | None = None
    owner: str = ""
    answered: bool = False


class Session:
    """One experiment, and what it takes to find it again.

    Args:
        settings: The strategy's settings.
        problem: What is to be solved.
        parameters: What the experiment searches.
        seed: Seed of an engine in this process.
        state: What an earlier process noted; what this one does is noted there.

    Raises:
        InputError: the server does not let us in.
    """

    def __init__(
        self, settings: SigOptSettings, problem: Problem, parameters: Parameters, seed: int, state: Lines
    ) -> None:
        self._settings, self._problem, self._parameters, self._seed = settings, problem, parameters, seed
        self._folder: Path | None = problem.state_dir
        self.state = state
        self.stopped = ""
        self.suggested: dict[str, int] = {}
        self._opening = opening(form.definition(parameters), problem.workers)
        self._reports: dict[str, Report] = {}
        self._reopened: deque[Suggestion] = deque()
        self._experiment: Experiment | None = None
        self._away: str | None = None
        self._look_at = 0.0
        last = next((r for r in reversed(state.records) if r["event"] == "engine"), None)
        self.engine = str(last["engine"]) if last else access.chosen_driver(settings)
        self.owner = str(last["owner"]) if last else ""
        if last and self.engine == LOCAL_ENGINE and access.chosen_driver(settings) == HTTP:
            self._away = next((str(r["owner"]) for r in reversed(state.records) if r["event"] == AWAY), None)
        if self._away is not None:
            if self._return():
                return
            self._problem.notice(f"the SigOpt server is still away: engine local goes on in this process; {GOING_BACK}")
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

    def _open_http(self, patient: bool = True) -> None:
        door = access.Access(self._settings, self._problem.notice, patient)
        try:
            door.check()
        except ServerError as error:
            if patient and self._settings.on_server_failure == "stop":
                raise access.unreachable(self._settings, error) from None
            raise
        if door.development:
            self._problem.notice(
                "the SigOpt token is a development token, for which the server suggests at random: "
                "an API token lets its optimizer suggest"
            )
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
            experiment = Experiment(connection, calls, number, self._noted("posted", "mark"))
            experiment.check()
            experiment.allow_open(form.bandwidth(self._problem))
            experiment.knows(self._noted("proposal", "suggestion"))
            experiment.look_up()
            self._reopened.extend(experiment.reopen())
        else:
            definition = form.experiment(
                self._problem, self._parameters, self._settings.experiment_name, door.project if door else None, mark
            )
            experiment = Experiment.create(connection, calls, definition, find if door else None)
        self._experiment = experiment
        if self._known_number() is None:
            self.state.append({"event": "experiment", "id": experiment.number, "owner": mark})
        self._allow()
        log.info("SigOpt: experiment %s on engine %s", experiment.number, self.engine)

    def _allow(self) -> None:
        """Room in the experiment's budget for this run's trials and for what was answered without one."""
        if self._experiment is not None and self.engine != LITE:
            answered = sum(report.answered for report in self._reports.values())
            self._experiment.allow(form.budget(self._problem, max(answered, 1)))

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
        if self._away is not None and time.monotonic() >= self._look_at:
            self._return()
        if self._reopened:
            return self._reopened.popleft()
        while self._experiment is not None and not self.stopped:
            source = "optimizer" if self._experiment.observations >= self._opening else "opening"
            try:
                found = self._experiment.suggest()
            except ServerError as error:
                self._fail(error)
                continue
            if self.engine == LITE:
                return found
            self.suggested[source] = self.suggested.get(source, 0) + 1
            return replace(found, source=source)
        return None

    def report(self, report: Report) -> None:
        """Report an observation once, to this engine and to any that takes its place."""
        self._reports[report.mark] = report
        if self._experiment is None or self.stopped:
            return
        try:
            if report.answered:
                self._allow()
            self._send(report)
        except ServerError as error:
            self._fail(error)

    def _send(self, report: Report) -> bool:
        """Report to the engine, unless it knows; whether it did not."""
        experiment = self._experiment
        assert experiment is not None
        mine = report.suggestion is not None and report.owner == self.owner
        what: dict[str, Any] = {"suggestion": report.suggestion} if mine else {"assignments": dict(report.assignments)}
        if experiment.has(report.mark):
            return False
        experiment.observe(report.mark, {**what, **report.outcome})
        self.state.append({"event": "posted", "owner": self.owner, "mark": report.mark})
        return True

    def close(self) -> None:
        """Tell a server that answers again what was measured without it, and say where the suggestions came from."""
        if self._away is not None:
            engine, owner = self.engine, self.owner
            if self._return():
                # Who proposed at the end stays what it was.
                self.state.append({"event": "engine", "engine": engine, "owner": owner})
                self.engine, self.owner = engine, owner
        if self.suggested:
            log.info(
                "SigOpt: %d of %d suggestions came from the optimizer; its opening takes %d observations",
                self.suggested.get("optimizer", 0),
                sum(self.suggested.values()),
                self._opening,
            )

    def _return(self) -> bool:
        """Go back to the server that has failed, if it answers, and report what was measured meanwhile."""
        assert self._away is not None
        before = self.engine, self.owner, self._experiment, deque(self._reopened)
        self._reopened.clear()
        begin = time.monotonic()
        self.engine, self.owner = HTTP, self._away
        try:
            if self.owner:
                self.state.append({"event": "engine", "engine": HTTP, "owner": self.owner})
            self._open_http(patient=False)
            told = sum([self._send(report) for report in self._reports.values()])
        except (ServerError, InputError) as error:
            log.info("SigOpt: the server is still away: %s", error)
            took = time.monotonic() - begin
            self._look_at = time.monotonic() + max(LOOK_AFTER, took / LOOK_SHARE)
            self._away = self.owner or self._away
            self.engine, self.owner, self._experiment, self._reopened = before
            if self.owner:
                self.state.append({"event": "engine", "engine": self.engine, "owner": self.owner})
            return False
        self._away = None
        self._problem.notice(
            f"the SigOpt server answers again: {told} observations made without it are reported; it suggests again"
        )
        return True

    def _fail(self, error: ServerError) -> None:
        """The engine has failed for good: go on without it, or stop."""
        if self.engine == LOCAL_ENGINE:
            raise error
        why = "rejects the token" if isinstance(error, Denied) else "fails"
        if self.engine == HTTP and self._settings.on_server_failure == "stop":
            self.stopped = f"the SigOpt server {why}: {error}"
            log.error("%s; no further trials (%s.on_server_failure=stop)", self.stopped, KEY)
            return
        back = ""
        if self.engine == HTTP:
            self._away = self.owner
            self._look_at = time.monotonic() + LOOK_AFTER
            self.state.append({"event": AWAY, "owner": self.owner})
            back = f"; {GOING_BACK}"
        self._problem.notice(
            f"the SigOpt server {why} ({error}): engine local goes on in this process "
            f"from {len(self._reports)} observations{back}"
        )
        earlier = [r for r in self.state.records if r["event"] == "engine" and r["engine"] == LOCAL_ENGINE]
        self.engine, self.owner = LOCAL_ENGINE, str(earlier[-1]["owner"]) if earlier else ""
        if self.owner:
            self.state.append({"event": "engine", "engine": LOCAL_ENGINE, "owner": self.owner})
        self._reopened.clear()
        self._open()
        for report in self._reports.values():
            self._send(report)
