"""The append-only journal of trials, which a resumed run reads."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nc_strategies.errors import InputError
from nc_strategies.problem import Evaluation, Prediction, Trial, TrialState
from nc_strategies.runtime.files import unwritable
from nc_strategies.space import Config

log = logging.getLogger(__name__)
FILE = "trials.jsonl"
SCHEMA = 2
"""Version of the schema of a line. Lines of version 1 have no ``schema``."""


class Journal:
    """``trials.jsonl``: one line per trial, written to disk before the strategy sees the trial.

    Args:
        folder: The run's existing folder.
        metric: Name of the metric that a line contains as ``accuracy``.
    """

    def __init__(self, folder: Path, metric: str) -> None:
        self.path = folder / FILE
        self._metric = metric

    def read(self) -> list[Trial]:
        """Read the trials of an earlier run; an incomplete last line is removed from the file with a warning.

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
                trials.append(replace(read_trial(line), resumed=True))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise InputError(
                    f"run_dir ({self.path}, line {number})",
                    f"cannot be read ({error})",
                    "use another run_dir, or remove the line",
                ) from None
        return trials

    def append(self, trial: Trial) -> None:
        """Write a trial and wait until it is on disk.

        Raises:
            EngineError: the disk is full or no longer writable; the journal is unchanged.
        """
        data = json.dumps(self._line(trial), sort_keys=False, allow_nan=False).encode() + b"\n"
        try:
            with self.path.open("ab", buffering=0) as stream:
                before = os.fstat(stream.fileno()).st_size
                try:
                    _write_all(stream.fileno(), data)
                    os.fsync(stream.fileno())
                except OSError:
                    os.ftruncate(stream.fileno(), before)
                    raise
        except OSError as error:
            raise unwritable(self.path, error) from error

    def _line(self, trial: Trial) -> dict[str, Any]:
        done = trial.evaluation
        return {
            "schema": SCHEMA,
            "number": trial.number,
            "fingerprint": trial.config.fingerprint,
            "state": str(trial.state),
            "accuracy": done.metric(self._metric) if done else None,
            "samples": done.samples if done else 0,
            "latency_ms": dict(done.values).get("latency_ms") if done else None,
            "seconds": dict(done.seconds) if done else {},
            **({"proposed": trial.proposed} if trial.proposed not in (0, trial.number) else {}),
            "error": trial.error,
            "note": trial.note,
            "predicted": trial.predicted.to_dict() if trial.predicted else None,
            "evaluation": done.to_dict() if done else None,
            "config": trial.config.to_dict(),
        }


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _first(line: Mapping[str, Any]) -> dict[str, Any]:
    """Migrate schema 1 to 2: the same fields, but ``note`` may be missing in schema 1."""
    return {"note": "", **line, "schema": 2}


MIGRATIONS: dict[int, Callable[[Mapping[str, Any]], dict[str, Any]]] = {1: _first}
"""Migration from each schema to the next one."""


def migrate(line: dict[str, Any]) -> dict[str, Any]:
    """Migrate a line of any known schema to the current one.

    Raises:
        ValueError: this version does not know the line's schema.
    """
    while (schema := line.get("schema", 1)) != SCHEMA:
        if schema not in MIGRATIONS:
            raise ValueError(f"schema {schema}; this version knows 1 to {SCHEMA}")
        line = MIGRATIONS[schema](line)
    return line


def read_trial(text: bytes) -> Trial:
    """Read a trial from a line of a journal of any known schema.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, RecursionError: the line is not valid.
    """
    line = migrate(json.loads(text))
    evaluation = Evaluation.from_dict(line["evaluation"]) if line["evaluation"] else None
    return Trial(
        int(line["number"]),
        Config.from_dict(line["config"]),
        TrialState(line["state"]),
        evaluation,
        line["error"],
        note=line.get("note", ""),
        predicted=Prediction.from_dict(line.get("predicted")),
        proposed=int(line.get("proposed", 0)),
    )
