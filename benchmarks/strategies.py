"""Which strategy to take: strategies compared by replaying tables of measured configurations.

    python benchmarks/strategies.py measure --model sample --backend onnxruntime    # makes a table, once
    python benchmarks/strategies.py compare                                         # replays all tables
    python benchmarks/strategies.py commands                                        # each strategy's command once

A table holds every configuration of a small space: per-sample scores, latency relative to fp32 in several sessions, and
what the product estimates. A strategy is driven through `Problem`, as in a run, and a trial is a look into the table.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from strategies.cases import case_of  # noqa: E402

TABLES = Path(__file__).resolve().parent / "strategies" / "tables"


def main() -> int:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measure = commands.add_parser("measure", help="measure a table")
    measure.add_argument("--model", required=True)
    measure.add_argument("--backend", required=True)
    measure.add_argument("--models", type=Path, help="folder of models that are not bundled")
    measure.add_argument("--out", type=Path, default=TABLES)
    measure.add_argument("--work", type=Path, default=Path("outputs/strategies"), help="folder of the journal")
    measure.add_argument("--part", choices=("accuracy", "latency", "all"), default="all")
    measure.add_argument("--seconds", type=float, default=float("inf"), help="stop then; the next call continues")
    compare = commands.add_parser("compare", help="replay all tables")
    compare.add_argument("--tables", type=Path, default=TABLES)
    compare.add_argument("--only", nargs="*", default=[], help="names of tables")
    compare.add_argument("--strategies", nargs="*", help="all that are installed by default")
    compare.add_argument("--seeds", type=int, default=8)
    compare.add_argument("--workers", type=int, default=1)
    compare.add_argument("--cache", type=Path, help="file of finished strategies on tables, which are not run again")
    compare.add_argument("--json", type=Path, default=Path("outputs/strategies.json"))
    compare.add_argument("--docs", action="store_true", help="write the figures into docs")
    each = commands.add_parser("commands", help="run each strategy's command on the samples")
    each.add_argument("--strategies", nargs="*", help="all that are installed by default")
    each.add_argument("--work", type=Path, default=Path("outputs/strategies-commands"))
    each.add_argument("--trials", type=int, default=6)
    each.add_argument("--seconds", type=float, default=float("inf"), help="stop then; the next call continues")
    options = parser.parse_args()
    return {"measure": _measure, "compare": _compare, "commands": _commands}[options.command](options)


def _measure(options: argparse.Namespace) -> int:
    from strategies import measure as measuring

    case = case_of(options.model, options.backend)
    return measuring.measure(case, options.models, options.work, options.out, options.part, options.seconds)


def _compare(options: argparse.Namespace) -> int:
    from strategies import compare as comparing

    logging.disable(logging.WARNING)
    paths = [path for path in options.tables.glob("*.npz") if not options.only or path.stem in options.only]
    if not paths:
        raise SystemExit(f"no tables in {options.tables}")
    names = options.strategies or comparing.strategies()
    found = comparing.compare(paths, names, options.seeds, workers=options.workers, cache=options.cache)
    for part in (comparing.described, comparing.overall, comparing.by_table, comparing.verdict):
        print(part(found), end="\n\n")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(found.to_json() + "\n", encoding="utf-8")
    if options.docs:
        comparing.write_docs(found, ROOT / "docs")
    return 0


def _commands(options: argparse.Namespace) -> int:
    from strategies import commands
    from strategies.compare import strategies

    names = options.strategies or strategies()
    found = commands.run(names, options.work, options.trials, options.seconds)
    print(commands.table(found, names))
    return int(any(ran.problem for ran in found))


if __name__ == "__main__":
    sys.exit(main())
