"""A run in MLflow: the run itself, a child run a trial, files. Every call can be repeated."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from nc_strategies_mlflow.record import TrialRecord

KEPT = "mlflow.json"
PARENT = "mlflow.parentRunId"
NAME = "mlflow.runName"
BATCH = 100
"""Parameters in one request."""


class Recorder:
    """Writes to a store.

    Args:
        connect: Gives an `mlflow.MlflowClient`.
        experiment: The experiment's name.
    """

    def __init__(self, connect: Callable[[], Any], experiment: str) -> None:
        self._connect, self._experiment_name = connect, experiment
        self._client: Any = None
        self._experiment = self._run = ""
        self._children: dict[int, str] = {}
        self._finished: set[int] = set()

    @property
    def client(self) -> Any:
        """The client, made when first used."""
        if self._client is None:
            self._client = self._connect()
        return self._client

    def start(self, run_dir: Path, name: str, parameters: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Make the run, or go on with the one that an earlier process made for this folder."""
        from mlflow.entities import Param

        kept = run_dir / KEPT
        if not self._run:
            if self._taken_up(kept):
                return
            self._experiment = self._experiment or self._find_experiment()
            made = self.client.create_run(self._experiment, tags={**tags, NAME: name})
            self._run = str(made.info.run_id)
        pairs = [Param(key, value) for key, value in parameters.items()]
        for begin in range(0, len(pairs), BATCH):
            self.client.log_batch(self._run, params=pairs[begin : begin + BATCH])
        beside = kept.with_name(f".{KEPT}.partial")
        beside.write_text(json.dumps({"experiment_id": self._experiment, "run_id": self._run}))
        beside.replace(kept)

    def _taken_up(self, kept: Path) -> bool:
        """Whether the run of an earlier process is there; its trials are known then."""
        from mlflow.exceptions import MlflowException

        if not kept.exists():
            return False
        before = json.loads(kept.read_text())
        try:
            self.client.update_run(before["run_id"], "RUNNING")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        page = None
        while True:
            found = self.client.search_runs(
                [before["experiment_id"]], f"tags.`{PARENT}` = '{before['run_id']}'", page_token=page
            )
            for run in found:
                number = int(run.data.tags["trial"])
                self._children[number] = run.info.run_id
                if run.info.status != "RUNNING":
                    self._finished.add(number)
            page = found.token
            if not page:
                break
        self._experiment, self._run = before["experiment_id"], before["run_id"]
        return True

    def _find_experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(self._experiment_name)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self.client.create_experiment(self._experiment_name))
        except MlflowException as error:
            # Another run has just made it: the next attempt finds it.
            raise ConnectionError(f"experiment {self._experiment_name!r} could not be made ({error})") from error

    def trial(self, record: TrialRecord) -> None:
        """Record a trial: a child run, and a step of the run's own metrics. One that is there is not touched."""
        if record.number in self._finished:
            return
        child = self._children.get(record.number)
        if child is None:
            tags = {**record.tags, PARENT: self._run, NAME: f"trial {record.number}"}
            child = str(self.client.create_run(self._experiment, tags=tags).info.run_id)
            self._children[record.number] = child
        self._metrics(child, record.metrics, 0)
        self.client.set_terminated(child, record.status)
        self._finished.add(record.number)
        self._metrics(self._run, record.metrics, record.number)

    def finish(self, status: str, metrics: Mapping[str, float], tags: Mapping[str, str], files: Iterable[Path]) -> None:
        """Record the result, store files and folders, and end the run."""
        self._metrics(self._run, metrics, 0)
        for key, value in tags.items():
            self.client.set_tag(self._run, key, value)
        for path in files:
            if path.is_dir():
                self.client.log_artifacts(self._run, str(path), path.name)
            else:
                self.client.log_artifact(self._run, str(path))
        self.end(status)

    def end(self, status: str) -> None:
        """End the run, if there is one."""
        if self._run:
            self.client.set_terminated(self._run, status)

    def _metrics(self, run: str, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        if values:
            self.client.log_batch(run, metrics=[Metric(key, value, now, step) for key, value in values.items()])
