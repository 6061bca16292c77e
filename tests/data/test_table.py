"""Tables as text."""

import pytest

from nc_strategies.data import table
from nc_strategies.data.settings import CsvSettings
from nc_strategies.errors import InputError

TEXT = "age,height,price\n" + "".join(f"{i},{i / 2},{i * 10}\n" for i in range(10))


def load(tmp_path, text=TEXT, **settings):
    (tmp_path / "t.csv").write_text(text)
    return table.CsvData(CsvSettings(**{"path": str(tmp_path / "t.csv"), "calibration_samples": 2, **settings})).load()


def test_the_last_column_is_the_label_and_the_others_are_the_input(tmp_path):
    evaluation, calibration = load(tmp_path)
    assert evaluation.inputs["x"].tolist() == [[i, i / 2] for i in range(2, 10)]
    assert evaluation.labels.tolist() == [i * 10 for i in range(2, 10)]
    assert calibration.inputs["x"].tolist() == [[0, 0], [1, 0.5]]


def test_columns_are_chosen_by_name_in_the_order_asked_for(tmp_path):
    evaluation, _ = load(tmp_path, label="age", columns=["price", "height"])
    assert evaluation.inputs["x"][0].tolist() == [20, 1]
    assert evaluation.labels[0] == 2


def test_names_of_classes_are_numbered_in_their_order(tmp_path):
    evaluation, _ = load(tmp_path, "x;kind\n" + "".join(f"{i};{k}\n" for i, k in enumerate("bacbaccc")), delimiter=";")
    assert evaluation.labels.tolist() == [2, 1, 0, 2, 2, 2]


def test_blocks_make_no_difference(tmp_path, monkeypatch):
    whole = load(tmp_path)[0]
    monkeypatch.setattr(table, "BLOCK", 3)
    assert load(tmp_path)[0].sha256() == whole.sha256()


def test_a_table_for_calibration_needs_no_label(tmp_path):
    (tmp_path / "c.csv").write_text("height,age\n1,2\n3,4\n5,6\n")
    evaluation, calibration = load(tmp_path, calibration_path=str(tmp_path / "c.csv"))
    assert len(evaluation) == 10
    assert calibration.inputs["x"].tolist() == [[2, 1], [4, 3]]


def test_quotes_empty_lines_and_a_byte_order_mark_are_read(tmp_path):
    evaluation, _ = load(tmp_path, '\ufeff"a, b",y\n1,1\n\n2,1\n"3", 5 \n', calibration_samples=1)
    assert (evaluation.inputs["x"].tolist(), evaluation.labels.tolist()) == ([[2], [3]], [1, 5])


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        (TEXT.replace("5,2.5", "5,tall"), {}, r"line 7 of .* has 'tall' in column 'height'; a finite number"),
        (TEXT.replace("5,2.5", "5,"), {}, r"line 7 of .* has '' in column 'height'"),
        (TEXT.replace("5,2.5", "inf,2.5"), {}, r"line 7 of .* has 'inf' in column 'age'"),
        (TEXT.replace("5,2.5", "5"), {}, r"line 7 of .* has 2 columns; the first has 3"),
        (TEXT.replace("5,2.5,50", "5,2.5,fifty"), {}, r"line 7 of .* has 'fifty' in column 'price'; labels are all"),
        (TEXT, {"label": "cost"}, r"^data\.label: .* has no column 'cost'; it has: age, height, price"),
        (TEXT, {"columns": ["weight"]}, r"^data\.columns: .* has no column 'weight'"),
        (TEXT, {"columns": ["price"]}, r"^data\.columns: names the label column 'price'"),
        (TEXT, {"calibration_samples": 10}, r"^data\.calibration_samples: takes 10 of 10 samples"),
        (TEXT, {"delimiter": "::"}, r"^data\.delimiter: is '::'; one character"),
        (TEXT, {"path": "none.csv"}, r"^data\.path: no such file"),
        ("a,a\n1,2\n", {}, r"expected names of columns, each once"),
        ("", {}, r"expected names of columns, each once"),
        ("a,b\n", {}, r"holds no samples"),
    ],
)
def test_what_does_not_fit_is_one_line_that_says_where(tmp_path, text, settings, message):
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path, text, **settings)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_an_input_error(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"a,b\n\xff\xfe\x00,1\n")
    with pytest.raises(InputError, match="cannot be read"):
        table.CsvData(CsvSettings(path=str(tmp_path / "t.csv"))).load()
