"""The search space: capabilities narrowed by the user's overrides."""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from nc_strategies.errors import InputError
from nc_strategies.space.capabilities import Capabilities, OpCapability, OptionValue
from nc_strategies.space.config import Config
from nc_strategies.space.overrides import Overrides
from nc_strategies.space.palette import PALETTE, Names, names_of
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
        self._common: dict[tuple[str, ...], tuple[OpScheme, ...]] = {}
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
        found = self._common.get(group)
        if found is None:
            others = [set(self.ops[name].schemes) for name in group[1:]]
            found = tuple(s for s in self.ops[group[0]].schemes if all(s in schemes for schemes in others))
            self._common[group] = found
        return found

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
        # One draw per group and option, in this order: those of one call with all limits are those of single calls.
        limits = [len(codes) for _, codes in self._choices] + [len(values) for values in self.options.values()]
        drawn = iter(rng.integers(limits).tolist()) if limits else iter(())
        found = [""] * len(self.ops)
        for positions, codes in self._choices:
            code = codes[next(drawn)]
            for position in positions:
                found[position] = code
        options = tuple((name, values[next(drawn)]) for name, values in self.options.items())
        return Config.of_codes(self._names, "".join(found), options)

    @cached_property
    def _names(self) -> Names:
        return names_of(tuple(self.ops))

    @cached_property
    def _choices(self) -> tuple[tuple[tuple[int, ...], str], ...]:
        """Of each group, the positions of its operators and the codes of its schemes, see `PALETTE`."""
        position = self._names.position
        return tuple(
            (tuple(position[name] for name in group), PALETTE.encode(self.schemes(group))) for group in self.groups
        )

    def neighbours(self, config: Config) -> Iterator[Config]:
        """All configurations that differ in the scheme of one group or in one option."""
        schemes = config.schemes
        for group in self.groups:
            for scheme in self.schemes(group):
                if scheme != schemes[group[0]]:
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
        options = dict(config.options)
        if options.keys() != self.options.keys() or not all(options[n] in v for n, v in self.options.items()):
            return False
        if config.names != self._names.names:
            if set(config.names) != set(self.ops):
                return False
            schemes = config.schemes
            config = self._config({name: schemes[name] for name in self.ops}, options)
        codes = config.codes
        return all(map(operator.contains, self._allowed, codes)) and all(
            len({codes[at] for at in positions}) == 1 for positions in self._tied
        )

    @cached_property
    def _tied(self) -> tuple[tuple[int, ...], ...]:
        """Positions of the operators of each group of several."""
        return tuple(positions for positions, _ in self._choices if len(positions) > 1)

    @cached_property
    def _allowed(self) -> tuple[str, ...]:
        """Codes of the schemes that each operator may have, see `PALETTE`."""
        found = {position: codes for positions, codes in self._choices for position in positions}
        return tuple(found[position] for position in range(len(found)))

    def size(self) -> int:
        """The number of configurations."""
        return self._size

    @cached_property
    def _size(self) -> int:
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
        codes = PALETTE.encode([chosen[name] for name in self.ops])
        return Config.of_codes(self._names, codes, tuple(options.items()))


def magnitude(count: int) -> str:
    """A number of configurations as text; it may have more digits than a float or `str` takes."""
    if count < 10**6:
        return f"{count:,}"
    exponent = int(math.log10(count))
    exponent += 1 if count >= 10 ** (exponent + 1) else 0
    exponent -= 1 if count < 10**exponent else 0
    first, second = divmod(count // 10 ** (exponent - 1), 10)
    return f"{first}.{second}e{exponent}"
