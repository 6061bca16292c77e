"""A sweep over files: rows that can be told apart."""

import json
import subprocess
import sys

import numpy as np
import pytest

from nc_strategies import samples
from nc_strategies.report import comparison, table
from nc_strategies.report.result import failed
from nc_strategies.report.swept import shortened, swept


def results(*overrides):
    plain = {"strategy": {"name": "basic"}, "backend": {"name": "onnxruntime"}}
    return [{**failed(plain, "no data"), "run": str(i), "overrides": given} for i, given in enumerate(overrides)]


def test_only_keys_that_differ_become_columns(tmp_path):
    found = results(
        {"strategy": "basic", "model.path": "a/x.onnx", "tuning.seed": "0"},
        {"strategy": "ilp", "model.path": "b/x.onnx", "tuning.seed": "0"},
        {"strategy": "ilp", "model.path": "b/x.onnx", "tuning.seed": "0", "data.path": "d|1.npz"},
    )
    assert swept(found) == [
        {"model.path": "a", "data.path": "-"},
        {"model.path": "b", "data.path": "-"},
        {"model.path": "b", "data.path": "d|1.npz"},
    ]
    names = table.columns(found)
    assert names == ("strategy", "backend", "model.path", "data.path", *table.COLUMNS[2:])
    assert [dict(zip(names, row, strict=True))["model.path"] for row in table.cells(found)] == ["a", "b", "b"]
    comparison.write(tmp_path, found)
    page, text = (tmp_path / "comparison.html").read_text(), (tmp_path / "comparison.md").read_text()
    assert '<th scope="col">model.path</th>' in page
    assert "| model.path | data.path |" in text.splitlines()[0]
    assert "d\\|1.npz" in text


def test_runs_that_do_not_differ_have_the_usual_columns():
    found = results({"model.path": "a.onnx"}, {"model.path": "a.onnx"})
    assert table.columns(found) == table.COLUMNS
    assert table.columns([{**found[0], "overrides": None}]) == table.COLUMNS
    assert table.columns([]) == table.COLUMNS


@pytest.mark.parametrize(
    ("paths", "short"),
    [
        (["m/a/model.onnx", "m/b/model.onnx"], ["a", "b"]),
        (["/m/a.onnx", "/m/b.onnx"], ["a.onnx", "b.onnx"]),
        (["m/a.onnx", "m/n/b.onnx"], ["a.onnx", "n/b.onnx"]),
        (["x", "x/x"], ["x", "x/x"]),
        (["0.1", "0.2"], ["0.1", "0.2"]),
        (["a/m.onnx", "-"], ["m.onnx", "-"]),
    ],
)
def test_paths_are_shortened_to_what_differs(paths, short):
    assert shortened(paths) == short


@pytest.mark.slow
def test_a_sweep_over_odd_file_names_shows_them(tmp_path):
    for name in ("epoch=9.onnx", "epoch (10).onnx"):
        (tmp_path / name).write_bytes(samples.onnx_model().read_bytes())
    np.savez(tmp_path / "few.npz", x=np.zeros((3, 1), np.float32), y=np.zeros(3, np.int64))
    arguments = ["model=onnx", "model.path=epoch=9.onnx,epoch (10).onnx", "data=npz", "data.path=few.npz"]
    done = subprocess.run(
        [sys.executable, "-m", "nc_strategies", "-m", *arguments, "run_dir=sweep"],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 2
    rows = json.loads((tmp_path / "sweep" / "comparison.json").read_text())
    assert [row["overrides"]["model.path"] for row in rows] == ["epoch=9.onnx", "epoch (10).onnx"]
    assert "epoch (10).onnx" in done.stdout
    assert "model.path" in done.stdout
