"""What each operator's quantization does to the model's output, without evaluating anything."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.base import Backend, Batch
from nc_strategies.errors import EngineError
from nc_strategies.space import FLOAT, Space

log = logging.getLogger(__name__)
SAMPLES = 50


def output_noise(backend: Backend, space: Space, batch: Batch) -> dict[str, float]:
    """Noise-to-signal ratio of the model's first output with one group of operators in int8 and all others in fp32.

    A ranking, not a loss: the squared error of the output over its squared norm, averaged over samples. Operators
    that the user holds to fp32 have none. Source: the output-error ranking of Intel Neural Compressor's MSE strategy
    ("Tuning Strategies", MSE_V2), with the real int8 kernels instead of emulation.

    Args:
        backend: Loaded and calibrated.
        space: What may be chosen.
        batch: Samples of the calibration data.
    """
    base = space.all_float()
    reference = backend.realise(base)
    signal = _flat(reference.predict(batch)[0])
    reference.close()
    noise: dict[str, float] = {}
    for group in space.groups:
        scheme = next((s for s in space.schemes(group) if s != FLOAT), None)
        if scheme is None:
            continue
        try:
            model = backend.realise(base.with_op(*group, scheme=scheme))
            error = _flat(model.predict(batch)[0]) - signal
            model.close()
            power = np.maximum((signal**2).sum(1), np.finfo(np.float64).tiny)
            ratio = float(((error**2).sum(1) / power).mean())
        except EngineError as problem:
            log.warning("no sensitivity of %s: %s", group[0], problem)
            ratio = math.inf
        noise.update(dict.fromkeys(group, ratio))
    return noise


def _flat(output: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(output.reshape(len(output), -1), np.float64)
