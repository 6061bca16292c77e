"""The files of docs/plugin-tutorial.md, taken from its text."""

from __future__ import annotations

import re
from pathlib import Path

FILE = re.compile(r"^`([\w./-]+\.\w+)`(?:[^\n]|\n(?!`|\n))*\n\n```\w+\n(.*?)```$", re.MULTILINE | re.DOTALL)
SECTIONS = {"nc-strategies-mine": "## A strategy in 20 lines", "nc-strategies-minebackend": "## A backend"}


def files(text: str) -> dict[str, dict[str, str]]:
    """Each distribution's files: name to content."""
    found = {}
    for name, heading in SECTIONS.items():
        section = text.split(heading)[1].split("\n## ")[0]
        found[name] = dict(FILE.findall(section))
    return found


def write(text: str, folder: Path) -> list[Path]:
    """Make the distributions; returns their folders."""
    for name, held in files(text).items():
        for path, content in held.items():
            place = folder / name / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content)
    return [folder / name for name in SECTIONS]
