"""``nc-strategies compare``: the saved models of several runs timed side by side, to choose the engine."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nc_strategies.app import status
from nc_strategies.app import target as targets
from nc_strategies.app.replay import run_configuration
from nc_strategies.config import RunConfig
from nc_strategies.errors import InputError, NcsError, first_line
from nc_strategies.measuring.turns import FP32, TURN_RULES, EngineBench, Entry, TurnRules, Turns, take_turns
from nc_strategies.measuring.worker.messages import Request
from nc_strategies.measuring.worker.process import Limits, WorkerProcess
from nc_strategies.models.source import format_of
from nc_strategies.report import engines
from nc_strategies.report.result import processor
from nc_strategies.report.run_files import RunFiles
from nc_strategies.runtime.turns import turn
from nc_strategies.study.folder import CONFIG, IDENTITY, RESULT

log = logging.getLogger(__name__)
BENCH = f"{__name__}:build"
CALL_SECONDS = 600.0
"""Seconds after which a call of an engine is given up: loading a model may convert it to another format first."""
SAME_DATA = ("data_sha256",)
SAME_MODEL = ("model_sha256",)
SAME_MEASURE = ("threads", "batch_size", "lengths", "context_lengths")
"""Facts of a run's identity that must be equal for latencies to be comparable."""


@dataclass(frozen=True)
class Run:
    """A run that is to be compared.

    Args:
        name: Its name in the comparison.
        files: Content of its folder.
    """

    name: str
    files: RunFiles

    @property
    def backend(self) -> Mapping[str, Any]:
        """Settings of its backend; its name alone where the run ended before they were known."""
        found = self.files.config.get("backend")
        return found if isinstance(found, Mapping) else {"name": self.files.name("backend")}

    @property
    def saved(self) -> Path | None:
        """Its saved model; None without one."""
        path = self.files.saved_model
        return None if path is None else path.absolute()

    def facts(self, names: Sequence[str]) -> tuple[Any, ...]:
        """Facts of its identity, as text that can be compared."""
        identity = self.files.config.get(IDENTITY) or {}
        return tuple(json.dumps(identity.get(name)) for name in names)


@dataclass(frozen=True)
class SentBench:
    """What a worker builds its bench from.

    Args:
        config: Configuration of a run on its engine, without settings that may hold secrets.
        folder: The run's folder, which may hold the model as it was converted to another format.
    """

    config: RunConfig
    folder: Path


class WorkerBench:
    """A `nc_strategies.measuring.turns.Bench` in a worker process.

    Args:
        sent: Its parts.
    """

    def __init__(self, sent: SentBench) -> None:
        self._process = WorkerProcess(BENCH, sent, sent.config.tuning.memory_limit)

    def prepare(self) -> Mapping[str, Any]:
        """See `EngineBench.prepare`."""
        return dict(self._call("prepare"))

    def open(self, key: str) -> None:
        """See `Bench.open`."""
        self._call("open", key)

    def turn(self, key: str, untimed: int, timed: int) -> float:
        """See `Bench.turn`."""
        return float(self._call("turn", key, untimed, timed))

    def _call(self, method: str, *args: Any) -> Any:
        return self._process.call(Request(method, args), Limits(CALL_SECONDS, setting="a limit of comparisons"))

    def close(self) -> None:
        """End the process."""
        self._process.kill()


def build(sent: SentBench) -> EngineBench:
    """Build a bench in the worker. A model that the run converted is not converted again."""
    parts = targets.build(sent.config).parts
    kept = {format_of(path): path for path in sorted(sent.folder.iterdir()) if path.is_file() and format_of(path)}
    files = {**{str(name): path for name, path in kept.items()}, **parts.model.files}
    parts.model = replace(parts.model, files=files)
    return EngineBench(parts, sent.config.measure)


def compare(
    folders: Sequence[Path], names: Sequence[str] | None = None, rules: TurnRules = TURN_RULES
) -> dict[str, Any]:
    """Time the saved models of runs side by side, with fp32 on each of their engines.

    Args:
        folders: Folders of runs, or of sweeps, which stand for all their runs.
        names: Names of the runs in the comparison; by default their folders.
        rules: Extent of the timing.

    Returns:
        Plain data, as ``engines.json`` holds it.

    Raises:
        InputError: a folder is not of a run, no run has a model, or the runs are not on the same data or are measured
            in different ways.
    """
    places = [place for folder in folders for place in _runs_of(folder)]
    runs = [
        Run(name, RunFiles.read(place)) for name, place in zip(names or [str(p) for p in places], places, strict=True)
    ]
    ended = [run for run in runs if run.saved is not None]
    if not ended:
        raise InputError("compare", "no run holds a saved model", "folders of runs that have ended with one")
    for what, keys in (("data", SAME_DATA), ("measure", SAME_MEASURE)):
        for run in ended[1:]:
            if run.facts(keys) != ended[0].facts(keys):
                raise InputError(
                    what,
                    f"differs between {ended[0].name} and {run.name} ({_difference(ended[0], run, keys)})",
                    "runs on the same data that are measured in the same way",
                )
    group = _group(runs, rules)
    if len({run.facts(SAME_MODEL) for run in ended}) > 1:
        group["remarks"].append("the runs are of different model files")
    return {"schema_version": engines.SCHEMA_VERSION, "groups": [group]}


