"""``analysis.json``: further facts, besides result and trials, from which the page explains a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from nc_strategies.problem import LatencyTerms
from nc_strategies.report.result import write_json
from nc_strategies.space import FLOAT
from nc_strategies.study.study import Study

FILE = "analysis.json"
SCHEMA_VERSION = 1


def as_dict(study: Study, command: Sequence[str] = ()) -> dict[str, Any]:
    """Facts of a study: its goal, fp32's values, its graph, and the estimates per operator.

    Args:
        study: The study, running or ended.
        command: Arguments of the command line that started it, without secrets; empty for a run from Python.
    """
    constraint = study.goal.constraints[0]
    capabilities = study.space.capabilities
    names = capabilities.order or tuple(op.name for op in capabilities.ops)
    final = study.final
    return {
        "schema_version": SCHEMA_VERSION,
        "command": list(command),
        "engine": study.engine,
        "notices": list(study.notices),
        "model": study.model,
        "goal": {
            "threshold": constraint.threshold,
            "baseline": constraint.baseline,
            "higher_is_better": constraint.higher_is_better,
            "criterion": constraint.criterion,
            "tolerable_loss": constraint.tolerable_loss,
            "constraints": [asdict(further) for further in study.goal.constraints[1:]],
            "objectives": [{"name": o.name, "weight": o.weight, "tie": o.tie} for o in study.goal.objectives],
        },
        "baseline": {
            **dict(study.baseline.values),
            "accuracy": study.baseline.metric(constraint.metric),
            "samples": study.baseline.samples,
        },
        "operators": _operators(study),
        "order": list(names),
        "edges": [list(edge) for edge in capabilities.edges],
        "tied": [list(group) for group in study.space.groups if len(group) > 1],
        "sensitivity": _finite(study.sensitivity),
        "latency": _latency(study.latency_terms),
        "estimate_seconds": {name: round(value, 3) for name, value in study.estimate_seconds.items()},
        "executed_int8": sorted(final.executed.int8_names) if final and final.executed.int8_names else None,
        "conversions": final.executed.conversions if final else None,
        "remarks": list(study.remarks),
        "recovery": [dict(record) for record in study.recovery],
        "machine": study.machine.to_dict() if study.machine else None,
        "workers": dict(study.workers),
        "versions": dict(study.versions),
    }


def write(study: Study, command: Sequence[str] = ()) -> None:
    """Write ``analysis.json`` into the run's folder atomically; see `as_dict`."""
    write_json(study.run_dir / FILE, as_dict(study, command))


def _operators(study: Study) -> dict[str, dict[str, Any]]:
    can = {op.name for op in study.space.quantizable}
    return {
        op.name: {
            "type": op.type,
            "parameters": op.parameters,
            "elements": op.elements,
            "engine_int8": any(not s.is_float for s in op.schemes),
            "opt_in": op.opt_in,
            "int8": op.name in can,
            "float": any(s.is_float for s in study.space.ops[op.name].schemes),
        }
        for op in study.space.capabilities.ops
    }


def _finite(values: Mapping[str, float] | None) -> dict[str, float | None] | None:
    if values is None:
        return None
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _latency(terms: LatencyTerms | None) -> dict[str, Any] | None:
    """Share of fp32's latency that int8 saves, per operator: the cost in float less the lowest cost in int8."""
    if terms is None:
        return None
    saved = {}
    for name, costs in terms.ops.items():
        int8 = [cost for scheme, cost in costs.items() if not scheme.is_float]
        if int8 and FLOAT in costs:
            saved[name] = costs[FLOAT] - min(int8)
    return {"base": terms.base, "error": terms.error, "saved": saved}
