"""Tokenizers from files: `tokenizer.json`, or a bare vocabulary. Nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from nc_strategies.data.text_table import Row
from nc_strategies.errors import InputError, first_line
from nc_strategies.models.source import ModelSource

KEY = "data.tokenizer"
FILES = "tokenizer.json, vocab.txt (WordPiece), or vocab.json and merges.txt (byte-level BPE)"
SENTENCE_PIECE = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
"""Files of tokenizers that the package does not read."""
INNER_FOLDERS = ("", "assets", "assets.extra")
"""Folders in a SavedModel that may hold a vocabulary; the first is the folder itself."""
EXPORT_FOLDER = "onnx"
"""Name of the folder that exporters write ONNX files into, with the tokenizer in the folder above."""
DEFAULT_LENGTH = 512
"""Most tokens of a text if neither model nor tokenizer states a limit: that of BERT."""
NO_LIMIT = 10**6
"""Lengths from here on are no limit but a placeholder in the files of tokenizers."""
PAD_TOKENS = ("[PAD]", "<pad>", "<|pad|>", "<|padding|>", "<|endoftext|>", "</s>")
"""Tokens that may fill up a text, the likeliest first."""
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>")
"""Tokens that are never split and never arise from a text."""
OFFSET_FAMILIES = ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer")
"""Model types whose positions start after the padding's number, so that two of them are not usable."""
IGNORED = -100
"""Label of a token that no metric counts: special tokens, padding, and all but the first token of a word."""
BLOCK = 1000
"""Texts that are tokenized together."""


def companion_folders(model: ModelSource | None) -> list[Path]:
    """Folders that may hold the tokenizer and the configuration of a model."""
    folders: list[Path] = []
    for path in model.files.values() if model is not None else ():
        if path.is_dir():
            folders += [path / name for name in INNER_FOLDERS]
        folder = path.resolve().parent
        folders += [folder, *([folder.parent] if folder.name == EXPORT_FOLDER else [])]
    return list(dict.fromkeys(folders))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one if there is no such file.

    Raises:
        InputError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(KEY, f"{path} cannot be read ({first_line(error)})") from None
    return value if isinstance(value, dict) else {}


