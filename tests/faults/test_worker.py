"""The engine in a process of its own: what happens to it is a failed trial, and nothing else."""

import os
import signal

import pytest

REASONS = {
    "abort": "the engine crashed (SIGABRT): toy engine: check failed: 1 == 2",
    "segfault": "the engine crashed (SIGSEGV)",
    "hang": "the engine gave no answer within 5 seconds (tuning.trial_timeout): its process was killed",
    "sleep": "the engine gave no answer within 5 seconds (tuning.trial_timeout): it was stopped",
    "eat": "the engine took ",
    "exit": "the engine's process ended with status 3",
    "raise": "ZeroDivisionError: the toy engine divides by zero",
    "nan": "the model's output holds NaN or infinity",
}
TURNS = ["", *REASONS]
"""The fault of one trial after the other; the first has none."""
IN_TURN = ["strategy=random", "backend.in_turn=true", "run_dir=run"]


@pytest.mark.slow
def test_a_faulty_trial_fails_with_its_reason_and_the_run_goes_on(lab):
    trials = int(os.environ.get("NCS_FAULT_TRIALS", "10"))
    status, _, err = lab.run(
        *lab.toy(
            *IN_TURN,
            f"backend.faults='{','.join(REASONS)}'",
            f"tuning.max_trials={trials}",
            "tuning.max_consecutive_failures=0",
            "tuning.trial_timeout=5",
            "tuning.memory_limit=500",
        ),
        timeout=1800,
    )
    assert status in (0, 3), err
    assert err == ""
    lines, turns = lab.journal(), (lab.folder / "turns").read_text().split()
    assert len(lines) == trials
    met = [TURNS[turns.index(line["fingerprint"]) % len(TURNS)] for line in lines if line["fingerprint"] in turns]
    assert set(met) == set(TURNS)
    for line in lines:
        kind = TURNS[turns.index(line["fingerprint"]) % len(TURNS)] if line["fingerprint"] in turns else ""
        if kind:
            assert line["state"] == "failed"
            assert line["error"].startswith(REASONS[kind]), line
        else:
            assert line["state"] in ("ok", "pruned"), line
    assert lab.result()["trials"]["failed"] == sum(bool(kind) for kind in met)


def test_a_run_whose_trials_all_die_stops_with_what_it_has(lab):
    status, out, err = lab.run(
        *lab.toy(
            "strategy=random",
            "backend.faults=abort",
            "backend.share=100",
            "tuning.max_consecutive_failures=3",
            "run_dir=run",
        )
    )
    assert status == 1, (out, err)
    assert "Traceback" not in out + err
    assert lab.result()["stop_reason"] == "failures"
    assert len(lab.journal()) == 3


@pytest.mark.parametrize(
    ("stage", "expected", "doing"),
    [
        ("load", 2, "loading the model"),
        ("calibrate", 2, "running it on the calibration data"),
        ("reference", 2, "measuring fp32"),
        ("save", 1, "saving the model"),
    ],
)
def test_a_crash_outside_of_trials_is_one_line_with_its_status(lab, stage, expected, doing):
    status, out, err = lab.run(
        *lab.toy("backend.faults=segfault", f"backend.stage={stage}", "tuning.max_trials=2", "run_dir=run")
    )
    assert (status, out) == (expected, "")
    assert len(err.splitlines()) == 1
    assert f"the engine crashed (SIGSEGV) while {doing}" in err
    assert (lab.folder / "run").exists() == (stage == "save")
    if stage == "save":
        assert len(lab.journal()) == 2
        status, _, err = lab.run(*lab.toy("tuning.max_trials=2", "run_dir=run"))
        assert status == 2  # the backend's settings are another problem's


