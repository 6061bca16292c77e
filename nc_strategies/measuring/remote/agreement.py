"""Whether a model gives the same outputs here and on the machine that times.

Kernels for other instruction sets round otherwise, and some saturate: sums of two 8-bit products overflow 16 bits on
processors with AVX2 or AVX512 but without VNNI.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.base import Executable
from nc_strategies.calibration.noise import noise_to_signal
from nc_strategies.measuring.deadline import Check, unlimited
from nc_strategies.measuring.remote.models import Twin
from nc_strategies.models.info import Batch

SAMPLES_COMPARED = 200


@dataclass(frozen=True)
class AgreementRules:
    """What counts as agreement.

    Args:
        noise_share: Greatest noise-to-signal ratio between both machines' outputs, as a share of the one between int8
            and fp32. Another order of float sums now and then moves a value to the next of 256 steps, which is a small
            part of the noise of rounding every value.
        answers_share: Greatest share of samples whose largest output is another one: one of 200.
    """

    noise_share: float = 0.2
    answers_share: float = 0.005


RULES = AgreementRules()


@dataclass(frozen=True)
class Agreement:
    """Outputs of one int8 model on both machines.

    Args:
        samples: Number of samples compared.
        noise: Noise-to-signal ratio between the outputs of both machines, see `noise_to_signal`.
        int8_noise: The same between int8 and fp32 on this machine.
        other_answers: Number of samples whose largest output is another one; 0 where an output has no classes.
    """

    samples: int
    noise: float
    int8_noise: float
    other_answers: int

    @property
    def agrees(self) -> bool:
        """Whether accuracy that is evaluated here holds there."""
        alike = self.noise <= RULES.noise_share * self.int8_noise
        return alike and self.other_answers <= RULES.answers_share * self.samples

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with ``agrees``."""
        numbers = {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}
        return {**numbers, "agrees": self.agrees}


def sentence(found: Any, accuracy_on: str) -> str:
    """One sentence on a disagreement, for the user; empty where the machines agree.

    Args:
        found: What `Agreement.to_dict` returned; None where it is unknown.
        accuracy_on: Where accuracy is evaluated.
    """
    if not found or found["agrees"]:
        return ""
    where = (
        "accuracy is evaluated there"
        if accuracy_on == "target"
        else "accuracy is that of this machine; measure.accuracy_on=target evaluates it there"
    )
    return (
        f"this machine and the target do not agree: of {found['samples']} samples, the int8 model answers "
        f"{found['other_answers']} otherwise there (noise to signal {found['noise'] or math.inf:.2g} between the two, "
        f"{found['int8_noise'] or 0.0:.2g} between int8 and fp32); {where}"
    )


def compare(
    int8: Twin,
    fp32: Executable,
    batches: Iterable[Batch],
    select: Callable[[Sequence[NDArray[Any]]], NDArray[Any]],
    check: Check = unlimited,
) -> Agreement:
    """Run an int8 model on both machines.

    Args:
        int8: The model; it is closed.
        fp32: fp32 on this machine.
        batches: Samples; no more than `SAMPLES_COMPARED` are read, by whole batches.
        select: The output that is compared.
        check: Called before each batch.

    Raises:
        EngineError: the model does not run on one of the machines.
    """
    there = int8.on_target()
    samples = others = 0
    noise = int8_noise = 0.0
    try:
        for batch in batches:
            check()
            here = np.array(select(int8.predict(batch)))
            remote, wanted = np.array(select(there.predict(batch))), np.array(select(fp32.predict(batch)))
            count = len(next(iter(batch.values())))
            noise += count * noise_to_signal(here, remote)
            int8_noise += count * noise_to_signal(wanted, here)
            if here.shape == remote.shape and here.ndim == 2 and here.shape[1] > 1:
                others += int((here.argmax(1) != remote.argmax(1)).sum())
            samples += count
            if samples >= SAMPLES_COMPARED:
                break
    finally:
        int8.close()
    return Agreement(samples, noise / max(samples, 1), int8_noise / max(samples, 1), others)
