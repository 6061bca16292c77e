"""Rows of texts in csv, tsv and jsonl files, and the columns that are meant."""

from __future__ import annotations

import ast
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nc_strategies.data.settings import TextSettings
from nc_strategies.errors import InputError, first_line

SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}
"""Kinds of files by the end of the name in lower case."""
LONGEST_CELL = 2**31 - 1
"""Characters of a cell; the csv module's own limit of 131,072 is less than a long document."""
TEXTS = (
    "text",
    "sentence",
    "content",
    "review",
    "document",
    "tokens",
    "words",
    "utterance",
    "comment",
    "tweet",
    "query",
)
"""Names of a column of single texts, the likeliest first."""
PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "context"),
    ("query", "passage"),
    ("sentence_a", "sentence_b"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("text", "text_pair"),
)
"""Names of two columns that are read together, the likeliest first."""
LABELS = (
    *("label", "labels", "gold_label", "target", "class", "category", "sentiment"),
    *("tags", "ner_tags", "pos_tags", "score", "similarity"),
)
"""Names of the label column, the likeliest first."""
ONE_TAG_PER_WORD = "tags"
"""End of the name of a label column that holds one tag per word."""


@dataclass(frozen=True)
class Row:
    """One sample of a file.

    Args:
        line: Number of its (first) line, from 1.
        text: The text; a tuple of words if each word has a tag.
        pair: The second text, or None.
        label: What the label column holds; None without one.
    """

    line: int
    text: str | tuple[str, ...]
    pair: str | None = None
    label: Any = None


@dataclass(frozen=True)
class Columns:
    """Names of the columns that are read.

    Args:
        text: Column of the texts.
        pair: Column of the second texts, or None.
        label: Column of the labels, or None.
        words: Whether each text is a list of words with one tag each; None to decide by the labels.
    """

    text: str
    pair: str | None = None
    label: str | None = None
    words: bool | None = None