@pytest.mark.parametrize("kind", ["abort", "sleep"])
def test_an_engine_that_dies_while_int8_is_measured_costs_no_run_and_does_not_die_again(lab, kind):
    run = lab.toy(
        "strategy=random",
        f"backend.faults={kind}",
        "backend.stage=ceiling",
        "tuning.max_trials=3",
        *(["tuning.trial_timeout=5"] if kind == "sleep" else []),
    )
    env = {"XDG_CACHE_HOME": str(lab.folder / "cache")}
    status, _, err = lab.run(*run, "run_dir=run", env=env)
    assert (status, err) == (0, "")
    assert len(lab.journal()) == 3
    assert lab.result()["machine"]["ceiling"] is None
    assert f"the int8 ceiling could not be measured: {REASONS[kind]}" in lab.log()
    status, _, err = lab.run(*run, "run_dir=again", env=env)
    assert (status, err) == (0, "")
    assert (REASONS[kind] in lab.log("again")) == (kind == "sleep")  # stopped, not dead: it may be tried again
    assert ("the process that last tried died in it" in lab.log("again")) == (kind == "abort")


def test_int8_that_crashes_while_calibrating_costs_no_run(lab):
    status, out, err = lab.run(
        *lab.toy("backend.faults=segfault", "backend.stage=int8", "tuning.max_trials=8", "run_dir=run")
    )
    assert (status, err) == (0, ""), out
    assert len(lab.journal()) == 8
    assert not lab.errors()
    log = (lab.folder / "run" / "nc_strategies.log").read_text()
    assert log.count("the engine crashed (SIGSEGV)") == log.count("once more, with nothing but fp32") == 1


def test_a_worker_that_starts_again_later_is_cautious_too(lab):
    status, out, err = lab.run(
        *lab.toy(
            "strategy=random",
            "backend.faults=segfault",
            "backend.stage=int8",
            "backend.later=abort",
            "tuning.max_trials=4",
            "run_dir=run",
        )
    )
    assert status in (0, 1, 3), (out, err)
    assert len(lab.journal()) == 4
    assert lab.errors()
    assert all(reason.startswith("the engine crashed (SIGABRT)") for reason in lab.errors())
    assert (lab.folder / "run" / "nc_strategies.log").read_text().count("once more, with nothing but fp32") == 1


def test_loading_that_hangs_ends_at_its_limit(lab):
    status, _, err = lab.run(
        *lab.toy("backend.faults=hang", "backend.stage=load", "tuning.stage_timeout=2", "run_dir=run")
    )
    assert status == 2
    assert "gave no answer within 2 seconds (tuning.stage_timeout)" in err
    assert not (lab.folder / "run").exists()


@pytest.mark.parametrize(("stage", "says"), [("load", "the model was loaded"), ("reference", "fp32 was measured")])
def test_a_time_that_ends_before_fp32_was_measured_is_one_line(lab, stage, says):
    status, out, err = lab.run(
        *lab.toy("backend.faults=hang", f"backend.stage={stage}", "tuning.timeout=12", "run_dir=run")
    )
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("error: tuning.timeout: 12 s ended before ")
    assert says in err
    assert not (lab.folder / "run").exists()


def test_the_worker_never_outlives_a_killed_run(lab, tools):
    process = lab.start(*lab.toy("backend.faults=hang", "backend.share=100", "run_dir=run"))
    lab.wait_until_stuck()
    (worker,) = tools.workers(process.pid)
    process.kill()
    process.communicate()
    tools.wait_for(lambda: not _alive(worker))


@pytest.mark.parametrize("kind", ["hang", "sleep"])
def test_an_interrupt_in_a_hung_trial_ends_the_run_with_the_best_saved(lab, tools, kind):
    process = lab.start(*lab.toy(*IN_TURN, f"backend.faults={kind}"))
    lab.wait_until_stuck()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert lab.result()["stop_reason"] == "interrupted"
    assert lab.result()["tuned"] is not None
    assert "Traceback" not in out + err


