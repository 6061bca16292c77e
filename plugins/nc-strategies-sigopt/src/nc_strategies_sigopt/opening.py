"""How many observations a server collects before its optimizer proposes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class OpeningRule:
    """The constants of a SigOpt server's opening.

    Source: `zigopt/math/initialization.py` of the open-source ``sigopt-server``.

    Args:
        shortest: Observations of the shortest opening.
        longest: Observations of the longest opening of an experiment whose trials run one at a time.
    """

    shortest: int = 4
    longest: int = 100


RULE = OpeningRule()


def opening(parameters: Sequence[Mapping[str, Any]], parallel_bandwidth: int | None = None) -> int:
    """Observations, failed and posted ones included, that come before the optimizer's first suggestion.

    The product of the number of categories and the number of numeric parameters: a categorical parameter lengthens the
    opening for every numeric one, an integer by one observation where there are no categories.

    Args:
        parameters: The experiment's parameters in the API's form.
        parallel_bandwidth: Suggestions that may be open at the same time.
    """
    categories: int = sum(len(p["categorical_values"]) for p in parameters if p["type"] == "categorical")
    numeric: int = sum(p["type"] != "categorical" for p in parameters)
    others = max(parallel_bandwidth or 1, 1) - 1
    found = min(max(categories, 1) * numeric + others, RULE.longest + others)
    return max(found, RULE.shortest)
