"""What the server refuses, in its own words where these are known."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

Json = dict[str, Any]
OBJECTIVES, STRATEGIES = ("maximize", "minimize"), ("optimize", "store", "constraint")
LONGEST_NAME, LONGEST_CATEGORY, LONGEST_VALUE, MOST_KEYS = 100, 50, 500, 100
LONGEST_PROJECT = 32
MOST_ITEMS = 1000
MOST_OPTIMIZED, MOST_CONSTRAINTS = 2, 4
LEAST_LENGTH = 1e-8
"""Least distance of a parameter's bounds."""
EXPERIMENT_KEYS = (
    "name",
    "project",
    "parameters",
    "metrics",
    "observation_budget",
    "parallel_bandwidth",
    "metadata",
    "type",
    "runs_only",
)
NOT_HERE = ("conditionals", "linear_constraints", "num_solutions", "tasks")
"""What the server can do and this engine cannot; accepted where it asks for nothing."""
OBSERVATION_KEYS = {"suggestion", "assignments", "values", "failed", "metadata", "value", "value_stddev", "no_optimize"}


class Refused(Exception):
    """A request the server would answer with an error.

    Args:
        status: The HTTP status.
        message: The server's message.
    """

    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message
        super().__init__(message)


def experiment(data: Json) -> Json:
    """The checked parts of an experiment."""
    unknown = [key for key in data if key not in (*EXPERIMENT_KEYS, *NOT_HERE)]
    if unknown:
        _bad(f"Unknown json keys `{', '.join(unknown)}` in: {json.dumps(data)}")
    for key in NOT_HERE:
        if data.get(key):
            _bad(f"{key} is nothing that the engine local can do")
    name = _text(data, "name", LONGEST_NAME)
    parameters = sorted((parameter(p, i) for i, p in enumerate(data.get("parameters") or [])), key=lambda p: p["name"])
    if not parameters:
        _bad("Experiments must have at least one parameter.")
    _unique("parameter name", (p["name"] for p in parameters))
    budget, bandwidth = (_count(data, key) for key in ("observation_budget", "parallel_bandwidth"))
    return {
        "name": name,
        "parameters": parameters,
        "metrics": _metrics(data, budget),
        "metadata": metadata(data.get("metadata")),
        "observation_budget": budget,
        "parallel_bandwidth": bandwidth,
    }


def project(data: Json) -> tuple[str, str]:
    """Id and name of a project."""
    return project_id(_text(data, "id", LONGEST_PROJECT)), _text(data, "name", LONGEST_NAME)


def project_id(value: Any) -> str:
    """A project's id."""
    if not isinstance(value, str) or not re.fullmatch(r"[a-z0-9\-_\.]+", value):
        _bad(f"{value} does not match the regular expression /^[a-z0-9\\-_\\.]+$/")
    return value


def parameter(data: Any, place: int = 0) -> Json:
    """A parameter as the server gives it back."""
    name, kind = _text(data, "name", LONGEST_NAME, f".parameters[{place}].name"), data.get("type")
    answer: Json = {
        "bounds": None,
        "categorical_values": None,
        "conditions": {},
        "default_value": None,
        "name": name,
        "object": "parameter",
        "prior": None,
        "transformation": None,
        "type": kind,
    }
    if kind == "categorical":
        answer["categorical_values"] = _categories(name, data.get("categorical_values") or [])
    elif kind in ("int", "double"):
        answer["bounds"] = _bounds(name, kind, data.get("bounds"))
    else:
        _bad(f"{kind} is not one of the allowed values: categorical, double, int")
    return answer


def _categories(name: str, given: list[Any]) -> list[Json]:
    values = [v["name"] if isinstance(v, Mapping) else v for v in given]
    if len(values) < 2:
        _bad(f"Categorical parameter {name} should have at least 2 categorical values.")
    for value in values:
        if not isinstance(value, str) or not value:
            _bad("Invalid name: cannot be empty")
        if len(value) > LONGEST_CATEGORY:
            _bad(f"Categorical names must be less than {LONGEST_CATEGORY} characters")
    _unique("categorical value name", values)
    return [{"enum_index": i, "name": v, "object": "categorical_value"} for i, v in enumerate(values, 1)]


