"""The time left, as the progress line says it."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from nc_strategies.config import MeasureConfig
from nc_strategies.problem import Evaluation
from nc_strategies.report.progress import ProgressLine
from nc_strategies.report.workers import short
from nc_strategies.study.timebox import TimeBox


@pytest.mark.parametrize(
    ("timeout", "most", "done", "says"),
    [
        (0.0, 0, 2, ""),
        (100.0, 0, 2, "at most 1:10 left"),
        (100.0, 50, 2, "at most 1:10 left"),
        (1000.0, 4, 3, "at most {} left"),
        (0.0, 4, 3, "at most {} left"),
    ],
)
def test_it_is_what_the_run_itself_goes_by(timeout, most, done, says):
    now = [0.0]
    box = TimeBox(timeout, MeasureConfig(), 3, 5, lambda: now[0])
    now[0] = 30.0
    box.fp32_measured(
        Evaluation(
            (), (("latency_ms", 1.0),), (), (), 10, 0, 0, (("build", 0.5), ("accuracy", 2.0), ("latency", 1.0)), "graph"
        )
    )
    line = ProgressLine()
    line.started(None, most, timeout)
    left = line._left(SimpleNamespace(box=box, trials=[None] * done))
    minutes, seconds = divmod(round(box.remaining(1)), 60)
    assert left == says.format(f"{minutes}:{seconds:02d}")


SHARED = {"workers": 3, "idle_share": 0.12, "batches": {}}


@pytest.mark.parametrize(
    ("workers", "says"),
    [
        ({}, ""),
        ({**SHARED, "idle_share": None}, "3 processes"),
        (SHARED, "3 processes, 12% idle"),
        ({**SHARED, "evaluation": {"done": 41, "batches": 80, "latest": {}}}, "3 processes, 12% idle, batch 41 of 80"),
        ({**SHARED, "alone": "the connection is lost"}, "1 of 3 processes evaluates"),
    ],
)
def test_processes_that_evaluate_are_a_few_words(workers, says):
    assert short(workers) == says


def test_the_line_has_a_column_for_processes_only_where_there_are_several():
    line, screen = ProgressLine(), Console(file=io.StringIO(), width=200)
    line.trial_started(1, "")
    before = len(line._progress.columns)
    for _ in range(2):
        line.workers(SimpleNamespace(workers=SHARED))
    assert len(line._progress.columns) == before + 1
    screen.print(line._progress.get_renderable())
    assert "tuning" in screen.file.getvalue()
    assert "3 processes, 12% idle" in screen.file.getvalue()


def test_trials_that_end_in_a_row_redraw_the_line_ten_times_a_second(monkeypatch):
    now, drawn = [0.0], []
    monkeypatch.setattr("nc_strategies.report.progress.time.monotonic", lambda: now[0])
    line = ProgressLine()
    monkeypatch.setattr(line._progress, "update", lambda task, **changes: drawn.append((now[0], changes)))
    study = SimpleNamespace(box=None, trials=[], best=None)
    line.started(study, 1000, 0.0)
    for number in range(1, 1001):
        now[0] = number / 1000
        line.trial_started(number, "random" if number <= 500 else "refinement")
        study.trials.append(None)
        line.trial_finished(study, None)
    assert len(drawn) <= 1 + 10 + 2 + 1
    assert next(when for when, changes in drawn if changes.get("description") == "refinement") == 0.501
    assert drawn[-1][1]["completed"] == 1000
