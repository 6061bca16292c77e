"""Work in a child process, whose imports, output and memory do not affect this process."""

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
    """Run a module that calls `serve`, with this process's search path.

    Args:
        module: The name of the module.
        request: A JSON-serializable request. It is sent through standard input, which no process list shows.
        key: Configuration key that the error names if the child ends without an answer.
        what: The task, for that error.

    Raises:
        InputError: the child raised it, or ended without an answer.
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
        last = ([line for line in done.stderr.splitlines() if line.strip()] or ["without a message"])[-1]
        raise InputError(key, f"{what} ended with status {done.returncode} ({last.strip()})") from None
    if "error" in answer:
        raise InputError(*answer["error"])
    return dict(answer)


def serve(work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Run in the child: answer the request on standard input. Output of `work` is redirected to standard error."""
    request = json.loads(sys.stdin.read())
    try:
        with contextlib.redirect_stdout(sys.stderr):
            answer = work(request)
    except InputError as error:
        answer = {"error": [error.key, error.problem, error.allowed]}
    sys.stdout.write(f"\n{json.dumps(answer)}\n")
