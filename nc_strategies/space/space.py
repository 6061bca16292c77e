"""The search space: capabilities narrowed by the user's overrides."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from nc_strategies.errors import InputError
from nc_strategies.space.capabilities import Capabilities, OpCapability, OptionValue
from nc_strategies.space.config import Config
from nc_strategies.space.overrides import Overrides
from nc_strategies.space.scheme import FLOAT, OpScheme

if TYPE_CHECKING:
    import numpy as np


class Space:
    """All configurations that the engine can run and the user's overrides allow.

    Args:
        capabilities: The engine's capabilities for the model.
        overrides: The user's overrides; None for no restriction.

    Raises:
        InputError: an override matches no operator or leaves an operator without a scheme.

    Example:
        >>> import numpy as np
        >>> from nc_strategies.space import FLOAT, Capabilities, OpCapability, OpScheme, Space, TensorScheme
        >>> int8 = OpScheme(TensorScheme("uint8", "asym"), TensorScheme("int8", "sym", "per_channel"))
        >>> space = Space(Capabilities(tuple(OpCapability(n, "Conv", (int8, FLOAT)) for n in "abc")))
        >>> space.size()
        8
        >>> space.default().with_op("b").float_ops
        ('b',)
    """

    def __init__(self, capabilities: Capabilities, overrides: Overrides | None = None) -> None:
        self.capabilities = capabilities
        self.ops = {op.name: op for op in (overrides or Overrides()).apply(capabilities)}
        self.options: dict[str, tuple[OptionValue, ...]] = dict(capabilities.options)
        self.groups = self._groups()

    def _groups(self) -> tuple[tuple[str, ...], ...]:
        group_of = {name: group for group in self.capabilities.tied for name in group}
        seen: dict[tuple[str, ...], None] = {}
        for name in self.ops:
            seen[tuple(n for n in group_of.get(name, (name,)) if n in self.ops)] = None
        for group in seen:
            if not self.schemes(group):
                raise InputError(
                    "space",
                    f"no scheme is left that {', '.join(group)} have in common",
                    "these operators must share one",
                )
        return tuple(seen)

    def schemes(self, group: tuple[str, ...]) -> tuple[OpScheme, ...]:
        """The schemes that all operators of a group support, the default first."""
        others = [set(self.ops[name].schemes) for name in group[1:]]
        return tuple(s for s in self.ops[group[0]].schemes if all(s in schemes for schemes in others))

    @cached_property
    def group_of(self) -> dict[str, tuple[str, ...]]:
        """Operator name to the group of operators that must share its scheme, itself included."""
        return {name: group for group in self.groups for name in group}

    @property
    def quantizable(self) -> tuple[OpCapability, ...]:
        """Operators that can run in int8."""
        return tuple(
            op for op in self.ops.values() if any(not s.is_float for s in self.schemes(self.group_of[op.name]))
        )

    def default(self) -> Config:
        """The first scheme of every operator and the first value of every option."""
        chosen = {name: self.schemes(group)[0] for group in self.groups for name in group}
        return self._config(chosen, {name: values[0] for name, values in self.options.items()})

    def all_float(self) -> Config:
        """Every operator in floating point, even if the overrides forbid it: the fp32 reference."""
        return self._config(dict.fromkeys(self.ops, FLOAT), {n: v[0] for n, v in self.options.items()})

    def sample(self, rng: np.random.Generator) -> Config:
        """A random configuration, uniform per group of operators and per option."""
        chosen = {}
        for group in self.groups:
            schemes = self.schemes(group)
            chosen.update(dict.fromkeys(group, schemes[int(rng.integers(len(schemes)))]))
        return self._config(chosen, {n: v[int(rng.integers(len(v)))] for n, v in self.options.items()})

    def neighbours(self, config: Config) -> Iterator[Config]:
        """All configurations that differ in the scheme of one group or in one option."""
        for group in self.groups:
            for scheme in self.schemes(group):
                if scheme != config.schemes[group[0]]:
                    yield config.with_op(*group, scheme=scheme)
        for name, values in self.options.items():
            for value in values:
                if value != config.option(name):
                    yield config.with_option(name, value)

    def fall_back(self, config: Config, *names: str) -> Config:
        """The configuration with the named operators, and those tied to them, in floating point if it is allowed."""
        group = {n for name in names for n in self.group_of[name] if FLOAT in self.schemes(self.group_of[name])}
        return config.with_op(*group, scheme=FLOAT)

    def contains(self, config: Config) -> bool:
        """Whether the configuration belongs to this space."""
        if set(config.schemes) != set(self.ops) or set(dict(config.options)) != set(self.options):
            return False
        return all(
            len({config.schemes[n] for n in group}) == 1 and config.schemes[group[0]] in self.schemes(group)
            for group in self.groups
        ) and all(config.option(name) in values for name, values in self.options.items())

    def size(self) -> int:
        """The number of configurations."""
        return math.prod(len(self.schemes(g)) for g in self.groups) * math.prod(len(v) for v in self.options.values())

    @cached_property
    def fingerprint(self) -> str:
        """A stable hash of operators, schemes and options, 16 hex digits."""
        data = {
            "ops": {name: [s.to_dict() for s in op.schemes] for name, op in self.ops.items()},
            "groups": self.groups,
            "options": self.options,
        }
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]

    def _config(self, chosen: dict[str, OpScheme], options: dict[str, OptionValue]) -> Config:
        return Config(tuple((name, chosen[name]) for name in self.ops), tuple(options.items()))
