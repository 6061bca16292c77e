"""What the server refuses, in its own words where these are known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

Json = dict[str, Any]
OBJECTIVES, STRATEGIES = ("maximize", "minimize"), ("optimize", "store", "constraint")
LONGEST_NAME, LONGEST_CATEGORY, LONGEST_VALUE, MOST_KEYS = 100, 50, 500, 100


class Refused(Exception):
    """A request the server would answer with an error.

    Args:
        status: The HTTP status.
        message: The server's message.
    """

    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message
        super().__init__(message)


def parameter(data: Any) -> Json:
    """A parameter as the server gives it back."""
    name, kind = _text(data, "name", LONGEST_NAME), data.get("type")
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
        answer["categorical_values"] = _categories(data, name)
    elif kind in ("int", "double"):
        answer["bounds"] = _bounds(data, name)
    else:
        _bad(f"{kind} is not one of the allowed values: categorical, double, int")
    return answer


def _categories(data: Any, name: str) -> list[Json]:
    values = [v["name"] if isinstance(v, Mapping) else v for v in data.get("categorical_values") or []]
    if len(values) < 2:
        _bad(f"Categorical parameter {name} must have at least 2 categorical values")
    if len(set(values)) < len(values):
        _bad(f"Duplicate categorical values for parameter {name}")
    for value in values:
        if not isinstance(value, str) or not 0 < len(value) <= LONGEST_CATEGORY:
            _bad(f"Categorical values of {name} must have 1 to {LONGEST_CATEGORY} characters")
    return [{"enum_index": i, "name": v, "object": "categorical_value"} for i, v in enumerate(values, 1)]


def _bounds(data: Any, name: str) -> Json:
    bounds = data.get("bounds")
    if not isinstance(bounds, Mapping) or not _is_number(bounds.get("min")) or not _is_number(bounds.get("max")):
        _bad(f"Parameter {name} must have numeric bounds")
    if not bounds["min"] < bounds["max"]:
        _bad(f"The min of parameter {name} must be less than its max")
    return {"max": float(bounds["max"]), "min": float(bounds["min"]), "object": "bounds"}


def metric(data: Any) -> Json:
    """A metric as the server gives it back."""
    name = _text(data, "name", LONGEST_NAME)
    objective, strategy = data.get("objective") or "maximize", data.get("strategy") or "optimize"
    for value, allowed in ((objective, OBJECTIVES), (strategy, STRATEGIES)):
        if value not in allowed:
            _bad(f"{value} is not one of the allowed values: {', '.join(allowed)}")
    threshold = data.get("threshold")
    if strategy == "constraint" and threshold is None:
        _bad("Constraint metrics must have the threshold field defined")
    if threshold is not None and not _is_number(threshold):
        _bad(f"Invalid threshold for metric {name}")
    return {"name": name, "object": "metric", "objective": objective, "strategy": strategy, "threshold": threshold}


def experiment(data: Json) -> Json:
    """The checked parts of an experiment."""
    name = _text(data, "name", LONGEST_NAME)
    parameters = sorted((parameter(p) for p in data.get("parameters") or []), key=lambda p: str(p["name"]))
    metrics = [metric(m) for m in data.get("metrics") or []]
    for what, items in (("parameters", parameters), ("metrics", metrics)):
        if not items:
            _bad(f'Missing required json key "{what}"')
        if len({item["name"] for item in items}) < len(items):
            _bad(f"Duplicate names in {what}")
    count = {s: sum(m["strategy"] == s for m in metrics) for s in STRATEGIES}
    if count["constraint"] and data.get("observation_budget") is None:
        _bad("observation_budget is required for an experiment with constraint metrics")
    if not 1 <= count["optimize"] <= 2:
        _bad("Experiments must have one or two optimized metrics")
    if count["constraint"] > 4:
        _bad("Experiments can have at most 4 constraint metrics")
    return {"name": name, "parameters": parameters, "metrics": metrics, "metadata": metadata(data.get("metadata"))}


def metadata(data: Any) -> Json | None:
    """Metadata, checked."""
    if data is None:
        return None
    if not isinstance(data, Mapping):
        _bad("Invalid type for metadata, expected an object")
    if len(data) > MOST_KEYS:
        _bad(f"Metadata can have at most {MOST_KEYS} keys")
    for key, value in data.items():
        if len(str(key)) > LONGEST_NAME or (isinstance(value, str) and len(value) > LONGEST_VALUE):
            _bad(f"The metadata value of {key} must have at most {LONGEST_VALUE} characters")
    return dict(data)


def assignments(data: Any, parameters: list[Json]) -> Json:
    """Assignments of all parameters, checked."""
    if not isinstance(data, Mapping):
        _bad("Invalid type for assignments, expected an object")
    known = {p["name"]: p for p in parameters}
    for name in data:
        if name not in known:
            _bad(f"Unknown parameter {name}")
    checked: Json = {}
    for name, one in known.items():
        if name not in data:
            _bad(f"Missing assignment for parameter {name}")
        value = data[name]
        if one["type"] == "categorical":
            if value not in [v["name"] for v in one["categorical_values"]]:
                _bad(f"Invalid value for categorical parameter {name}: {value}")
        elif not _is_number(value) or not one["bounds"]["min"] <= value <= one["bounds"]["max"]:
            _bad(f"Invalid value for parameter {name}: {value}")
        checked[name] = int(value) if one["type"] == "int" else value
    return checked


def values(data: Json, metrics: list[Json]) -> list[Json]:
    """An observation's values as the server gives them back."""
    given = data.get("values")
    if data.get("failed"):
        if given:
            _bad("Cannot provide `values` if observation has failed")
        return []
    if not isinstance(given, list) or len(given) != len(metrics):
        _bad("The number of observation values and experiment metrics must be equal.")
    by_name = {v.get("name"): v for v in given if isinstance(v, Mapping)}
    answer = []
    for one in metrics:
        found = by_name.get(one["name"])
        if found is None:
            _bad(f"Missing value for metric {one['name']}")
        if not _is_number(found.get("value")):
            _bad(f"Invalid value for metric {one['name']}: {found.get('value')}")
        answer.append(
            {
                "name": one["name"],
                "object": "metric_evaluation",
                "value": found["value"],
                "value_stddev": found.get("value_stddev"),
            }
        )
    return answer


def _text(data: Any, key: str, longest: int) -> str:
    if not isinstance(data, Mapping) or key not in data:
        _bad(f'Missing required json key "{key}"')
    value = data[key]
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        _bad(f"{key} must have 1 to {longest} characters")
    return str(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _bad(message: str) -> NoReturn:
    raise Refused(400, message)
