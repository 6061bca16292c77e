"""What a plugin offers under a name."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = ("strategy", "backend", "metric", "model", "data", "executor", "tracker")


@dataclass(frozen=True)
class Component:
    """A class that can be chosen by name.

    Args:
        kind: ``strategy``, ``backend``, ``metric``, ``model``, ``data``, ``executor`` or ``tracker``.
        name: What a user writes: ``strategy=name``.
        target: ``module:Class``; imported when it is chosen, not before.
        schema: Dataclass of its settings, imported with the plugin: keep its module light. None: no settings.
        extra: What to install when importing the target fails, as pip takes it: ``nc-strategies[onnxruntime]``.
        summary: One line for lists.
    """

    kind: str
    name: str
    target: str
    schema: type | None = None
    extra: str = ""
    summary: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"component {self.name!r} is of unknown kind {self.kind!r}; there are: {', '.join(KINDS)}")
        if ":" not in self.target:
            raise ValueError(f"target {self.target!r} of {self.kind} {self.name!r} is not of the form module:Class")
