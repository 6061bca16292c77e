"""Whether to keep the original model: no quantized model of the run is better than it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nc_strategies.problem.objective import Shortfall

TIMES = {"latency", "throughput"}
"""Objectives that are better if the model is faster."""


def better_words(objectives: Sequence[str]) -> str:
    """What a model has to be, in words: ``faster than fp32``, or ``better than fp32 in size``."""
    return "faster than fp32" if set(objectives) <= TIMES else f"better than fp32 in {' and '.join(objectives)}"


def keep_original(result: Mapping[str, Any]) -> str:
    """Advice to keep the original model, as a clause without a full stop; empty where another model is better.

    Args:
        result: Content of ``result.json``.
    """
    if result.get("status") != "missed" or not result.get("tuned"):
        return ""
    shortfall = (result.get("goal") or {}).get("shortfall")
    better = better_words(result.get("objectives") or ["latency"])
    if shortfall == Shortfall.OBJECTIVE:
        return f"no model that keeps the accuracy is surely {better}: keep the original model"
    slow = set(result.get("objectives") or ["latency"]) <= TIMES and result["speedup_ci95"][1] < 1
    if shortfall == Shortfall.ACCURACY and slow:
        return f"no model keeps the accuracy, and the closest is not {better}: keep the original model"
    return ""


def samples_text(result: Mapping[str, Any]) -> str:
    """How many of the given samples the saved model was evaluated on, as a clause; empty if on all of them.

    Args:
        result: Content of ``result.json``.
    """
    measure = result.get("measure") or {}
    given = measure.get("samples_given")
    used = (result.get("tuned") or {}).get("samples", measure.get("samples"))
    return f"measured on {used:,} of {given:,} samples" if given and used is not None and used < given else ""
