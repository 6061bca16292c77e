"""``estimates.json``: the estimates of a run, which a resumed run reads instead of estimating again.

A repeated estimate would differ slightly, and a strategy that solves for its next trial would propose another one.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from nc_strategies.errors import EngineError, InputError, OutOfTimeError, first_line
from nc_strategies.problem import ConversionEdge, LatencyTerms
from nc_strategies.runtime.files import write_atomically
from nc_strategies.space import FLOAT, Config, OpScheme, Space
from nc_strategies.space.scheme import way

log = logging.getLogger(__name__)
FILE = "estimates.json"
SCHEMA = 1
T = TypeVar("T")


class Estimates:
    """Estimates of a run; each one is on disk before the strategy sees it.

    Args:
        folder: The run's existing folder.
        space: Search space; a file with estimates of other operators is not used.
        resumes: Read the estimates of an earlier run in this folder. A file that cannot be used is logged and replaced.
    """

    def __init__(self, folder: Path, space: Space, resumes: bool) -> None:
        self.path = folder / FILE
        self._sensitivity: dict[str, float] | None = None
        self._mode_sensitivity: dict[str, dict[str, float]] = {}
        self._terms: LatencyTerms | None = None
        self._divergence: dict[str, float] = {}
        self._hessian: dict[str, dict[str, float]] = {}
        if resumes and self.path.is_file():
            try:
                self._read(json.loads(self.path.read_text(encoding="utf-8")), space)
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                log.warning("%s cannot be read (%s): what it held is estimated again", self.path, first_line(error))

    @property
    def sensitivity(self) -> Mapping[str, float] | None:
        """See `Problem.sensitivity`; None before it is estimated."""
        return self._sensitivity

    @sensitivity.setter
    def sensitivity(self, found: Mapping[str, float]) -> None:
        self._sensitivity = dict(found)
        self._write()

    def mode_sensitivity(self, way: str) -> Mapping[str, float] | None:
        """See `Sensitivity`; None before the mode's is estimated."""
        return self._mode_sensitivity.get(way)

    def add_mode_sensitivity(self, way: str, found: Mapping[str, float]) -> None:
        """Store the sensitivity of operators in another quantization mode."""
        self._mode_sensitivity[way] = dict(found)
        self._write()

    @property
    def terms(self) -> LatencyTerms | None:
        """See `Problem.latency_terms`; None before they are fitted."""
        return self._terms

    @terms.setter
    def terms(self, found: LatencyTerms) -> None:
        self._terms = found
        self._write()

    def divergence(self, config: Config, batches: int = 1) -> float | None:
        """See `Problem.divergence`; None if it was not estimated for this configuration on so many batches."""
        return self._divergence.get(_key(config, batches))

    def add_divergence(self, config: Config, found: float, batches: int = 1) -> None:
        """Store the divergence of a configuration."""
        self._divergence[_key(config, batches)] = found
        self._write()

    def hessian(self, draws: int) -> Mapping[str, float] | None:
        """See `Problem.hessian`; None before it is estimated from so many random vectors."""
        return self._hessian.get(str(draws))

    def add_hessian(self, draws: int, found: Mapping[str, float]) -> None:
        """Store what `Problem.hessian` returns."""
        self._hessian[str(draws)] = dict(found)
        self._write()

    def _write(self) -> None:
        data = {
            "schema": SCHEMA,
            "sensitivity": self._sensitivity,
            "mode_sensitivity": self._mode_sensitivity,
            "latency_terms": terms_to_dict(self._terms) if self._terms else None,
            "divergence": self._divergence,
            "hessian": self._hessian,
        }
        # The sensitivity of an operator that fails in int8 is infinite: Python reads and writes it, unlike strict JSON.
        write_atomically(self.path, json.dumps(data) + "\n")

    def _read(self, data: Mapping[str, Any], space: Space) -> None:
        """Accept all estimates of the file, or none."""
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']}; this version knows {SCHEMA}")
        sensitivity, terms = data["sensitivity"], None
        if sensitivity is not None:
            sensitivity = _numbers(sensitivity)
            if not set(sensitivity) <= set(space.ops):
                raise ValueError("sensitivity of operators that this model does not have")
        if data["latency_terms"] is not None:
            terms = terms_from_dict(data["latency_terms"])
            if not set(terms.ops) <= set(space.ops):
                raise ValueError("latency terms of operators that this model does not have")
            terms(space.default())  # KeyError if a term is missing
            terms(space.all_float())
        divergence = _numbers(data["divergence"])
        modes = {str(way): _numbers(found) for way, found in data.get("mode_sensitivity", {}).items()}
        hessian = {str(draws): _numbers(found) for draws, found in data.get("hessian", {}).items()}
        if not all(set(found) <= set(space.ops) for found in (*modes.values(), *hessian.values())):
            raise ValueError("sensitivity of operators that this model does not have")
        self._mode_sensitivity, self._hessian = modes, hessian
        self._sensitivity, self._terms, self._divergence = sensitivity, terms, divergence


