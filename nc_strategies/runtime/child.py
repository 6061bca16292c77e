"""Work in a process of its own: what it imports, prints and keeps in memory goes with it."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from nc_strategies.errors import InputError
from nc_strategies.runtime.process import child_environment

log = logging.getLogger(__name__)


def run_child(module: str, request: Mapping[str, Any], key: str, what: str) -> dict[str, Any]:
    """Run a module that ends in `serve`, with this process's search path.

    Args:
        module: Its name.
        request: What it is asked, JSON-ready; it goes by standard input, which no process list shows.
        key: Configuration key to name when it dies without an answer.
        what: What it was doing, for that error.

    Raises:
        InputError: the one it raised; or it died without an answer.
    """
    done = subprocess.run(
        [sys.executable, "-m", module],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        env=child_environment(secrets=True),
    )
    if done.stderr.strip():
        log.debug("%s: %s", module, done.stderr.strip())
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = ([line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"])[-1]
        raise InputError(key, f"{what} ended with status {done.returncode} ({last.strip()})") from None
    if "error" in answer:
        raise InputError(*answer["error"])
    return dict(answer)


def serve(work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The child's side: answers the request on standard input; what the work prints goes to standard error."""
    request = json.loads(sys.stdin.read())
    try:
        with contextlib.redirect_stdout(sys.stderr):
            answer = work(request)
    except InputError as error:
        answer = {"error": [error.key, error.problem, error.allowed]}
    sys.stdout.write(f"\n{json.dumps(answer)}\n")
