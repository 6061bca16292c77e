"""SIGTERM in every stage of a run, and a clock that jumps."""

import signal

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["load", "calibrate", "reference", "save"])
def test_a_signal_in_a_stage_that_hangs_ends_the_run_soon(lab, tools, stage):
    process = lab.start(*lab.toy("backend.faults=hang", f"backend.stage={stage}", "tuning.max_trials=2", "run_dir=run"))
    lab.wait_until_stuck()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in err
    assert tools.workers(process.pid) == []
    assert (lab.folder / "run").exists() == (stage == "save")


def test_a_clock_that_jumps_changes_nothing(lab, tools):
    (lab.folder / "site" / "sitecustomize.py").write_text(
        "import time\n"
        "_true, _start = time.time, time.time()\n"
        "time.time = lambda: _true() + (86400.0 if int(_true() - _start) % 2 else -86400.0)\n"
    )
    status, _, err = lab.run(
        *lab.toy(
            "strategy=random",
            "tuning.max_trials=6",
            "tuning.timeout=120",
            "tuning.trial_timeout=60",
            "backend.trial_seconds=0.2",
            "run_dir=run",
        )
    )
    assert status in (0, 3), err
    assert len({line[:10] for line in lab.log().splitlines() if line[:2] == "20"}) > 1  # the clock did jump
    found = lab.result()
    assert found["stop_reason"] == "budget"
    assert found["trials"]["failed"] == 0
    assert 0 < found["seconds"]["total"] < 120
