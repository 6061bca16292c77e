"""Read-only access to a run's folder, also of a running or an incomplete run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from nc_strategies.errors import InputError, first_line
from nc_strategies.measuring.core import METRIC
from nc_strategies.problem import Constraint, Evaluation, Goal, Objective, Trial, TrialState
from nc_strategies.report import analysis
from nc_strategies.report.shown import by_interest
from nc_strategies.study import journal
from nc_strategies.study.compact import Operators
from nc_strategies.study.folder import CONFIG, RESULT, read_json, read_yaml

log = logging.getLogger(__name__)
COMPARISON = "comparison.json"
DIAGNOSIS = "diagnosis.json"


@dataclass(frozen=True)
class RunFiles:
    """Content of a run's folder.

    Args:
        path: The folder.
        result: Content of ``result.json``; empty without this file.
        analysis: Content of ``analysis.json``; empty without this file.
        config: Content of ``config.yaml``.
        trials: Trials of ``trials.jsonl``.
        running: The run is still running.
        diagnosis: Content of ``diagnosis.json``; empty without this file.
    """

    path: Path
    result: Mapping[str, Any] = field(default_factory=dict)
    analysis: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    trials: tuple[Trial, ...] = ()
    running: bool = False
    diagnosis: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def read(path: Path, running: bool = False, trials: Sequence[Trial] | None = None) -> RunFiles:
        """Read a run's folder.

        Args:
            path: The folder.
            running: The run is still running; only the run itself knows this.
            trials: Trials of ``trials.jsonl``, where they are read already.

        Raises:
            InputError: there is no such folder, it is not the folder of a run, or a file in it cannot be read.
        """
        if not path.is_dir():
            raise InputError(
                str(path), "is not a folder" if path.exists() else "does not exist", "the run_dir of a run"
            )
        if not any((path / name).is_file() for name in (RESULT, CONFIG)):
            hint = (
                "is the folder of a sweep; name the folder of one of its runs"
                if (path / COMPARISON).is_file()
                else f"is not the folder of a run: it holds neither {RESULT} nor {CONFIG}"
            )
            raise InputError(str(path), hint)
        return RunFiles(
            path,
            _mapping(path / RESULT, read_json),
            _mapping(path / analysis.FILE, read_json),
            _mapping(path / CONFIG, read_yaml),
            tuple(_trials(path / journal.FILE) if trials is None else trials),
            running,
            _mapping(path / DIAGNOSIS, read_json),
        )

    @cached_property
    def goal(self) -> Goal | None:
        """The run's goal; None when the run ended before its goal was known."""
        stated: Mapping[str, Any] = {**(self.result.get("goal") or {}), **(self.analysis.get("goal") or {})}
        if not stated or not self.baseline:
            return None
        names = self.result.get("objectives") or ["latency"]
        objectives = stated.get("objectives") or [{"name": name} for name in names]
        samples = (self.result.get("measure") or {}).get("samples") or self.baseline.get("samples") or 0
        return Goal(self._constraints(stated), tuple(Objective(**objective) for objective in objectives), samples)

    def _constraints(self, stated: Mapping[str, Any]) -> tuple[Constraint, ...]:
        first = Constraint(
            METRIC,
            stated["threshold"],
            self.baseline["accuracy"],
            stated["higher_is_better"],
            stated["criterion"],
            stated["tolerable_loss"],
        )
        values = self.baseline.get("metrics") or {}
        further = (
            Constraint(**{"baseline": values.get(c["metric"]), **c})
            for c in stated.get("constraints") or []
            if "baseline" in c or c["metric"] in values
        )
        return (first, *further)

    @property
    def baseline(self) -> Mapping[str, Any]:
        """fp32's values: those of the final measurement, or before it those of ``analysis.json``."""
        return self.result.get("baseline") or self.analysis.get("baseline") or {}

    @property
    def saved_model(self) -> Path | None:
        """The model that the run has saved, if it is still there; None otherwise."""
        stated = self.result.get("model_path")
        path = self.path / str(stated)
        return path if stated and path.exists() else None

    @property
    def metric(self) -> str:
        """Name of the accuracy metric."""
        stated = (self.result.get("goal") or {}).get("metric")
        return str(stated or self._config("metrics", "accuracy", "name") or METRIC)

    def name(self, group: str) -> str:
        """Name of the component chosen for ``strategy``, ``backend``, ``model`` or ``data``."""
        return str(self.result.get(group) or self.analysis.get(group) or self._config(group, "name") or "")

    def _config(self, *keys: str) -> Any:
        for tree in (self.config, self.config.get("identity")):
            found: Any = tree
            for key in keys:
                found = found.get(key) if isinstance(found, Mapping) else None
            if found is not None:
                return found
        return None

    @cached_property
    def chosen(self) -> Trial | None:
        """The trial of the saved model; during a run, the best trial so far."""
        number = (self.result.get("tuned") or {}).get("trial")
        if number is not None:
            return next((t for t in self.trials if t.number == number), None)
        return self.goal.best(self.trials) if self.goal else None

    @cached_property
    def by_interest(self) -> list[Trial]:
        """The trials that a page shows, see `nc_strategies.report.shown`."""
        return by_interest(self)

    @cached_property
    def shown(self) -> list[Trial]:
        """The trials that a page shows, in the order of the run."""
        numbers = {trial.number for trial in self.by_interest}
        return [trial for trial in self.trials if trial.number in numbers]

    def state(self, trial: Trial) -> str:
        """``kept`` or ``missed`` the accuracy, ``failed`` or ``pruned``."""
        if trial.state is TrialState.PRUNED:
            return "pruned"
        if not trial.ok or trial.evaluation is None or self.goal is None:
            return "failed"
        return "kept" if self.goal.feasible(trial.evaluation) else "missed"

    def gain(self, evaluation: Evaluation) -> float | None:
        """Improvement of the objective over fp32 as a factor; None where it was not measured."""
        if self.goal is None or any(o.name not in dict(evaluation.ratios) for o in self.goal.objectives):
            return None
        cost = self.goal.cost(evaluation)
        return 1 / cost if cost > 0 else None


def _mapping(path: Path, read: Callable[[Path], Any]) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = read(path)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(str(path), f"cannot be read ({first_line(error)})") from None
    if not isinstance(found, dict):
        raise InputError(str(path), "does not hold a mapping")
    return found


def _trials(path: Path) -> tuple[Trial, ...]:
    """Trials of a journal. An incomplete last line is ignored: the run is writing it."""
    if not path.is_file():
        return ()
    trials = []
    operators = Operators(path.parent)
    for number, line in enumerate(journal.lines(path), 1):
        if not line.endswith(b"\n"):
            break
        try:
            trials.append(journal.read_trial(line, operators))
        except journal.INVALID as error:
            raise InputError(f"{path}, line {number}", f"cannot be read ({first_line(error)})") from None
    return tuple(trials)
