"""Texts from files, with real tokenizers built from small vocabularies."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from nc_strategies.data.settings import Preprocess, TextSettings
from nc_strategies.data.text import TextData
from nc_strategies.data.tokenizer import IGNORED
from nc_strategies.errors import InputError
from nc_strategies.models.info import ModelInfo, TensorSpec
from nc_strategies.models.source import ModelSource
from nc_strategies.registry import registry
from nc_strategies.testing import DataSuite

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "a", "plot", "##s", "un", "##seen", "john", "lives"]
NUMBER = {word: number for number, word in enumerate(WORDS)}
CLS, SEP = NUMBER["[CLS]"], NUMBER["[SEP]"]
BYTES = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "b": 5, "Ġ": 6, "ab": 7, "Ġab": 8}
ROWS = [("good film", "pos"), ("a bad plot", "neg"), ("plots", "neg"), ("a good film a", "pos"), ("film", "pos")]


def numbers(*words):
    return [NUMBER[word] for word in words]


@pytest.fixture
def vocabulary(tmp_path):
    """A folder with BERT's kind of vocabulary."""
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return tmp_path


def csv_of(rows, header="text,label"):
    return "\n".join([header, *(",".join(row) for row in rows)]) + "\n"


def load(folder, content, name="d.csv", **settings):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    settings = {"tokenizer": str(folder), "calibration_samples": 1, **settings}
    return TextData(TextSettings(path=str(path), **settings)).load()