def find_tokenizer(setting: str | None, model: ModelSource | None) -> Path:
    """The tokenizer's file: the one that the user names, or one of a usual name beside the model.

    Raises:
        InputError: there is none.
    """
    if setting is not None:
        path = Path(setting).expanduser()
        if path.is_file():
            return path
        if not path.is_dir():
            raise InputError(KEY, f"no such file: {path}", FILES)
        folders = [path]
    else:
        folders = companion_folders(model)
    for folder in folders:
        for name in ("tokenizer.json", "vocab.txt", "vocab.json"):
            if (folder / name).is_file():
                return folder / name
    shown = ", ".join(map(str, folders)) or "no folder"
    for folder in folders:
        for name in SENTENCE_PIECE:
            if (folder / name).is_file():
                raise InputError(
                    KEY, f"{folder / name} is not read", f"it must be converted to tokenizer.json; {FILES}"
                )
    raise InputError(KEY, f"no tokenizer was found in {shown}", f"data.tokenizer=PATH of {FILES}")


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a file.

    Raises:
        InputError: the file is damaged or of another kind.
    """
    try:
        if path.suffix == ".txt":
            return _word_piece(path)
        if path.suffix == ".json" and "model" in read_json(path):
            return Tokenizer.from_file(str(path))
        if path.suffix == ".json":
            return _byte_level(path)
    except InputError:
        raise
    except Exception as error:  # the package raises Exception itself
        raise InputError(KEY, f"{path} cannot be read ({first_line(error)})", FILES) from error
    raise InputError(KEY, f"{path} is of an unknown kind", FILES)


def _word_piece(path: Path) -> Tokenizer:
    """BERT's tokenizer: WordPiece, with ``[CLS]`` and ``[SEP]``."""
    vocabulary = models.WordPiece.read_file(str(path))
    missing = [name for name in ("[UNK]", "[CLS]", "[SEP]") if name not in vocabulary]
    if missing:
        raise InputError(KEY, f"{path} has no token {missing[0]}", "a WordPiece vocabulary of BERT, one token per line")
    stated = read_json(path.parent / "tokenizer_config.json")
    # Words with capital letters belong to a tokenizer that keeps them. Letters beyond ASCII say nothing: some have no
    # small form, and files in a wrong encoding are full of them.
    cased = any(token.isascii() and token.isalpha() and token != token.lower() for token in vocabulary)
    lowercase = bool(stated.get("do_lower_case", not cased))
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=bool(stated.get("tokenize_chinese_chars", True)),
        strip_accents=stated.get("strip_accents"),
        lowercase=lowercase,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([name for name in SPECIAL if name in vocabulary])
    last, first = (("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    tokenizer.post_processor = processors.BertProcessing(last, first)
    return tokenizer


def _byte_level(path: Path) -> Tokenizer:
    """The tokenizer of GPT-2, or of RoBERTa if the vocabulary has ``<s>`` and ``</s>``."""
    merges = path.with_name("merges.txt")
    if not merges.is_file():
        raise InputError(KEY, f"there is no {merges.name} beside {path}", FILES)
    vocabulary, pairs = models.BPE.read_file(str(path), str(merges))
    if any(token.endswith("</w>") for token in vocabulary):
        raise InputError(
            KEY, f"{path} marks ends of words by '</w>'", "a tokenizer.json, which says how it splits text"
        )
    stated = read_json(path.parent / "tokenizer_config.json")
    space = bool(stated.get("add_prefix_space", False))
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([name for name in SPECIAL if name in vocabulary])
    if "<s>" in vocabulary and "</s>" in vocabulary:
        last, first = (("</s>", vocabulary["</s>"]), ("<s>", vocabulary["<s>"]))
        tokenizer.post_processor = processors.RobertaProcessing(last, first, trim_offsets=True, add_prefix_space=space)
    return tokenizer


@dataclass(frozen=True)
class Tokens:
    """Tokens of a text.

    Args:
        ids: Their numbers.
        types: 0 for tokens of the first text, 1 for those of the second.
        words: Number of the word that a token belongs to; -1 for special tokens.
        cut: Whether the text was longer.
    """

    ids: NDArray[np.int64]
    types: NDArray[np.int64]
    words: NDArray[np.int64]
    cut: bool


class TextTokenizer:
    """Texts to arrays.

    Args:
        setting: The tokenizer that the user names: a file or a folder; None for the one beside the model.
        model: The model, whose files may have the tokenizer beside them.
        max_length: Most tokens of a text; None for the tokenizer's own limit.

    Raises:
        InputError: there is no tokenizer, or it cannot be read.
    """

    def __init__(self, setting: str | None, model: ModelSource | None, max_length: int | None = None) -> None:
        self.path = find_tokenizer(setting, model)
        self._tokenizer = open_tokenizer(self.path)
        folders = [self.path.parent, *companion_folders(model)]
        self.config = next((found for folder in folders if (found := read_json(folder / "config.json"))), {})
        stated = read_json(self.path.parent / "tokenizer_config.json")
        padding, truncation = self._tokenizer.padding or {}, self._tokenizer.truncation or {}
        self.max_length = max_length or _limit(truncation, stated, self.config)
        self.pad, self.pad_type = self._padding(padding, stated), int(padding.get("pad_type_id", 0))
        self.left = padding.get("direction", stated.get("padding_side", "right")) == "left"
        self._cut_left = truncation.get("direction", stated.get("truncation_side", "right")) == "left"
        self._tokenizer.no_padding()

    def _padding(self, padding: Mapping[str, Any], stated: Mapping[str, Any]) -> int:
        """The number of the token that fills up a text."""
        if "pad_id" in padding:
            return int(padding["pad_id"])
        named = stated.get("pad_token")
        named = named.get("content") if isinstance(named, dict) else named
        for token in (*([named] if named else []), *PAD_TOKENS):
            number = self._tokenizer.token_to_id(str(token))
            if number is not None:
                return int(number)
        return int(self.config.get("pad_token_id") or 0)

    def encode(self, rows: Sequence[Row], max_length: int) -> list[Tokens]:
        """The tokens of each row, at most `max_length` with special tokens.

        Raises:
            InputError: the special tokens alone are longer.
        """
        pairs = bool(rows) and rows[0].pair is not None
        special = self._tokenizer.num_special_tokens_to_add(pairs)
        if max_length <= special:
            raise InputError("data.max_length", f"is {max_length}", f"more than the {special} special tokens of a text")
        self._tokenizer.enable_truncation(max_length, direction="left" if self._cut_left else "right")
        words = bool(rows) and isinstance(rows[0].text, tuple)
        if words:
            self._separate_words()
        tokens: list[Tokens] = []
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            texts = [
                list(row.text) if words else row.text if row.pair is None else (row.text, row.pair) for row in block
            ]
            tokens += [_tokens(e) for e in self._tokenizer.encode_batch(texts, is_pretokenized=words)]
        return tokens

    def _separate_words(self) -> None:
        """Have byte-level tokenizers put the space before each word that a text would have there."""
        splitter = self._tokenizer.pre_tokenizer
        if isinstance(splitter, pre_tokenizers.ByteLevel):
            splitter.add_prefix_space = True
            self._tokenizer.pre_tokenizer = splitter


def _tokens(encoding: Any) -> Tokens:
    words = [-1 if word is None else word for word in encoding.word_ids]
    ids, types, numbers = (np.array(values, np.int64) for values in (encoding.ids, encoding.type_ids, words))
    return Tokens(ids, types, numbers, bool(encoding.overflowing))


def _limit(truncation: Mapping[str, Any], stated: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """Most tokens of a text: what the tokenizer states, at most the model's positions."""
    positions = config.get("max_position_embeddings") or config.get("n_positions")
    if isinstance(positions, int) and config.get("model_type") in OFFSET_FAMILIES:
        positions -= 2
    own = truncation.get("max_length") or stated.get("model_max_length")
    limits = [size for size in (own, positions) if isinstance(size, (int, float)) and 0 < size < NO_LIMIT]
    return int(min(limits)) if limits and own in limits else int(min([*limits, DEFAULT_LENGTH]))


def tags_of_tokens(tokens: Tokens, tags: Sequence[int]) -> NDArray[np.int64]:
    """The tags of a text's tokens: a word's tag for its first token, `IGNORED` for all others."""
    labels = np.full(len(tokens.ids), IGNORED, np.int64)
    before = -1
    for place, word in enumerate(tokens.words):
        if word >= 0 and word != before:
            labels[place] = tags[word]
        before = word
    return labels


def padded(arrays: Iterable[NDArray[np.int64]], width: int, fill: int, left: bool) -> NDArray[np.int64]:
    """Arrays of different lengths as one, filled up to a width; shape (N, width)."""
    rows = list(arrays)
    whole = np.full((len(rows), width), fill, np.int64)
    for row, array in zip(whole, rows, strict=True):
        if left:
            row[width - len(array) :] = array
        else:
            row[: len(array)] = array
    return whole
