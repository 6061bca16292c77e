"""The append-only record of trials, and what a later run reads back from it."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from nc_strategies.errors import InputError
from nc_strategies.problem import Evaluation, Trial, TrialState
from nc_strategies.space import Config

log = logging.getLogger(__name__)
FILE = "trials.jsonl"


class Journal:
    """``trials.jsonl``: one line a trial, on disk before the strategy sees it.

    Args:
        folder: The run's folder; it exists.
        metric: Name of the metric which stands as ``accuracy`` in a line.
    """

    def __init__(self, folder: Path, metric: str) -> None:
        self.path = folder / FILE
        self._metric = metric

    def read(self) -> list[Trial]:
        """Trials of an earlier run; a torn last line is dropped from the file, with a warning.

        Raises:
            InputError: a line other than the last cannot be read.
        """
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        lines = data.split(b"\n")
        torn = lines.pop()
        if torn:
            log.warning("%s: the last line is incomplete and dropped: that trial is measured again", self.path)
            with self.path.open("r+b") as stream:
                stream.truncate(len(data) - len(torn))
        trials = []
        for number, line in enumerate(lines, 1):
            try:
                trials.append(_trial(json.loads(line)))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(f"run_dir ({self.path}, line {number})", f"cannot be read ({error})",
                                 "use another run_dir, or remove the line") from None
        return trials

    def append(self, trial: Trial) -> None:
        """Write a trial and wait until it is on disk."""
        text = json.dumps(self._line(trial), sort_keys=False, allow_nan=False)
        with self.path.open("ab") as stream:
            stream.write(text.encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _line(self, trial: Trial) -> dict[str, Any]:
        done = trial.evaluation
        return {
            "number": trial.number,
            "fingerprint": trial.config.fingerprint,
            "state": str(trial.state),
            "accuracy": done.metric(self._metric) if done else None,
            "samples": done.samples if done else 0,
            "latency_ms": dict(done.values).get("latency_ms") if done else None,
            "seconds": dict(done.seconds) if done else {},
            "error": trial.error,
            "note": trial.note,
            "evaluation": done.to_dict() if done else None,
            "config": trial.config.to_dict(),
        }


def _trial(line: dict[str, Any]) -> Trial:
    evaluation = Evaluation.from_dict(line["evaluation"]) if line["evaluation"] else None
    return Trial(int(line["number"]), Config.from_dict(line["config"]), TrialState(line["state"]), evaluation,
                 line["error"], True, line.get("note", ""))