def compare_sweep(folder: Path, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Compare the runs of a sweep, those on one model and the same data in a group.

    Args:
        folder: The sweep's folder.
        results: Results of its jobs; ``run`` is the name of each job's folder.

    Returns:
        Plain data, as ``engines.json`` holds it; no group where no model and data were run on several engines.
    """
    runs = [Run(str(result["run"]), RunFiles.read(folder / str(result["run"]))) for result in results]
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        if run.saved is not None:
            groups.setdefault(run.facts((*SAME_MODEL, *SAME_DATA, *SAME_MEASURE)), []).append(run)
    several = [group for group in groups.values() if len({engines.engine_label(run.backend) for run in group}) > 1]
    if len(groups) == 1:
        # Runs without a model stay in the table: they are on the same model and data as the others, as far as is known.
        several = [runs] if several else []
    return {"schema_version": engines.SCHEMA_VERSION, "groups": [_group(group, TURN_RULES) for group in several]}


def several_engines(results: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the jobs of a sweep have saved models of more than one engine."""
    return len({_engine_of(result) for result in results if result.get("model_path")}) > 1


def _engine_of(result: Mapping[str, Any]) -> str:
    provider = (result.get("tuned") or {}).get("provider")
    return engines.engine_label({"name": result["backend"], "provider": provider})


def _runs_of(folder: Path) -> list[Path]:
    """The folder of a run, or those of a sweep's runs."""
    if (folder / RESULT).is_file() or (folder / CONFIG).is_file() or not folder.is_dir():
        return [folder]
    found = [path.parent for path in folder.glob(f"*/{RESULT}")]
    return sorted(found, key=lambda path: (not path.name.isdigit(), path.name.zfill(9))) or [folder]


def _difference(one: Run, other: Run, keys: Sequence[str]) -> str:
    pairs = zip(keys, one.facts(keys), other.facts(keys), strict=True)
    return ", ".join(f"{key}: {a[:20]} and {b[:20]}" for key, a, b in pairs if a != b)


def _group(runs: Sequence[Run], rules: TurnRules) -> dict[str, Any]:
    """Time the runs on one model and data; those that cannot be timed stay as rows."""
    rows = [engines.row(run.name, run.files.result, engines.engine_label(run.backend)) for run in runs]
    first = next(run for run in runs if run.saved is not None)
    identity = first.files.config.get(IDENTITY) or {}
    remarks: list[str] = []
    with ExitStack() as stack:
        benches = _benches(runs, rows, remarks, stack)
        entries: list[Entry] = []
        columns: list[int | None] = []
        fp32: dict[str, int] = {}
        for run in runs:
            bench = benches.get(_engine(run))
            if bench is None or run.saved is None:
                columns.append(None)
                continue
            if _engine(run) not in fp32:
                fp32[_engine(run)] = len(entries)
                entries.append(Entry(bench, FP32))
            columns.append(len(entries))
            entries.append(Entry(bench, str(run.saved)))
        with turn():
            turns = take_turns(entries, np.random.default_rng(0), rules) if entries else Turns(None)
    for line, position in zip(rows, columns, strict=True):
        if position is not None and position in turns.failed:
            line["untimed"] = turns.failed[position]
    note: dict[str, Any] = {"choice": None, "equal": [], "note": "no saved model could be timed"}
    if turns.timing is not None:
        note = engines.add_timing(
            rows,
            turns.timing,
            [None if position is None else turns.column(position) for position in columns],
            [turns.column(fp32[_engine(run)]) if _engine(run) in fp32 else None for run in runs],
        )
    return {
        "model": str(first.files.name("model")),
        "data": str(first.files.name("data")),
        "model_sha256": identity.get("model_sha256"),
        "data_sha256": identity.get("data_sha256"),
        "threads": identity.get("threads"),
        "batch_size": identity.get("batch_size"),
        "processor": processor(),
        **note,
        "remarks": remarks,
        "rows": rows,
    }


def _engine(run: Run) -> str:
    """What runs have in common that share a worker process."""
    return json.dumps(run.backend, sort_keys=True, default=str)


def _benches(
    runs: Sequence[Run], rows: Sequence[dict[str, Any]], remarks: list[str], stack: ExitStack
) -> dict[str, WorkerBench]:
    """A worker for each engine, ready to open models; rows of engines that do not start say why."""
    found: dict[str, WorkerBench] = {}
    failed: dict[str, str] = {}
    lengths: dict[str, Any] = {}
    for run, line in zip(runs, rows, strict=True):
        key = _engine(run)
        if run.saved is None:
            continue
        if key not in found and key not in failed:
            try:
                config = targets.without_secrets(run_configuration(run.files))
                bench = WorkerBench(SentBench(config, run.files.path.absolute()))
                stack.callback(bench.close)
                lengths[key] = bench.prepare()["lengths"]
                found[key] = bench
            except NcsError as error:
                log.warning("%s cannot be timed: %s", line["engine"], error)
                failed[key] = first_line(error)
        if key in failed:
            line["untimed"] = failed[key]
    if len({json.dumps(each) for each in lengths.values()}) > 1:
        remarks.append(f"the engines were timed at different lengths of the samples: {list(lengths.values())}")
    return found


def exit_status(found: Mapping[str, Any]) -> int:
    """Exit status of the command: 0 when a run can be chosen, 3 when none meets its goal or can be timed."""
    return status.MET if all(group["choice"] is not None for group in found["groups"]) else status.MISSED
