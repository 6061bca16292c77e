"""A run says what each recovery method brought: in result.json, on the page and in ``explain``."""

from __future__ import annotations

import json

import pytest

from nc_strategies.calibration.recovery import LIMITS, RecoveryRecord
from nc_strategies.report import explain, page, recovery
from nc_strategies.report.result import as_dict
from nc_strategies.report.run_files import RunFiles
from nc_strategies.testing import ToyBackend

RECORDS = (
    RecoveryRecord("bias_correction", 1, 0.02, 0.0199, "rounded weights", 0.25, False),
    RecoveryRecord("smooth_quant", 12, 0.02, 0.005, "dynamic products", 1.5, True),
    RecoveryRecord("residual_equalization", 0, 0.005, None, "int8 everywhere", 0.0, False, "no operator gains from it"),
    RecoveryRecord("gptq", 0, None, float("inf"), "rounded weights", 0.0, False, "no time left"),
)


@pytest.fixture
def run(finished, monkeypatch):
    monkeypatch.setattr(ToyBackend, "recovery", RECORDS)
    return finished()


def test_the_result_holds_a_record_for_each_method(run):
    found = json.loads(json.dumps(as_dict(*run), allow_nan=False))["recovery"]
    assert [record["method"] for record in found] == [record.method for record in RECORDS]
    assert found[1] == {
        "method": "smooth_quant",
        "operators": 12,
        "noise_before": 0.02,
        "noise_after": 0.005,
        "noise_of": "dynamic products",
        "seconds": 1.5,
        "adopted": True,
        "note": "",
    }


def test_explain_says_what_is_in_use_and_why_others_are_not(run):
    study, setup = run
    write_result(study, setup)
    lines = recovery.sentences(RunFiles.read(study.run_dir))
    assert lines == [
        "Recovery by bias_correction on 1 operator is not in use: the output's noise by rounded weights goes from 0.02 "
        "to 0.02 on samples that it was not fitted on (0.2 s).",
        "Recovery by smooth_quant on 12 operators is in use: the output's noise by dynamic products goes from 0.02 to "
        "0.005 on samples that it was not fitted on (1.5 s).",
        "Recovery by residual_equalization is not in use: no operator gains from it.",
        "Recovery by gptq is not in use: no time left.",
    ]
    assert set(lines) <= set(explain.why(RunFiles.read(study.run_dir), []))


def test_the_page_has_a_row_for_each_method_and_no_table_without_any(run, finished, monkeypatch):
    study, setup = run
    write_result(study, setup)
    text = page.write(study.run_dir).read_text(encoding="utf-8")
    for record in RECORDS:
        assert f'<th scope="row">{record.method}</th>' in text
    assert "not in use: no time left" in text
    monkeypatch.setattr(ToyBackend, "recovery", ())
    other, setup = finished("other")
    write_result(other, setup)
    assert "Noise that recovery removed" not in page.write(other.run_dir).read_text(encoding="utf-8")


def write_result(study, setup):
    (study.run_dir / "result.json").write_text(json.dumps(as_dict(study, setup)), encoding="utf-8")


def test_a_time_limit_leaves_recovery_a_share_of_its_time(finished, monkeypatch):
    seen = []
    monkeypatch.setattr(ToyBackend, "calibrate", lambda self, batches: seen.append(self.recovery_seconds))
    finished("free")
    finished("limited", timeout=40)
    assert seen[0] == LIMITS.seconds
    assert 0 < seen[1] <= 0.05 * 40
