"""The cells of the benchmark, and what is said of them in the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from simulation.cells import Cell, Figures

CELLS = (
    *(Cell("random", 1000, trials, 2000) for trials in (10, 100, 1000, 3000, 10000)),
    *(Cell("random", 1000, 10000, operators) for operators in (10, 100, 500)),
    *(Cell("random", workers, 1000, 2000) for workers in (1, 10, 100)),
    *(Cell("sigopt", *sizes) for sizes in ((1, 100, 100), (10, 100, 100), (100, 300, 2000), (1000, 2500, 2000))),
    *(Cell("ilp", *sizes) for sizes in ((1, 20, 100), (10, 20, 100), (100, 20, 500), (1000, 20, 2000))),
)
Row = tuple[Cell, Figures]
MARK = "<!-- scale {}: {}, written by benchmarks/scale.py -->"


def printed(rows: Sequence[Row]) -> str:
    """All tables as text."""
    return "\n\n".join(f"{name}\n{text}" for name, text in tables(rows).items())


def tables(rows: Sequence[Row]) -> dict[str, str]:
    """Each table of the page by its name, in Markdown."""
    return {
        "workers": _table(
            ("strategy", "operators", "trials", "workers", "at once", "idle, %", "of ideal rate, %"),
            (
                (
                    cell.strategy,
                    f"{cell.operators:,}",
                    f"{found.trials:,}",
                    f"{cell.workers:,}",
                    f"{found.open:,}",
                    "" if found.idle is None else f"{100 * found.idle:.2f}",
                    f"{100 * found.throughput:.0f}",
                )
                for cell, found in rows
            ),
        ),
        "costs": _table(
            ("strategy", "operators", "trials", "workers", "tuner, ms", "page, ms", "strategy, ms", "memory, kB"),
            (
                (
                    cell.strategy,
                    f"{cell.operators:,}",
                    f"{found.trials:,}",
                    f"{cell.workers:,}",
                    f"{found.tuner_ms:.2f}",
                    f"{found.page_ms:.2f}",
                    f"{found.strategy_ms:.2f}",
                    f"{found.memory_kb:.1f}",
                )
                for cell, found in rows
            ),
        ),
        "files": _table(
            ("strategy", "operators", "trials", "journal, MB", "page, MB", "last page, s", "read, s", "replay, s"),
            (
                (
                    cell.strategy,
                    f"{cell.operators:,}",
                    f"{found.trials:,}",
                    f"{found.journal_bytes / 1e6:.2f}",
                    f"{found.page_bytes / 1e6:.2f}",
                    f"{found.last_page_s:.2f}",
                    f"{found.resume_read_s:.2f}",
                    f"{found.resume_replay_s:.2f}",
                )
                for cell, found in rows
            ),
        ),
    }


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw the idle share against workers, and the tuner's time and memory against trials."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for strategy, color in zip(("random", "sigopt", "ilp"), ("#9ecae1", "#4292c6", "#08306b"), strict=True):
        best: dict[int, tuple[int, float]] = {}
        for cell, found in rows:
            if (
                cell.strategy == strategy
                and found.idle is not None
                and found.trials >= best.get(cell.workers, (0, 0.0))[0]
            ):
                best[cell.workers] = (found.trials, found.idle)
        at = sorted(best)
        left.plot(at, [100 * best[workers][1] for workers in at], "o-", color=color, label=strategy)
    left.set(xscale="log", xlabel="workers", ylabel="idle, %", title="Workers without a trial", ylim=(-2, 102))
    left.legend()
    grown = sorted(
        (found.trials, found)
        for cell, found in rows
        if cell.strategy == "random" and cell.operators == 2000 and cell.workers == 1000 and found.trials >= 100
    )
    right.plot([n for n, _ in grown], [found.tuner_ms for _, found in grown], "o-", color="#08306b", label="tuner, ms")
    read = [(found.resume_read_s + found.resume_replay_s) / n * 1e3 for n, found in grown]
    right.plot([n for n, _ in grown], read, "s-", color="#4292c6", label="resume, ms")
    right.axhline(2.0, color="gray", linestyle="--", linewidth=1)
    right.set(xscale="log", xlabel="trials", title="Processor time per trial, 2,000 operators", ylim=(0, 2.5))
    right.legend()
    for axis in (left, right):
        axis.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write_docs(rows: Sequence[Row], docs: Path) -> None:
    """Replace the tables of ``scale.md``, and the plot.

    Raises:
        SystemExit: the page has no marks for a table.
    """
    path = docs / "scale.md"
    page = path.read_text(encoding="utf-8")
    image = "![Idle share by number of workers, and processor time per trial by number of trials](images/scale.png)"
    for name, text in {"plot": image, **tables(rows)}.items():
        begin, end = MARK.format(name, "begin"), MARK.format(name, "end")
        pattern = re.compile(re.escape(begin) + r".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(page):
            raise SystemExit(f"{path} has no marks {begin!r} and {end!r}")
        page = pattern.sub(f"{begin}\n\n{text}\n\n{end}", page)
    path.write_text(page, encoding="utf-8")
    plot(rows, docs / "images" / "scale.png")