class TextTable:
    """A csv, tsv or jsonl file.

    Args:
        key: Configuration key of its path, for errors.
        path: The file.
        settings: Encoding, delimiter and columns.

    Raises:
        InputError: the file is missing, of another kind or not in the encoding, or one of its lines is damaged; the
            message names file and line.
    """

    def __init__(self, key: str, path: str, settings: TextSettings) -> None:
        self.key, self.path, self.settings = key, Path(path).expanduser(), settings
        if not self.path.is_file():
            raise InputError(key, f"no such file: {self.path}")
        self.kind = SUFFIXES.get(self.path.suffix.lower())
        if self.kind is None:
            raise InputError(key, f"{self.path} is of an unknown kind", f"files ending in {', '.join(SUFFIXES)}")
        content = self._decoded()
        self._lines = list(self._objects(content) if self.kind == "jsonl" else self._cells(content))
        if not self._lines:
            raise InputError(key, f"{self.path} holds no samples")
        self.names = list(dict.fromkeys(name for _, cells in self._lines for name in cells))

    def _decoded(self) -> str:
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise InputError(self.key, f"{self.path} cannot be read ({first_line(error)})") from None
        encoding = self.settings.encoding
        if content[:2] in (b"\xff\xfe", b"\xfe\xff") and encoding == "utf-8":
            raise InputError(self.key, f"line 1 of {self.path} is in UTF-16", "UTF-8; data.encoding=utf-16 reads it")
        try:
            return content.decode("utf-8-sig" if encoding == "utf-8" else encoding)
        except LookupError:
            raise InputError(
                "data.encoding", f"is {encoding!r}", "an encoding that Python knows, such as utf-8"
            ) from None
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise InputError(
                self.key, f"line {line} of {self.path} is not in {encoding}", "data.encoding names another encoding"
            ) from None

    def _cells(self, content: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Line numbers and cells by column of a csv or tsv file."""
        tabs = self.kind == "tsv"
        # Cells of tsv files are not quoted, as a rule: a quotation mark belongs to the text.
        reader = csv.reader(
            io.StringIO(content, newline=""),
            delimiter=self.settings.delimiter or ("\t" if tabs else ","),
            quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
        )
        header: list[str] | None = None
        limit, start = csv.field_size_limit(LONGEST_CELL), 1
        try:
            for cells in reader:
                line, start = start, reader.line_num + 1
                if not cells or (len(cells) == 1 and not cells[0].strip()):
                    continue
                if header is None:
                    header = self._header(cells)
                elif len(cells) != len(header):
                    raise InputError(
                        self.key,
                        f"line {line} of {self.path} has {len(cells)} columns",
                        f"the first line has {len(header)}: {', '.join(header)}",
                    )
                else:
                    yield line, dict(zip(header, cells, strict=True))
        except csv.Error as error:
            raise InputError(self.key, f"line {start} of {self.path} cannot be read ({first_line(error)})") from None
        finally:
            csv.field_size_limit(limit)

    def _header(self, cells: list[str]) -> list[str]:
        names = [cell.strip() for cell in cells]
        if len(set(names)) != len(names) or not all(names):
            raise InputError(
                self.key, f"the first line of {self.path} is {', '.join(names)!r}", "names of columns, each once"
            )
        return names

    def _objects(self, content: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Line numbers and objects of a file with one JSON object per line, or with one list of objects."""
        if content.lstrip().startswith("["):
            try:
                objects = list(enumerate(json.loads(content), 1))
            except json.JSONDecodeError as error:
                raise InputError(self.key, f"line {error.lineno} of {self.path} is not JSON ({error.msg})") from None
        else:
            objects = [(number, self._object(number, line)) for number, line in _numbered(content)]
        for number, entry in objects:
            if not isinstance(entry, dict):
                raise InputError(
                    self.key, f"line {number} of {self.path} is a {type(entry).__name__}", "an object with named values"
                )
            yield number, entry

    def _object(self, number: int, line: str) -> Any:
        try:
            return json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(self.key, f"line {number} of {self.path} is not JSON ({error.msg})") from None

    def columns(self) -> Columns:
        """The columns that the settings name, or that have usual names.

        Raises:
            InputError: there is no such column, or none has a usual name.
        """
        asked = self.settings
        label = self._named("data.label", asked.label) if asked.label is not None else self._usual(LABELS)
        if asked.text is None and asked.pair is None:
            text, pair = self._guessed(label)
        else:
            if asked.text is None:
                raise InputError("data.pair", "is given without data.text", "both columns of a pair")
            text = self._named("data.text", asked.text)
            pair = self._named("data.pair", asked.pair) if asked.pair is not None else None
        if label in (text, pair) and asked.label is not None:
            raise InputError("data.label", f"names {label!r}, which is a text column", f"it has: {self._all()}")
        if asked.words and pair is not None:
            raise InputError("data.words", "is set for pairs of texts", "one text column with a tag for each word")
        return Columns(text, pair, None if label in (text, pair) else label, asked.words)

    def _guessed(self, label: str | None) -> tuple[str, str | None]:
        folded = self._folded()
        for first, second in PAIRS:
            if first in folded and second in folded:
                return folded[first], folded[second]
        text = self._usual(TEXTS)
        others = [name for name in self.names if name != label]
        if text is None and len(others) == 1:
            text = others[0]
        if text is None:
            raise InputError(
                "data.text", f"{self.path} has no column of a usual name for the text", f"it has: {self._all()}"
            )
        return text, None

    def _usual(self, usual: Sequence[str]) -> str | None:
        folded = self._folded()
        return next((folded[name] for name in usual if name in folded), None)

    def _folded(self) -> dict[str, str]:
        return {name.lower(): name for name in reversed(self.names)}

    def _named(self, setting: str, name: str) -> str:
        if name not in self.names:
            raise InputError(setting, f"{self.path} has no column {name!r}", f"it has: {self._all()}")
        return name

    def _all(self) -> str:
        return ", ".join(map(str, self.names))

    def rows(self, columns: Columns, labelled: bool = True) -> list[Row]:
        """The samples in the order of the file.

        Args:
            columns: The columns to read.
            labelled: Whether labels are read.

        Raises:
            InputError: a column or a value is missing, or is of the wrong type; the message names file and line.
        """
        for name in (columns.text, columns.pair):
            if name is not None:
                self._named("data.text" if name == columns.text else "data.pair", name)
        return [self._row(line, cells, columns, labelled) for line, cells in self._lines]

    def _row(self, line: int, cells: Mapping[str, Any], columns: Columns, labelled: bool) -> Row:
        label = self._label(line, cells, columns) if labelled and columns.label is not None else None
        words = isinstance(label, tuple) or isinstance(cells.get(columns.text), list) or bool(columns.words)
        if words and columns.pair is None:
            return Row(line, self._words(line, columns.text, cells.get(columns.text)), None, label)
        pair = None if columns.pair is None else self._text(line, columns.pair, cells.get(columns.pair))
        return Row(line, self._text(line, columns.text, cells.get(columns.text)), pair, label)

    def _label(self, line: int, cells: Mapping[str, Any], columns: Columns) -> Any:
        """A label as the file has it: a number or a name, or a tuple with one of them for each word."""
        name = str(columns.label)
        value = cells.get(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            raise InputError(
                self.key, f"line {line} of {self.path} has no value in column {name!r}", "a label in each line"
            )
        tags = columns.words or (columns.words is None and name.lower().endswith(ONE_TAG_PER_WORD))
        if isinstance(value, str):
            listed = _list_in(value)
            value = listed if listed is not None else value.split() if tags else value.strip()
        if isinstance(value, list):
            value = tuple(value)
        parts = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(part, (str, int, float)) for part in parts):
            raise InputError(
                self.key, f"line {line} of {self.path} has {value!r} in column {name!r}", "a number, a name, or a list"
            )
        return value

    def _text(self, line: int, name: str, value: Any) -> str:
        if not isinstance(value, str):
            found = "no value" if value is None else f"a value of type {type(value).__name__}"
            raise InputError(
                self.key, f"line {line} of {self.path} has {found} in column {name!r}", "a text in each line"
            )
        return value

    def _words(self, line: int, name: str, value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            value = _list_in(value) or value.split()
        if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value):
            raise InputError(
                self.key,
                f"line {line} of {self.path} has no words in column {name!r}",
                "a list of words, or words separated by spaces",
            )
        return tuple(value)


def _numbered(content: str) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, with their numbers. Only line feeds end a line in JSON lines."""
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            yield number, line


def _list_in(cell: str) -> list[Any] | None:
    """The list that a cell holds in the syntax of JSON or of Python; None for any other cell."""
    text = cell.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return None
    return value if isinstance(value, list) else None
