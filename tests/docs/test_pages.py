"""Pages on tasks and other tools: their Python runs, foreign code can be parsed, figures are those of their sources."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import nc_strategies
from nc_strategies import samples

ROOT = Path(__file__).resolve().parents[2]
PICTURES = 400


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with the model and data that the pages name: those of the bundled sample."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes(samples.onnx_model().read_bytes())
    with np.load(samples.evaluation_images()) as file:
        np.savez(tmp_path / "evaluation.npz", x=file["x"][:PICTURES], y=file["y"][:PICTURES])
    with np.load(samples.calibration_images()) as file:
        np.savez(tmp_path / "calibration.npz", x=file["x"])
    return tmp_path


def run(page):
    names = {}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), names)
    return names


@pytest.mark.slow
def test_the_python_task_runs(folder, monkeypatch, capsys):
    tune = nc_strategies.tune
    few = {"max_trials": 1, "latency_runs": 20, "final_runs": 20}
    monkeypatch.setattr(nc_strategies, "tune", lambda *args, **kwargs: tune(*args, **kwargs, **few))
    names = run("docs/tasks/python.md")
    assert names["study"].status in ("met", "missed")
    assert (folder / "mine" / "result.json").is_file()
    assert f"{names['study'].status} " in capsys.readouterr().out


def test_the_example_of_quantize_static_writes_a_model(folder):
    run("docs/coming-from-quantize-static.md")
    assert (folder / "int8.onnx").stat().st_size < (folder / "model.onnx").stat().st_size


def test_the_example_of_optuna_runs(folder, monkeypatch):
    optuna = pytest.importorskip("optuna")
    optimize = optuna.Study.optimize
    monkeypatch.setattr(optuna.Study, "optimize", lambda study, objective, n_trials: optimize(study, objective, 2))
    names = run("docs/coming-from-optuna.md")
    assert len(names["study"].trials) == 2
    assert all(0 < trial.values[0] <= 1 < 1000 * trial.values[1] for trial in names["study"].trials)


def test_code_of_tools_that_are_not_installed_can_be_parsed():
    pages = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md"))
    foreign = {page: blocks(page, "py") for page in pages if blocks(page, "py")}
    assert foreign
    for page, found in foreign.items():
        for block in found:
            ast.parse(block, page)
            assert "nc_strategies" not in block, f"{page}: code of this package belongs into a block that is run"


def test_workflows_in_json_can_be_parsed():
    (workflow,) = blocks("docs/coming-from-olive.md", "json")
    assert json.loads(workflow)["evaluator"] in json.loads(workflow)["evaluators"]


# --- the decision


@pytest.fixture(scope="module")
def worth():
    spec = importlib.util.spec_from_file_location("worth", ROOT / "benchmarks" / "worth.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["worth"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["worth"]


def test_the_picture_and_the_table_are_those_of_the_figures(worth):
    groups = worth.read()
    assert worth.PICTURE.read_text(encoding="utf-8") == worth.picture(groups), "run python benchmarks/worth.py"
    text = worth.PAGE.read_text(encoding="utf-8")
    assert text == worth.page(text, groups), "run python benchmarks/worth.py"


def test_every_figure_of_the_decision_stands_on_the_page_that_it_names():
    rows = [
        row for group in json.loads((ROOT / "benchmarks/worth.json").read_text())["classes"] for row in group["rows"]
    ]
    assert len(rows) > 10
    for row in rows:
        if row["source"] is not None:
            page = (ROOT / "docs" / row["source"].partition("#")[0]).read_text(encoding="utf-8")
            assert row["time"] in page, row


def test_a_figure_that_cannot_be_read_is_an_error(worth, tmp_path):
    row = {"model": "m", "work": "large", "engine": "e", "machine": "p", "time": "fast", "met": True, "source": None}
    (tmp_path / "figures.json").write_text(
        json.dumps({"classes": [{"name": "VNNI", "hint": "", "rows": [row]}, {"name": "", "hint": "", "rows": []}]})
    )
    with pytest.raises(ValueError, match="'fast'"):
        worth.read(tmp_path / "figures.json")