def ask(estimate: Callable[[], T]) -> T:
    """Call a function that computes an estimate with the engine.

    Raises:
        EngineError: the estimate failed with any exception of the engine.
    """
    try:
        return estimate()
    except (EngineError, InputError, OutOfTimeError):
        raise
    except Exception as error:
        log.warning("an estimate failed", exc_info=error)
        raise EngineError(f"{type(error).__name__}: {first_line(error)}") from error


def one_by_one(
    divergence: Callable[[Config], float], space: Space, failures: int, wanted: str = ""
) -> dict[str, float]:
    """Sensitivity by operator from one graph per operator, for engines that fail to estimate all operators at once.

    Args:
        divergence: Estimates the noise-to-signal ratio of a configuration with the engine.
        space: Search space.
        failures: Maximum number of consecutive failures, each of which may cost a new worker; 0 for no maximum.
        wanted: Quantization mode, see `Sensitivity`.

    Returns:
        Noise-to-signal ratio in int8 by operator name; infinite for an operator that fails, and for all operators after
        the maximum of failures.
    """
    found: dict[str, float] = {}
    failed = 0
    for group in space.groups:
        scheme = next((s for s in space.schemes(group) if s != FLOAT and wanted in ("", way(s))), None)
        if scheme is None:
            continue
        noise = math.inf
        if not failures or failed < failures:
            try:
                noise = ask(
                    lambda group=group, scheme=scheme: (  # type: ignore[misc]
                        divergence(space.all_float().with_op(*group, scheme=scheme))
                    )
                )
                failed = 0
            except EngineError as error:
                log.warning("no sensitivity of %s: %s", group[0], error)
                failed += 1
        found.update(dict.fromkeys(group, noise))
    return found


def terms_to_dict(terms: LatencyTerms) -> dict[str, Any]:
    """Convert latency terms to JSON-compatible data; the inverse of `terms_from_dict`."""
    return {
        "base": terms.base,
        "error": terms.error,
        "all_float": terms.all_float,
        "ops": {
            name: [[scheme.to_dict(), cost] for scheme, cost in costs.items()] for name, costs in terms.ops.items()
        },
        "conversion_edges": [{**asdict(edge), "clipped": sorted(edge.clipped)} for edge in terms.conversion_edges],
        "options": [[name, value, cost] for (name, value), cost in terms.options.items()],
    }


def terms_from_dict(data: Mapping[str, Any]) -> LatencyTerms:
    """Read what `terms_to_dict` wrote.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: the data has another structure.
    """
    ops = {
        name: {OpScheme.from_dict(scheme): float(cost) for scheme, cost in costs} for name, costs in data["ops"].items()
    }
    conversion_edges = tuple(
        ConversionEdge(
            **{
                **edge,
                "consumers": tuple(edge["consumers"]),
                "clipped": frozenset((dtype, scheme) for dtype, scheme in edge["clipped"]),
            }
        )
        for edge in data["conversion_edges"]
    )
    options = {(name, value): float(cost) for name, value, cost in data["options"]}
    return LatencyTerms(
        float(data["base"]), ops, conversion_edges, options, float(data["error"]), float(data["all_float"])
    )


def _key(config: Config, batches: int) -> str:
    return config.fingerprint if batches == 1 else f"{config.fingerprint}/{batches}"


def _numbers(data: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in data.items()}
