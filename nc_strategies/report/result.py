"""``result.json``: the result of a run, with a stable schema."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from nc_strategies.measuring.core import METRIC
from nc_strategies.measuring.final import Final
from nc_strategies.measuring.resolution import samples_to_decide
from nc_strategies.models.source import files_sha256
from nc_strategies.problem import Evaluation, TrialState
from nc_strategies.problem.evaluation import lengths_dict
from nc_strategies.runtime import machine
from nc_strategies.runtime.files import write_atomically
from nc_strategies.study import front
from nc_strategies.study.folder import RESULT
from nc_strategies.study.setup import SCHEMA_VERSION, Setup
from nc_strategies.study.study import Study


def as_dict(study: Study, setup: Setup) -> dict[str, Any]:
    """The result as plain data."""
    config = setup.config
    resumed = sum(t.resumed for t in study.trials)
    return {
        "schema_version": SCHEMA_VERSION,
        "status": str(study.status),
        "stop_reason": study.stop_reason,
        "stop_note": study.stop_note,
        **({"error": study.error} if study.error else {}),
        "strategy": config.strategy["name"],
        "engine": study.engine or config.strategy["name"],
        "notices": list(study.notices),
        "backend": config.backend["name"],
        "model": study.model,
        "data": config.data["name"],
        "metrics": config.metrics.name,
        "objectives": list(config.metrics.objectives),
        "seed": config.tuning.seed,
        "goal": _goal(study, config.metrics.accuracy["name"]),
        "recovery": [dict(record) for record in study.recovery],
        "outputs": {name: dict(found) for name, found in study.outputs.items()},
        "baseline": _baseline(study, config.metrics.accuracy["name"]),
        "tuned": _tuned(study.final, config.metrics.accuracy["name"]) if study.final else None,
        "speedup": study.final.speedup if study.final else None,
        "speedup_ci95": list(study.final.speedup_ci95) if study.final else None,
        "front": front.as_dict(study.front, study.goal, config.metrics.accuracy["name"], whole=False)
        if study.front
        else None,
        "trials": {
            "total": len(study.trials),
            "ok": study.count(TrialState.OK),
            "failed": study.count(TrialState.FAILED),
            "pruned": study.count(TrialState.PRUNED),
            "resumed": resumed,
        },
        "seconds": {stage: round(value, 3) for stage, value in study.seconds.items()},
        "measure": {
            "threads": config.measure.threads,
            "batch_size": config.measure.batch_size,
            "lengths": config.measure.lengths and list(config.measure.lengths),
            "context_lengths": config.measure.context_lengths and list(config.measure.context_lengths),
            "samples": study.baseline.samples,
            "samples_given": study.extent.samples_given,
            "calibration_samples": study.extent.calibration_samples,
            "calibration_samples_given": study.extent.calibration_samples_given,
            "processors": os.cpu_count(),
            "processor": processor(),
        },
        "executor": {"name": config.executor["name"], **study.workers},
        "machine": study.machine.to_dict() if study.machine else None,
        "budget": {
            "max_trials": config.tuning.max_trials,
            "timeout": config.tuning.timeout,
            "stop_when": config.tuning.stop_when,
            "front": config.tuning.front,
        },
        "model_path": os.path.relpath(study.model_path, study.run_dir) if study.model_path else None,
        "hashes": {
            **{key: value for key, value in study.metadata.items() if key.endswith("sha256") or key == "space"},
            **({"saved_sha256": files_sha256(study.model_path)} if study.model_path else {}),
        },
        "versions": study.versions,
        "earlier_versions": study.earlier_versions,
    }


def _goal(study: Study, metric: str) -> dict[str, Any]:
    first, resolution = study.goal.constraints[0], study.resolution
    return {
        "metric": metric,
        "criterion": first.criterion,
        "tolerable_loss": first.tolerable_loss,
        "threshold": first.threshold,
        "higher_is_better": first.higher_is_better,
        "certain": study.certain,
        "shortfall": str(study.shortfall) if study.shortfall else None,
        "resolution": resolution.half_width if resolution else None,
        "samples_needed": resolution.samples_needed if resolution else None,
        "samples_to_decide": _samples_to_decide(study),
        "constraints": [
            {
                "metric": c.metric,
                "criterion": c.criterion,
                "tolerable_loss": c.tolerable_loss,
                "threshold": c.threshold,
                "higher_is_better": c.higher_is_better,
            }
            for c in study.goal.constraints[1:]
        ],
    }


def _samples_to_decide(study: Study) -> int | None:
    """Samples that would decide on which side of the limit the final loss is; None where these samples decide it."""
    final = study.final
    if study.certain is not False or final is None or final.accuracy_loss_ci95 is None:
        return None
    return samples_to_decide(study.baseline.samples, study.limit, final.accuracy_loss_ci95)


def processor() -> str:
    """Name of this machine's processor."""
    return machine.processor_name()


