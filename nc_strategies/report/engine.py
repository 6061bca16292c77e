"""Which of a strategy's optimizers proposed, and what the strategy told the user while it did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nc_strategies.report.run_files import RunFiles


def strategy_label(result: Mapping[str, Any]) -> str:
    """The strategy with its engine, such as ``sigopt (local)``; the strategy alone where it has only one."""
    strategy, engine = str(result["strategy"]), str(result.get("engine") or "")
    return f"{strategy} ({engine})" if engine and engine != strategy else strategy


def engine_sentences(run: RunFiles) -> list[str]:
    """Who proposed at the end, where the strategy has several engines."""
    strategy, engine = run.name("strategy"), run.name("engine")
    return (
        [f"Engine {engine} of strategy {strategy} proposed the configurations."] if engine not in ("", strategy) else []
    )


def notices(run: RunFiles) -> list[str]:
    """What the strategy told the user, each once, in order."""
    told = run.result.get("notices") or run.analysis.get("notices") or []
    return [f"{text[:1].upper()}{text[1:]}." for text in dict.fromkeys(map(str, told)) if text]
