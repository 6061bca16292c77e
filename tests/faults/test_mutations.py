"""A dozen damaged files of each cheap format; `benchmarks/faults/mutations.py` feeds hundreds, of all formats."""

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "faults"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "onnx_half", "onnx_external", "npz"])
def test_a_damaged_file_is_refused_in_one_line_or_tuned(kind, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import mutations

    feeder = mutations.Feeder()
    try:
        ends = mutations.run(kind, 12, 7, feeder)
    finally:
        feeder.close()
        sys.modules.pop("mutations", None)
    assert set(ends) <= {"refused", "tuned"}, ends
    assert ends["refused"] >= 3