def _bounds(name: str, kind: str, bounds: Any) -> Json:
    if not isinstance(bounds, Mapping):
        _bad(f"Parameter {name} must have numeric bounds")
    for key in ("min", "max"):
        if not _is_number(bounds.get(key)) or (kind == "int" and bounds[key] != int(bounds[key])):
            expected = "integer" if kind == "int" else "number"
            _bad(f"Invalid type for {key}: {json.dumps(bounds.get(key))} - expected type {expected}")
    low, high = bounds["min"], bounds["max"]
    if low > high:
        _bad("Invalid bounds: max must be greater than min")
    if high - low <= LEAST_LENGTH:
        _bad(f"Invalid bounds: minimum: {low}\nmaximum: {high}\n does not exceed min length: {LEAST_LENGTH}")
    return {"max": float(high), "min": float(low), "object": "bounds"}


def _metrics(data: Json, budget: int | None) -> list[Json]:
    given = data.get("metrics")
    if given is None:
        return [{"name": None, "object": "metric", "objective": "maximize", "strategy": "optimize", "threshold": None}]
    if not given:
        _bad("The `metrics` list must contain a metric")
    metrics = [metric(m, i) for i, m in enumerate(given)]
    _unique("metric name", (m["name"] for m in metrics))
    _check_counts(metrics, budget)
    return metrics


def _check_counts(metrics: list[Json], budget: int | None) -> None:
    """What an experiment's metrics must be together."""
    count = {s: sum(m["strategy"] == s for m in metrics) for s in STRATEGIES}
    if count["optimize"] > MOST_OPTIMIZED:
        _bad(f"Experiments must have at most {MOST_OPTIMIZED} optimized metrics")
    if count["constraint"] > MOST_CONSTRAINTS:
        _bad(f"Experiments must have at most {MOST_CONSTRAINTS} constraint metrics")
    if not count["optimize"] + count["constraint"]:
        _bad("Experiments must have optimized or constraint metrics")
    if count["optimize"] == 1 and any(m["threshold"] is not None for m in metrics if m["strategy"] == "optimize"):
        _bad(
            "Thresholds are only supported for experiments with more than one optimized metric. Try an All-Constraint "
            "experiment instead by setting `strategy` to `constraint`."
        )
    for needs, what in (
        (count["optimize"] > 1, "more than one optimized metric"),
        (count["constraint"], "constraint metrics"),
    ):
        if needs and budget is None:
            _bad(f"observation_budget is required for an experiment with {what}")


def metric(data: Any, place: int = 0) -> Json:
    """A metric as the server gives it back."""
    name = _text(data, "name", LONGEST_NAME, f".metrics[{place}].name")
    objective, strategy = data.get("objective") or "maximize", data.get("strategy") or "optimize"
    for value, allowed in ((strategy, STRATEGIES), (objective, OBJECTIVES)):
        if value not in allowed:
            _bad(f"{value} is not one of the allowed values: {', '.join(allowed)}")
    threshold = data.get("threshold")
    if threshold is not None and not _is_number(threshold):
        _wrong_type(f".metrics[{place}].threshold", threshold, "number", "null")
    if strategy == "constraint" and threshold is None:
        _bad("Constraint metrics must have the threshold field defined")
    if strategy == "store" and threshold is not None:
        _bad("Thresholds cannot be specified on stored metrics")
    return {"name": name, "object": "metric", "objective": objective, "strategy": strategy, "threshold": threshold}


def metadata(data: Any) -> Json | None:
    """Metadata, checked."""
    if data is None:
        return None
    if not isinstance(data, Mapping):
        _wrong_type(".metadata", data, "object", "null")
    if len(data) > MOST_KEYS:
        _bad(f"Expected at most {MOST_KEYS} keys in {json.dumps(data)}")
    for key, value in data.items():
        if len(key) > LONGEST_NAME:
            _bad(f"The length of the metadata key '{key[:10]}...{key[-10:]}' must be less than {LONGEST_NAME}")
        if value is not None and not isinstance(value, str) and not _is_number(value):
            _wrong_type(f".{key}", value, "string", "number", "null")
        if isinstance(value, str) and len(value) > LONGEST_VALUE:
            _bad(f"The length of .{key} must be less than or equal to {LONGEST_VALUE}")
    return dict(data)


def update(data: Json) -> Json:
    """The changes of an experiment that this engine makes."""
    changes: Json = {key: data[key] for key in ("name", "state") if key in data}
    changes.update({k: _count(data, k) for k in ("observation_budget", "parallel_bandwidth") if k in data})
    if "metadata" in data:
        changes["metadata"] = metadata(data["metadata"])
    return changes


