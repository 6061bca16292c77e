"""Compares strategies on tables, and writes what docs say of it."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from nc_strategies.registry import registry
from strategies.replay import Course, Truth, search
from strategies.table import Table

BUDGETS = (10, 20, 50)
EASY, HARD = "easy", "hard"
JUDGED = 20
"""Budget at which `auto` is judged, and whose figures docs show for each table."""
MOST_WORSE = 0.03
"""Latency by which `auto` may be worse than the best single strategy."""
SAME = 0.005
"""Relative difference in latency that counts as none for ranks."""
LEFT_OUT = frozenset({"bisect"})
"""Strategies of the example plugin, which show how one is written."""
MARKS = "<!-- {} by benchmarks/strategies.py compare -->"


@dataclass(frozen=True)
class Cell:
    """A strategy on a table with one goal and one budget, over all seeds.

    Args:
        table: Name of the table.
        goal: `EASY` or `HARD`.
        strategy: Name of the strategy.
        budget: Trials.
        costs: True latency of the returned model relative to fp32's, by seed; 1, which is fp32, where no trial keeps
            the goal.
        kept: Whether a trial keeps the goal, by seed.
        trials: Trials that were run, by seed.
        to_goal: Number of the first trial that meets the goal, by seed; 0 if none does.
        goal_seconds: Seconds up to its end, by seed; not a number if none does.
        seconds: Seconds of all trials and estimates, by seed.
        thinking: Seconds of the processor that the strategy took, by seed.
        refused: Why the strategy cannot run on the table.
    """

    table: str
    goal: str
    strategy: str
    budget: int
    costs: tuple[float, ...] = ()
    kept: tuple[bool, ...] = ()
    trials: tuple[int, ...] = ()
    to_goal: tuple[int, ...] = ()
    goal_seconds: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()
    thinking: tuple[float, ...] = ()
    refused: str = ""


@dataclass(frozen=True)
class Task:
    """A strategy on a table with one goal: all budgets and seeds, in one process."""

    path: Path
    goal: str
    strategy: str
    seeds: int
    budgets: tuple[int, ...]


@dataclass
class Comparison:
    """All cells, and the facts about each table that docs show."""

    cells: list[Cell] = field(default_factory=list)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)

    def find(self, **wanted: Any) -> list[Cell]:
        """The cells whose fields have these values, without those of strategies that cannot run."""
        return [c for c in self.cells if not c.refused and all(getattr(c, k) == v for k, v in wanted.items())]

    def optimum(self, cell: Cell) -> float:
        """Lowest true latency on the cell's table within its limit."""
        return float(self.tables[cell.table]["goals"][cell.goal]["optimum"])

    @property
    def strategies(self) -> list[str]:
        """Strategies with a cell, in the order of their mean regret at `JUDGED` trials."""
        names = dict.fromkeys(c.strategy for c in self.cells if not c.refused)
        return sorted(names, key=lambda name: self.regret(name, JUDGED)[0])

    def regret(self, strategy: str, budget: int, goal: str | None = None) -> tuple[float, float]:
        """Mean relative distance to the optimum over tables and seeds, and its 95 % half-width over seeds."""
        cells = self.find(strategy=strategy, budget=budget, **({"goal": goal} if goal else {}))
        by_seed = np.array([np.array(c.costs) / self.optimum(c) - 1 for c in cells]).mean(0)
        return mean_and_reach(by_seed.tolist())

    def ranks(self, budget: int) -> dict[str, float]:
        """Mean rank over tables and goals, 1 is best; `SAME` latencies share their ranks."""
        found: dict[str, list[float]] = {}
        for table, goal in {(c.table, c.goal) for c in self.cells}:
            cells = self.find(table=table, goal=goal, budget=budget)
            logs = [math.log(np.mean(c.costs)) for c in cells]
            ranks = stats.rankdata(np.round(np.array(logs) / SAME))
            for cell, rank in zip(cells, ranks.tolist(), strict=True):
                found.setdefault(cell.strategy, []).append(rank)
        return {name: float(np.mean(ranks)) for name, ranks in found.items()}

    def behind(self, strategy: str = "auto", budget: int = JUDGED) -> list[tuple[Cell, Cell, float]]:
        """Each table's and goal's cell of a strategy, the best other cell, and how much worse the former is."""
        found = []
        for cell in self.find(strategy=strategy, budget=budget):
            others = [c for c in self.find(table=cell.table, goal=cell.goal, budget=budget) if c.strategy != strategy]
            best = min(others, key=lambda c: float(np.mean(c.costs)))
            found.append((cell, best, float(np.mean(cell.costs) / np.mean(best.costs) - 1)))
        return sorted(found, key=lambda item: -item[2])

    def to_json(self) -> str:
        """All figures as text."""
        return json.dumps({"tables": self.tables, "cells": [asdict(cell) for cell in self.cells]}, indent=1)


