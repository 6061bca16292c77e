"""The run's folder under attack: two runs at once, a disk that is full, one that takes no writing any more."""

import os
import shutil
import subprocess

import pytest

FULL_MB = 1
SLOW = ["strategy=random", "backend.trial_seconds=0.1", "tuning.max_trials=1000", "run_dir=run"]
"""A run that does not end before it is made to."""


def files(folder):
    return {
        p.relative_to(folder): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name not in ("trials.jsonl", "nc_strategies.log")
    }


def test_a_second_run_in_the_folder_is_refused_and_touches_nothing(lab, tools):
    first = lab.start(*lab.toy(*SLOW))
    tools.wait_for(lambda: len(lab.journal()) >= 1)
    before = files(lab.folder / "run")
    status, out, err = lab.run(*lab.toy(*SLOW))
    assert first.poll() is None
    assert (status, out) == (2, "")
    assert "another run is at work in run" in err
    assert len(err.splitlines()) == 1
    assert files(lab.folder / "run") == before
    first.terminate()
    first.communicate(timeout=120)
    assert first.returncode == 130
    assert not (lab.folder / "run" / ".lock").exists()


def test_a_killed_run_leaves_no_lock_that_counts(lab, tools):
    first = lab.start(*lab.toy(*SLOW))
    tools.wait_for(lambda: len(lab.journal()) >= 2)
    first.kill()
    first.communicate()
    assert (lab.folder / "run" / ".lock").exists()
    done = len(lab.journal())
    status, _, err = lab.run(*lab.toy(*SLOW, f"tuning.max_trials={done + 2}"))
    assert status in (0, 3), err
    assert [line["number"] for line in lab.journal()] == list(range(1, done + 3))
    assert lab.result()["trials"]["resumed"] == done


@pytest.fixture
def disk(lab):
    """A small file system of its own in the place of the run's folder's parent."""
    place = lab.folder / "disk"
    place.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a file system needs root")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("way", ["full", "read-only"])
def test_a_disk_that_fails_in_mid_run_is_one_clear_error_and_the_run_resumes(lab, tools, disk, way):
    more = [*SLOW[:-1], "run_dir=disk/run"]
    process = lab.start(*lab.toy(*more))
    tools.wait_for(lambda: len(lab.journal("disk/run")) >= 2)
    if way == "full":
        _fill(disk / "ballast")
    else:
        frozen = subprocess.run(["chattr", "+i", str(disk / "run" / "trials.jsonl")], capture_output=True, check=False)
        if frozen.returncode:
            process.kill()
            process.communicate()
            pytest.skip("this file system has no immutable files, and root may write all others")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert len(err.splitlines()) == 1, err
    assert "trials.jsonl cannot be written (" in err
    kept = lab.journal("disk/run")
    assert (disk / "run" / "trials.jsonl").read_bytes().endswith(b"\n")
    if way == "full":
        (disk / "ballast").unlink()
    else:
        subprocess.run(["chattr", "-i", str(disk / "run" / "trials.jsonl")], check=True)
    status, _, err = lab.run(*lab.toy(*more, f"tuning.max_trials={len(kept) + 2}"))
    assert status in (0, 3), err
    again = lab.journal("disk/run")
    assert again[: len(kept)] == kept
    assert len(again) == len({line["fingerprint"] for line in again}) == len(kept) + 2


def _fill(path):
    with path.open("wb", buffering=0) as stream:
        for size in (1 << 16, 1 << 10, 64, 1):
            try:
                while True:
                    stream.write(b"\0" * size)
            except OSError:
                continue


def test_other_versions_are_told_and_noted(lab):
    assert lab.run(*lab.toy("tuning.max_trials=2", "run_dir=run"))[0] in (0, 3)
    config = lab.folder / "run" / "config.yaml"
    config.write_text(config.read_text().replace("  numpy: ", "  numpy: 0."))
    status, _, err = lab.run(*lab.toy("tuning.max_trials=3", "run_dir=run"))
    assert status in (0, 3), err
    assert list(lab.result()["earlier_versions"]) == ["numpy"]
    assert "were measured with numpy 0." in lab.log()
