"""The tables: a model on a backend, and the few choices whose every combination is measured.

Operators are tied into groups, so that a space is small enough to be measured exhaustively. A strategy sees the same
operators, ties and schemes as in a run, only fewer choices.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nc_strategies.api import FLOAT, Capabilities, OpCapability
from nc_strategies.space.scheme import way

Group = tuple[str, ...]
STATIC, MODES = ("static",), ("static", "dynamic", "weight_only int8")
PREPROCESS = {"scale": 0.00784313725490196, "offset": -1.0}
"""Pixels to the inputs of the models in the folder of models."""


@dataclass(frozen=True)
class Case:
    """One table.

    Args:
        model: Name of the model.
        backend: Name of the backend.
        file: The model's file below the folder of models; empty for a bundled sample.
        data: Files of evaluation and calibration samples below that folder.
        samples: Evaluation samples that are used at most.
        resize: Size that pictures are resized to; 0 keeps theirs.
        pictures: Whether the samples are pixels, which are scaled.
        blocks: Number of parts of the model, in execution order and of about the same work, whose operators are tied;
            0 ties none.
        divided: Number of these parts, the first ones, in which heavy and light operators are tied apart.
        roles: Patterns of the operators' names; operators that match the same one first are tied, and those that match
            none stay in floating point. Instead of `blocks`.
        ways: Quantization modes among the choices.
        algorithms: Calibration algorithms among the choices.
        runs: Timed runs of a session.
        sessions: Sessions in which each configuration is timed.
        settings: Settings of the backend.
    """

    model: str
    backend: str
    file: str = ""
    data: tuple[str, str] = ("cifar10_eval.npz", "cifar10_calib.npz")
    samples: int = 1000
    resize: int = 0
    pictures: bool = True
    blocks: int = 0
    divided: int = 0
    roles: tuple[str, ...] = ()
    ways: tuple[str, ...] = STATIC
    algorithms: tuple[str, ...] = ("minmax",)
    runs: int = 40
    sessions: int = 2
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the table."""
        return f"{self.model}-{self.backend}"

    def values(self, models: Path | None) -> dict[str, Any]:
        """The configuration of a run that measures, as plain data.

        Args:
            models: Folder of models and data that are not bundled.

        Raises:
            SystemExit: the model is not bundled, and there is no folder.
        """
        if not self.file:
            model, data = {"name": self.model}, {"name": self.model}
        else:
            if models is None:
                raise SystemExit(f"{self.name} needs --models FOLDER with {self.file}")
            kind = "onnx" if self.file.endswith(".onnx") else "keras"
            model = {"name": kind, "path": str(models / self.file)}
            evaluation, calibration = (str(models / name) for name in self.data)
            data = {"name": "npz", "path": evaluation, "calibration_path": calibration}
            if self.pictures:
                size = {"resize": [self.resize, self.resize]} if self.resize else {}
                data["preprocess"] = {**PREPROCESS, **size}  # type: ignore[assignment]
        return {
            "strategy": {"name": "random"},
            "executor": {"name": "serial"},
            "backend": {"name": self.backend, **self.settings},
            "model": model,
            "data": data,
            "isolation": "none",
            "tuning": {"early_stop": False},
            "measure": {"latency_runs": 20, "latency_timeout": 0.05},
        }

    def narrowed(self, able: Capabilities) -> Capabilities:
        """A backend's capabilities with only the choices of this table."""
        ops = [replace(op, schemes=self._schemes(op)) for op in able.ops]
        groups = self._by_role(ops) if self.roles else self._by_work(ops)
        chosen = {name for group in groups for name in group}
        return replace(
            able,
            ops=tuple(op if op.name in chosen else replace(op, schemes=(FLOAT,)) for op in ops),
            tied=tuple(group for group in groups if len(group) > 1),
            options=tuple((name, values[:1]) for name, values in able.options),
        )

    def _schemes(self, op: OpCapability) -> tuple[Any, ...]:
        if op.opt_in:
            return (FLOAT,)
        kept: dict[tuple[str, str], Any] = {}
        for scheme in op.schemes:
            algorithm = scheme.activation.algorithm if scheme.is_static else ""
            if way(scheme) in self.ways and algorithm in ("", *self.algorithms):
                kept.setdefault((way(scheme), algorithm), scheme)
        return (*kept.values(), FLOAT)

    def _by_role(self, ops: Sequence[OpCapability]) -> list[Group]:
        found: dict[str, list[str]] = {role: [] for role in self.roles}
        for op in ops:
            role = next((role for role in self.roles if re.search(role, op.name)), None)
            if role is not None and len(op.schemes) > 1:
                found[role].append(op.name)
        return [tuple(names) for names in found.values() if names]

    def _by_work(self, ops: Sequence[OpCapability]) -> list[Group]:
        """Operators with weights by parts of about the same work in execution order, each tied by kind if divided.

        An operator is heavy if its guessed work is at least the mean of its part's. Operators without weights are tied
        over the whole model if they have the same schemes: only equal schemes can be tied.
        """
        able = [op for op in ops if len(op.schemes) > 1]
        if not self.blocks:
            return [(op.name,) for op in able]
        weighted = [op for op in able if op.parameters]
        work = np.array([(op.parameters * max(op.elements, 1)) ** 0.5 for op in weighted])
        middle = (np.cumsum(work) - work / 2) / work.sum()
        part_of = np.minimum((middle * self.blocks).astype(int), self.blocks - 1)
        groups: list[Group] = []
        for part in range(self.blocks):
            inside = np.flatnonzero(part_of == part)
            heavy = work[inside] >= work[inside].mean() if len(inside) else np.zeros(0, bool)
            kinds = [inside[heavy], inside[~heavy]] if part < self.divided else [inside]
            groups += [tuple(weighted[i].name for i in kind) for kind in kinds if len(kind)]
        alike: dict[tuple[Any, ...], list[str]] = {}
        for op in able:
            if not op.parameters:
                alike.setdefault(op.schemes, []).append(op.name)
        return groups + [tuple(names) for names in alike.values()]


