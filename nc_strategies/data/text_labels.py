"""Labels of texts as numbers: class numbers, other numbers, or one class number per word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.data.text_table import Row
from nc_strategies.errors import InputError

SHOWN = 8
"""Most class names that a message lists."""


class LabelNumbers:
    """Numbers of the labels' names.

    Names that the user lists come first, then those of the model's configuration (``label2id`` or ``id2label``); else
    the names in the data are numbered in sorted order.

    Args:
        key: Configuration key of the data, for errors.
        path: The file that the labels come from, for errors.
        names: Class names in the order of their numbers, or None.
        config: The model's configuration; an empty one if it has none.
    """

    def __init__(self, key: str, path: Path, names: Sequence[str] | None, config: Mapping[str, Any]) -> None:
        self.key, self.path = key, path
        self.remarks: tuple[str, ...] = ()
        self._listed = names is not None
        if names is not None and len(set(names)) != len(names):
            raise InputError("data.labels", f"is {list(names)}", "names of classes, each once")
        self._numbers = {name: number for number, name in enumerate(names or ())} or _of_config(config)

    def convert(self, rows: Sequence[Row]) -> list[Any] | None:
        """Each row's label as a number, or as a list of numbers; None if the rows have no labels.

        Raises:
            InputError: a label is not among the known names, or names and numbers are mixed; the message has the line.
        """
        if not rows or rows[0].label is None:
            return None
        listed = isinstance(rows[0].label, tuple)
        for row in rows:
            if isinstance(row.label, tuple) != listed:
                raise self._error(row, f"{row.label!r} as label", "a list of tags in each line, or in none")
            if listed and len(row.label) != len(row.text):
                raise self._error(
                    row, f"{len(row.label)} tags for {len(row.text)} words", "one tag per word; see data.words"
                )
        every = [part for row in rows for part in (row.label if listed else (row.label,))]
        if not self._listed:
            numbers = _as_numbers(every)
            if numbers is not None:
                return _regroup(rows, numbers) if listed else numbers
        if not self._known(every):
            self._number(every)
        return [[self._one(row, part) for part in row.label] if listed else self._one(row, row.label) for row in rows]

    def _known(self, every: Sequence[Any]) -> bool:
        """Whether the known names are those of the data: the user's always, a configuration's if it has one of them."""
        return self._listed or any(self._find(label) is not None for label in every)

    def _number(self, every: Sequence[Any]) -> None:
        """Number the names in sorted order, and say so."""
        names = sorted({str(label) for label in every})
        self._numbers = {name: number for number, name in enumerate(names)}
        shown = _listing([f"{number}={name}" for name, number in self._numbers.items()])
        self.remarks = (f"Labels are numbered in the order of their names: {shown}; data.labels sets another order.",)

    def _find(self, label: Any) -> int | None:
        name = str(label)
        if name in self._numbers:
            return self._numbers[name]
        folded = [number for known, number in self._numbers.items() if known.casefold() == name.casefold()]
        return folded[0] if len(folded) == 1 else None

    def _one(self, row: Row, label: Any) -> int:
        number = self._find(label)
        if number is None:
            raise self._error(row, f"the label {str(label)!r}", f"known labels: {_listing(list(self._numbers))}")
        return number

    def _error(self, row: Row, found: str, allowed: str) -> InputError:
        return InputError(self.key, f"line {row.line} of {self.path} has {found}", allowed)


def _regroup(rows: Sequence[Row], numbers: NDArray[Any]) -> list[Any]:
    """Numbers of all words as one list per row."""
    ends = np.cumsum([len(row.label) for row in rows])
    return list(np.split(numbers, ends[:-1]))


def _as_numbers(labels: Sequence[Any]) -> Any:
    """Labels that are all numbers, as integers where they all are; None if one is a name, or not finite."""
    try:
        values = np.array([float(label) for label in labels], np.float64)
    except ValueError:
        return None
    if not np.isfinite(values).all():
        return None
    whole = all(
        not isinstance(label, float) and str(label).strip().lstrip("+-").isdigit() for label in map(_plain, labels)
    )
    return values.astype(np.int64) if whole else values


def _plain(label: Any) -> Any:
    """A truth value as a number."""
    return int(label) if isinstance(label, bool) else label


def _of_config(config: Mapping[str, Any]) -> dict[str, int]:
    """Class names and numbers in a model's ``config.json``."""
    to_number, to_name = config.get("label2id"), config.get("id2label")
    if isinstance(to_number, Mapping) and to_number:
        pairs = {str(name): number for name, number in to_number.items()}
    elif isinstance(to_name, Mapping):
        pairs = {str(name): number for number, name in to_name.items()}
    else:
        return {}
    try:
        return {name: int(number) for name, number in pairs.items()}
    except (TypeError, ValueError):
        return {}


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown}, ... ({len(names)} in all)"
