"""Texts as samples: read from a file, tokenized, and given to the inputs that a model has."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.data.dataset import Raw
from nc_strategies.data.loaders import check_samples
from nc_strategies.data.settings import SampleTextSettings, TextSettings
from nc_strategies.data.text_labels import LabelNumbers
from nc_strategies.data.text_table import Row, TextTable
from nc_strategies.data.tokenizer import IGNORED, TextTokenizer, Tokens, padded, tags_of_tokens
from nc_strategies.errors import InputError
from nc_strategies.models.info import ModelInfo, TensorSpec
from nc_strategies.models.source import ModelSource

IDS, MASK, TYPES, POSITIONS = "input_ids", "attention_mask", "token_type_ids", "position_ids"
ROLES: Mapping[str, tuple[str, ...]] = {
    IDS: (IDS, "input_word_ids", "input_tokens", "token_ids", "tokens", "ids"),
    MASK: (MASK, "input_mask", "token_mask", "mask"),
    TYPES: (TYPES, "segment_ids", "input_type_ids", "token_types", "type_ids", "segments"),
    POSITIONS: (POSITIONS, "input_positions", "positions"),
}
"""What a text gives to a model, and the names that exporters give to such inputs."""
TOKEN_AXES = 2
"""Axes of an input of token numbers: samples and tokens."""
PREFIX = "serving_default_"
"""Prefix of inputs in converted SavedModels."""


class TextData:
    """Texts, or pairs of texts, in a csv, tsv or jsonl file.

    Without a calibration file, rows evenly spread over the file are used for calibration and removed from the
    evaluation.

    Raises:
        InputError: a setting is out of range.
    """

    def __init__(self, settings: TextSettings) -> None:
        self.settings = settings
        self._model: ModelSource | None = None
        check_samples(settings.calibration_samples)
        if settings.max_length is not None and settings.max_length < 1:
            raise InputError("data.max_length", f"is {settings.max_length}", "at least 1")
        if settings.delimiter is not None and len(settings.delimiter) != 1:
            raise InputError("data.delimiter", f"is {settings.delimiter!r}", "one character")
        if not settings.preprocess.is_identity:
            raise InputError("data.preprocess", "is set", "numbers of tokens are not preprocessed")

    def beside(self, model: ModelSource) -> None:
        """Look for the tokenizer and the names of the classes beside this model; called before `load`."""
        self._model = model

    def load(self) -> tuple[Raw, Raw]:
        """Evaluation and calibration samples, padded to the longest text.

        Raises:
            InputError: a file is missing or damaged; the message names the file and the line.
        """
        settings = self.settings
        table = TextTable("data.path", settings.path, settings)
        columns = table.columns()
        rows = table.rows(columns)
        words = isinstance(rows[0].text, tuple)
        tokenizer = TextTokenizer(settings.tokenizer, self._model, settings.max_length)
        numbers = LabelNumbers(table.key, table.path, settings.labels, tokenizer.config)
        every = _Texts(table.key, str(table.path), rows, numbers.convert(rows), tokenizer, numbers.remarks)
        if settings.calibration_path is not None:
            other = TextTable("data.calibration_path", settings.calibration_path, settings)
            kept = other.rows(replace(columns, label=None, words=words), labelled=False)
            chosen = _spread(len(kept), min(settings.calibration_samples, len(kept)))
            calibration = _Texts(other.key, str(other.path), [kept[i] for i in chosen], None, tokenizer)
            evaluation = every
        else:
            evaluation, calibration = _split(every, settings.calibration_samples)
        width = max(evaluation.longest(tokenizer.max_length), calibration.longest(tokenizer.max_length))
        limit = tokenizer.max_length
        return TextRaw.of(evaluation, limit, width), TextRaw.of(calibration, limit, width)


class SampleTextData(TextData):
    """The bundled texts and their languages."""

    def __init__(self, settings: SampleTextSettings) -> None:
        from nc_strategies import samples

        super().__init__(
            TextSettings(
                path=str(samples.evaluation_texts()),
                calibration_path=str(samples.calibration_texts()),
                calibration_samples=settings.calibration_samples,
                tokenizer=str(samples.text_tokenizer()),
            )
        )


@dataclass(frozen=True)
class _Texts:
    """Rows with their labels, and the tokenizer.

    Args:
        key: Configuration key that errors name.
        path: The file.
        rows: The texts.
        labels: One per row: a number, or a list with one number per word; None without labels.
        tokenizer: The tokenizer.
        remarks: What the user should know about the labels.
    """

    key: str
    path: str
    rows: Sequence[Row]
    labels: Sequence[Any] | None
    tokenizer: TextTokenizer
    remarks: tuple[str, ...] = ()
    _encoded: dict[int, list[Tokens]] = field(default_factory=dict)

    def tokens(self, max_length: int) -> list[Tokens]:
        """The tokens of each text.

        Raises:
            InputError: a text has no tokens.
        """
        if max_length not in self._encoded:
            words = isinstance(self.rows[0].text, tuple)
            for row in self.rows:
                if isinstance(row.text, tuple) != words:
                    raise InputError(
                        self.key,
                        f"line {row.line} of {self.path} has another kind of text than the first",
                        "see data.words",
                    )
            found = self.tokenizer.encode(self.rows, max_length)
            for row, tokens in zip(self.rows, found, strict=True):
                if not len(tokens.ids):
                    raise InputError(self.key, f"line {row.line} of {self.path} has a text without tokens")
            self._encoded[max_length] = found
        return self._encoded[max_length]

    def said(self, max_length: int) -> tuple[str, ...]:
        """What the user should know about the labels and the texts."""
        tokens = self.tokens(max_length)
        cut = sum(one.cut for one in tokens)
        text = f"{cut} of {len(tokens)} texts are cut to {max_length} tokens; see data.max_length."
        return (*self.remarks, text) if cut else self.remarks

    def longest(self, max_length: int) -> int:
        """Tokens of the longest text."""
        return max(len(tokens.ids) for tokens in self.tokens(max_length))

    def arrays(self, max_length: int, width: int) -> dict[str, NDArray[np.int64]]:
        """The arrays of all roles, each (N, width)."""
        tokens, tokenizer = self.tokens(max_length), self.tokenizer

        def fill(arrays: Sequence[NDArray[np.int64]], value: int) -> NDArray[np.int64]:
            return padded(arrays, width, value, tokenizer.left)

        lengths = np.array([len(one.ids) for one in tokens])
        # Positions count from the first token of the text. Padding on the right continues them, as models do that
        # number positions themselves.
        first = (width - lengths)[:, None] if tokenizer.left else 0
        return {
            IDS: fill([one.ids for one in tokens], tokenizer.pad),
            MASK: fill([np.ones_like(one.ids) for one in tokens], 0),
            TYPES: fill([one.types for one in tokens], tokenizer.pad_type),
            POSITIONS: np.maximum(np.broadcast_to(np.arange(width), (len(tokens), width)) - first, 0),
        }

    def targets(self, max_length: int, width: int) -> NDArray[Any] | None:
        """The labels: shape (N,), or (N, width) with one per token."""
        if self.labels is None:
            return None
        if not isinstance(self.rows[0].label, tuple):
            return np.asarray(self.labels)
        tags = [tags_of_tokens(*pair) for pair in zip(self.tokens(max_length), self.labels, strict=True)]
        return padded(tags, width, IGNORED, self.tokenizer.left)

    def taken(self, chosen: Sequence[int] | NDArray[Any]) -> _Texts:
        """Some of the texts."""
        labels = None if self.labels is None else [self.labels[i] for i in chosen]
        return _Texts(self.key, self.path, [self.rows[i] for i in chosen], labels, self.tokenizer, self.remarks)


@dataclass(frozen=True)
class TextRaw(Raw):
    """Tokenized texts, before it is known which inputs the model has.

    Args:
        texts: The texts.
        max_length: Most tokens of a text.
    """

    texts: _Texts | None = None
    max_length: int = 0

    @staticmethod
    def of(texts: _Texts, max_length: int, width: int) -> TextRaw:
        """Texts as arrays of the usual names."""
        arrays = texts.arrays(max_length, width)
        labels, remarks = texts.targets(max_length, width), texts.said(max_length)
        return TextRaw(texts.key, arrays, labels, remarks=remarks, texts=texts, max_length=max_length)

    def take(self, start: int, stop: int) -> TextRaw:
        """See `Raw.take`."""
        assert self.texts is not None
        chosen = range(len(self))[start:stop]
        return TextRaw.of(self.texts.taken(chosen), self.max_length, next(iter(self.inputs.values())).shape[1])

    def for_model(self, info: ModelInfo, given: Collection[str] = ()) -> Raw:
        """The arrays by the names of the model's inputs, in the length that the model fixes.

        Raises:
            InputError: the model has an input that a text does not give.
        """
        assert self.texts is not None
        specs = [spec for spec in info.inputs if spec.name not in given]
        roles = _roles(self.key, specs, info)
        fixed = {spec.shape[-1] for spec in specs if spec.shape and spec.shape[-1] is not None and len(spec.shape) > 1}
        if len(fixed) > 1:
            raise InputError(self.key, f"inputs of the lengths {sorted(map(str, fixed))}", f"one length; {info.text()}")
        width = next(iter(fixed), None) or next(iter(self.inputs.values())).shape[1]
        length = min(width, self.max_length)
        arrays = self.texts.arrays(length, width)
        remarks = self.texts.said(length)
        if MASK not in roles.values() and not arrays[MASK].all():
            remarks = (
                *remarks,
                "The model has no input for a mask: it reads the padding of short texts as a part of them.",
            )
        named = {spec.name: arrays[roles[spec.name]] for spec in specs}
        return Raw(self.key, named, self.texts.targets(length, width), remarks=remarks)


def _roles(key: str, specs: Sequence[TensorSpec], info: ModelInfo) -> dict[str, str]:
    """What each input of a model gets.

    Raises:
        InputError: an input has a name that says nothing, or there is none for the tokens.
    """
    if len(specs) == 1 and len(specs[0].shape) <= TOKEN_AXES:
        return {specs[0].name: IDS}
    roles = {spec.name: role for spec in specs if (role := _role(spec.name)) is not None}
    unknown = [spec.name for spec in specs if spec.name not in roles]
    if unknown:
        raise InputError(
            key,
            f"a text gives nothing to the model's input {', '.join(unknown)}",
            f"inputs like {', '.join(ROLES)}; data.constants={{NAME: VALUE}} sets others; {info.text()}",
        )
    if IDS not in roles.values():
        raise InputError(key, "the model has no input for the numbers of tokens", info.text())
    return roles


def _role(name: str) -> str | None:
    """What an input gets by its name, which may have a prefix, a path, and an index at its end."""
    plain = name.lower().partition(":")[0].rpartition("/")[2].removeprefix(PREFIX)
    for role, names in ROLES.items():
        if plain in names:
            return role
    stem = plain.rstrip("0123456789").rstrip("_")
    return next((role for role, names in ROLES.items() if stem in names), None)


def _split(every: _Texts, wanted: int) -> tuple[_Texts, _Texts]:
    """Evaluation and calibration texts of one file."""
    count = len(every.rows)
    if count <= wanted:
        raise InputError(
            "data.calibration_samples",
            f"takes {wanted} of {count} texts",
            "some must be left to evaluate; set data.calibration_path, or take fewer",
        )
    chosen = _spread(count, wanted)
    return every.taken(np.setdiff1d(np.arange(count), chosen)), every.taken(chosen)


def _spread(count: int, wanted: int) -> NDArray[np.int64]:
    """`wanted` different positions, evenly spread over `count`."""
    return np.asarray((np.arange(wanted) + 0.5) * count / wanted, np.int64)
