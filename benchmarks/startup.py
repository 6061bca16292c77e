"""Start-up time of commands, compared with the import of hydra, which they depend on.

Each command runs in its own process, all commands in random order per round; the medians are compared.

usage: python benchmarks/startup.py [--runs 10] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REFERENCE = "import hydra"
COMMANDS = {
    REFERENCE: ["-c", "import hydra"],
    "import nc_strategies": ["-c", "import nc_strategies"],
    "--help": ["-m", "nc_strategies", "--help"],
    "list": ["-m", "nc_strategies", "list"],
}


def once(command: list[str], folder: str) -> float | None:
    """Wall time of a command in seconds; None when it fails."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, check=False)
    return None if done.returncode else time.perf_counter() - start


def main() -> None:
    """Run, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    seconds: dict[str, list[float | None]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.runs + 1):
            for name in random.sample(list(COMMANDS), len(COMMANDS)):
                found = once(COMMANDS[name], folder)
                if number:  # The first round fills the caches of the file system.
                    seconds[name].append(found)
    rows = {}
    for name, values in seconds.items():
        good = [v for v in values if v is not None]
        rows[name] = statistics.median(good) if len(good) == len(values) else None
    base = rows[REFERENCE]
    print(f"{'command':24}{'median s':>10}{'more than hydra s':>20}")
    for name, value in rows.items():
        if value is None or base is None:
            print(f"{name:24}{'fails':>10}")
        else:
            print(f"{name:24}{value:10.3f}{value - base:20.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"runs": arguments.runs, "median_seconds": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
