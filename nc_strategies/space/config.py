"""A configuration, one point of the search space: a scheme for every operator, and the graph's options."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import FrozenInstanceError
from typing import Any, NoReturn

from nc_strategies.space.capabilities import OptionValue
from nc_strategies.space.palette import PALETTE, Names, digits, names_of
from nc_strategies.space.scheme import FLOAT, OpScheme


class Config:
    """A scheme for every operator, and values of the graph's options. Immutable and hashable; created by a `Space`.

    It takes about one byte per operator. The names are shared by all configurations of a model, and mappings and tuples
    of names are made when they are read, see `nc_strategies.space.palette`.

    Args:
        ops: Pairs (operator name, scheme) in execution order.
        options: Pairs (option name, value).
    """

    __slots__ = ("_codes", "_fingerprint", "_names", "options")
    options: tuple[tuple[str, OptionValue], ...]
    """Pairs (option name, value)."""
    _names: Names
    _codes: str
    _fingerprint: str

    def __init__(self, ops: Iterable[tuple[str, OpScheme]], options: tuple[tuple[str, OptionValue], ...] = ()) -> None:
        pairs = tuple(ops)
        names = names_of(tuple([name for name, _ in pairs]))
        _fill(self, names, PALETTE.encode([scheme for _, scheme in pairs]), options)

    @staticmethod
    def of_codes(
        names: Names, codes: str, options: tuple[tuple[str, OptionValue], ...], fingerprint: str = ""
    ) -> Config:
        """A configuration from its stored parts.

        Args:
            names: See `names_of`.
            codes: One character per operator, see `PALETTE`.
            options: Pairs (option name, value).
            fingerprint: Its fingerprint where it is known; empty to compute it on demand.
        """
        return _fill(object.__new__(Config), names, codes, options, fingerprint)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Config):
            return NotImplemented
        return self._names is other._names and self._codes == other._codes and self.options == other.options

    def __hash__(self) -> int:
        return hash((self._codes, self.options))

    def __repr__(self) -> str:
        return f"Config(ops={self.ops!r}, options={self.options!r})"

    def __getstate__(self) -> tuple[Any, ...]:
        # Codes of this process mean nothing in another: those of a pickle are positions in its list of schemes.
        used = dict.fromkeys(self._codes)
        numbers = {code: chr(number) for number, code in enumerate(used)}
        codes = "".join([numbers[code] for code in self._codes])
        return self._names.names, [PALETTE.schemes[code] for code in used], codes, self.options

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        names, schemes, codes, options = state
        own = [PALETTE.code(scheme) for scheme in schemes]
        codes = "".join([own[ord(code)] for code in codes])
        _fill(self, names_of(tuple(map(sys.intern, names))), codes, options)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the operators in execution order."""
        return self._names.names

    @property
    def codes(self) -> str:
        """One character per operator, equal where the scheme is equal. Of use in this process only."""
        return self._codes

    @staticmethod
    def scheme_of(code: str) -> OpScheme:
        """The scheme of one of `codes`."""
        return PALETTE.schemes[code]

    @property
    def ops(self) -> tuple[tuple[str, OpScheme], ...]:
        """Pairs (operator name, scheme) in execution order."""
        return self._names.expanded(self._codes).ops

    @property
    def schemes(self) -> Mapping[str, OpScheme]:
        """Operator name to scheme."""
        return self._names.expanded(self._codes).schemes

    def option(self, name: str, default: OptionValue | None = None) -> OptionValue | None:
        """The value of a graph option."""
        return dict(self.options).get(name, default)

    def with_op(self, *names: str, scheme: OpScheme = FLOAT) -> Config:
        """The same configuration with other schemes for some operators.

        Raises:
            KeyError: the configuration has no such operator.
        """
        return self.with_ops(dict.fromkeys(names, scheme))

    def with_ops(self, schemes: Mapping[str, OpScheme]) -> Config:
        """The same configuration with the given schemes for the given operators.

        Raises:
            KeyError: the configuration has no such operator.
        """
        codes = list(self._codes)
        for name, code in zip(schemes, PALETTE.encode(schemes.values()), strict=True):
            codes[self._names.position[name]] = code
        return Config.of_codes(self._names, "".join(codes), self.options)

    def with_option(self, name: str, value: OptionValue) -> Config:
        """The same configuration with another value for a graph option.

        Raises:
            KeyError: the configuration has no such option.
        """
        if name not in dict(self.options):
            raise KeyError(name)
        options = tuple((key, value if key == name else old) for key, old in self.options)
        return Config.of_codes(self._names, self._codes, options)

    def diff(self, other: Config) -> dict[str, tuple[OpScheme, OpScheme]]:
        """Operators whose scheme differs: name to (scheme here, scheme in `other`)."""
        if self._names is other._names:
            schemes = PALETTE.schemes
            return {
                name: (schemes[mine], schemes[theirs])
                for name, mine, theirs in zip(self.names, self._codes, other._codes, strict=True)
                if mine != theirs
            }
        others = dict(other.ops)
        return {name: (one, others[name]) for name, one in self.ops if one != others[name]}

    @property
    def float_ops(self) -> tuple[str, ...]:
        """Names of the operators that are configured to stay in floating point."""
        return self._names.expanded(self._codes).float_ops

    @property
    def int8_ops(self) -> tuple[str, ...]:
        """Names of the operators that are configured to run in int8."""
        return self._names.expanded(self._codes).int8_ops

    @property
    def int8_flags(self) -> bytes:
        """A byte for each operator in execution order: 1 for `int8_ops`, 0 for `float_ops`."""
        return self._codes.translate(PALETTE.int8_flags).encode("ascii")

    @property
    def all_float(self) -> bool:
        """Whether all operators are configured to stay in floating point."""
        return PALETTE.floats.issuperset(self._codes)

    @property
    def fingerprint(self) -> str:
        """A stable hash of 16 hex digits, the same in every process and version of Python."""
        if not self._fingerprint:
            # The same text as json.dumps of `to_dict` with sorted keys, in a tenth of its time.
            options = json.dumps({} if self.all_float else dict(self.options), sort_keys=True, separators=(",", ":"))
            text = f'{{"ops":{self._names.json(self._codes)},"options":{options}}}'
            object.__setattr__(self, "_fingerprint", hashlib.sha256(text.encode()).hexdigest()[:16])
        return self._fingerprint

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

    def to_compact(self) -> dict[str, Any]:
        """A JSON-serializable dictionary without the operators' names: the inverse of `from_compact`.

        ``schemes`` are the different schemes of the configuration, ``codes`` their positions in `palette.DIGITS` in the
        order of the operators, with as many digits per operator as are needed.
        """
        used = list(dict.fromkeys(self._codes))
        numbers = dict(zip(used, digits(len(used)), strict=True))
        return {
            "schemes": [PALETTE.schemes[code].to_dict() for code in used],
            "codes": "".join([numbers[code] for code in self._codes]),
            "options": dict(self.options),
        }

    @staticmethod
    def from_compact(data: Mapping[str, Any], names: tuple[str, ...], fingerprint: str = "") -> Config:
        """Read what `to_compact` wrote.

        Args:
            data: What it wrote; further keys are ignored.
            names: Names of the operators in execution order.
            fingerprint: The configuration's fingerprint where it is known; empty to compute it on demand.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: `to_compact` did not write this data for so many operators.
        """
        own = [PALETTE.code(OpScheme.from_dict(scheme)) for scheme in data["schemes"]]
        keys, text = digits(max(1, len(own))), data["codes"]
        width = len(keys[0])
        if len(text) != width * len(names):
            raise ValueError(f"{len(text)} digits for {len(names)} operators")
        code_of = dict(zip(keys, own, strict=False))
        parts = text if width == 1 else [text[at : at + width] for at in range(0, len(text), width)]
        codes = "".join([code_of[part] for part in parts])
        return Config.of_codes(names_of(names), codes, tuple(data["options"].items()), fingerprint)


def _fill(
    config: Config, names: Names, codes: str, options: tuple[tuple[str, OptionValue], ...], fingerprint: str = ""
) -> Config:
    for name, value in (("_names", names), ("_codes", codes), ("options", options), ("_fingerprint", fingerprint)):
        object.__setattr__(config, name, value)
    return config