def refusal(folder, content, name="d.csv", **settings):
    with pytest.raises(InputError) as caught:
        load(folder, content, name, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def info(**inputs):
    """A model's inputs: name to shape and type."""
    return ModelInfo(tuple(TensorSpec(name, shape, np.dtype(dtype)) for name, (shape, dtype) in inputs.items()), ())


class TestSuite(DataSuite):
    calibration_samples = 2

    @pytest.fixture(autouse=True)
    def _files(self, vocabulary):
        self.path = vocabulary / "d.csv"
        self.path.write_text(csv_of(ROWS))

    def make(self):
        folder = str(self.path.parent)
        return TextData(TextSettings(path=str(self.path), tokenizer=folder, calibration_samples=2))


def test_a_text_becomes_numbers_a_mask_types_and_positions(vocabulary):
    evaluation, calibration = load(vocabulary, csv_of([("a", "pos"), *ROWS]), calibration_path=None)
    sample = {name: array[0].tolist() for name, array in evaluation.inputs.items()}
    assert sample == {
        "input_ids": [CLS, *numbers("a"), SEP, 0, 0, 0],
        "attention_mask": [1, 1, 1, 0, 0, 0],
        "token_type_ids": [0] * 6,
        "position_ids": [0, 1, 2, 3, 4, 5],
    }
    assert evaluation.inputs["input_ids"].shape == (5, 6)
    assert calibration.inputs["input_ids"][0].tolist() == [CLS, *numbers("plot", "##s"), SEP, 0, 0]


@pytest.mark.parametrize("columns", ["sentence1,sentence2", "premise,hypothesis", "Question,Context", "text,text_pair"])
def test_pairs_are_found_by_their_usual_names(vocabulary, columns):
    evaluation, _ = load(vocabulary, csv_of([("good", "a film", "1")] * 3, f"{columns},label"))
    assert evaluation.inputs["input_ids"][0].tolist() == [CLS, *numbers("good"), SEP, *numbers("a", "film"), SEP]
    assert evaluation.inputs["token_type_ids"][0].tolist() == [0, 0, 0, 1, 1, 1]
    assert evaluation.labels.tolist() == [1, 1]


def test_columns_can_be_named(vocabulary):
    rows = [("0", "good", "film", "2")] * 3
    evaluation, _ = load(vocabulary, csv_of(rows, "text,one,two,stars"), text="one", pair="two", label="stars")
    assert evaluation.inputs["input_ids"][0].tolist() == [CLS, *numbers("good"), SEP, *numbers("film"), SEP]
    assert evaluation.labels.tolist() == [2, 2]


def test_csv_tsv_and_json_give_the_same(vocabulary):
    rows = [{"text": text, "label": label} for text, label in ROWS]
    files = {
        "d.csv": csv_of(ROWS),
        "d.tsv": csv_of(ROWS).replace(",", "\t"),
        "d.jsonl": "\n".join(map(json.dumps, rows)),
        "d.json": json.dumps(rows),
    }
    hashes = {load(vocabulary, content, name)[0].sha256() for name, content in files.items()}
    assert len(hashes) == 1


def test_quotes_and_line_ends_in_cells(vocabulary):
    quoted = 'text,label\n"good, ""film""\na",1\nbad,0\nbad,0\n'
    evaluation, _ = load(vocabulary, quoted)
    tokens = evaluation.inputs["input_ids"][0].tolist()
    assert [number for number in tokens if number != NUMBER["[UNK]"]] == [CLS, *numbers("good", "film", "a"), SEP]
    unquoted, _ = load(vocabulary, 'text\tlabel\n"good film\t1\nbad\t0\nbad"\t0\n', "d.tsv")
    assert unquoted.inputs["input_ids"][0].tolist() == [CLS, NUMBER["[UNK]"], *numbers("good", "film"), SEP]


def test_class_names_are_numbered_in_sorted_order_with_a_notice(vocabulary):
    evaluation, _ = load(vocabulary, csv_of(ROWS))
    assert evaluation.labels.tolist() == [1, 0, 1, 1]
    assert "0=neg, 1=pos" in evaluation.remarks[0]


@pytest.mark.parametrize(
    "config", [{"id2label": {"0": "POS", "1": "NEG"}}, {"label2id": {"pos": 0, "neg": 1}, "id2label": {"0": "other"}}]
)
def test_class_names_are_those_of_the_models_configuration(vocabulary, config):
    (vocabulary / "config.json").write_text(json.dumps(config))
    evaluation, _ = load(vocabulary, csv_of(ROWS))
    assert evaluation.labels.tolist() == [0, 1, 0, 0]
    assert evaluation.remarks == ()
    assert load(vocabulary, csv_of(ROWS), labels=["other", "neg", "pos"])[0].labels.tolist() == [2, 1, 2, 2]


def test_placeholder_names_in_a_configuration_do_not_count(vocabulary):
    (vocabulary / "config.json").write_text(json.dumps({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}))
    assert load(vocabulary, csv_of(ROWS))[0].labels.tolist() == [1, 0, 1, 1]


def test_numbers_stay_numbers_unless_they_are_listed_as_names(vocabulary):
    rows = [("good", "1"), ("bad", "3"), ("a", "3")]
    assert load(vocabulary, csv_of(rows))[0].labels.tolist() == [1, 3]
    assert load(vocabulary, csv_of(rows), labels=["1", "2", "3"])[0].labels.tolist() == [0, 2]
    scores = load(vocabulary, csv_of([(text, f"{value}.5") for text, value in rows]))[0].labels
    assert (scores.dtype.kind, scores.tolist()) == ("f", [1.5, 3.5])


def test_labels_may_be_missing(vocabulary):
    evaluation, calibration = load(vocabulary, "text\ngood\nbad\nfilm\n")
    assert evaluation.labels is None
    assert len(evaluation) == 2
    assert calibration.labels is None


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ('{"tokens": ["john", "unseen", "plots"], "ner_tags": ["B-PER", "O", "I-PER"]}\n' * 3, "d.jsonl"),
        (
            'tokens,ner_tags\njohn unseen plots,"[""B-PER"", ""O"", ""I-PER""]"\n'
            + "john unseen plots,B-PER O I-PER\n" * 2,
            "d.csv",
        ),
        ("words\ttags\n" + "['john', 'unseen', 'plots']\tB-PER O I-PER\n" * 3, "d.tsv"),
    ],
)
def test_tags_go_to_the_first_token_of_their_word(vocabulary, content, name):
    evaluation, _ = load(vocabulary, content, name, labels=["O", "B-PER", "I-PER"])
    words = numbers("john", "un", "##seen", "plot", "##s")
    assert evaluation.inputs["input_ids"][0].tolist() == [CLS, *words, SEP]
    assert evaluation.labels[0].tolist() == [IGNORED, 1, 0, IGNORED, 2, IGNORED, IGNORED]


