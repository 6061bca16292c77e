"""Draw the decision of docs/worth-it.md and write its table, from the measured figures in worth.json.

usage: python benchmarks/worth.py [--check]
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
FIGURES = Path(__file__).with_suffix(".json")
PAGE = ROOT / "docs" / "worth-it.md"
PICTURE = ROOT / "docs" / "images" / "worth-it.svg"
MARKERS = (
    "<!-- figures: begin, written by benchmarks/worth.py -->",
    "<!-- figures: end, written by benchmarks/worth.py -->",
)

ENGINES = {"onnxruntime": "ONNX Runtime", "tensorflow": "TensorFlow"}

Work = Literal["large", "small"]


@dataclass(frozen=True)
class Row:
    """One measured model.

    Args:
        model: The model.
        work: What takes the time: large convolutions and products, or small, recurrent or sensitive operators.
        engine: The backend.
        machine: The processor, as the source names it.
        speedup: How many times as fast as fp32.
        interval: Its 95 % interval; None where the source has none.
        met: Whether the run met its goal of accuracy and speed; None where no run had one.
        source: Page and anchor below docs/ that report it; None for a single measurement that no page reports.
    """

    model: str
    work: Work
    engine: str
    machine: str
    speedup: float
    interval: tuple[float, float] | None
    met: bool | None
    source: str | None

    @property
    def text(self) -> str:
        """The speed-up with its interval."""
        inside = "" if self.interval is None else f" ({self.interval[0]:.2f}-{self.interval[1]:.2f})"
        return f"{self.speedup:.2f}{inside}"


@dataclass(frozen=True)
class Processors:
    """The rows of one class of processors, and the names by which it is recognized."""

    name: str
    hint: str
    rows: Sequence[Row]

    def span(self, work: Work) -> str:
        """The range of the speed-ups of one kind of work."""
        found = sorted(row.speedup for row in self.rows if row.work == work)
        return f"{found[0]:.1f} to {found[-1]:.1f} times" if found else "not measured"


def read(path: Path = FIGURES) -> list[Processors]:
    """Read the figures.

    Raises:
        ValueError: a row has neither a readable time nor a speed-up.
    """
    return [
        Processors(group["name"], group["hint"], [_row(row) for row in group["rows"]])
        for group in json.loads(path.read_text(encoding="utf-8"))["classes"]
    ]


def _row(row: dict[str, str | bool | None]) -> Row:
    interval = None
    if "time" in row:
        found = re.fullmatch(r"([\d.]+)(?: \(([\d.]+)-([\d.]+)\))?", str(row["time"]))
        if found is None:
            raise ValueError(f"{row['model']}: time is {row['time']!r}, not like '0.348 (0.342-0.354)'")
        speedup = 1 / float(found[1])
        if found[2]:
            interval = 1 / float(found[3]), 1 / float(found[2])
    else:
        speedup = float(str(row["speedup"]))
    source = row["source"]
    return Row(
        model=str(row["model"]),
        work="large" if row["work"] == "large" else "small",
        engine=str(row["engine"]),
        machine=str(row["machine"]),
        speedup=speedup,
        interval=interval,
        met=None if row["met"] is None else bool(row["met"]),
        source=None if source is None else str(source),
    )


# --- the table


def table(groups: Sequence[Processors]) -> str:
    """The figures as a table of Markdown."""
    lines = [
        "| processor | model | engine | times as fast as fp32 (95 %) | goal | figures |",
        "| --- | --- | --- | ---: | --- | --- |",
    ]
    for group in groups:
        for row in group.rows:
            source = "single measurement" if row.source is None else f"[{row.source.partition('.')[0]}]({row.source})"
            goal = "" if row.met is None else "met" if row.met else "missed"
            lines.append(f"| {row.machine} | {row.model} | {ENGINES[row.engine]} | {row.text} | {goal} | {source} |")
    return "\n".join(lines)


def page(text: str, groups: Sequence[Processors]) -> str:
    """The page with its table replaced.

    Raises:
        ValueError: the page lacks the marks around the table.
    """
    before, begin, rest = text.partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    if not begin or not end:
        raise ValueError(f"{PAGE.name} lacks the lines {MARKERS[0]!r} and {MARKERS[1]!r}")
    return f"{before}{begin}\n\n{table(groups)}\n\n{end}{after}"


# --- the picture


@dataclass(frozen=True)
class Style:
    """Sizes in pixels of the picture, and colours that can be told apart in grey too."""

    width: int = 800
    left: int = 16
    question: int = 370  # width of a question; its answer stands to the right of it
    gap: int = 48
    box: int = 76
    step: int = 106
    line: int = 17
    bar: int = 22
    label: int = 250  # room for the names of models
    longest: float = 4.0  # speed-up at the right end of the axis
    ink: str = "#1f2933"
    pale: str = "#52606d"
    ask: str = "#e3eefa"
    stop: str = "#fbe3df"
    go: str = "#dff3e4"
    gain: str = "#2f7d4f"
    none: str = "#c0483a"


STYLE = Style()


def _text(x: float, y: float, text: str, *, size: int = 13, bold: bool = False, ink: str = STYLE.ink) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{ink}"{weight}>{escape(text)}</text>'


def _box(x: float, y: float, width: float, colour: str, lines: Sequence[str]) -> str:
    found = [
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{STYLE.box}" rx="6" fill="{colour}" '
        f'stroke="{STYLE.pale}"/>'
    ]
    top = y + (STYLE.box - STYLE.line * len(lines)) / 2 + 13
    for number, line in enumerate(lines):
        found.append(_text(x + 12, top + number * STYLE.line, line, bold=number == 0))
    return "\n".join(found)


def _arrow(x1: float, y1: float, x2: float, y2: float, label: str, *, beside: bool) -> str:
    place = (x1 + 8, (y1 + y2) / 2 + 5) if beside else (x1 + 6, y1 - 6)
    return (
        f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{STYLE.pale}" stroke-width="1.5" '
        f'marker-end="url(#head)"/>\n{_text(*place, label, size=12, ink=STYLE.pale)}'
    )


def steps(groups: Sequence[Processors]) -> list[tuple[list[str], str, list[str], str]]:
    """The decision: question, the answer that leads to the right, what stands there, the answer that leads on."""
    first, second = groups[:2]
    return [
        (
            [
                "nc-strategies inspect MODEL",
                "Can the convolutions and matrix products,",
                "which take the time, be int8?",
            ],
            "no",
            ["Not for speed.", "Smaller files: metrics=accuracy_size", "Other engines have other kernels"],
            "yes",
        ),
        (
            ["nc-strategies machine", "How large is the int8 ceiling of the processor", "that will serve the model?"],
            "< 1.1",
            ["Not on this processor.", "Try the other engines, or tune for the machine", "that serves: measure.target"],
            "1.1 or more",
        ),
        (
            [
                "What takes the time?",
                "Large convolutions and matrix products, or",
                "small, recurrent and sensitive operators?",
            ],
            "small",
            [
                "Try it with a limit: tuning.timeout=120",
                f"{first.name}: {first.span('small')}",
                f"{second.name}: {second.span('small')}",
            ],
            "large",
        ),
        (
            [
                "Worth it. Expect from the figures below:",
                f"{first.name}: {first.span('large')}",
                f"{second.name}: {second.span('large')}",
            ],
            "then",
            ["plan=true", "says how long a run takes here, and whether", "your samples can resolve the goal"],
            "",
        ),
    ]


def _decision(groups: Sequence[Processors]) -> tuple[list[str], float]:
    """The boxes and arrows, and the height that they take."""
    found: list[str] = []
    right = STYLE.left + STYLE.question + STYLE.gap
    questions = steps(groups)
    for number, (question, aside, answer, onwards) in enumerate(questions):
        y = 16 + number * STYLE.step
        last = number == len(questions) - 1
        found.append(_box(STYLE.left, y, STYLE.question, STYLE.go if last else STYLE.ask, question))
        found.append(_box(right, y, STYLE.width - right - 16, STYLE.ask if number >= 2 else STYLE.stop, answer))
        middle = y + STYLE.box / 2
        found.append(_arrow(STYLE.left + STYLE.question, middle, right - 2, middle, aside, beside=False))
        if not last:
            x = STYLE.left + 60
            found.append(_arrow(x, y + STYLE.box, x, y + STYLE.step - 2, onwards, beside=True))
    return found, 16 + len(questions) * STYLE.step


def _bars(groups: Sequence[Processors], top: float) -> tuple[list[str], float]:
    """The measured speed-ups as bars with their intervals, and the lower end of them."""
    start, end = STYLE.left + STYLE.label, STYLE.width - 60

    def place(speedup: float) -> float:
        return start + (end - start) * speedup / STYLE.longest

    found = [_text(STYLE.left, top + 14, "Times as fast as fp32, as measured", size=15, bold=True)]
    y = top + 30.0
    for group in groups:
        found.append(_text(STYLE.left, y + 15, f"{group.name} ({group.hint})", size=12, bold=True, ink=STYLE.pale))
        y += STYLE.bar
        for row in group.rows:
            middle = y + STYLE.bar / 2
            gains = row.met or (row.met is None and row.speedup > 1)
            colour = STYLE.gain if gains else STYLE.none
            found.append(_text(STYLE.left, middle + 4, row.model, size=12))
            found.append(
                f'<rect x="{start}" y="{middle - 6:g}" width="{place(row.speedup) - start:.1f}" height="12" '
                f'fill="{colour}" fill-opacity="{0.85 if row.engine == "onnxruntime" else 0.5}"/>'
            )
            far = row.speedup
            if row.interval is not None:
                low, far = row.interval
                found.append(
                    f'<line x1="{place(low):.1f}" x2="{place(far):.1f}" y1="{middle:g}" y2="{middle:g}" '
                    f'stroke="{STYLE.ink}" stroke-width="2"/>'
                )
            note = f"{row.speedup:.2f}{', missed' if row.met is False else ''}"
            found.append(_text(place(far) + 6, middle + 4, note, size=12))
            y += STYLE.bar
        y += 6
    one = place(1.0)
    found.append(
        f'<line x1="{one:.1f}" x2="{one:.1f}" y1="{top + 28:g}" y2="{y:g}" stroke="{STYLE.pale}" '
        f'stroke-dasharray="4 3"/>'
    )
    found.append(_text(one - 10, y + 14, "fp32", size=12, ink=STYLE.pale))
    note = "Dark bars: ONNX Runtime. Pale bars: TensorFlow. Black lines: 95 % intervals. Red: no faster than fp32."
    found.append(_text(STYLE.left, y + 34, note, size=12, ink=STYLE.pale))
    return found, y + 48


def picture(groups: Sequence[Processors]) -> str:
    """The decision and the figures behind it as SVG, on a ground of its own, for light and dark pages."""
    decision, height = _decision(groups)
    bars, height = _bars(groups, height)
    body = "\n".join([*decision, *bars])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {STYLE.width} {height:g}" '
        f'font-family="system-ui, Helvetica, Arial, sans-serif" role="img">\n'
        "<title>Is int8 worth it for a model?</title>\n"
        f'<defs><marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{STYLE.pale}"/></marker></defs>\n'
        f'<rect width="{STYLE.width}" height="{height:g}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def main() -> None:
    """Write the picture and the table, or with ``--check`` say whether they are those of the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if anything would change")
    arguments = parser.parse_args()
    groups = read()
    wanted = {PICTURE: picture(groups), PAGE: page(PAGE.read_text(encoding="utf-8"), groups)}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    names = ", ".join(path.relative_to(ROOT).as_posix() for path in stale)
    if arguments.check and stale:
        raise SystemExit(f"not up to date: {names}; run python benchmarks/worth.py")
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")
    print(f"written: {names}" if stale else "up to date")


if __name__ == "__main__":
    main()