CASES = (
    Case("sample", "onnxruntime", runs=40),
    Case("sample", "tensorflow", runs=40),
    Case(
        "sample_text",
        "onnxruntime",
        roles=(
            r"attention\.(key|query|value)/MatMul",
            r"(attention\.output|up)/MatMul",
            r"down/MatMul|logits",
            r"Add|Scores|Context|Mask$",
        ),
        ways=MODES,
    ),
    Case(
        "mobilenet_v1",
        "onnxruntime",
        file="mobilenet_v1.keras",
        resize=64,
        blocks=3,
        divided=3,
    ),
    Case(
        "mobilenet_v3_small",
        "onnxruntime",
        file="mobilenet_v3_small.keras",
        resize=64,
        blocks=3,
        divided=3,
    ),
    Case(
        "resnet50_v1_uneven",
        "onnxruntime",
        file="uneven.keras",
        samples=500,
        blocks=6,
        settings={"equalize": "never", "recovery": "none"},
    ),
    Case(
        "mobilenet_v1",
        "tensorflow",
        file="mobilenet_v1.keras",
        resize=64,
        blocks=4,
        divided=3,
    ),
    Case(
        "magika",
        "onnxruntime",
        file="magika/model.onnx",
        data=("magika/eval.npz", "magika/calib.npz"),
        samples=200,
        pictures=False,
        roles=("einsum", "Conv2D", "Dense_1", "Activation_0|LayerNorm_0|AddV2$", "Activation_1|LayerNorm_1"),
        ways=MODES,
        runs=20,
    ),
)


def case_of(model: str, backend: str) -> Case:
    """The table of a model on a backend.

    Raises:
        SystemExit: there is none.
    """
    for case in CASES:
        if (case.model, case.backend) == (model, backend):
            return case
    raise SystemExit(f"no table of {model} on {backend}; there are: {', '.join(case.name for case in CASES)}")