def test_cut_texts_keep_their_tags_and_special_tokens(vocabulary):
    row = '{"tokens": ["john", "lives", "plots"], "tags": [1, 2, 3]}\n'
    evaluation, _ = load(vocabulary, row * 3, "d.jsonl", max_length=4)
    assert evaluation.inputs["input_ids"][0].tolist() == [CLS, *numbers("john", "lives"), SEP]
    assert evaluation.labels[0].tolist() == [IGNORED, 1, 2, IGNORED]
    assert evaluation.remarks[0].startswith("2 of 2 texts are cut to 4 tokens")


def test_calibration_texts_come_from_their_own_file_without_labels(vocabulary):
    (vocabulary / "c.csv").write_text("text\n" + "film\n" * 5)
    path = str(vocabulary / "c.csv")
    evaluation, calibration = load(vocabulary, csv_of(ROWS), calibration_path=path, calibration_samples=3)
    assert (len(evaluation), len(calibration), calibration.labels) == (5, 3, None)
    assert calibration.inputs["input_ids"][0].tolist() == [CLS, *numbers("film"), SEP, 0, 0, 0]


def test_a_model_gets_the_inputs_that_it_has_by_its_names(vocabulary):
    raw, _ = load(vocabulary, csv_of(ROWS))
    model = info(
        **{
            "segment_ids:0": ((None, None), "int32"),
            "input_mask:0": ((None, None), "int32"),
            "input_ids:0": ((None, None), "int32"),
        }
    )
    found = raw.for_model(model)
    assert list(found.inputs) == ["segment_ids:0", "input_mask:0", "input_ids:0"]
    np.testing.assert_array_equal(found.inputs["input_ids:0"], raw.inputs["input_ids"])
    np.testing.assert_array_equal(found.inputs["input_mask:0"], raw.inputs["attention_mask"])
    for name in ("serving_default_input_word_ids:0", "encoder/input_ids", "input_ids_1", "x"):
        only = raw.for_model(info(**{name: ((None, None), "int64")}))
        np.testing.assert_array_equal(only.inputs[name], raw.inputs["input_ids"])
    of_numbers = raw.for_model(info(anything=((None, None), "float32")))
    np.testing.assert_array_equal(of_numbers.inputs["anything"], raw.inputs["input_ids"])
    with pytest.raises(InputError, match="nothing to the model's input picture"):
        raw.for_model(info(picture=((None, 3, 8, 8), "float32")))


def test_unknown_inputs_are_refused_by_name(vocabulary):
    raw, _ = load(vocabulary, csv_of(ROWS))
    model = info(input_ids=((None, None), "int64"), pixel_values=((None, 3), "float32"))
    with pytest.raises(InputError, match="nothing to the model's input pixel_values") as caught:
        raw.for_model(model)
    assert "\n" not in str(caught.value)
    assert list(raw.for_model(model, ["pixel_values"]).inputs) == ["input_ids"]


def test_a_fixed_length_cuts_and_fills_up(vocabulary):
    raw, _ = load(vocabulary, csv_of(ROWS))
    short = raw.for_model(info(input_ids=((None, 3), "int64"), attention_mask=((None, 3), "int64")))
    assert short.inputs["input_ids"][0].tolist() == [CLS, *numbers("good"), SEP]
    long = raw.for_model(info(input_ids=((1, 9), "int64"), attention_mask=((1, 9), "int64")))
    assert long.inputs["attention_mask"].shape == (4, 9)
    assert long.inputs["attention_mask"][0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0]
    np.testing.assert_array_equal(long.labels, raw.labels)


def test_a_model_without_a_mask_is_noticed(vocabulary):
    raw, _ = load(vocabulary, csv_of(ROWS))
    remarks = raw.for_model(info(input_ids=((None, None), "int64"))).remarks
    assert "no input for a mask" in remarks[-1]
    both = info(input_ids=((None, None), "int64"), attention_mask=((None, None), "int64"))
    assert raw.for_model(both).remarks == remarks[:-1]


