"""Errors a user can act on. Everything else is a bug and keeps its traceback in the log."""

from __future__ import annotations


class NcsError(Exception):
    """Base of the errors this package raises on purpose."""


class InputError(NcsError):
    """Bad input or configuration: exit status 2, one line, no traceback.

    Args:
        key: The configuration key or file the user should look at.
        problem: What is wrong with it.
        allowed: What would be accepted; left out when the problem says it all.
    """

    def __init__(self, key: str, problem: str, allowed: str = "") -> None:
        self.key, self.problem, self.allowed = key, problem, allowed
        super().__init__(" ".join(f"{key}: {problem}{f'; {allowed}' if allowed else ''}".split()))


class TargetError(InputError):
    """The machine that a run measures on cannot be used, or is not reached any more. No configuration is at fault."""


class MissingEngineError(TargetError):
    """The machine that a run measures on has no such engine."""


class EngineError(NcsError):
    """The inference engine could not build or run a graph: a failed trial, not a failed run."""


class LostWorkerError(NcsError):
    """The process that measured a trial has ended or is not reached any more. The trial is measured again, once."""


class OutOfTimeError(NcsError):
    """The run's time ended while a call was under way; what it was doing is dropped."""


def first_line(error: BaseException) -> str:
    """The first non-empty line of an error's text, for one-line messages; its type when it has no text."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
