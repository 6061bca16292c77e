"""Temporary folders outlive neither their process nor the next one."""

import os
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from nc_strategies.runtime.scratch import NEW_SECONDS, ScratchFolder

HOLD = """
from nc_strategies.runtime.scratch import ScratchFolder
folder = ScratchFolder("ncs-test-")
(folder.path / "weights.bin").write_bytes(bytes(1000))
print(folder.path, flush=True)
try:
    input()
except EOFError:
    pass
"""


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def aged(path):
    then = time.time() - 2 * NEW_SECONDS
    os.utime(path, (then, then))
    return path


@pytest.fixture
def other(place):
    """A process that holds a folder, and the folder, which looks old."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(place)},
    )
    yield process, aged(place / os.path.basename(process.stdout.readline().strip()))
    process.kill()
    process.communicate()


def test_a_folder_is_removed_with_its_contents(place):
    folder = ScratchFolder("ncs-test-")
    (folder.path / "file").write_text("x")
    folder.remove()
    folder.remove()
    assert list(place.iterdir()) == []


def test_the_folder_of_a_killed_process_is_removed_by_the_next_one(other):
    process, left = other
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder = ScratchFolder("ncs-test-")
    assert not left.exists()
    assert folder.path.exists()
    folder.remove()


def test_the_end_of_a_process_removes_its_folder(other):
    process, left = other
    process.communicate()
    assert not left.exists()


def test_the_folder_of_a_running_process_stays(other):
    _, held = other
    ScratchFolder("ncs-test-").remove()
    assert (held / "weights.bin").exists()


def test_a_folder_that_may_not_be_locked_yet_or_has_another_name_stays(place):
    new, foreign = place / "ncs-test-new", place / "ncs-other"
    new.mkdir()
    foreign.mkdir()
    aged(foreign)
    ScratchFolder("ncs-test-").remove()
    assert new.exists()
    assert foreign.exists()
