"""What a sweep leaves: a row a run, failed ones included, in three forms."""

import json
from html.parser import HTMLParser

import pytest
from rich.console import Console

from nc_strategies.report import comparison, table
from nc_strategies.report.result import as_dict, failed, write, write_json

WANTED = (
    "strategy",
    "backend",
    "FP32 baseline",
    "int8 accuracy",
    "int8 duration (s)",
    "speed-up",
    "trials",
    "seconds",
    "status",
)


class Cells(HTMLParser):
    """Rows of cells of the only table of a page."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.open = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        self.open = tag in ("td", "th")
        if self.open:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.open = self.open and tag not in ("td", "th")

    def handle_data(self, data):
        if self.open:
            self.rows[-1][-1] += data


@pytest.fixture
def results(finished):
    study, setup = finished("good", criterion="absolute", tolerable_loss=0.2)
    return [as_dict(study, setup), failed({"strategy": {"name": "sig|opt"}, "backend": {"name": "<toy>"}}, "bad input")]


def test_the_columns_are_those_that_are_relied_on():
    assert [name for name in table.COLUMNS if name in WANTED] == list(WANTED)


def test_a_comparison_is_written_as_text_data_and_page(tmp_path, results):
    folder = tmp_path / "sweep"
    folder.mkdir()
    comparison.write(folder, results)
    assert sorted(p.name for p in folder.iterdir()) == ["comparison.html", "comparison.json", "comparison.md"]
    assert json.loads((folder / "comparison.json").read_text()) == results
    rows = [table.COLUMNS, *(table.row(result) for result in results)]
    assert [tuple(row) for row in Cells((folder / "comparison.html").read_text()).rows] == rows
    lines = (folder / "comparison.md").read_text().splitlines()
    assert len(lines) == 4
    assert [line.replace("\\|", "").count("|") for line in lines] == [len(table.COLUMNS) + 1] * 4
    assert "sig\\|opt" in lines[3]


def test_a_failed_run_is_a_row_with_its_reason(results):
    row = table.row(results[1])
    assert len(row) == len(table.COLUMNS)
    assert row[:2] == ("sig|opt", "<toy>")
    assert row[-1] == "failed: bad input"
    assert set(row[2:-1]) == {"-"}


def test_a_run_of_which_no_trial_could_be_measured_is_a_row_too(finished, fails):
    study, setup = finished("bad", ops=fails, max_trials=1)
    row = table.row(as_dict(study, setup))
    assert len(row) == len(table.COLUMNS)
    assert row[-1].startswith("failed")


def test_a_row_holds_the_run_s_numbers(results):
    cells = dict(zip(table.COLUMNS, table.row(results[0]), strict=True))
    assert cells["int8 accuracy"] == f"{results[0]['tuned']['accuracy']:.4f}"
    assert cells["FP32 baseline"] == f"{results[0]['baseline']['accuracy']:.4f}"
    assert float(cells["speed-up"]) == pytest.approx(results[0]["speedup"], abs=0.006)
    assert cells["trials"] == "4"
    assert cells["status"] == "met"


def test_results_of_jobs_are_collected_in_the_order_of_their_numbers(tmp_path):
    for name in ("10", "2", "other", "0"):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "result.json", {"strategy": name})
    (tmp_path / "3").mkdir()
    found = comparison.collect(tmp_path)
    assert [result["run"] for result in found] == ["0", "2", "10", "other"]
    assert [result["strategy"] for result in found] == ["0", "2", "10", "other"]


def test_the_table_of_a_run_is_shown_whole_where_there_is_no_terminal(finished, capsys):
    study, setup = finished(criterion="absolute", tolerable_loss=0.2)
    result = write(study, setup)
    table.show(lambda width: table.render(result, str(study.run_dir), width))
    shown = capsys.readouterr().out
    assert "goal met: top1" in shown
    assert str(study.model_path) in shown.replace("\n", "")
    for name in table.COLUMNS:
        assert name in shown
    assert "Conv" in shown


def test_on_a_narrow_terminal_nothing_is_cut_either(results, capsys):
    console = Console(width=80)
    console.print(table.comparison(results, console.width))
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    for name, cells in zip(table.COLUMNS, zip(*map(table.row, results), strict=True), strict=True):
        assert any(line.startswith(name) and all(cell in line for cell in cells) for line in shown.splitlines())


def test_a_missed_goal_says_that_the_closest_model_is_saved(finished):
    study, setup = finished(criterion="absolute", tolerable_loss=-0.05)
    assert table.verdict(as_dict(study, setup)).plain.endswith("; the closest model is saved")


def test_a_run_without_a_model_says_why(finished, fails, capsys):
    study, setup = finished(ops=fails, max_trials=1)
    table.show(lambda width: table.render(as_dict(study, setup), "folder", width))
    text = capsys.readouterr().out.strip()
    assert text == "failed: no configuration could be measured: a cannot run in int8 (1 of 1 failed trials)"
