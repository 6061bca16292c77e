"""What is recorded of a run, as plain data."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nc_strategies.api import Trial, TrialState

LONGEST_VALUE = 500
"""Characters of a parameter or tag: the least that servers in use take."""
SECRET = re.compile(r"(token|secret|password|api_key)", re.IGNORECASE)
STATES = {TrialState.OK: "FINISHED", TrialState.FAILED: "FAILED", TrialState.PRUNED: "KILLED"}
"""MLflow's word for how a trial ended; the tag ``state`` has ours."""


@dataclass(frozen=True)
class TrialRecord:
    """A trial.

    Args:
        number: Its number, from 1.
        status: MLflow's word for how it ended.
        tags: Texts.
        metrics: Numbers; what is not finite is left out.
    """

    number: int
    status: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]


def trial_record(study: Any, trial: Trial) -> TrialRecord:
    """A trial as it is recorded."""
    config = trial.config
    tags = {
        "trial": str(trial.number),
        "state": str(trial.state),
        "note": trial.note,
        "error": trial.error or "",
        "fingerprint": config.fingerprint,
        "fp32": ", ".join(config.float_ops),
        **{f"option.{name}": str(value) for name, value in config.options},
    }
    metrics: dict[str, float] = {}
    done = trial.evaluation
    if done is not None:
        metrics = {
            **dict(done.metrics),
            **dict(done.values),
            "cost": study.goal.cost(done),
            **{f"{name}_ratio": ratio for name, ratio in done.ratios},
            "samples": done.samples,
            "int8_ops": done.int8_ops,
            "fp32_ops": done.fp32_ops,
        }
    return TrialRecord(
        trial.number,
        STATES[trial.state],
        {key: value[:LONGEST_VALUE] for key, value in tags.items() if value},
        _finite(metrics),
    )


def parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """The configuration as dotted keys and texts; nothing of the tracker, nothing whose name says it is secret."""
    held = {key: value for key, value in config.items() if key not in ("tracker", "hydra")}
    return {key: str(value)[:LONGEST_VALUE] for key, value in _flat(held) if not SECRET.search(key)}


def final_metrics(run_dir: Path) -> dict[str, float]:
    """The figures of ``result.json``."""
    result = json.loads((run_dir / "result.json").read_text())
    found = {f"{part}.{key}": value for part in ("baseline", "tuned") for key, value in (result[part] or {}).items()}
    found |= {f"trials.{key}": value for key, value in result["trials"].items()}
    found |= {"speedup": result["speedup"], "seconds": result["seconds"].get("total")}
    return _finite({key: value for key, value in found.items() if type(value) in (int, float)})


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            # MLflow's keys take letters, digits and _ - . : / and space.
            name = re.sub(r"[^\w\-.:/ ]", "_", str(key))
            yield from _flat(inner, f"{prefix}.{name}" if prefix else name)
    else:
        yield prefix, value


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if math.isfinite(value)}
