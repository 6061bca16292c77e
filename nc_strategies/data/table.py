"""Tables of numbers in text files."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.data.dataset import Raw
from nc_strategies.data.loaders import check_samples, split
from nc_strategies.data.settings import CsvSettings
from nc_strategies.data.spool import Spool
from nc_strategies.errors import InputError, first_line

BLOCK = 10_000
"""Number of lines that are parsed together."""


class CsvData:
    """A table with one line per sample: columns of numbers, and one column of labels.

    Raises:
        InputError: a setting is out of range.
    """

    def __init__(self, settings: CsvSettings) -> None:
        self.settings = settings
        check_samples(settings.calibration_samples)
        if len(settings.delimiter) != 1:
            raise InputError("data.delimiter", f"is {settings.delimiter!r}", "one character")

    def load(self) -> tuple[Raw, Raw]:
        """Evaluation and calibration samples.

        Raises:
            InputError: a file is missing, or a cell is not a number; the message names the line and the column.
        """
        settings = self.settings
        table = _Table("data.path", settings.path, settings.delimiter)
        label = settings.label if settings.label is not None else table.header[-1]
        columns = settings.columns or [name for name in table.header if name != label]
        calibration = None
        evaluation = table.read(columns, label)
        if settings.calibration_path is not None:
            other = _Table("data.calibration_path", settings.calibration_path, settings.delimiter)
            calibration = other.read(columns, None)
        return split(evaluation, calibration, settings.calibration_samples, "data.calibration_path")


class _Table:
    def __init__(self, key: str, path: str, delimiter: str) -> None:
        self.key, self.path, self.delimiter = key, Path(path).expanduser(), delimiter
        if not self.path.is_file():
            raise InputError(key, f"no such file: {self.path}")
        self.header = next((line for _, line in self._lines()), [])
        if len(set(self.header)) != len(self.header) or not self.header:
            raise InputError(
                key,
                f"the first line of {self.path} is {self.delimiter.join(self.header)!r}",
                "expected names of columns, each once",
            )

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """Line numbers and cells of the lines that are not empty."""
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as stream:
                reader = csv.reader(stream, delimiter=self.delimiter)
                for line in reader:
                    if line:
                        yield reader.line_num, [cell.strip() for cell in line]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(self.key, f"{self.path} cannot be read ({first_line(error)})") from None

    def _position(self, name: str, setting: str) -> int:
        if name not in self.header:
            raise InputError(setting, f"{self.path} has no column {name!r}", f"it has: {', '.join(self.header)}")
        return self.header.index(name)

    def read(self, columns: Sequence[str], label: str | None) -> Raw:
        """The table as samples."""
        places = [self._position(name, "data.columns") for name in columns]
        place = None if label is None else self._position(label, "data.label")
        if place in places:
            raise InputError("data.columns", f"names the label column {label!r}", "the label is not an input")
        labels: list[tuple[int, str]] = []
        lines = self._samples()
        with Spool(self.key) as spool:
            while block := list(islice(lines, BLOCK)):
                spool.append({"x": self._numbers([(n, [line[i] for i in places]) for n, line in block], columns)})
                labels += [(n, line[place]) for n, line in block] if place is not None else []
            arrays = spool.arrays()
        return Raw(self.key, arrays, self._labels(labels, str(label)) if labels else None)

    def _samples(self) -> Iterator[tuple[int, list[str]]]:
        for number, line in islice(self._lines(), 1, None):
            if len(line) != len(self.header):
                raise InputError(
                    self.key,
                    f"line {number} of {self.path} has {len(line)} columns",
                    f"the first has {len(self.header)}",
                )
            yield number, line

    def _numbers(self, block: list[tuple[int, list[str]]], columns: Sequence[str]) -> NDArray[Any]:
        try:
            values = np.array([cells for _, cells in block], np.float64)
        except ValueError:
            values = np.array([[_number(cell) for cell in cells] for _, cells in block])
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            line, column = bad[0]
            number, cells = block[line]
            raise InputError(
                self.key,
                f"line {number} of {self.path} has {cells[column]!r} in column {columns[column]!r}",
                "a finite number is needed; data.columns selects columns",
            )
        return values

    def _labels(self, labels: list[tuple[int, str]], column: str) -> NDArray[Any]:
        values = np.array([_number(text) for _, text in labels])
        finite = np.isfinite(values)
        if finite.all():
            return values
        names = [text for _, text in labels]
        if not finite.any() and all(names):
            return np.unique(names, return_inverse=True)[1].astype(np.int64)
        number, text = labels[int(np.argmin(finite))]
        raise InputError(
            self.key,
            f"line {number} of {self.path} has {text!r} in column {column!r}",
            "labels are all numbers, or all names of classes",
        )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
