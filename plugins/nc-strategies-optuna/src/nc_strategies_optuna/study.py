"""The study of a run: its trials in memory, and the same in Optuna's storage."""

from __future__ import annotations

import json
import logging
import os
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from nc_strategies.api import InputError
from nc_strategies_optuna.ask import quiet
from nc_strategies_optuna.settings import ENVIRONMENT, KEY, VARIABLE, SamplerSettings

log = logging.getLogger("nc_strategies.optuna")
STATE, DATABASE = "optuna.json", "optuna.db"
RUN = "nc_strategies_run"
"""Attribute of a study that says which run it belongs to."""
METRIC_NAMES = "study:metric_names"
"""Where Optuna keeps the names of a study's values."""
LOCK_SECONDS = 30
"""How long a write waits for a reader of the SQLite file, such as optuna-dashboard."""
Attrs = dict[str, Any]


@dataclass
class State:
    """What a run keeps beside the study, in `STATE`.

    Args:
        mark: Tells the run apart from all others.
        study_name: Name of the study.
        parameters: Record of the parameters.
    """

    mark: str
    study_name: str
    parameters: dict[str, Any]

    @staticmethod
    def read(folder: Path | None) -> State | None:
        """The state of an earlier process; None without one.

        Raises:
            InputError: the file cannot be read.
        """
        path = folder / STATE if folder else None
        if path is None or not path.exists():
            return None
        try:
            held = json.loads(path.read_text())
            return State(str(held["mark"]), str(held["study_name"]), dict(held["parameters"]))
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError("run_dir", f"{path} cannot be read", "use another run_dir") from None

    def write(self, folder: Path | None) -> None:
        """Keep it; at once or not at all."""
        if folder is not None:
            new = folder / f"{STATE}.new"
            new.write_text(json.dumps(vars(self), indent=1) + "\n")
            os.replace(new, folder / STATE)


def url_of(settings: SamplerSettings) -> str | None:
    """The storage's URL; None for the run's own file.

    Raises:
        InputError: it is to be in the environment and is not.
    """
    if settings.storage != ENVIRONMENT:
        return settings.storage
    found = os.environ.get(VARIABLE, "").strip()
    if "://" not in found:
        raise InputError(f"{KEY}.storage", f"is {ENVIRONMENT}, but {VARIABLE} holds no URL", f"set {VARIABLE}")
    return found


def file_url(path: Path) -> str:
    """The URL of an SQLite file, whatever characters its path has; Optuna formats the URL it is given."""
    from sqlalchemy.engine import URL

    url = str(URL.create("sqlite", database=str(path.absolute())).render_as_string())
    return url.replace("{", "{{").replace("}", "}}")


def scrub(text: object, url: str) -> str:
    """One line of text without the URL's password and the values of its query."""
    line = re.sub(r"\s+", " ", str(text)).strip().replace(url, shown(url))
    try:
        parts = urlsplit(url)
        secrets = [parts.password, *(value for _, value in parse_qsl(parts.query))]
    except ValueError:
        return "the URL cannot be read"
    for secret in secrets:
        if secret:
            line = line.replace(secret, "***").replace(unquote(secret), "***")
    return line


def shown(url: str) -> str:
    """A URL as it may be shown: without user, password and query."""
    return re.sub(r"\?.*", "", re.sub(r"://[^/]*@", "://", url))


def connect(url: str) -> BaseStorage:
    """The storage at a URL.

    Raises:
        InputError: there is none, or its driver is missing.
    """
    options: Attrs = {"connect_args": {"timeout": LOCK_SECONDS}} if url.startswith("sqlite") else {}
    try:
        with quiet():
            return RDBStorage(url, engine_kwargs=options)
    except _errors() as error:
        why = scrub(error, url)
    raise InputError(f"{KEY}.storage", f"{shown(url)} cannot be opened: {why}"[:400], "a URL as SQLAlchemy takes it")


def _errors() -> tuple[type[Exception], ...]:
    """What a storage raises when it does not work."""
    from sqlalchemy.exc import SQLAlchemyError

    return (optuna.exceptions.OptunaError, SQLAlchemyError, ImportError, OSError, ValueError, TypeError, RuntimeError)


