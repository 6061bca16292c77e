"""Completion in real shells: commands, their flags and files, and the keys of a run."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys

import pytest

from nc_strategies.app import commands
from nc_strategies.app.completion import script
from nc_strategies.app.entry import COMMANDS
from nc_strategies.errors import InputError

pytest.importorskip("shtab")
BASH = """
source "$SCRIPT"
compopt() { :; }
ask() {
  COMP_LINE="$1" COMP_POINT=${#1} COMPREPLY=()
  read -ra COMP_WORDS <<<"${1//=/ = }"
  [[ "$1" == *[[:space:]=] ]] && COMP_WORDS+=("")
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  _nc_strategies
  printf '%s\\n' "${COMPREPLY[*]}"
}
"""
ZSH = """
compdef() { : }
compadd() { while [[ $1 != -- ]]; do shift; done; shift; found+=($@) }
compset() { : }
_files() { found+=(FILES) }
source $SCRIPT
ask() {
  local found=()
  words=(${=1})
  [[ $1 == *' ' ]] && words+=('')
  CURRENT=$#words
  _nc_strategies
  print -r -- $found
}
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scripts")
    for shell in ("bash", "zsh"):
        (folder / shell).write_text(script(shell, commands.parser()))
    return folder


def answers(shell, definitions, scripts, environment, cwd, lines):
    """What is proposed for each line."""
    asked = "\n".join(f"ask {shlex.quote(line)}" for line in lines)
    options = ["--noprofile", "--norc"] if shell == "bash" else ["-f"]
    done = subprocess.run(
        [shell, *options, "-c", f"{definitions}{asked}\n"],
        cwd=cwd,
        env={**environment, "SCRIPT": str(scripts / shell)},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def test_bash_completes_commands_flags_files_and_keys(scripts, environment, tmp_path):
    for name in ("model.onnx", "models.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "mine").mkdir()
    lines = {
        "nc-strategies inspect --tr": ["--trust"],
        "nc-strategies inspect --backend tens": ["tensorflow"],
        "nc-strategies inspect mod": ["model.onnx", "models.txt"],
        "nc-strategies explain m": ["mine"],
        "nc-strategies completion z": ["zsh"],
        "nc-strategies backend=tens": ["tensorflow"],
        "nc-strategies backend=onnxruntime model.path=model.": ["model.onnx"],
    }
    found = answers("bash", BASH, scripts, environment, tmp_path, lines)
    assert dict(zip(lines, map(sorted, found), strict=True)) == lines


def test_the_first_word_is_a_command_or_a_key(scripts, environment, tmp_path):
    (found,) = answers("bash", BASH, scripts, environment, tmp_path, ["nc-strategies "])
    assert set(COMMANDS) <= set(found)
    assert {"backend=", "strategy=", "tuning."} <= set(found)


def test_zsh_completes_commands_and_keys(scripts, environment, tmp_path):
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed (apt-get install zsh)")
    lines = ["nc-strategies backend=onnxruntime tuning.tol", "nc-strategies x=1 model.path=./n"]
    found = answers("zsh", ZSH, scripts, environment, tmp_path, lines)
    assert found == [["tuning.tolerable_loss="], ["FILES"]]


def test_a_shell_without_a_script_and_a_missing_package_are_one_line(capsys, monkeypatch):
    assert commands.main(["completion", "tcsh"]) == 2
    assert capsys.readouterr().err == "error: SHELL: is 'tcsh'; bash, zsh\n"
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(InputError, match=r"pip install 'nc-strategies\[completion\]'"):
        script("bash", commands.parser())
