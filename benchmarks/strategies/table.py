"""A measured table: what was measured of every configuration of a small space."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.api import Capabilities, Config, OpCapability, OpScheme, Space

SCHEMA = 1
ARRAYS = (
    "choices", "reference", "failed", "graph", "size", "int8_ops", "fp32_ops", "divergence", "ratio", "spread",
    "build_seconds", "latency_seconds", "accuracy_seconds",
)  # fmt: skip
"""Arrays of `Table` that are stored as they are."""


@dataclass(frozen=True)
class Estimate:
    """What the product estimated when the table was made.

    Args:
        value: The estimate as plain data.
        seconds: Seconds that it took.
    """

    value: Any
    seconds: float


@dataclass(frozen=True)
class Table:
    """Measurements of every configuration of a space; C configurations, S sessions, N samples, G groups.

    Args:
        name: Name of the table.
        about: Model, backend, machine, date, versions and settings.
        capabilities: The narrowed capabilities, whose space is measured.
        choices: Place of each group's scheme among the group's schemes, shape (C, G).
        reference: fp32's score of each sample, shape (N,).
        scores: Score of each sample, shape (C, N).
        failed: Whether the engine failed, shape (C,).
        graph: Number of the executed graph, shape (C,): configurations of one graph are one model.
        size: Size relative to the original's, shape (C,).
        int8_ops: Operators that executed in int8, shape (C,).
        fp32_ops: Operators that executed in floating point, shape (C,).
        divergence: Noise-to-signal ratio on calibration samples, shape (C,).
        ratio: Latency relative to fp32's in each session, shape (C, S); not a number where it was not timed.
        spread: Relative half-width of its 95 % interval, shape (C, S).
        build_seconds: Seconds to build and run once, shape (C,).
        latency_seconds: Seconds of timing a trial, shape (C,).
        accuracy_seconds: Seconds of an evaluation on all samples, shape (C,).
        estimates: Estimates by name: ``sensitivity``, ``sensitivity MODE``, ``terms``, ``hessian``; ``divergence`` is
            the seconds of one.
    """

    name: str
    about: Mapping[str, Any]
    capabilities: Capabilities
    choices: NDArray[np.uint8]
    reference: NDArray[np.float64]
    scores: NDArray[np.float64]
    failed: NDArray[np.bool_]
    graph: NDArray[np.int32]
    size: NDArray[np.float32]
    int8_ops: NDArray[np.int16]
    fp32_ops: NDArray[np.int16]
    divergence: NDArray[np.float32]
    ratio: NDArray[np.float32]
    spread: NDArray[np.float32]
    build_seconds: NDArray[np.float32]
    latency_seconds: NDArray[np.float32]
    accuracy_seconds: NDArray[np.float32]
    estimates: Mapping[str, Estimate]

    @cached_property
    def space(self) -> Space:
        """The space of all configurations."""
        return Space(self.capabilities)

    @cached_property
    def _rows(self) -> dict[tuple[int, ...], int]:
        return {tuple(map(int, choice)): row for row, choice in enumerate(self.choices)}

    def row(self, config: Config) -> int:
        """Row of a configuration.

        Raises:
            KeyError: it was not measured.
        """
        schemes = config.schemes
        return self._rows[tuple(self.space.schemes(g).index(schemes[g[0]]) for g in self.space.groups)]

    @cached_property
    def losses(self) -> NDArray[np.float64]:
        """Loss of the metric in each configuration, shape (C,)."""
        lost = float(self.reference.mean()) - self.scores.mean(1)
        return lost if self.about["higher_is_better"] else -lost

    def save(self, folder: Path) -> Path:
        """Write ``NAME.npz`` into a folder."""
        hits = bool(np.isin(self.scores, (0.0, 1.0)).all())
        stored = np.packbits(self.scores.astype(bool), axis=1) if hits else self.scores.astype(np.float16)
        schemes = list(dict.fromkeys(s for op in self.capabilities.ops for s in op.schemes))
        meta = {
            "schema": SCHEMA,
            "name": self.name,
            "about": dict(self.about),
            "hits": hits,
            "schemes": [scheme.to_dict() for scheme in schemes],
            "ops": [
                [op.name, op.type, [schemes.index(s) for s in op.schemes], op.parameters, op.elements]
                for op in self.capabilities.ops
            ],
            "edges": self.capabilities.edges,
            "tied": self.capabilities.tied,
            "options": self.capabilities.options,
            "order": self.capabilities.order,
            "estimates": {name: asdict(found) for name, found in self.estimates.items()},
        }
        path = folder / f"{self.name}.npz"
        arrays = {name: getattr(self, name) for name in ARRAYS}
        text = np.frombuffer(json.dumps(meta).encode(), np.uint8)
        np.savez_compressed(path, meta=text, scores=stored, **arrays)
        return path

    @staticmethod
    def load(path: Path) -> Table:
        """Read what `save` wrote.

        Raises:
            SystemExit: the file is of another schema.
        """
        with np.load(path) as data:
            meta = json.loads(data["meta"].tobytes())
            arrays = {name: data[name] for name in data.files if name != "meta"}
        if meta["schema"] != SCHEMA:
            raise SystemExit(f"{path} has schema {meta['schema']}; this version reads {SCHEMA}")
        schemes = [OpScheme.from_dict(scheme) for scheme in meta["schemes"]]
        ops = tuple(
            OpCapability(name, kind, tuple(schemes[k] for k in some), False, parameters, elements)
            for name, kind, some, parameters, elements in meta["ops"]
        )
        samples = len(arrays["reference"])
        stored = arrays.pop("scores")
        scores = np.unpackbits(stored, axis=1, count=samples) if meta["hits"] else stored
        able = Capabilities(
            ops,
            tuple((a, b) for a, b in meta["edges"]),
            tuple(map(tuple, meta["tied"])),
            tuple((name, tuple(values)) for name, values in meta["options"]),
            tuple(meta["order"]),
        )
        return Table(
            name=meta["name"],
            about=meta["about"],
            capabilities=able,
            scores=scores.astype(np.float64),
            estimates={name: Estimate(**found) for name, found in meta["estimates"].items()},
            **arrays,
        )