def observation(data: Json) -> int | None:
    """Number of the suggestion that an observation answers; None where it brings assignments."""
    unknown = set(data) - OBSERVATION_KEYS
    if unknown:
        _bad(f"Invalid key: Unknown keys were provided for observation create: {unknown}")
    number, given = data.get("suggestion"), data.get("assignments")
    if number is not None and given is not None:
        _bad("Cannot specify `suggestion` and `assignments`.")
    if number is None and given is None:
        _bad(f"Must provide exactly one of `suggestion`, `assignments` in: {json.dumps(data)}")
    if number is not None and not re.fullmatch(r"\d+", str(number)):
        _bad(f"Invalid type for suggestion: {json.dumps(number)} - expected type oneOf[integer_string, integer]")
    return None if number is None else int(number)


def assignments(data: Any, parameters: list[Json]) -> Json:
    """Assignments of all parameters, checked; the server takes integers outside their bounds."""
    if not isinstance(data, Mapping):
        _wrong_type(".assignments", data, "object")
    known = {p["name"]: p for p in parameters}
    for name in data:
        if name not in known:
            _bad(f'Invalid assignment, parameter does not exist: "{name}"')
    checked: Json = {}
    for name, one in known.items():
        if name not in data:
            _bad(f'Missing assignment for parameter: "{name}"')
        checked[name] = _assignment(one, data[name])
    return checked


def _assignment(one: Json, value: Any) -> Any:
    """The value of one parameter, checked."""
    name, whole = one["name"], one["type"] == "int"
    if one["type"] == "categorical":
        if value not in [v["name"] for v in one["categorical_values"]]:
            _bad(f"Invalid value for categorical parameter {name}: {value}")
    elif not _is_number(value) or (whole and value != int(value)):
        _bad(f"Invalid type for {name}: {json.dumps(value)} - expected type {'integer' if whole else 'number'}")
    return int(value) if whole else value


def values(data: Json, metrics: list[Json]) -> list[Json]:
    """An observation's values as the server gives them back."""
    given = data.get("values")
    if data.get("failed"):
        if given:
            _bad("Cannot provide `values` if observation has failed")
        return []
    if given is None:
        _bad(f'Missing required json key "value" in: {json.dumps(data)}')
    if not isinstance(given, list) or len(given) != len(metrics):
        _bad("The number of observation values and experiment metrics must be equal.")
    by_name = dict(_value(found, place) for place, found in enumerate(given))
    names = {m["name"] for m in metrics}
    if set(by_name) != names:
        _bad(f"values must have metric names defined in experiment: {names}")
    return [
        {
            "name": one["name"],
            "object": "metric_evaluation",
            "value": by_name[one["name"]]["value"],
            "value_stddev": by_name[one["name"]].get("value_stddev"),
        }
        for one in metrics
    ]


def _value(found: Any, place: int) -> tuple[Any, Json]:
    """One value of an observation, checked, by its metric's name."""
    if not isinstance(found, Mapping) or not _is_number(found.get("value")):
        _wrong_type(f".values[{place}].value", found.get("value") if isinstance(found, Mapping) else found, "number")
    deviation = found.get("value_stddev")
    if deviation is not None and not _is_number(deviation):
        _wrong_type(f".values[{place}].value_stddev", deviation, "number", "null")
    if deviation is not None and deviation < 0:
        _bad(f".values[{place}].value_stddev must be greater than or equal to 0.0")
    return found.get("name"), dict(found)


def page_size(data: Json) -> int:
    """How many items a page of a list has at most."""
    size = int(data.get("limit") or MOST_ITEMS)
    if size > MOST_ITEMS:
        _bad(f"Exceeded maximum limit: {MOST_ITEMS}")
    return size


def _text(data: Any, key: str, longest: int, where: str = "") -> str:
    if not isinstance(data, Mapping) or key not in data:
        _bad(f'Missing required json key "{key}" in: {json.dumps(data)}')
    value, where = data[key], where or f".{key}"
    if not isinstance(value, str):
        _wrong_type(where, value, "string")
    if not value:
        _bad(f"The length of {where} must be greater than or equal to 1")
    if len(value) > longest:
        _bad(f"The length of {where} must be less than or equal to {longest}")
    return str(value)


def _count(data: Json, key: str) -> int | None:
    value = data.get(key)
    if value is None:
        return None
    if type(value) is not int:
        _wrong_type(f".{key}", value, "integer", "null")
    if value < 1:
        _bad(f"Invalid type for {key}: {value} - expected type positive_integer")
    return int(value)


def _unique(what: str, names: Iterable[Any]) -> None:
    seen = set()
    for name in names:
        if name in seen:
            _bad(f"Duplicate {what}: {name}")
        seen.add(name)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _wrong_type(where: str, value: Any, *expected: str) -> NoReturn:
    _bad(f"Invalid type for {where}: {json.dumps(value)} - expected type {list(expected)}")


def _bad(message: str) -> NoReturn:
    raise Refused(400, message)
