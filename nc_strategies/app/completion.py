"""``nc-strategies completion``: a script that completes commands, their flags and files, and the keys of a run.

The commands beside a run are parsed by argparse, for which `shtab` writes the script. The keys of a run are Hydra's:
the program is asked for them each time, because they follow from what was chosen before.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nc_strategies.app.entry import COMMANDS
from nc_strategies.errors import InputError, first_line
from nc_strategies.registry import registry
from nc_strategies.registry.component import KINDS

FOLDERS = ("run_dir", "run_dirs", "folder")
"""Arguments that are folders."""
BASH = """
_nc_strategies_run() {
  # Keys, options and files of a run. The line is read anew: bash may have cut it at each "=".
  local line="${COMP_LINE:0:COMP_POINT}" word choice choices=() found=()
  word="${line##*[[:space:]]}"
  read -r -a choices <<<"$(COMP_LINE="$line" COMP_POINT="$COMP_POINT" "${COMP_WORDS[0]}" -sc query=bash 2>/dev/null)"
  for choice in "${choices[@]}"; do
    [[ "$choice" == "$word"* ]] && found+=("$choice")
  done
  if [[ ${#found[@]} -eq 0 && "$word" == *=* ]]; then
    compopt -o filenames
    while IFS= read -r choice; do found+=("${word%%=*}=$choice"); done < <(compgen -f -- "${word#*=}")
  fi
  if [[ "$word" == *=* && "$COMP_WORDBREAKS" == *=* ]]; then
    found=("${found[@]#"${word%"${word##*=}"}"}")
  fi
  for choice in "${found[@]}"; do
    [[ "$choice" == *[=.] ]] && compopt -o nospace
    COMPREPLY+=("$choice")
  done
}

_nc_strategies() {
  COMPREPLY=()
  if [[ $COMP_CWORD -gt 1 && " @COMMANDS@ " == *" ${COMP_WORDS[1]} "* ]]; then
    _shtab_nc_strategies
    return
  fi
  if [[ $COMP_CWORD -eq 1 ]]; then
    local choice
    while IFS= read -r choice; do COMPREPLY+=("$choice"); done < <(compgen -W "@COMMANDS@" -- "${COMP_WORDS[1]}")
  fi
  _nc_strategies_run
}

complete -F _nc_strategies nc-strategies
"""
ZSH = """
_nc_strategies_run() {
  # Keys, options and files of a run, of which the program is asked.
  local line="${(j: :)words[1,CURRENT]}" choices
  choices=("${(@s: :)$(COMP_LINE="$line" COMP_POINT="${#line}" ${words[1]} -sc query=bash 2>/dev/null)}")
  choices=("${(@M)choices:#${words[CURRENT]}*}")
  if [[ ${#choices} -gt 0 && -n "${choices[1]}" ]]; then
    compadd -Q -S '' -- "${choices[@]}"
  elif [[ "${words[CURRENT]}" == *=* ]]; then
    compset -P '*=' && _files
  fi
}

_nc_strategies() {
  local -a commands=(@COMMANDS@)
  if [[ CURRENT -gt 2 && ${commands[(Ie)${words[2]}]} -gt 0 ]]; then
    _shtab_nc_strategies "$@"
    return
  fi
  [[ CURRENT -eq 2 ]] && compadd -- $commands
  _nc_strategies_run
}

compdef _nc_strategies nc-strategies
"""
SHELLS = {"bash": BASH, "zsh": ZSH}
"""Shell to the functions that choose between the commands beside a run, and the run."""


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """The script that a shell reads.

    Args:
        shell: One of `SHELLS`.
        parser: The parser of the commands beside a run. It must not be used to parse after this.

    Raises:
        InputError: the shell is not known, or shtab is not installed.
    """
    if shell not in SHELLS:
        raise InputError("SHELL", f"is {shell!r}", ", ".join(SHELLS))
    try:
        import shtab
    except ImportError as error:
        raise InputError(
            "completion",
            f"a package is missing ({first_line(error)})",
            "pip install 'nc-strategies[completion]'",
        ) from None
    for action in _actions(parser):
        _describe(action, shtab)
    return str(shtab.complete(parser, shell)) + SHELLS[shell].replace("@COMMANDS@", " ".join(COMMANDS))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from _actions(each)


def _describe(action: argparse.Action, shtab: Any) -> None:
    """Tell shtab which arguments are files or folders, and which names there are."""
    names = {
        "backend": registry().names("backend"),
        "kind": list(KINDS),
        "shell": list(SHELLS),
        "config": ["int8", "tuned"],
        "format": ["onnx", "saved_model"],
    }
    if action.type is Path or action.dest in ("model", "data", "ssh_config"):
        # argparse has no attribute for this; shtab reads it.
        action.complete = shtab.DIRECTORY if action.dest in FOLDERS else shtab.FILE  # type: ignore[attr-defined]
    elif action.dest in names and action.choices is None:
        action.choices = names[action.dest]
