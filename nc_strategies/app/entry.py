"""The console script: one of `COMMANDS` where the first argument names it, else a run by the Hydra application."""

from __future__ import annotations

import sys

COMMANDS = (
    "check",
    "compare",
    "completion",
    "diagnose",
    "explain",
    "export",
    "init",
    "inspect",
    "list",
    "machine",
    "replay",
    "report",
    "serve",
)


def main() -> None:
    """The console script."""
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        from nc_strategies.app.commands import main as command

        sys.exit(command(sys.argv[1:]))
    from nc_strategies.app.hydra_app import main as run

    run()
