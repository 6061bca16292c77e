"""The notebooks run from top to bottom, and keep the plots that readers see."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
LEAST_PLOTS = 3


def read(path):
    return nbformat.read(path, as_version=4)


def plots(notebook):
    """The pictures in the outputs, in their order."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]


def printed(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output["text"] for output in outputs if output.output_type == "stream")


def troubles(notebook):
    """Lines on standard error that are not what a run says of its data."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    lines = [line for o in outputs if o.get("name") == "stderr" for line in o["text"].splitlines()]
    return [line for line in lines if not line.startswith("warning: ")]


def test_there_are_three():
    assert {path.stem for path in NOTEBOOKS} == {"vision", "text", "without_labels"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_with_its_plots(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert len(plots(notebook)) >= LEAST_PLOTS
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert troubles(notebook) == []
    words = printed(notebook) + "".join(o["data"].get("text/html", "") for o in outputs if "data" in o)
    assert not re.search(r"/(home|tmp|root|work|Users)/", words), "a path of one machine"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    from jupyter_client.manager import AsyncKernelManager

    for variable, folder in (("IPYTHONDIR", "ipython"), ("JUPYTER_CONFIG_DIR", "config"), ("MPLCONFIGDIR", "mpl")):
        monkeypatch.setenv(variable, str(tmp_path / folder))
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=":")
    kept, notebook = read(path), read(path)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    # Through sockets in files: no port is opened.
    connection = tmp_path / "kernel.json"
    manager = AsyncKernelManager(kernel_name="python3", transport="ipc", connection_file=str(connection))
    nbclient.NotebookClient(notebook, km=manager, timeout=120).execute(cwd=str(tmp_path), cleanup_kc=True)
    assert len(plots(notebook)) == len(plots(kept))
    assert re.search(r"goal (met|missed)\b", printed(notebook))
    assert troubles(notebook) == []
