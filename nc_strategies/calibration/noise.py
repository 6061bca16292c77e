"""How noisy a quantized model's output is: the one definition, for equalization, sensitivity and divergence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_POWER = float(np.finfo(np.float64).tiny)
"""Stands for the power of a sample whose signal is zero: any error there is infinitely noisy, and none is no noise."""
TOGETHER = 2**18
"""Numbers that are compared together in double precision; outputs may be large, and copies of them larger."""


def noise_to_signal(signal: NDArray[Any], output: NDArray[Any]) -> float:
    """Noise-to-signal ratio: the mean over samples n of ``sum((output_n - signal_n)^2) / sum(signal_n^2)``.

    Each sample counts alike, as it does in an accuracy: a small output that is all wrong is one wrong sample, however
    large the other samples' outputs are. One quotient of sums over all samples would hide it.

    Source: the normalized mean squared error by which NNCF's quantization with accuracy control ranks operators
    (its function ``normalized_mse``).

    Args:
        signal: fp32's output, shape (N, ...).
        output: The other model's. Where its shape differs, as of an output with one row per object, both are compared
            as one sample, filled up with zeros.

    Returns:
        The ratio, 0 for equal outputs; infinite for an output that is not finite.
    """
    if signal.shape != output.shape:
        length = max(signal.size, output.size)
        signal, output = (np.pad(np.ravel(a), (0, length - a.size))[None] for a in (signal, output))
    wanted, got = _flat(signal), _flat(output)
    step = max(1, TOGETHER // max(1, wanted.shape[1]))
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(wanted), step):
            part = wanted[start : start + step].astype(np.float64)
            error = np.square(got[start : start + step].astype(np.float64) - part).sum(1)
            total += float((error / np.maximum(np.square(part).sum(1), LEAST_POWER)).sum())
    ratio = total / max(1, len(wanted))
    return ratio if math.isfinite(ratio) else math.inf


def _flat(output: NDArray[Any]) -> NDArray[Any]:
    values = np.atleast_1d(np.asarray(output))
    return values.reshape(len(values), -1)


def signal_of(outputs: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The output whose noise is measured: the first with fractions, otherwise the first with numbers.

    Whole numbers, such as class numbers, hide small errors.
    """
    for kinds in ("f", "fiub"):
        for output in outputs:
            if np.asarray(output).dtype.kind in kinds:
                return output
    return outputs[0]
