"""``nc-strategies check``: whether a run met its goal, and limits stated beside it, for a build server."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nc_strategies.app import status
from nc_strategies.errors import InputError, first_line
from nc_strategies.problem.objective import VIOLATION_TOLERANCE, Constraint
from nc_strategies.report.run_files import COMPARISON
from nc_strategies.study.folder import RESULT
from nc_strategies.study.setup import SCHEMA_VERSION

MEGABYTE = 1e6
"""Bytes of a megabyte."""
MET, MISSED, FAILED = "met", "missed", "failed"
ALLOWED = f"{RESULT} of a run, or its folder"


@dataclass(frozen=True)
class Limits:
    """Limits beside the run's own goal; None for no limit.

    Args:
        min_speedup: Least latency of fp32 divided by the model's, which the whole 95 % interval must reach.
        max_loss: Greatest loss of the goal's first metric, as the goal states it: a fraction of fp32's value for a
            relative criterion, else in the metric's unit.
        max_latency_ms: Greatest latency in milliseconds.
        max_size_mb: Greatest size of the saved model in megabytes.

    Raises:
        InputError: a limit is not a number, or is negative where it can only be positive.
    """

    min_speedup: float | None = None
    max_loss: float | None = None
    max_latency_ms: float | None = None
    max_size_mb: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and (not math.isfinite(value) or (value <= 0 and name != "max_loss")):
                allowed = "a number" if name == "max_loss" else "a number above 0"
                raise InputError(f"--{name.replace('_', '-')}", f"is {value:g}", allowed)


@dataclass(frozen=True)
class Checked:
    """The verdict on one result.

    Args:
        path: Where it was read.
        status: ``met`` if the goal is met and all limits are kept, otherwise ``missed`` or ``failed``.
        text: What was asked and what was reached, on one line.
        limits: Each limit's name to whether it is kept.
    """

    path: str
    status: str
    text: str
    limits: Mapping[str, bool]


@dataclass(frozen=True)
class _Reached:
    """The figures of a result with a model, checked for their types."""

    goal: Constraint
    further: tuple[tuple[Constraint, float], ...]
    accuracy: float
    speedup: float
    interval: tuple[float, float]
    latency_ms: float
    size_bytes: float
    size_bytes_fp32: float
    objectives: tuple[str, ...]


def check(path: Path, limits: Limits | None = None) -> Checked:
    """Check one result.

    Args:
        path: ``result.json`` of a run under any name, or the run's folder.
        limits: Limits beside the goal; none by default.

    Raises:
        InputError: there is no such file, it is no result of a run, or it contradicts itself.
    """
    file = _file(path)
    result = _read(file)
    stated = result["status"]
    if stated == FAILED:
        why = " ".join(str(result.get("error") or "no configuration could be measured").split())
        return Checked(str(path), FAILED, f"no model: {why}", {})
    try:
        reached = _reached(result)
    except (KeyError, TypeError, ValueError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else first_line(error)
        raise InputError(str(file), f"is a damaged result: {what}", ALLOWED) from None
    pairs = ((reached.goal, reached.accuracy), *reached.further)
    broken = [each.metric for each, value in pairs if each.violation(value)]
    if stated == MET and broken:
        raise InputError(str(file), f"contradicts itself: its status is met, but {broken[0]} is beyond its threshold")
    kept = _limits(reached, limits or Limits())
    good = stated == MET and all(fine for fine, _ in kept.values())
    why = "" if good or stated == MISSED else "the goal is met, but not all limits are kept: "
    parts = [why + _goal_text(pairs), _speed_text(reached), *(text for _, text in kept.values())]
    return Checked(
        str(path), MET if good else MISSED, "; ".join(parts), {name: fine for name, (fine, _) in kept.items()}
    )


def exit_status(found: Sequence[Checked]) -> int:
    """Exit status of the command: 0 when every result is met, otherwise 3."""
    return status.MET if all(each.status == MET for each in found) else status.MISSED


def _file(path: Path) -> Path:
    if not path.exists():
        raise InputError(str(path), "does not exist", ALLOWED)
    if not path.is_dir():
        return path
    if not (path / RESULT).is_file():
        sweep = (path / COMPARISON).is_file()
        problem = "is the folder of a sweep; name those of its runs" if sweep else f"holds no {RESULT}"
        raise InputError(str(path), problem, "" if sweep else ALLOWED)
    return path / RESULT


def _read(file: Path) -> dict[str, Any]:
    """The content of the file, if its head is that of a result."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(str(file), f"cannot be read as JSON ({first_line(error)})", ALLOWED) from None
    version = found.get("schema_version") if isinstance(found, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or found.get("status") not in (MET, MISSED, FAILED):
        raise InputError(str(file), "is not the result of a run", ALLOWED)
    if version > SCHEMA_VERSION:
        raise InputError(str(file), f"has schema version {version}", f"at most {SCHEMA_VERSION}; update nc_strategies")
    return dict(found)


def _reached(result: Mapping[str, Any]) -> _Reached:
    """The figures.

    Raises:
        KeyError: one is missing.
        TypeError: one is not what it should be.
    """
    goal, tuned, baseline = (_mapping(result, name) for name in ("goal", "tuned", "baseline"))
    low, high = result["speedup_ci95"]
    values, fp32 = (dict(part.get("metrics") or {}) for part in (tuned, baseline))
    further = [_mapping({"constraint": each}, "constraint") for each in goal.get("constraints") or ()]
    return _Reached(
        _constraint(goal, _number(baseline, "accuracy")),
        tuple((_constraint(each, _number(fp32, each["metric"])), _number(values, each["metric"])) for each in further),
        _number(tuned, "accuracy"),
        _number(result, "speedup"),
        (_number({"speedup_ci95": low}, "speedup_ci95"), _number({"speedup_ci95": high}, "speedup_ci95")),
        _number(tuned, "latency_ms"),
        _number(tuned, "size_bytes"),
        _number(baseline, "size_bytes"),
        tuple(str(name) for name in result.get("objectives") or ["latency"]),
    )


def _constraint(stated: Mapping[str, Any], baseline: float) -> Constraint:
    higher = stated["higher_is_better"]
    if not isinstance(higher, bool):
        raise TypeError(f"higher_is_better is {higher!r}")
    return Constraint(
        str(stated["metric"]),
        _number(stated, "threshold"),
        baseline,
        higher,
        str(stated["criterion"]),
        _number(stated, "tolerable_loss"),
    )


def _mapping(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if not isinstance(found[name], Mapping):
        raise TypeError(f"{name} is not a mapping")
    return dict(found[name])


def _number(found: Mapping[str, Any], name: str) -> float:
    value = found[name]
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise TypeError(f"{name} is {value!r}, not a number")
    return float(value)


def _limits(reached: _Reached, limits: Limits) -> dict[str, tuple[bool, str]]:
    """Each stated limit by name: whether it is kept, and a clause on it."""
    found: dict[str, tuple[bool, str]] = {}

    def state(name: str, fine: bool, text: str) -> None:
        found[name] = fine, f"{text}: {'kept' if fine else 'broken'}"

    if limits.min_speedup is not None:
        low = reached.interval[0]
        state(
            "min_speedup",
            low >= limits.min_speedup - VIOLATION_TOLERANCE,
            f"speed-up with 95 % at least {low:.2f}, limit {limits.min_speedup:g}",
        )
    if limits.max_loss is not None:
        relative = reached.goal.criterion == "relative"
        loss = reached.goal.loss(reached.accuracy)
        if relative and loss:
            loss = loss / abs(reached.goal.baseline) if reached.goal.baseline else math.copysign(math.inf, loss)
        kind = "relative" if relative else "absolute"
        fine = loss <= limits.max_loss + VIOLATION_TOLERANCE
        state("max_loss", fine, f"{kind} loss {loss:.4f}, limit {limits.max_loss:g}")
    if limits.max_latency_ms is not None:
        fine = reached.latency_ms <= limits.max_latency_ms
        state("max_latency_ms", fine, f"latency {reached.latency_ms:.3f} ms, limit {limits.max_latency_ms:g} ms")
    if limits.max_size_mb is not None:
        size = reached.size_bytes / MEGABYTE
        state("max_size_mb", size <= limits.max_size_mb, f"size {size:.2f} MB, limit {limits.max_size_mb:g} MB")
    return found


def _goal_text(pairs: Sequence[tuple[Constraint, float]]) -> str:
    return ", ".join(
        f"{each.metric} {value:.4f} (asked {'>=' if each.higher_is_better else '<='} {each.threshold:.4f}: "
        f"{each.criterion} loss up to {each.tolerable_loss:g} from fp32's {each.baseline:.4f})"
        for each, value in pairs
    )


def _speed_text(reached: _Reached) -> str:
    low, high = reached.interval
    wanted = " and ".join(reached.objectives)
    return (
        f"{reached.speedup:.2f} times as fast as fp32 (95 %: {low:.2f} to {high:.2f}), "
        f"{reached.size_bytes / MEGABYTE:.2f} MB (fp32 {reached.size_bytes_fp32 / MEGABYTE:.2f} MB; asked for better "
        f"{wanted} than fp32's)"
    )
