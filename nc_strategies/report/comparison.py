"""The comparison of a sweep: one row per run, as text, data and a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nc_strategies.report import engines, page
from nc_strategies.report.result import write_json
from nc_strategies.report.table import cells, columns
from nc_strategies.runtime.files import write_atomically
from nc_strategies.study.folder import RESULT


def collect(folder: Path) -> list[dict[str, Any]]:
    """Results of a sweep's jobs, in the order of their numbers."""

    def number(path: Path) -> tuple[int, str]:
        name = path.parent.name
        return (int(name), "") if name.isdigit() else (10**9, name)

    found = sorted(folder.glob(f"*/{RESULT}"), key=number)
    return [{**json.loads(path.read_text()), "run": path.parent.name} for path in found]


def write(folder: Path, results: list[dict[str, Any]], compared: Mapping[str, Any] = engines.NOTHING) -> None:
    """Write ``comparison.md``, ``comparison.json`` and, with the packages for pages, ``comparison.html``.

    Args:
        folder: The sweep's folder.
        results: Results of its jobs, see `collect`.
        compared: The comparison across engines, which is written to ``engines.json`` too; no groups without one.
    """
    if compared["groups"]:
        engines.write(folder, compared)
    else:
        (folder / engines.FILE).unlink(missing_ok=True)  # of an earlier sweep, whose runs were others
    names = columns(results)
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells(results)]
    write_atomically(folder / "comparison.md", "\n".join(lines) + "\n" + engines.markdown(compared))
    measured = engines.by_run(compared)
    rows = [{**r, "compared": measured[r["run"]]} if r.get("run") in measured else r for r in results]
    write_json(folder / "comparison.json", rows)
    if not page.missing():
        page.write_comparison(folder, results)
