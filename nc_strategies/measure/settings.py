"""Settings of the metrics; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class TopKSettings:
    """Settings of `TopK`."""

    name: str = "topk"
    k: int = 5
    higher_is_better: bool | None = None


@dataclass
class PlainSettings:
    """Settings of a metric that has none of its own."""

    name: str = "top1"
    higher_is_better: bool | None = None


@dataclass
class SklearnSettings:
    """Settings of `ClassificationScore`."""

    name: str = "f1"
    average: str = "macro"
    higher_is_better: bool | None = None
