"""What the page of many runs reads of a folder, whatever is in it."""

import contextlib
import json
import os
import shutil
import tempfile
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from nc_strategies.app.serve import scan as scanning
from nc_strategies.app.serve.scan import Scanner, ScanRules
from nc_strategies.report import analysis
from nc_strategies.report.result import failed, write, write_json
from nc_strategies.study.study import StudyListener

AT_ONCE = ScanRules(least_seconds=0.0, time_share=1e9)
MANY = 500


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "all runs"
    folder.mkdir()
    return folder


@pytest.fixture
def ended(finished, root):
    """Makes ended runs below the folder, from one that has ended."""
    study, setup = finished()
    result = write(study, setup)
    analysis.write(study)
    (study.run_dir / "report.html").write_text("<!doctype html><title>report</title>")

    def make(name="a", **changes):
        shutil.copytree(study.run_dir, root / name)
        if changes:
            write_json(root / name / "result.json", {**result, **changes})
        return root / name

    make.result = result
    return make


def scanner(root, rules=AT_ONCE):
    return Scanner(root, lambda path: f"id of {path.decode(errors='replace')}", rules)


def rows(root):
    return {row["name"]: row for row in scanner(root).snapshot().rows}


def test_a_row_says_what_the_result_says(ended, root):
    ended("x/y")
    row, result = rows(root)["x/y"], ended.result
    assert {"status", "model", "speedup", "speedup_ci95"} <= row.keys() & result.keys()
    for name in ("status", "model", "data", "strategy", "speedup", "speedup_ci95"):
        assert row[name] == result[name]
    assert row["engine"] == result["backend"]
    assert row["goal"] == [
        {
            "metric": "top1",
            "higher_is_better": True,
            "asked": result["goal"]["threshold"],
            "fp32": result["baseline"]["accuracy"],
            "reached": result["tuned"]["accuracy"],
        }
    ]
    assert (row["size_bytes"], row["fp32_size_bytes"]) == (
        result["tuned"]["size_bytes"],
        result["baseline"]["size_bytes"],
    )
    assert (row["trials"], row["seconds"]) == (4, result["seconds"]["total"])
    assert (row["report"], row["id"], row["problem"]) == (True, "id of x/y", "")


