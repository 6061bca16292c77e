"""The tracker ``mlflow``."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from nc_strategies.api import Tracker, Trial, hookimpl
from nc_strategies_mlflow.client import connect, masked, may_pass
from nc_strategies_mlflow.record import final_metrics, parameters, trial_record
from nc_strategies_mlflow.recorder import Recorder
from nc_strategies_mlflow.sender import Sender
from nc_strategies_mlflow.settings import MlflowSettings

log = logging.getLogger("nc_strategies.mlflow")
FILES = ("result.json", "report.html", "config.yaml", "trials.jsonl", "trials.operators.json")


class MlflowTracker(Tracker):
    """Records a run in MLflow from a thread of its own.

    A store that fails is tried again, with pauses, while the run goes on; the user is told once. At the end of the run
    the first failure ends the attempts.

    Args:
        settings: See `MlflowSettings`.

    Raises:
        ImportError: MLflow is not installed.
    """

    settings: MlflowSettings

    def __init__(self, settings: MlflowSettings) -> None:
        super().__init__(settings)
        if importlib.util.find_spec("mlflow") is None:
            raise ModuleNotFoundError("No module named 'mlflow'", name="mlflow")
        self._recorder = Recorder(partial(connect, settings.uri, settings.timeout), settings.experiment)
        self._sender: Sender | None = None
        self._error = ""
        self._told = self._ended = False
        self._notice: Callable[[str], None] = log.warning

    @hookimpl
    def ncs_study_started(self, study: Any, config: Mapping[str, Any], notice: Callable[[str], None]) -> None:
        """Begin to record."""
        self._notice = notice
        self._sender = Sender(self._failed)
        strategy, backend = config["strategy"]["name"], config["backend"]["name"]
        name = self.settings.run_name or f"{study.model} {strategy} {backend}"
        tags = {"mlflow.source.name": "nc-strategies", "strategy": strategy, "backend": backend, "model": study.model}
        self._sender.put(partial(self._recorder.start, study.run_dir, name, parameters(config), tags))

    @hookimpl
    def ncs_trial_finished(self, study: Any, trial: Trial) -> None:
        """Record a trial."""
        if self._sender is not None:
            self._sender.put(partial(self._recorder.trial, trial_record(study, trial)))
        self._tell()

    @hookimpl
    def ncs_study_finished(self, study: Any) -> None:
        """Record the result and wait until all is sent, or the store fails."""
        files = [study.run_dir / name for name in FILES]
        if self.settings.model and study.model_path is not None:
            files.append(study.run_dir / "model")
        status = "FAILED" if study.status == "failed" else "FINISHED"
        if study.stop_reason == "interrupted":
            status = "KILLED"
        self._end(
            partial(
                self._recorder.finish,
                status,
                final_metrics(study.run_dir),
                {"status": str(study.status), "stop_reason": study.stop_reason},
                [path for path in files if path.exists()],
            )
        )

    def close(self) -> None:
        """End a run that came to no result."""
        if not self._ended:
            self._end(partial(self._recorder.end, "FAILED"))

    def _end(self, job: Callable[[], None]) -> None:
        self._ended = True
        if self._sender is None:
            return
        self._sender.put(job)
        unsent = self._sender.finish(self.settings.wait)
        self._tell()
        if unsent:
            log.warning("tracker=mlflow: %d records were not sent", unsent)

    def _failed(self, error: Exception) -> bool:
        # In the sender's thread: the user is told from the run's own.
        lines = [line.strip() for line in masked(str(error)).splitlines() if line.strip()]
        self._error = self._error or f"{type(error).__name__}: {(lines or [''])[0]}"[:300]
        return may_pass(error)

    def _tell(self) -> None:
        if self._error and not self._told:
            self._told = True
            self._notice(
                f"tracker=mlflow fails ({self._error}); the run goes on, and what the store did not take is "
                "missing there unless it answers again in time"
            )
