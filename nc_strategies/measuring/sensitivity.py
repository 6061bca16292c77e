"""Effect of each operator's quantization on the model's output, without evaluating the metric."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.base import Backend, DualPrecisionSession
from nc_strategies.calibration.noise import noise_to_signal, signal_of
from nc_strategies.errors import EngineError, OutOfTimeError
from nc_strategies.measuring.deadline import Check, unlimited
from nc_strategies.models.info import Batch
from nc_strategies.space import FLOAT, Config, Space
from nc_strategies.space.scheme import way

log = logging.getLogger(__name__)
SAMPLES = 16
"""Calibration samples per estimate. Noise is averaged over the elements of the output too, so that few samples rank
operators as many do."""

PROJECTED_AFTER = 3
"""Operators after which the time of all others is projected. An estimate of only some operators is of no use."""

Group = tuple[str, ...]
Noise = Callable[[Group], float]
Signal = Callable[[Sequence[NDArray[Any]]], NDArray[Any]]
"""Selects the output whose noise is measured."""


def output_noise(
    backend: Backend,
    space: Space,
    batch: Batch | Sequence[Batch],
    signal: NDArray[Any],
    switch: bool = True,
    check: Check = unlimited,
    select: Signal = signal_of,
    left: Callable[[], float] = lambda: math.inf,
    wanted: str = "",
) -> dict[str, float]:
    """Noise-to-signal ratio of one of the model's outputs with one group of operators in int8 and all others in fp32.

    The ratio ranks operators; it is not an accuracy loss. See `noise_to_signal`. Operators that the user restricts to
    fp32 have no entry. If the backend offers a `DualPrecisionSession`, all groups run in that one graph; otherwise one
    graph is built per group. Source: the output-error ranking of Intel Neural Compressor's MSE strategy ("Tuning
    Strategies", MSE_V2), with the real int8 kernels instead of emulation.

    Args:
        backend: Loaded and calibrated.
        space: Search space.
        batch: Samples of the calibration data, in several batches if they differ in their shapes.
        signal: fp32's output on them.
        switch: Use the backend's `DualPrecisionSession`, if it offers one.
        check: Called before each operator.
        select: Selects the output.
        left: Returns the seconds that are left.
        wanted: Quantization mode, see `way`; operators that do not offer it have no entry. Empty for each operator's
            first scheme that is not fp32.

    Raises:
        OutOfTimeError: `check` raised it, or the first few operators show that all of them take longer than is left.
    """
    base = space.all_float()
    schemes = {
        group: next((s for s in space.schemes(group) if s != FLOAT and wanted in ("", way(s))), None)
        for group in space.groups
    }
    int8 = {group: scheme for group, scheme in schemes.items() if scheme is not None}
    every = base.with_ops({name: scheme for group, scheme in int8.items() for name in group})

    def alone(group: Group) -> float:
        return divergence(backend, base.with_op(*group, scheme=int8[group]), batch, signal, select)

    most = backend.largest_batch

    def switched(group: Group) -> float:
        assert both is not None
        predict = functools.partial(both.predict, int8=group)
        return noise_to_signal(signal, signal_in_pieces(predict, batch, most, select))

    both = _switchable(backend, every) if switch else None
    noise: dict[str, float] = {}
    try:
        start = time.perf_counter()
        for count, group in enumerate(int8):
            check()
            if count >= PROJECTED_AFTER and (time.perf_counter() - start) / count * (len(int8) - count) > left():
                raise OutOfTimeError(f"the first {count} of {len(int8)} operators took too long")
            one = switched if both is not None and set(group) <= set(both.ops) else alone
            noise.update(dict.fromkeys(group, _tried(one, group)))
    finally:
        if both is not None:
            both.close()
    return noise


def divergence(
    backend: Backend,
    config: Config,
    batch: Batch | Sequence[Batch],
    signal: NDArray[Any],
    select: Signal = signal_of,
) -> float:
    """See `mean_divergence`, of one batch."""
    return mean_divergence(backend, config, [(batch, signal)], select)


def mean_divergence(
    backend: Backend,
    config: Config,
    parts: Sequence[tuple[Batch | Sequence[Batch], NDArray[Any]]],
    select: Signal = signal_of,
) -> float:
    """Noise-to-signal ratio of one of a configuration's outputs against fp32's, the mean over batches.

    Args:
        backend: Loaded and calibrated.
        config: The configuration.
        parts: Pairs (samples of the calibration data, in several batches if they differ in their shapes; fp32's output
            on them).
        select: Selects the output.

    Raises:
        EngineError: the engine cannot build or run it.
    """
    model, most = backend.build(config), backend.largest_batch
    try:
        noise = [
            noise_to_signal(signal, signal_in_pieces(model.predict, batch, most, select)) for batch, signal in parts
        ]
        return sum(noise) / len(noise)
    finally:
        model.close()


def signal_in_pieces(
    predict: Callable[[Batch], Sequence[NDArray[Any]]],
    batch: Batch | Sequence[Batch],
    most: int | None,
    select: Signal = signal_of,
) -> NDArray[Any]:
    """One of a model's outputs, computed in runs of at most `most` samples; in one run if that is None.

    Args:
        predict: Runs the model.
        batch: Samples, in several batches if they differ in their shapes.
        most: See `Backend.largest_batch`.
        select: Selects the output.

    Returns:
        The output, shape (N, ...); of several batches the samples' numbers, filled up with zeros, shape (N, most).

    Raises:
        EngineError: the engine could not run it.
    """
    if not isinstance(batch, Mapping):
        return _side_by_side([signal_in_pieces(predict, one, most, select) for one in batch])
    count = len(next(iter(batch.values())))
    if most is None or most >= count:
        return select(predict(batch))
    parts = []
    for start in range(0, count, most):
        piece = {name: array[start : start + most] for name, array in batch.items()}
        parts.append(np.array(select(predict(piece))))
    return np.concatenate([np.atleast_1d(part) for part in parts])


def _side_by_side(outputs: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Outputs of several batches as one row per sample, filled up with zeros."""
    flat = [array.reshape(len(array), -1) for array in map(np.atleast_1d, outputs)]
    width = max(array.shape[1] for array in flat)
    return np.concatenate([np.pad(array, ((0, 0), (0, width - array.shape[1]))) for array in flat])


def _switchable(backend: Backend, config: Config) -> DualPrecisionSession | None:
    try:
        return backend.dual_precision_session(config)
    except EngineError as error:
        log.warning("sensitivity is estimated graph by graph: %s", error)
        return None


def _tried(noise: Noise, group: Group) -> float:
    try:
        return noise(group)
    except EngineError as error:
        log.warning("no sensitivity of %s: %s", group[0], error)
        return math.inf