def test_a_run_that_failed_or_was_interrupted_says_why(ended, root):
    ended("interrupted", stop_reason="interrupted")
    broken = root / "sweep" / "0"
    broken.mkdir(parents=True)
    write_json(
        broken / "result.json", failed({"strategy": "basic", "model": {"name": "onnx"}}, "data.path: is missing")
    )
    found = rows(root)
    assert (found["interrupted"]["status"], found["interrupted"]["remark"]) == ("met", "it was interrupted")
    row = found["sweep/0"]
    assert (row["status"], row["problem"], row["model"], row["speedup"]) == (
        "failed",
        "data.path: is missing",
        "onnx",
        None,
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "result.json cannot be read (Expecting value"),
        ('{"status": "met", "speedup', "result.json cannot be read (Unterminated string"),
        (b"\xff\xfe\x00", "result.json cannot be read ("),
        ("[1, 2]", "result.json does not hold a mapping"),
        ("{}", "result.json does not hold what a run writes ('status' is missing)"),
        ('{"status": "done", "strategy": "x"}', "result.json does not hold what a run writes (status 'done')"),
        ("[" * 100_000, "result.json cannot be read ("),
    ],
)
def test_a_torn_or_foreign_result_is_a_row_that_says_so(ended, root, text, problem):
    ended("whole")
    (root / "torn").mkdir()
    (root / "torn" / "result.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    found = rows(root)
    assert found["whole"]["status"] == "met"
    assert found["torn"]["status"] == "unreadable"
    assert found["torn"]["problem"].startswith(problem)


@pytest.mark.parametrize(
    "changes",
    [
        {"speedup": "fast"},
        {"speedup": 0},
        {"speedup": float("nan")},
        {"speedup": float("inf")},
        {"speedup": True},
        {"speedup_ci95": [1.0]},
        {"speedup_ci95": None},
        {"tuned": [1]},
        {"tuned": {"size_bytes": {}}},
        {"goal": {"metric": "top1"}},
        {"goal": "high"},
        {"trials": 7},
        {"seconds": {"total": "long"}},
    ],
)
def test_a_result_with_other_values_is_a_row_that_says_so(ended, root, changes):
    (ended("odd") / "result.json").write_text(json.dumps({**ended.result, **changes}))
    row = rows(root)["odd"]
    assert row["status"] == "unreadable"
    assert row["problem"].startswith("result.json does not hold what a run writes (")
    json.dumps(row, allow_nan=False)


def test_no_link_is_followed_and_no_pipe_is_waited_for(ended, root, tmp_path):
    outside = ended("outside")
    shutil.move(outside, tmp_path / "secret")
    (root / "folder").symlink_to(tmp_path / "secret")
    for name, target in (("file", "result.json"), ("page", "report.html")):
        ended(name)
        (root / name / target).unlink()
        (root / name / target).symlink_to(tmp_path / "secret" / target)
    (root / "pipe").mkdir()
    os.mkfifo(root / "pipe" / "result.json")
    (root / "loop").symlink_to(root)
    (root / "no file" / "result.json").mkdir(parents=True)
    (ended("locked") / ".lock").symlink_to(tmp_path / "secret" / "result.json")
    looking = scanner(root)
    found = {row["name"]: row for row in looking.snapshot().rows}
    assert found.keys() == {"file", "page", "pipe", "locked"}
    assert found["file"]["problem"] == "result.json is a symbolic link, which is not followed, or no folder"
    assert found["pipe"]["problem"] == "result.json is not a regular file"
    assert (found["page"]["status"], found["page"]["report"]) == ("met", False)
    assert found["locked"]["status"] == "met"
    with pytest.raises(scanning.UnreadableError, match="symbolic link"):
        looking.report("id of page")
    # A folder that becomes a link after it was found.
    assert looking.report("id of locked").startswith(b"<!doctype")
    shutil.move(root / "locked", tmp_path / "moved")
    (root / "locked").symlink_to(tmp_path / "moved")
    with pytest.raises(scanning.UnreadableError, match="symbolic link"):
        looking.report("id of locked")
    with pytest.raises(KeyError):
        looking.report("id of secret")


@pytest.fixture
def public():
    """A folder that other users can reach, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="ncs-"))
    folder.chmod(0o755)
    yield folder.resolve()
    (folder / "closed").chmod(0o755)
    shutil.rmtree(folder)


@contextlib.contextmanager
def another_user():
    """Root may read everything, so that it becomes nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_without_rights_is_a_row_that_says_so(ended, public):
    shutil.copytree(ended("a"), public / "open")
    shutil.copytree(public / "open", public / "closed")
    (public / "open" / "result.json").chmod(0o644)
    (public / "open").chmod(0o755)
    (public / "closed").chmod(0)
    with another_user():
        found = rows(public)
    assert found["open"]["status"] == "met"
    assert (found["closed"]["status"], found["closed"]["problem"]) == (
        "unreadable",
        "the folder cannot be read (Permission denied)",
    )


def test_a_configuration_of_another_program_is_no_run(ended, root):
    (root / "app").mkdir()
    (root / "app" / "config.yaml").write_text("debug: true\n")
    killed = ended("killed")
    for name in ("result.json", "trials.jsonl", "analysis.json", "report.html"):
        (killed / name).unlink()
    (root / "torn").mkdir()
    (root / "torn" / "config.yaml").write_text("a: [1,\n")
    found = rows(root)
    assert found.keys() == {"killed", "torn"}
    assert (found["killed"]["status"], found["killed"]["trials"]) == ("unfinished", 0)
    assert found["torn"]["problem"].startswith("config.yaml cannot be read (")


def test_a_journal_is_read_as_far_as_it_is_whole(ended, root):
    run = ended("run")
    (run / "result.json").unlink()
    journal = run / "trials.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    looking = scanner(root)

    def look():
        return looking.snapshot().rows[0]

    journal.write_bytes(lines[0] + lines[1][:50])
    assert (look()["trials"], look()["status"]) == (1, "unfinished")
    with journal.open("ab") as stream:
        stream.write(lines[1][50:] + lines[2])
    row = look()
    assert row["trials"] == 3
    assert row["remark"] == "no result; the same command resumes it"
    assert row["speedup"] > 1
    assert row["goal"][0]["reached"] is not None
    journal.write_bytes(lines[3])  # a new run has begun
    assert look()["trials"] == 1
    journal.write_bytes(lines[0] + b"{}\n" + lines[2])
    assert look()["status"] == "unreadable"
    assert look()["problem"].startswith("trials.jsonl cannot be read in line 2 (")


def test_a_run_is_under_way_while_it_holds_its_lock(ended, root, monkeypatch):
    run = ended("run")
    looking = scanner(root)
    lock = FileLock(run / ".lock")
    asked, clock = [], [1000.0]
    monkeypatch.setattr(scanning.time, "monotonic", lambda: clock[0])
    is_locked = scanning.is_locked
    monkeypatch.setattr(scanning, "is_locked", lambda *args: asked.append(args) or is_locked(*args))

    def status():
        return looking.snapshot().rows[0]["status"]

    assert status() == "met"
    with lock:
        assert (status(), status()) == ("running", "running")  # it resumes: its result is an earlier one
    lock.release()
    assert not (run / ".lock").exists() or status() == "met"
    (run / ".lock").write_text("")  # of a run that was killed
    asked.clear()
    assert [status() for _ in range(5)] == ["met"] * 5
    assert len(asked) == 1
    clock[0] += AT_ONCE.ask_again_seconds + 1
    with lock:
        assert status() == "running"


def test_a_run_that_has_only_its_lock_is_starting(root):
    (root / "new").mkdir()
    (root / "other").mkdir()
    (root / "other" / "file").write_text("")
    with FileLock(root / "new" / ".lock"), FileLock(root / "other" / ".lock"):
        found = rows(root)
    assert found.keys() == {"new"}
    assert (found["new"]["status"], found["new"]["remark"]) == ("running", "before its first trial")
    assert found["new"]["started"] > 0


class Gate(StudyListener):
    """Holds a run up after some trials."""

    def __init__(self, trials):
        self.trials, self.reached, self.go_on = trials, threading.Event(), threading.Event()

    def trial_finished(self, study, trial):
        if len(study.trials) == self.trials:
            analysis.write(study)
            self.reached.set()
            assert self.go_on.wait(60)


def test_a_run_under_way_shows_what_it_has_found_so_far(finished, tmp_path):
    gate = Gate(3)
    done = []
    thread = threading.Thread(target=lambda: done.append(finished("live", listener=gate, max_trials=6)))
    thread.start()
    assert gate.reached.wait(60)
    looking = scanner(tmp_path)
    try:
        (row,) = looking.snapshot().rows
        assert (row["name"], row["status"], row["trials"], row["max_trials"]) == ("live", "running", 3, None)
        assert row["speedup"] > 1
        assert row["speedup_ci95"] is None
        assert row["goal"][0]["asked"] < row["goal"][0]["fp32"]
    finally:
        gate.go_on.set()
        thread.join()
    write(*done[0])
    (row,) = looking.snapshot().rows
    assert (row["status"], row["trials"], row["max_trials"]) == ("met", 6, 6)


def test_many_runs_are_read_once(ended, root, monkeypatch):
    first = ended("0")
    for number in range(1, MANY):
        (root / str(number)).mkdir()
        shutil.copy(first / "result.json", root / str(number))
    looking = scanner(root)
    assert len(looking.snapshot().rows) == MANY
    monkeypatch.setattr(scanning, "read_file", lambda *_: pytest.fail("a file that has not changed is read again"))
    before = looking.snapshot().rows
    assert len(before) == MANY
    shutil.rmtree(root / "7")
    assert len(looking.snapshot().rows) == MANY - 1
    assert "id of 7" not in looking.identifiers()


def test_what_is_beyond_the_limits_is_left_out_and_said(ended, root):
    for name in "abcd":
        ended(name)
    found = scanner(root, ScanRules(runs=2, least_seconds=0.0)).snapshot()
    assert len(found.rows) == 2
    assert "The search ended after" in found.notes[0]
    found = scanner(root, ScanRules(file_bytes=100, least_seconds=0.0)).snapshot()
    assert {row["problem"] for row in found.rows} == {"result.json is larger than 0 MiB"}


def test_scans_take_a_small_share_of_the_time(ended, root, monkeypatch):
    ended("a")
    looking = scanner(root, ScanRules(least_seconds=1.0, time_share=0.1))
    clock = [0.0]
    monkeypatch.setattr(scanning.time, "monotonic", lambda: clock[0])
    scan, scans = looking._scan, []

    def slow():
        scans.append(clock[0])
        clock[0] += 2.0
        return scan()

    monkeypatch.setattr(looking, "_scan", slow)
    while clock[0] < 60:
        looking.snapshot()
        clock[0] += 0.5
    assert len(scans) == 3  # 2 s each, and 20 s apart


def test_names_that_are_not_text_are_rows_too(ended, root):
    ended("a")
    os.rename(os.fsencode(root / "a"), os.fsencode(root) + b"/\xff\n<b>")
    (row,) = scanner(root).snapshot().rows
    assert json.loads(json.dumps(row))["status"] == "met"
