"""Compact storage of the schemes of many operators: one character per operator, one tuple of names per model.

A run keeps a configuration per trial. A tuple of pairs of 2,000 operators takes 150 kB, a string of as many characters
2 kB: Python stores a character in one byte as long as no character of the string is above 255.
"""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from nc_strategies.space.scheme import OpScheme

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"
"""Digits of the codes in files."""


class Palette:
    """Numbers the schemes of this process, and encodes each as the character of its number.

    Numbers differ between processes: they are neither pickled nor written to files. Schemes are never removed. There
    are as many as engines offer: some dozens.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._codes: dict[OpScheme, str] = {}
        self.schemes: dict[str, OpScheme] = {}
        self.floats: set[str] = set()
        self.texts: dict[str, str] = {}
        """JSON of each scheme with sorted keys, without spaces."""
        self.int8_flags: dict[int, str] = {}
        """A character of value 1 for each scheme, of value 0 for a scheme in floating point, by the code's number."""

    def code(self, scheme: OpScheme) -> str:
        """The character of a scheme."""
        found = self._codes.get(scheme)
        return self._add(scheme) if found is None else found

    def _add(self, scheme: OpScheme) -> str:
        with self._lock:
            found = self._codes.get(scheme)
            if found is None:
                found = chr(len(self._codes))
                self.schemes[found] = scheme
                self.texts[found] = json.dumps(scheme.to_dict(), sort_keys=True, separators=(",", ":"))
                self.int8_flags[ord(found)] = "\0" if scheme.is_float else "\1"
                if scheme.is_float:
                    self.floats.add(found)
                self._codes[scheme] = found  # last: other threads read it without the lock
        return found

    def encode(self, schemes: Iterable[OpScheme]) -> str:
        """One character for each scheme."""
        # Most operators share few objects. The hash of a scheme costs ten times as much as that of an identity.
        held = list(schemes)
        known: dict[int, str] = {}
        codes = []
        for scheme in held:
            code = known.get(id(scheme))
            if code is None:
                code = known[id(scheme)] = self.code(scheme)
            codes.append(code)
        return "".join(codes)


PALETTE = Palette()


class Names:
    """Names of a model's operators in execution order, shared by all configurations of the model; see `names_of`.

    It also holds the expanded form of the configuration that was read last. A reader asks for many operators of one
    configuration before it turns to the next.

    Args:
        names: The names.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.position = {name: index for index, name in enumerate(names)}
        self._expanded: Expanded | None = None

    @cached_property
    def _sorted(self) -> tuple[list[str], list[int]]:
        """JSON of each name with a colon, in the order of the names, and the names' positions."""
        ordered = sorted(self.position)
        return [f"{json.dumps(name)}:" for name in ordered], [self.position[name] for name in ordered]

    def json(self, codes: str) -> str:
        """JSON of the mapping of names to schemes with sorted keys, without spaces."""
        texts, (keys, positions) = PALETTE.texts, self._sorted
        return f"{{{','.join([key + texts[codes[at]] for key, at in zip(keys, positions, strict=True)])}}}"

    def expanded(self, codes: str) -> Expanded:
        """The expanded form of a configuration."""
        found = self._expanded
        if found is None or found.codes is not codes:
            found = self._expanded = Expanded(self.names, codes)
        return found


class Expanded:
    """A configuration in the form that is quick to read; made on demand.

    Args:
        names: Names of the operators.
        codes: Their schemes, see `Palette`.
    """

    def __init__(self, names: tuple[str, ...], codes: str) -> None:
        self._names, self.codes = names, codes

    @cached_property
    def ops(self) -> tuple[tuple[str, OpScheme], ...]:
        """Pairs (operator name, scheme)."""
        return tuple(zip(self._names, map(PALETTE.schemes.__getitem__, self.codes), strict=True))

    @cached_property
    def schemes(self) -> Mapping[str, OpScheme]:
        """Operator name to scheme."""
        return dict(zip(self._names, map(PALETTE.schemes.__getitem__, self.codes), strict=True))

    @cached_property
    def float_ops(self) -> tuple[str, ...]:
        """Names of the operators in floating point."""
        floats = PALETTE.floats
        return tuple([name for name, code in zip(self._names, self.codes, strict=True) if code in floats])

    @cached_property
    def int8_ops(self) -> tuple[str, ...]:
        """Names of the other operators."""
        floats = PALETTE.floats
        return tuple([name for name, code in zip(self._names, self.codes, strict=True) if code not in floats])


_names: weakref.WeakValueDictionary[tuple[str, ...], Names] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def names_of(names: tuple[str, ...]) -> Names:
    """The one object of some names, in this process, for as long as a configuration has it."""
    found = _names.get(names)
    if found is None:
        with _lock:
            found = _names.get(names)
            if found is None:
                found = _names[names] = Names(names)
    return found


def digits(count: int) -> Sequence[str]:
    """Codes of some schemes in a file: one digit each, or as many as are needed."""
    width = 1
    while len(DIGITS) ** width < count:
        width += 1
    if width == 1:
        return DIGITS[:count]
    return [
        "".join(DIGITS[number // len(DIGITS) ** at % len(DIGITS)] for at in range(width)) for number in range(count)
    ]
