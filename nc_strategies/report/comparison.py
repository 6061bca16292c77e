"""What a sweep leaves: a row a run, as text, data and a page."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from nc_strategies.report.result import write_json
from nc_strategies.report.table import COLUMNS, row
from nc_strategies.study.folder import RESULT, write_atomically

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>nc_strategies comparison</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .35rem .75rem; border-bottom: 1px solid #8886; text-align: right; white-space: nowrap; }}
th:nth-child(-n+2), td:nth-child(-n+2), th:last-child, td:last-child {{ text-align: left; }}
</style></head><body><main><h1>Comparison</h1>
<div class="scroll" tabindex="0" role="region" aria-label="Comparison table"><table>
<thead><tr>{head}</tr></thead><tbody>
{rows}
</tbody></table></div></main></body></html>
"""


def collect(folder: Path) -> list[dict[str, Any]]:
    """Results of the jobs of a sweep, in the order of their numbers."""
    def number(path: Path) -> tuple[int, str]:
        name = path.parent.name
        return (int(name), "") if name.isdigit() else (10**9, name)

    found = sorted(folder.glob(f"*/{RESULT}"), key=number)
    return [{**json.loads(path.read_text()), "run": path.parent.name} for path in found]


def write(folder: Path, results: list[dict[str, Any]]) -> None:
    """Write ``comparison.md``, ``comparison.json`` and ``comparison.html``."""
    cells = [row(result) for result in results]
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells]
    write_atomically(folder / "comparison.md", "\n".join(lines) + "\n")
    write_json(folder / "comparison.json", results)
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in COLUMNS)
    body = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in cells)
    write_atomically(folder / "comparison.html", PAGE.format(head=head, rows=body))
