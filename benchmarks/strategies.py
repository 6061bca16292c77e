"""Which strategy to take: strategies compared by replaying tables of measured configurations.

    python benchmarks/strategies.py measure --model sample --backend onnxruntime    # makes a table, once
    python benchmarks/strategies.py compare                                         # replays all tables
    python benchmarks/strategies.py commands                                        # each strategy's command once

A table holds every configuration of a small space: per-sample scores, latency relative to fp32 in several sessions, and
what the product estimates. A strategy is driven through `Problem`, as in a run, and a trial is a look into the table.
"""

from __future__ import annotations

import argparse
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
    options = parser.parse_args()
    from strategies import measure as measuring

    return measuring.measure(
        case_of(options.model, options.backend),
        options.models,
        options.work,
        options.out,
        options.part,
        options.seconds,
    )


if __name__ == "__main__":
    sys.exit(main())
