"""A named component that the package or a plugin provides."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = ("strategy", "backend", "metric", "model", "data", "executor", "tracker")


@dataclass(frozen=True)
class Component:
    """A class that a user selects by name.

    Args:
        kind: ``strategy``, ``backend``, ``metric``, ``model``, ``data``, ``executor`` or ``tracker``.
        name: The name in the configuration: ``strategy=name``.
        target: ``module:Class``; it is imported only when it is selected.
        schema: Dataclass of its settings; None for no settings. It is imported at every start, so its module should
            import no heavy package.
        extra: Requirement to install if the import of the target fails, such as ``nc-strategies[onnxruntime]``.
        summary: Description of one line, for lists.
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