def write(study: Study, setup: Setup) -> dict[str, Any]:
    """Write ``result.json`` and return its content."""
    result = as_dict(study, setup)
    write_json(study.run_dir / RESULT, result)
    return result


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file atomically; a number that is not finite is an error."""
    write_atomically(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def failed(config: dict[str, Any], error: str) -> dict[str, Any]:
    """The result of a job that ended before anything was measured."""

    def name(group: str) -> str:
        part = config.get(group)
        return str(part.get("name", "")) if isinstance(part, dict) else str(part or "")

    return {
        "schema_version": SCHEMA_VERSION,
        "status": "failed",
        "stop_reason": "error",
        "error": error,
        **{group: name(group) for group in ("strategy", "backend", "model", "data", "metrics")},
        "baseline": None,
        "tuned": None,
        "speedup": None,
        "speedup_ci95": None,
    }


def _metrics(done: Evaluation, first: str) -> dict[str, float]:
    """Value of each constraint by the name of its metric."""
    return {first if name == METRIC else name: value for name, value in done.metrics}


def _memory(done: Evaluation) -> dict[str, int]:
    """Peak memory, where it is an objective."""
    values = dict(done.values)
    return {"memory_bytes": int(values["memory_bytes"])} if "memory_bytes" in values else {}


def _baseline(study: Study, first: str) -> dict[str, Any]:
    base = study.baseline
    return {
        "accuracy": base.metric(METRIC),
        "metrics": _metrics(base, first),
        "latency_ms": base.value("latency_ms"),
        "latency_ms_ci95": list(study.baseline_ci95),
        "duration_s": base.value("duration_s"),
        "size_bytes": int(base.value("size_bytes")),
        "as_given_latency_ms": base.value("as_given_latency_ms"),
        "all_float_latency_ms": base.value("all_float_latency_ms"),
        **_memory(base),
    }


def _tuned(final: Final, first: str) -> dict[str, Any]:
    done = final.evaluation
    return {
        "accuracy": done.metric(METRIC),
        "metrics": _metrics(done, first),
        "samples": done.samples,
        "latency_ms": done.value("latency_ms"),
        "latency_ms_ci95": list(final.latency_ci95),
        "duration_s": done.value("duration_s"),
        "size_bytes": int(done.value("size_bytes")),
        **_memory(done),
        **lengths_dict(done.latency_by_length),
        "accuracy_loss_ci95": list(final.accuracy_loss_ci95) if final.accuracy_loss_ci95 else None,
        "int8_ops": final.executed.int8_count,
        "fp32_ops": final.executed.fp32_count,
        "ops": final.executed.by_type(),
        "provider": final.executed.provider or None,
        "fallback_ops": final.executed.fallback_count,
        "fallback": dict(final.executed.fallback),
        "trial": final.trial.number,
        "fingerprint": final.trial.config.fingerprint,
        "config": final.trial.config.to_dict(),
    }