def test_a_second_interrupt_stops_at_once(lab, tools):
    # A worker that is asked to end has ten minutes: only the second interrupt ends the waiting before.
    (lab.folder / "site" / "sitecustomize.py").write_text(
        "from pathlib import Path\n"
        "from nc_strategies.measuring.worker import process, target\n"
        "ask, target.INTERRUPT_GRACE_SECONDS = process.WorkerProcess._ask_to_end, 600.0\n"
        "process.WorkerProcess._ask_to_end = lambda self, grace: Path('asked').touch() or ask(self, grace)\n"
    )
    process = lab.start(*lab.toy(*IN_TURN, "backend.faults=hang"))
    lab.wait_until_stuck()
    process.send_signal(signal.SIGINT)
    tools.wait_for((lab.folder / "asked").exists)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert tools.workers(process.pid) == []


def test_the_runs_time_ends_inside_a_trial(lab):
    status, out, err = lab.run(
        *lab.toy(
            "strategy=random",
            "backend.faults=sleep",
            "backend.share=100",
            "tuning.max_trials=0",
            "tuning.timeout=20",
            "run_dir=run",
        )
    )
    assert status == 2, err  # nothing was measured
    assert "tuning.timeout: 20 s ended during the first trial; give the run more than" in out
    assert lab.result()["stop_reason"] == "timeout"
    assert lab.result()["seconds"]["total"] <= 22
    assert lab.journal() == []


def test_a_trial_that_overruns_ends_by_itself_and_its_worker_goes_on(lab):
    # A tenth of a second a batch, and 300 batches: more than there is, but the worker looks at the time between them.
    status, _, err = lab.run(
        *lab.toy(
            "strategy=random",
            "backend.faults=drag",
            "backend.share=30",
            "tuning.max_trials=0",
            "tuning.timeout=25",
            "tuning.early_stop=false",
            "measure.evaluation_batch_size=5",
            "run_dir=run",
        )
    )
    assert status in (0, 3), err
    assert lab.result()["stop_reason"] == "timeout"
    assert lab.result()["seconds"]["total"] <= 27.5
    assert lab.result()["tuned"] is not None
    assert "is dropped: the time that was left for this measurement is over" in lab.log()
    assert "a new worker" not in lab.log()


def test_a_worker_that_hangs_until_the_end_leaves_the_model_that_was_saved_before(lab):
    status, _, err = lab.run(
        *lab.toy(
            "strategy=random",
            "backend.faults=hang",
            "backend.share=30",
            "tuning.max_trials=0",
            "tuning.timeout=25",
            "tuning.trial_timeout=0",
            "run_dir=run",
        )
    )
    assert status in (0, 3), err
    assert lab.result()["stop_reason"] == "timeout"
    assert lab.result()["seconds"]["total"] <= 27.5
    assert (lab.folder / "run" / "model" / "model.toy").is_file()
    assert "a new worker" not in lab.log()


def test_a_time_that_is_too_short_is_refused_before_any_trial(lab):
    status, out, err = lab.run(
        *lab.toy(
            "strategy=random",
            "backend.trial_seconds=1",
            "tuning.timeout=12",
            "measure.evaluation_batch_size=100",
            "run_dir=run",
        )
    )
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("error: tuning.timeout: 12 s ")
    assert not (lab.folder / "run").exists()


def test_the_worker_gets_no_secrets_and_its_log_reaches_the_runs(lab, tools):
    process = lab.start(
        *lab.toy("strategy=random", "backend.trial_seconds=0.2", "tuning.max_trials=5", "run_dir=run"),
        env={"SIGOPT_API_TOKEN": "very-secret-token", "NCS_HARMLESS": "visible"},
    )
    tools.wait_for(lambda: len(lab.journal()) >= 1)
    (worker,) = tools.workers(process.pid)
    with open(f"/proc/{worker}/environ") as stream:
        environment = stream.read()
    with open(f"/proc/{worker}/cmdline") as stream:
        assert "very-secret" not in stream.read()
    process.communicate(timeout=120)
    assert "NCS_HARMLESS" in environment
    assert "very-secret" not in environment
    assert not any(
        "very-secret" in p.read_text(errors="replace") for p in (lab.folder / "run").rglob("*") if p.is_file()
    )


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stream:
        return stream.read().rsplit(")", 1)[1].split()[0] != "Z"