def test_parts_of_texts_still_fit_models(vocabulary):
    raw, _ = load(vocabulary, csv_of(ROWS))
    part = raw.take(1, 3).for_model(info(ids=((None, 4), "int64")))
    np.testing.assert_array_equal(part.inputs["ids"][1], [CLS, *numbers("a", "good"), SEP])
    assert part.labels.tolist() == [0, 1]


def test_a_tokenizer_file_decides_on_special_tokens_padding_and_length(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({"<p>": 7, "good": 1, "film": 2, "<end>": 3, "?": 4}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("$A <end>", None, [("<end>", 3)])
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(direction="left", pad_id=7, pad_token="<p>")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    evaluation, _ = load(tmp_path, csv_of([("good", "1"), ("film film film", "0"), ("good", "1")]), max_length=None)
    assert evaluation.inputs["input_ids"].tolist() == [[7, 1, 3], [7, 1, 3]]
    assert evaluation.inputs["position_ids"].tolist() == [[0, 0, 1]] * 2


def test_byte_level_vocabularies_get_the_ends_of_roberta(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps(BYTES))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\nĠ ab\n")
    evaluation, _ = load(tmp_path, csv_of([("ab ab", "1"), ("ab", "0"), ("ab ab", "1")]))
    assert evaluation.inputs["input_ids"].tolist() == [[0, 7, 8, 2], [0, 7, 8, 2]]
    tags = '{"tokens": ["ab", "ab"], "tags": [1, 2]}\n' * 3
    evaluation, _ = load(tmp_path, tags, "d.jsonl")
    assert evaluation.inputs["input_ids"][0].tolist() == [0, 8, 8, 2]
    assert evaluation.labels[0].tolist() == [IGNORED, 1, 2, IGNORED]


def test_vocabularies_with_capital_letters_keep_them(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS, "Â©"]) + "\n")
    evaluation, _ = load(tmp_path, csv_of([("Good", "1")] * 3))
    assert evaluation.inputs["input_ids"][0].tolist() == [CLS, *numbers("good"), SEP]
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS, "Good"]) + "\n")
    evaluation, _ = load(tmp_path, csv_of([("Good", "1")] * 3))
    assert evaluation.inputs["input_ids"][0].tolist() == [CLS, len(WORDS), SEP]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    evaluation, _ = load(tmp_path, csv_of([("Good", "1")] * 3))
    assert evaluation.inputs["input_ids"][0].tolist() == [CLS, *numbers("good"), SEP]