def mean_and_reach(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and the half-width of its 95 % interval by Student's t; 0 for equal values."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    reach = float(stats.t.ppf(0.975, max(len(values) - 1, 1))) * spread / math.sqrt(len(values))
    return float(np.mean(values)), reach


def limits(table: Table) -> dict[str, float]:
    """Tolerable absolute losses of the two goals.

    The easy goal tolerates a hundredth of fp32's value, or what int8 everywhere loses if that is more: any strategy
    keeps it, and the question is who finds a faster model. The hard goal is kept by at most about half of the
    configurations, and int8 everywhere misses it by at least one sample.
    """
    lost = table.losses[~table.failed]
    default = float(table.losses[table.row(table.space.default())])
    one = 1 / len(table.reference) if np.isin(table.scores, (0.0, 1.0)).all() else 1e-6
    return {
        EASY: float(max(0.01 * abs(table.reference.mean()), default)),
        HARD: float(min(np.median(lost), default - one)),
    }


def facts(table: Table) -> dict[str, Any]:
    """What docs show of a table."""
    truth, bounds = Truth.of(table), limits(table)
    default = table.row(table.space.default())
    goals = {}
    for goal, limit in bounds.items():
        keeps = (table.losses <= limit + 1e-9) & ~table.failed
        best = min(float(truth.ratio[keeps].min()), 1.0) if keeps.any() else 1.0
        goals[goal] = {"limit": limit, "share": float(keeps.mean()), "optimum": best}
    groups = [g for g in table.space.groups if len(table.space.schemes(g)) > 1]
    return {
        **{key: table.about[key] for key in ("model", "backend", "processor", "date", "fp32_ms", "metric")},
        "configurations": len(table.choices),
        "groups": len(groups),
        "operators": sum(map(len, groups)),
        "samples": len(table.reference),
        "fp32": float(table.reference.mean()),
        "default_loss": float(table.losses[default]),
        "default_ratio": float(truth.ratio[default]),
        "noise": truth.noise,
        "timed": truth.timed,
        "held_out": truth.held_out,
        "trial_seconds": float(np.nanmean(table.build_seconds + table.accuracy_seconds + table.latency_seconds)),
        "terms_seconds": table.estimates["terms"].seconds if "terms" in table.estimates else 0.0,
        "goals": goals,
    }


@lru_cache
def _loaded(path: Path) -> Table:
    return Table.load(path)


def run(task: Task) -> list[Cell]:
    """Run a task; a strategy that has not asked for its budget runs once for all budgets."""
    table = _loaded(task.path)
    limit, truth = limits(table)[task.goal], Truth.of(table)
    courses: dict[int, list[Course]] = {budget: [] for budget in task.budgets}
    for seed in range(task.seeds):
        whole: Course | None = None
        for budget in sorted(task.budgets, reverse=True):
            if whole is None or whole.budgeted:
                with tempfile.TemporaryDirectory(prefix="ncs-strategies-") as folder:
                    whole = search(table, task.strategy, limit, budget, seed, Path(folder))
            courses[budget].append(whole.at(budget))
    return [_cell(table.name, task, budget, found, truth) for budget, found in courses.items()]


def _cell(name: str, task: Task, budget: int, courses: Sequence[Course], truth: Truth) -> Cell:
    refused = next((c.refused for c in courses if c.refused), "")
    if refused:
        return Cell(name, task.goal, task.strategy, budget, refused=refused)
    last = [c.rows[-1] if c.rows else -1 for c in courses]
    return Cell(
        name,
        task.goal,
        task.strategy,
        budget,
        tuple(float(truth.ratio[row]) if row >= 0 else 1.0 for row in last),
        tuple(row >= 0 for row in last),
        tuple(len(c.rows) for c in courses),
        tuple(c.met for c in courses),
        tuple(c.met_seconds for c in courses),
        tuple(c.seconds[-1] if c.seconds else 0.0 for c in courses),
        tuple(c.thinking for c in courses),
    )


def strategies() -> list[str]:
    """All registered strategies but those that only show how one is written."""
    return [name for name in registry().names("strategy") if name not in LEFT_OUT]


def compare(
    paths: Iterable[Path],
    names: Sequence[str],
    seeds: int,
    budgets: Sequence[int] = BUDGETS,
    workers: int = 1,
    cache: Path | None = None,
) -> Comparison:
    """Run every strategy on every table, with both goals.

    Args:
        paths: The tables.
        names: The strategies.
        seeds: Number of seeds.
        budgets: Numbers of trials.
        workers: Processes.
        cache: JSON lines of finished tasks, which are not run again. Delete it after a change of tables or strategies.
    """
    paths = sorted(paths)
    found = Comparison(tables={(table := _loaded(path)).name: facts(table) for path in paths})
    tasks = [Task(path, goal, name, seeds, tuple(budgets)) for path in paths for name in names for goal in (EASY, HARD)]
    done = _cached(cache)
    for task in tasks:
        found.cells += done.get(str(task), [])
    left = [task for task in tasks if str(task) not in done]
    with ExitStack() as stack:
        each: Iterable[list[Cell]] = map(run, left)
        if workers > 1:
            each = stack.enter_context(ProcessPoolExecutor(workers)).map(run, left)
        for task, cells in zip(left, each, strict=True):
            found.cells += cells
            if cache is not None:
                line = json.dumps({"task": str(task), "cells": [asdict(cell) for cell in cells]})
                with cache.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
    return found


def _cached(path: Path | None) -> dict[str, list[Cell]]:
    if path is None or not path.is_file():
        return {}
    entries = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {
        entry["task"]: [
            Cell(**{key: tuple(value) if isinstance(value, list) else value for key, value in cell.items()})
            for cell in entry["cells"]
        ]
        for entry in entries
    }


def overall(found: Comparison) -> str:
    """Table of all strategies: mean over tables and goals."""
    ranks = found.ranks(JUDGED)
    tables = len({(c.table, c.goal) for c in found.cells})
    lines = [
        "| strategy | " + " | ".join(f"{b} trials" for b in BUDGETS) + " | hard goals only, 20 | rank | goal met "
        "| trials to it | seconds to it | thinking |",
        "| --- |" + " ---: |" * (len(BUDGETS) + 6),
    ]
    for name in found.strategies:
        cells = found.find(strategy=name, budget=max(BUDGETS))
        met = [k for c in cells for k in c.to_goal if k]
        seconds = [s for c in cells for s in c.goal_seconds if not math.isnan(s)]
        share = np.mean([bool(k) for c in cells for k in c.to_goal])
        thinking = np.mean([t for c in cells for t in c.thinking])
        label = f"`{name}`" + (f" ({len(cells)} of {tables})" if len(cells) < tables else "")
        lines.append(
            f"| {label} | "
            + " | ".join(percent(*found.regret(name, budget)) for budget in BUDGETS)
            + f" | {percent(*found.regret(name, JUDGED, HARD))} | {ranks[name]:.1f} | {share:.0%} "
            f"| {np.mean(met) if met else math.nan:.1f} | {np.mean(seconds) if seconds else math.nan:.1f} "
            f"| {thinking:.1f} s |"
        )
    return "\n".join(lines)


def percent(mean: float, reach: float) -> str:
    """A relative difference with its interval."""
    return f"{100 * mean:.1f} ± {100 * reach:.1f} %"


def described(found: Comparison) -> str:
    """Table of the tables."""
    lines = [
        "| table | choices | configurations | fp32 | int8 everywhere: latency, loss | easy: limit, kept by, best "
        "| hard: limit, kept by, best | timed | error of the fit | noise of a trial |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, of in found.tables.items():
        goals = " | ".join(
            f"{g['limit']:.4f}, {g['share']:.0%}, {g['optimum']:.3f}" for g in (of["goals"][EASY], of["goals"][HARD])
        )
        lines.append(
            f"| {name} | {of['groups']} of {of['operators']} operators | {of['configurations']} | {of['fp32']:.3f} "
            f"| {of['default_ratio']:.3f}, {of['default_loss']:.4f} | {goals} | {of['timed']:.0%} "
            f"| {of['held_out']:.1%} | {of['noise']:.1%} |"
        )
    return "\n".join(lines)


def by_table(found: Comparison) -> str:
    """Latency of each strategy on each table at `JUDGED` trials."""
    names = found.strategies
    keys = [(table, goal) for table in found.tables for goal in (EASY, HARD)]
    lines = ["| table, goal | best | " + " | ".join(f"`{n}`" for n in names) + " |"]
    lines.append("| --- | ---: |" + " ---: |" * len(names))
    for table, goal in keys:
        cells = {c.strategy: c for c in found.find(table=table, goal=goal, budget=JUDGED)}
        shown = []
        for name in names:
            if name not in cells:
                shown.append("")
                continue
            mean, reach = mean_and_reach(cells[name].costs)
            missed = "" if all(cells[name].kept) else f" ({sum(cells[name].kept)}/{len(cells[name].kept)} kept)"
            shown.append(f"{mean:.3f} ± {reach:.3f}{missed}")
        best = found.tables[table]["goals"][goal]["optimum"]
        lines.append(f"| {table}, {goal} | {best:.3f} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def verdict(found: Comparison) -> str:
    """Where `auto` is behind the best single strategy by more than `MOST_WORSE`, in sentences."""
    if not found.find(strategy="auto", budget=JUDGED):
        return ""
    behind = found.behind()
    worse = [item for item in behind if item[2] > MOST_WORSE]
    lines = [
        f"At {JUDGED} trials, `auto` is within {MOST_WORSE:.0%} of the best single strategy on "
        f"{len(behind) - len(worse)} of {len(behind)} tables and goals."
    ]
    lines += [""] if worse else []
    for cell, best, share in worse:
        (mine, reach), (other, least) = mean_and_reach(cell.costs), mean_and_reach(best.costs)
        lines.append(
            f"- {cell.table}, {cell.goal}: {share:.1%} behind `{best.strategy}` ({mine:.3f} ± {reach:.3f} against "
            f"{other:.3f} ± {least:.3f})."
        )
    return "\n".join(lines)


def plot(found: Comparison, path: Path) -> None:
    """Regret of each strategy by budget, with 95 % intervals; one panel for each goal."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = found.strategies[::-1]
    figure, axes = plt.subplots(1, 2, figsize=(9, 0.34 * len(names) + 1.4), sharey=True, layout="constrained")
    for axis, goal in zip(axes, (EASY, HARD), strict=True):
        for offset, (budget, color) in enumerate(zip(BUDGETS, ("#9ecae1", "#4292c6", "#08306b"), strict=True)):
            found_at = [found.regret(name, budget, goal) for name in names]
            axis.errorbar(
                [100 * mean for mean, _ in found_at],
                [place + 0.22 * (1 - offset) for place in range(len(names))],
                xerr=[100 * reach for _, reach in found_at],
                fmt="o",
                markersize=4,
                color=color,
                label=f"{budget} trials",
            )
        axis.set_title(f"{goal} goals")
        axis.set_xlabel("latency above the table's best, %")
        axis.set_xlim(left=-1)
        axis.grid(axis="x", alpha=0.3)
        axis.set_yticks(range(len(names)), names)
    axes[1].legend(loc="upper right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def replaced(page: str, name: str, text: str) -> str:
    """A page with the text between two marks replaced.

    Raises:
        SystemExit: the page has no such marks.
    """
    begin, end = MARKS.format(f"{name}: begin, written"), MARKS.format(f"{name}: end, written")
    pattern = re.compile(re.escape(begin) + r".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(page):
        raise SystemExit(f"the page has no marks {begin!r} and {end!r}")
    return pattern.sub(lambda _: f"{begin}\n\n{text}\n\n{end}", page)


def write_docs(found: Comparison, docs: Path) -> None:
    """Replace the generated parts of the pages, and the plot."""
    parts: Mapping[str, Sequence[tuple[str, str]]] = {
        "strategies.md": (("strategies overall", overall(found)), ("strategies verdict", verdict(found))),
        "benchmarks.md": (("strategies tables", described(found)), ("strategies by table", by_table(found))),
    }
    for name, texts in parts.items():
        page = (docs / name).read_text(encoding="utf-8")
        for mark, text in texts:
            page = replaced(page, mark, text)
        (docs / name).write_text(page, encoding="utf-8")
    plot(found, docs / "images" / "strategies.png")