class Study:
    """Trials in the order of their suggestion, mirrored to a storage that only a resumed run reads.

    When the storage fails, the user is told once, and the run goes on with the trials in memory.

    Args:
        url: The storage; None for none.
        name: The study's name.
        mark: The run it belongs to.
        metric_names: Names of what is minimized.
        attrs: What the study says of itself.
        notice: Shows a sentence to the user.

    Raises:
        InputError: the storage cannot be opened, or has a study of that name which belongs to another run.
    """

    def __init__(
        self,
        url: str | None,
        name: str,
        mark: str,
        metric_names: Sequence[str],
        attrs: dict[str, str],
        notice: Callable[[str], None],
    ) -> None:
        self._url, self._notice = url or "", notice
        self._storage = connect(url) if url else None
        self._study = -1
        self._ids: list[int] = []
        self.stored: list[FrozenTrial] = []
        self.attrs: Attrs = {}
        if self._storage is not None:
            with quiet():
                self._open(self._storage, name, metric_names, {RUN: mark, **attrs})

    def _open(self, storage: BaseStorage, name: str, metric_names: Sequence[str], attrs: Attrs) -> None:
        """Find the study, or make it."""
        directions = [StudyDirection.MINIMIZE] * len(metric_names)
        found = _find(storage, name)
        if found is None:
            found = int(storage.create_new_study(directions, name))
        if not storage.get_study_user_attrs(found) and not storage.get_all_trials(found):
            # A new one, or one that a process was killed behind; also one that the user has made.
            storage.set_study_system_attr(found, METRIC_NAMES, list(metric_names))
            for key, value in attrs.items():
                storage.set_study_user_attr(found, key, value)
        if (
            storage.get_study_user_attrs(found).get(RUN) != attrs[RUN]
            or storage.get_study_directions(found) != directions
        ):
            raise InputError(
                f"{KEY}.study_name",
                f"the storage has a study {name!r} of another run",
                "another name, or that run's run_dir",
            )
        self._study = found
        self.stored = storage.get_all_trials(found)
        self._ids = [trial._trial_id for trial in self.stored]
        self.attrs = dict(storage.get_study_system_attrs(found))
        self.attrs.pop(METRIC_NAMES, None)

    def add(self, trial: FrozenTrial, attrs: Attrs) -> None:
        """A new trial, running or finished, and what the sampler notes about the study."""

        def write(storage: BaseStorage) -> None:
            self._ids.append(storage.create_new_trial(self._study, template_trial=trial))
            for key, value in attrs.items():
                if self.attrs.get(key) != value:
                    storage.set_study_system_attr(self._study, key, value)

        self._write(write)
        self.attrs.update(attrs)

    def finish(self, number: int, trial: FrozenTrial) -> None:
        """The outcome of a trial that was added as a running one."""

        def write(storage: BaseStorage) -> None:
            place = self._ids[number]
            for key, value in trial.user_attrs.items():
                storage.set_trial_user_attr(place, key, value)
            for key, value in trial.system_attrs.items():
                storage.set_trial_system_attr(place, key, value)
            for step, value in trial.intermediate_values.items():
                storage.set_trial_intermediate_value(place, step, value)
            storage.set_trial_state_values(place, trial.state, trial.values)

        self._write(write)

    def _write(self, what: Callable[[BaseStorage], None]) -> None:
        if self._storage is None:
            return
        try:
            with quiet():
                what(self._storage)
        except _errors() as error:
            self._storage = None
            self._notice(
                f"the storage of the Optuna study fails ({scrub(error, self._url)[:200]}): "
                "the search goes on without it, and a resumed run repeats its proposals from their seeds"
            )

    def close(self) -> None:
        """Let go of the storage."""
        if self._storage is not None:
            self._storage.remove_session()
            self._storage = None


def _find(storage: BaseStorage, name: str) -> int | None:
    try:
        return int(storage.get_study_id_from_name(name))
    except KeyError:
        return None


def new_mark() -> str:
    """A mark that no other run has."""
    return uuid.uuid4().hex
