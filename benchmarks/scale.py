"""How far the tuner reaches: whole runs with simulated workers, trials that take simulated time, and a toy model.

    python benchmarks/scale.py                       # all cells, each in a process of its own
    python benchmarks/scale.py --only random         # cells of some strategies
    python benchmarks/scale.py --docs                # also writes the tables and the plot into docs/scale.md

The tuner, its journal, its page and the strategies are the real ones. A trial is a look at the toy model's known values
and takes simulated seconds on one of the simulated workers. What the tuner does takes its processor time on the same
clock, so that workers wait for a tuner that is busy. Finished cells are kept (--work).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulation.cells import Figures

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]


def main() -> int:
    """Simulate the cells that are not known yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="strategies")
    parser.add_argument("--work", type=Path, default=Path("outputs/scale"), help="folder of the finished cells")
    parser.add_argument("--json", type=Path, default=Path("outputs/scale.json"))
    parser.add_argument("--seconds", type=float, default=3600.0, help="most seconds of a cell")
    parser.add_argument("--known", action="store_true", help="only finished cells")
    parser.add_argument("--docs", action="store_true", help="write the figures into docs")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        return _one(json.loads(options.cell))
    from simulation.tables import CELLS, printed, write_docs

    found = []
    for cell in CELLS:
        if not options.only or cell.strategy in options.only:
            figures = _kept(asdict(cell), options.work, options.seconds, options.known)
            if figures is not None:
                found.append((cell, figures))
    print(printed(found))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    lines = [{**asdict(cell), "figures": asdict(figures)} for cell, figures in found]
    options.json.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")
    if options.docs:
        write_docs(found, ROOT / "docs")
    return 0


def _kept(cell: dict[str, Any], work: Path, seconds: float, known: bool) -> Figures | None:
    """The figures of a cell: those that are kept, or those of a process that simulates it now; None without them."""
    from simulation.cells import Figures

    path = work / ("{strategy}-{workers}-{trials}-{operators}-{seconds:g}.json".format(**cell))
    if not path.exists():
        if known:
            return None
        work.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, "--cell", json.dumps(cell)]
        # One thread: the processor time of a second one would count as the tuner's.
        alone = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=seconds,
                env=alone,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            print(f"{path.stem}: not finished in {seconds:g} s", file=sys.stderr)
            return None
        if done.returncode:
            print(f"{path.stem}: {done.stderr}", file=sys.stderr)
            return None
        path.write_text(done.stdout.splitlines()[-1] + "\n", encoding="utf-8")
        print(f"{path.stem}: {path.read_text().strip()}", file=sys.stderr, flush=True)
    return Figures(**json.loads(path.read_text(encoding="utf-8")))


def _one(cell: dict[str, Any]) -> int:
    from simulation.cells import Cell, measured

    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asdict(measured(Cell(**cell), Path(folder)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
