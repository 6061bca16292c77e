"""``nc-strategies init``: a folder to start with, from four answers.

`questions` asks, `choices` turns the answers into the settings of a run, `texts` writes them as files, and `files` puts
these into the folder.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from nc_strategies.app.starting_folder import files, questions, texts
from nc_strategies.app.starting_folder.questions import Answers, Console

__all__ = ["Answers", "Console", "init", "start_line"]


def init(folder: Path, answers: Answers, replace: bool = False, console: Console | None = None) -> list[Path]:
    """Ask what the answers leave open, and write the folder.

    Args:
        folder: The folder; it is made where there is none.
        answers: Answers given in advance.
        replace: Whether files that are there are replaced.
        console: Where the questions are asked.

    Returns:
        The files that were written.

    Raises:
        InputError: an answer cannot be used or is missing, or the folder cannot be written; nothing was changed then.
    """
    files.check_folder(folder, texts.NAMES, replace)
    choices = questions.plan(answers, console or Console())
    return files.write_folder(folder, texts.texts(choices, folder), replace)


def start_line(folder: Path) -> str:
    """The command that starts the run of a folder."""
    return shlex.quote(str(folder / texts.RUN) if folder.is_absolute() else f"./{folder / texts.RUN}")
