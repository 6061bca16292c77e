"""A configuration, one point of the search space: a scheme for every operator, and the graph's options."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from nc_strategies.space.capabilities import OptionValue
from nc_strategies.space.scheme import FLOAT, OpScheme


@dataclass(frozen=True)
class Config:
    """A scheme for every operator, and values of the graph's options. Immutable and hashable; created by a `Space`.

    Args:
        ops: Pairs (operator name, scheme) in execution order.
        options: Pairs (option name, value).
    """

    ops: tuple[tuple[str, OpScheme], ...]
    options: tuple[tuple[str, OptionValue], ...] = ()

    @cached_property
    def schemes(self) -> Mapping[str, OpScheme]:
        """Operator name to scheme."""
        return dict(self.ops)

    def option(self, name: str, default: OptionValue | None = None) -> OptionValue | None:
        """The value of a graph option."""
        return dict(self.options).get(name, default)

    def with_op(self, *names: str, scheme: OpScheme = FLOAT) -> Config:
        """The same configuration with other schemes for some operators.

        Raises:
            KeyError: the configuration has no such operator.
        """
        for name in names:
            self.schemes[name]
        chosen = set(names)
        return replace(self, ops=tuple((op, scheme if op in chosen else old) for op, old in self.ops))

    def with_ops(self, schemes: Mapping[str, OpScheme]) -> Config:
        """The same configuration with the given schemes for the given operators."""
        for name in schemes:
            self.schemes[name]
        return replace(self, ops=tuple((op, schemes.get(op, old)) for op, old in self.ops))

    def with_option(self, name: str, value: OptionValue) -> Config:
        """The same configuration with another value for a graph option.

        Raises:
            KeyError: the configuration has no such option.
        """
        if name not in dict(self.options):
            raise KeyError(name)
        return replace(self, options=tuple((key, value if key == name else old) for key, old in self.options))

    def diff(self, other: Config) -> dict[str, tuple[OpScheme, OpScheme]]:
        """Operators whose scheme differs: name to (scheme here, scheme in `other`)."""
        theirs = other.schemes
        return {name: (mine, theirs[name]) for name, mine in self.ops if mine != theirs[name]}

    @cached_property
    def float_ops(self) -> tuple[str, ...]:
        """Names of the operators that are configured to stay in floating point."""
        return tuple(name for name, scheme in self.ops if scheme.is_float)

    @cached_property
    def int8_ops(self) -> tuple[str, ...]:
        """Names of the operators that are configured to run in int8."""
        return tuple(name for name, scheme in self.ops if not scheme.is_float)

    @cached_property
    def fingerprint(self) -> str:
        """A stable hash of 16 hex digits, the same in every process and version of Python."""
        data = self.to_dict()
        if not self.int8_ops:
            data["options"] = {}
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-serializable dictionary; the inverse of `from_dict`."""
        return {"ops": {name: scheme.to_dict() for name, scheme in self.ops}, "options": dict(self.options)}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Config:
        """Read what `to_dict` wrote.

        Raises:
            KeyError, TypeError: `to_dict` did not write this data.
        """
        ops = tuple((sys.intern(name), OpScheme.from_dict(scheme)) for name, scheme in data["ops"].items())
        return Config(ops, tuple(data["options"].items()))

    def __getstate__(self) -> dict[str, Any]:
        return {"ops": self.ops, "options": self.options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
