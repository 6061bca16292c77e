"""A configuration to try, and whom to tell what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nc_strategies_optuna.known import KnownPoint

from nc_strategies.api import Config

EVENT = "proposal"
MAX_PLAIN_OPERATORS = 200
"""Largest number of operators of a configuration that is noted with their names; a line has about 40 kB then."""


@dataclass(frozen=True)
class Proposal:
    """A configuration that was proposed.

    Args:
        mark: Its kind and what tells it apart: ``known int8``, ``suggestion 1a2b3c4d 7``, ``refinement 2``.
        config: What to try.
        note: Why, in a few words.
        assignments: The same in the experiment's parameters; None where these cannot express it.
        suggestion: The suggestion it comes from.
        owner: Mark of the experiment that made the suggestion.
    """

    mark: str
    config: Config
    note: str
    assignments: Mapping[str, Any] | None = None
    suggestion: str | None = None
    owner: str = ""

    @staticmethod
    def of(point: KnownPoint) -> Proposal:
        """A known point as a proposal."""
        return Proposal(point.mark, point.config, point.note, point.assignments)

    @property
    def kind(self) -> str:
        """``known``, ``suggestion`` or ``refinement``."""
        return self.mark.split()[0]

    def record(self) -> dict[str, Any]:
        """A JSON-ready form; the inverse of `from_record`."""
        return {
            "event": EVENT,
            "mark": self.mark,
            "config": self.config.to_dict()
            if len(self.config.names) <= MAX_PLAIN_OPERATORS
            else self.config.to_compact(),
            "note": self.note,
            "assignments": None if self.assignments is None else dict(self.assignments),
            "suggestion": self.suggestion,
            "owner": self.owner,
        }

    @staticmethod
    def from_record(record: Mapping[str, Any], operators: Iterable[str]) -> Proposal:
        """Read what `record` gave, of a model with these operators."""
        config = record["config"]
        return Proposal(
            record["mark"],
            Config.from_dict(config) if "ops" in config else Config.from_compact(config, tuple(operators)),
            record["note"],
            record["assignments"],
            record["suggestion"],
            record["owner"],
        )
