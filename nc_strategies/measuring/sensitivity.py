"""Effect of each operator's quantization on the model's output, without evaluating the metric."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from nc_strategies.backends.base import Backend, DualPrecisionSession
from nc_strategies.calibration.noise import noise_to_signal
from nc_strategies.errors import EngineError
from nc_strategies.measuring.deadline import Check, unlimited
from nc_strategies.models.info import Batch
from nc_strategies.space import FLOAT, Config, Space
from nc_strategies.space.scheme import way

log = logging.getLogger(__name__)
SAMPLES = 16
"""Calibration samples per estimate. Noise is averaged over the elements of the output too, so that few samples rank
operators as many do."""

Group = tuple[str, ...]
Noise = Callable[[Group], float]


def output_noise(
    backend: Backend,
    space: Space,
    batch: Batch,
    signal: NDArray[Any],
    switch: bool = True,
    check: Check = unlimited,
    wanted: str = "",
) -> dict[str, float]:
    """Noise-to-signal ratio of the model's first output with one group of operators in int8 and all others in fp32.

    The ratio ranks operators; it is not an accuracy loss. See `noise_to_signal`. Operators that the user restricts to
    fp32 have no entry. If the backend offers a `DualPrecisionSession`, all groups run in that one graph; otherwise one
    graph is built per group. Source: the output-error ranking of Intel Neural Compressor's MSE strategy ("Tuning
    Strategies", MSE_V2), with the real int8 kernels instead of emulation.

    Args:
        backend: Loaded and calibrated.
        space: Search space.
        batch: Samples of the calibration data.
        signal: fp32's first output on them.
        switch: Use the backend's `DualPrecisionSession`, if it offers one.
        check: Called before each operator.
        wanted: Quantization mode, see `way`; operators that do not offer it have no entry. Empty for each operator's
            first scheme that is not fp32.

    Raises:
        OutOfTimeError: `check` raised it.
    """
    base = space.all_float()
    schemes = {
        group: next((s for s in space.schemes(group) if s != FLOAT and wanted in ("", way(s))), None)
        for group in space.groups
    }
    int8 = {group: scheme for group, scheme in schemes.items() if scheme is not None}
    every = base.with_ops({name: scheme for group, scheme in int8.items() for name in group})

    def alone(group: Group) -> float:
        return divergence(backend, base.with_op(*group, scheme=int8[group]), batch, signal)

    def switched(group: Group) -> float:
        assert both is not None
        return noise_to_signal(signal, both.predict(batch, group)[0])

    both = _switchable(backend, every) if switch else None
    noise: dict[str, float] = {}
    try:
        for group in int8:
            check()
            one = switched if both is not None and set(group) <= set(both.ops) else alone
            noise.update(dict.fromkeys(group, _tried(one, group)))
    finally:
        if both is not None:
            both.close()
    return noise


def divergence(backend: Backend, config: Config, batch: Batch, signal: NDArray[Any]) -> float:
    """Noise-to-signal ratio of a configuration's first output against fp32's.

    Args:
        backend: Loaded and calibrated.
        config: The configuration.
        batch: Samples of the calibration data.
        signal: fp32's first output on them.

    Raises:
        EngineError: the engine cannot build or run it.
    """
    model = backend.build(config)
    try:
        return noise_to_signal(signal, model.predict(batch)[0])
    finally:
        model.close()


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
