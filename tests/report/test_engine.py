"""Which optimizer proposed, and what the strategy told the user: in the table, on the page, in the explanation."""

import io

from rich.console import Console

from nc_strategies.report import analysis, explain, page, table
from nc_strategies.report.result import write
from nc_strategies.report.run_files import RunFiles

NOTICE = "the server fails: engine local goes on; the same command goes back to it"


def shown(renderable):
    stream = io.StringIO()
    Console(width=400, file=stream).print(renderable)
    return stream.getvalue()


def told(finished, engine="local", notices=(NOTICE, NOTICE)):
    """A finished run whose strategy had an engine and told something twice."""
    study, setup = finished()
    study.engine, study.notices = engine, list(notices)
    result = write(study, setup)
    analysis.write(study)
    return study.run_dir, result


def test_the_tables_line_and_the_notes_below_it_name_the_engine_and_what_happened(finished):
    folder, result = told(finished)
    assert table.row(result)[0] == "random (local)"
    text = shown(table.render(result, str(folder)))
    assert "random (local)" in text
    assert text.count(f"note: {NOTICE}") == 1


def test_the_page_and_the_explanation_say_it(finished):
    folder, _ = told(finished)
    run = RunFiles.read(folder)
    for text in (shown(explain.render(run)), page.write(folder).read_text()):
        assert "Engine local of strategy random" in text
        assert text.count(f"T{NOTICE[1:]}.") == 1


def test_a_strategy_with_one_optimizer_names_no_engine(finished):
    folder, result = told(finished, engine="", notices=())
    assert table.row(result)[0] == "random"
    assert "note:" not in shown(table.render(result, str(folder)))
    assert "Engine" not in shown(explain.render(RunFiles.read(folder)))
