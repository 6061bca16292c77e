"""Operators that the CPU ran because the execution provider that was asked for did not take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def fallback_sentence(result: Mapping[str, Any]) -> str:
    """How many operators of the saved model the CPU ran instead of its provider, as a clause; empty for none.

    Args:
        result: Content of ``result.json``.
    """
    tuned = result.get("tuned") or {}
    count, provider = tuned.get("fallback_ops", 0), tuned.get("provider")
    if not provider or not count:
        return ""
    whole = tuned["int8_ops"] + tuned["fp32_ops"]
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted((tuned.get("fallback") or {}).items()))
    if count == whole:
        return f"all {count} operators ran on the CPU instead of {provider}, which took none ({kinds})"
    return f"{count} of {whole} operators ran on the CPU instead of {provider} ({kinds})"


def operator_counts(tuned: Mapping[str, Any]) -> str:
    """Operators in int8 and in floating point, and those that ran on the CPU instead of their provider."""
    counts, handed_back = f"{tuned['int8_ops']}/{tuned['fp32_ops']}", tuned.get("fallback_ops", 0)
    return f"{counts}, {handed_back} on the CPU instead" if handed_back else counts
