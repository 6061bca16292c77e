"""What Hydra refuses on the command line: one line, status 2."""

import subprocess
import sys

import pytest

CASES = {
    "an unknown choice": ("strategy=nope", r"error: strategy: there is no 'nope'; allowed: auto, "),
    "an unknown key": ("tuning.nope=1", r"error: tuning.nope: is not a key; allowed: criterion, "),
    "a wrong type": ("tuning.max_trials=abc", r"error: tuning.max_trials: Value 'abc' "),
    "no assignment": ("nonsense", r"error: nonsense: cannot be read "),
}


@pytest.mark.parametrize(("argument", "line"), CASES.values(), ids=CASES)
def test_what_hydra_refuses_is_one_line_with_status_two(tmp_path, argument, line):
    done = subprocess.run(
        [sys.executable, "-m", "nc_strategies", argument], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(line)
    assert len(done.stderr.splitlines()) == 1
    assert not any(tmp_path.iterdir())