def test_the_tokenizer_is_found_beside_the_model(vocabulary, tmp_path):
    exported = tmp_path / "onnx"
    exported.mkdir()
    (tmp_path / "d.csv").write_text(csv_of(ROWS))
    for path in (tmp_path / "m.onnx", exported / "m.onnx"):
        data = TextData(TextSettings(path=str(tmp_path / "d.csv"), calibration_samples=1))
        data.beside(ModelSource("m", {"onnx": path}))
        assert data.load()[0].inputs["input_ids"][0].tolist()[:2] == [CLS, *numbers("good")]


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, 512),
        ({"tokenizer_config.json": {"model_max_length": 128}}, 128),
        ({"tokenizer_config.json": {"model_max_length": 10**30}}, 512),
        ({"tokenizer_config.json": {"model_max_length": 1024}, "config.json": {"max_position_embeddings": 256}}, 256),
        ({"config.json": {"max_position_embeddings": 514, "model_type": "roberta"}}, 512),
        ({"config.json": {"max_position_embeddings": 130, "model_type": "roberta"}}, 128),
        ({"tokenizer_config.json": {"model_max_length": 2048}}, 2048),
    ],
)
def test_the_length_is_what_tokenizer_and_model_allow(vocabulary, files, limit):
    for name, value in files.items():
        (vocabulary / name).write_text(json.dumps(value))
    assert load(vocabulary, csv_of(ROWS))[0].max_length == limit


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("text,label\ngood,1\nbad\n", "d.csv", ["line 3 of", "1 columns", "text, label"]),
        ("text,label\n\ngood,1\nbad,\n", "d.csv", ["line 4 of", "no value in column 'label'"]),
        ("text,text\ngood,1\n", "d.csv", ["first line", "each once"]),
        ("a,b,label\nx,y,1\n", "d.csv", ["data.text", "a, b, label"]),
        ("text,label\n", "d.csv", ["holds no samples"]),
        (b"text,label\ngood,1\nb\xe4d,0\n", "d.csv", ["line 3 of", "not in utf-8", "data.encoding"]),
        ("text,label\ngood,1\n".encode("utf-16"), "d.csv", ["UTF-16", "data.encoding"]),
        ('{"text": "good", "label": 1}\n{"text": "bad"\n', "d.jsonl", ["line 2 of", "not JSON"]),
        ('{"text": "good", "label": 1}\n[1]\n', "d.jsonl", ["line 2 of", "is a list"]),
        ('{"text": "good", "label": 1}\n{"text": 7, "label": 1}\n', "d.jsonl", ["line 2 of", "type int", "'text'"]),
        ('{"text": "good", "label": 1}\n{"label": 1}\n', "d.jsonl", ["line 2 of", "no value in column 'text'"]),
        ('{"text": "a", "label": 1}\n{"text": "a", "label": {"b": 1}}\n', "d.jsonl", ["line 2 of", "'label'"]),
        (
            '{"tokens": ["a"], "tags": [1]}\n{"tokens": ["a", "a"], "tags": [1]}\n',
            "d.jsonl",
            ["line 2 of", "1 tags for 2 words"],
        ),
        ('{"tokens": ["a"], "tags": [1]}\n{"tokens": [], "tags": []}\n', "d.jsonl", ["line 2 of", "no words"]),
        ("good", "d.doc", ["unknown kind", ".jsonl"]),
    ],
)
def test_damaged_files_are_refused_with_the_line(vocabulary, content, name, words):
    message = refusal(vocabulary, content, name)
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"text": "body"}, ["data.text", "no column 'body'", "text, label"]),
        ({"label": "stars"}, ["data.label", "no column 'stars'"]),
        ({"labels": ["pos", "pos"]}, ["data.labels", "each once"]),
        ({"labels": ["pos", "other"]}, ["line 3 of", "'neg'", "pos, other"]),
        ({"calibration_samples": 5}, ["data.calibration_samples", "takes 5 of 5"]),
        ({"max_length": 2}, ["data.max_length", "2 special tokens"]),
        ({"max_length": 0}, ["data.max_length", "at least 1"]),
        ({"encoding": "klingon"}, ["data.encoding"]),
        ({"delimiter": ";;"}, ["data.delimiter"]),
        ({"tokenizer": "nowhere"}, ["data.tokenizer", "no such file"]),
        ({"calibration_path": "nowhere.csv"}, ["data.calibration_path", "no such file"]),
        ({"preprocess": Preprocess(scale=2.0)}, ["data.preprocess"]),
    ],
)
def test_wrong_settings_are_refused(vocabulary, settings, words):
    message = refusal(vocabulary, csv_of(ROWS), **settings)
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, ["no tokenizer was found", "vocab.txt"]),
        ({"tokenizer.json": '{"model": 1}'}, ["tokenizer.json cannot be read"]),
        ({"tokenizer.json": "{"}, ["tokenizer.json cannot be read"]),
        ({"vocab.txt": "a\nb\n"}, ["no token [UNK]"]),
        ({"vocab.json": "{}"}, ["no merges.txt"]),
        ({"spiece.model": "x"}, ["spiece.model is not read"]),
    ],
)
def test_missing_and_damaged_tokenizers_are_refused(tmp_path, files, words):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    message = refusal(tmp_path, csv_of(ROWS))
    assert [word for word in ["data.tokenizer", *words] if word not in message] == []


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for module in ("nc_strategies.data.text", "nc_strategies.data.tokenizer"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(InputError, match=r"data=text: a package is missing.*pip install 'nc-strategies\[text\]'"):
        registry().create("data", {"name": "text", "path": "d.csv"})
