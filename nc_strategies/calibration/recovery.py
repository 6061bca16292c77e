"""Recovery: methods that make a quantized model less noisy, each adopted only where it does so on unseen data.

A method is fitted on most of the calibration samples and judged on the others. The cheapest comes first. What all of
them take together is limited by a share of the run's time.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nc_strategies.errors import EngineError, InputError

log = logging.getLogger(__name__)
BIAS_CORRECTION, SMOOTH_QUANT, RESIDUAL, ROUNDING = "bias_correction", "smooth_quant", "residual_equalization", "gptq"
ADDED_SCALING = "smooth_quant_with_mul"
METHODS = (BIAS_CORRECTION, SMOOTH_QUANT, RESIDUAL, ADDED_SCALING, ROUNDING)
"""Names of all methods, the cheapest first."""
AUTO_METHODS = tuple(name for name in METHODS if name != ADDED_SCALING)
"""What ``auto`` tries: methods that add no operator to the model."""
AUTO, NONE = "auto", "none"
WEIGHTS, EVERYTHING, DYNAMIC = "rounded weights", "int8 everywhere", "dynamic products"
"""What a model's noise was measured with: its weights rounded and all else in floating point; the all-int8 model; or,
where it is offered, matrix products in dynamic int8 and all else in floating point."""


@dataclass(frozen=True)
class RecoveryLimits:
    """Tuning constants of recovery.

    Args:
        fit_samples: Most calibration samples that methods are fitted on.
        held_out_samples: Most calibration samples that they are judged on.
        row_bytes: Most bytes of the values that are kept of all operators together.
        most_rows: Most rows of values per operator that a method is fitted on; a weight that sums over more values than
            half of it gains less.
        max_noise_ratio: Greatest ratio of noise after and before at which a method is adopted, for an operator and for
            the model. Smaller gains are within the spread between samples.
        negligible_noise: Noise-to-signal ratio of the all-int8 model below which ``auto`` tries nothing. Cosine
            similarity to fp32 is about one minus half of it.
        seconds: Seconds that all methods may take in a run without a time limit.
        most_depth: Most values that an output sums over for which ``gptq`` is tried; the time grows with the cube.
    """

    fit_samples: int = 64
    held_out_samples: int = 16
    row_bytes: int = 96 * 2**20
    most_rows: int = 1024
    max_noise_ratio: float = 0.95
    negligible_noise: float = 1e-3
    seconds: float = 60.0
    most_depth: int = 2560


LIMITS = RecoveryLimits()


@dataclass(frozen=True)
class RecoveryRecord:
    """What a method brought.

    Args:
        method: One of `METHODS`.
        operators: Number of operators that it changed, or would have.
        noise_before: Noise-to-signal ratio of the model's output without it, on samples that it was not fitted on; None
            if it was not measured.
        noise_after: The same with it.
        noise_of: What the noise was measured with: `WEIGHTS`, `EVERYTHING` or `DYNAMIC`.
        seconds: Seconds that it took, with the measurements.
        adopted: Whether it is in use.
        note: Why it was not tried; empty if it was.
    """

    method: str
    operators: int
    noise_before: float | None
    noise_after: float | None
    noise_of: str
    seconds: float
    adopted: bool
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; noise that is not finite is None."""
        found = asdict(self)
        for key in ("noise_before", "noise_after"):
            value = found[key]
            found[key] = value if value is not None and math.isfinite(value) else None
        found["seconds"] = round(self.seconds, 3)
        return found


@dataclass(frozen=True)
class Attempt:
    """A method on a loaded model.

    Args:
        method: One of `METHODS`.
        noise_of: What its noise is measured with: `WEIGHTS`, `EVERYTHING` or `DYNAMIC`.
        fit: Fits it within a number of seconds and puts it into use; returns the number of operators that it changes.
        undo: Takes it out of use again.
    """

    method: str
    noise_of: str
    fit: Callable[[float], int]
    undo: Callable[[], None]


def chosen(setting: Any) -> tuple[str, ...]:
    """The methods that a setting names, the cheapest first.

    Args:
        setting: ``auto`` (`AUTO_METHODS`), ``none``, the name of a method, or a list of names.

    Raises:
        InputError: it names something else.
    """
    if setting == AUTO:
        return AUTO_METHODS
    if setting == NONE:
        return ()
    names = [setting] if isinstance(setting, str) else setting
    if not isinstance(names, Sequence) or not all(name in METHODS for name in names):
        shown = setting if isinstance(setting, str) else list(setting) if isinstance(setting, Sequence) else setting
        raise InputError(
            "backend.recovery", f"is {shown!r}", f"allowed: {AUTO}, {NONE}, or a list of {', '.join(METHODS)}"
        )
    return tuple(name for name in METHODS if name in names)


def tried(
    attempts: Sequence[Attempt],
    noise: Callable[[str], float],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> list[RecoveryRecord]:
    """Try methods one after the other, and keep those that leave less noise.

    Args:
        attempts: The methods, the cheapest first.
        noise: Noise-to-signal ratio of the model as it is, on samples that nothing was fitted on; its argument says
            what to measure with.
        seconds: Seconds that all may take; a method is not begun when none are left.
        clock: Clock in seconds.
    """
    begin = clock()
    known: dict[str, float] = {}
    records = []
    for attempt in attempts:
        start = clock()
        left = seconds - (start - begin)
        if left <= 0:
            records.append(RecoveryRecord(attempt.method, 0, None, None, attempt.noise_of, 0.0, False, "no time left"))
            continue
        record = _attempted(attempt, noise, left, known, clock)
        if record.adopted:
            known = {attempt.noise_of: record.noise_after if record.noise_after is not None else math.inf}
        records.append(record)
        log.info("recovery: %s", record)
    return records


def _attempted(
    attempt: Attempt,
    noise: Callable[[str], float],
    seconds: float,
    known: dict[str, float],
    clock: Callable[[], float],
) -> RecoveryRecord:
    """Try one method; `known` holds the noise of the model as it is, as far as it was measured."""
    start, kind = clock(), attempt.noise_of
    before = after = None
    adopted, operators, note = False, 0, ""
    try:
        before = known[kind] if kind in known else noise(kind)
        known[kind] = before
        operators = attempt.fit(seconds)
        if operators:
            after = noise(kind)
            adopted = before > 0 and math.isfinite(after) and after <= LIMITS.max_noise_ratio * before
        else:
            note = "no operator gains from it"
    except EngineError as error:
        note = f"the model does not run: {error}"
    if operators and not adopted:
        attempt.undo()
    return RecoveryRecord(attempt.method, operators, before, after, kind, clock() - start, adopted, note)
