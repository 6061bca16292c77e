"""The append-only journal of trials, which a resumed run reads."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nc_strategies.errors import InputError
from nc_strategies.problem import Evaluation, Prediction, Trial, TrialState
from nc_strategies.runtime.files import unwritable
from nc_strategies.space import Config
from nc_strategies.study.compact import Operators, is_large

log = logging.getLogger(__name__)
FILE = "trials.jsonl"
SCHEMA = 3
"""Version of the schema of a line. Lines of version 1 have no ``schema``. In version 3, the configuration is in the
compact form, see `nc_strategies.study.compact`."""
PLAIN_SCHEMA = 2
"""Version of a line with a plain configuration, which earlier versions of the software can read."""


class Journal:
    """``trials.jsonl``: one line per trial, written to disk before the strategy sees the trial.

    Args:
        folder: The run's existing folder.
        metric: Name of the metric that a line contains as ``accuracy``.
        operators: Names of the operators of the run's model, if the caller knows them; see `Operators`.
    """

    def __init__(self, folder: Path, metric: str, operators: Sequence[str] = ()) -> None:
        self.path = folder / FILE
        self._metric = metric
        self._operators = Operators(folder, operators)

    def read(self) -> list[Trial]:
        """Read the trials of an earlier run; an incomplete last line is removed from the file with a warning.

        Raises:
            InputError: a line other than the last cannot be read.
        """
        if not self.path.exists():
            return []
        trials = []
        whole = 0
        for number, line in enumerate(lines(self.path), 1):
            if not line.endswith(b"\n"):
                log.warning("%s: the last line is incomplete and dropped: that trial is measured again", self.path)
                os.truncate(self.path, whole)
                break
            whole += len(line)
            try:
                trials.append(replace(read_trial(line, self._operators), resumed=True))
            except INVALID as error:
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
        large = is_large(trial.config)
        return {
            "schema": SCHEMA if large else PLAIN_SCHEMA,
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
            "config": self._operators.write(trial.config) if large else trial.config.to_dict(),
        }


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _first(line: Mapping[str, Any]) -> dict[str, Any]:
    """Migrate schema 1 to 2: the same fields, but ``note`` may be missing in schema 1."""
    return {"note": "", **line, "schema": 2}


def _second(line: Mapping[str, Any]) -> dict[str, Any]:
    """Migrate schema 2 to 3: the same fields; a configuration in the plain form stays valid."""
    return {**line, "schema": 3}


MIGRATIONS: dict[int, Callable[[Mapping[str, Any]], dict[str, Any]]] = {1: _first, 2: _second}
"""Migration from each schema to the next one."""
INVALID = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""Errors of a line that is not valid."""


def lines(path: Path) -> Iterator[bytes]:
    """The lines of a journal with their ends, one at a time; only the last one can have no end: it is incomplete."""
    with path.open("rb") as stream:
        yield from stream


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


def read_trial(text: bytes, operators: Operators | None = None) -> Trial:
    """Read a trial from a line of a journal of any known schema.

    Args:
        text: The line.
        operators: Names of the operators of configurations in the compact form; None for a line without one.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, RecursionError: the line is not valid.
    """
    line = migrate(json.loads(text))
    evaluation = Evaluation.from_dict(line["evaluation"]) if line["evaluation"] else None
    config = line["config"]
    return Trial(
        int(line["number"]),
        operators.read(config, str(line["fingerprint"]))
        if operators is not None and "codes" in config
        else Config.from_dict(config),
        TrialState(line["state"]),
        evaluation,
        line["error"],
        note=line.get("note", ""),
        predicted=Prediction.from_dict(line.get("predicted")),
        proposed=int(line.get("proposed", 0)),
    )
