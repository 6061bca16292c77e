"""Calibration results of a model: histograms, the ranges derived from them, and remarks on equalization."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from nc_strategies.calibration.equalization import EQUALIZE_MODES, Array, Pair, Peaks, adopt
from nc_strategies.calibration.histogram import Histogram
from nc_strategies.errors import EngineError

Look = Callable[[str, NDArray[Any]], None]
"""Callback that receives a tensor's name and its values."""
Collect = Callable[[Look], dict[str, Histogram]]
"""Runs the floating-point graph that is in use over the calibration data and passes every array to its argument."""
TRIAL_PASSES = 3.0
"""Time to try equalization, relative to that of the first pass: the second one, and the noise of two int8 models."""
NO_TIME = "Equalization was not tried, because the time limit leaves no time for it."


class CalibrationState:
    """The calibration of one loaded model, shared by all backends.

    Args:
        percentile: Percentile of the values to represent with the ``percentile`` algorithm, on either side, in percent.
    """

    def __init__(self, percentile: float) -> None:
        self.percentile = percentile
        self.remarks: tuple[str, ...] = ()
        self._histograms: dict[str, Histogram] = {}
        self._ready = False
        self._ranges: dict[tuple[str, str], tuple[float, float]] = {}

    @property
    def ready(self) -> bool:
        """Whether the model is calibrated. One without operators in static int8 has no tensors to calibrate."""
        return self._ready

    @property
    def infinite(self) -> frozenset[str]:
        """Tensors that were infinite somewhere on the calibration data."""
        return frozenset(name for name, histogram in self._histograms.items() if histogram.infinite)

    @property
    def unseen(self) -> frozenset[str]:
        """Tensors that held no value on the calibration data, such as the empty past of a decoder."""
        return frozenset(name for name, histogram in self._histograms.items() if histogram.empty)

    def clear(self) -> None:
        """Discard all results, because another model was loaded."""
        self.remarks = ()
        self._take({})
        self._ready = False

    def range(self, tensor: str, algorithm: str) -> tuple[float, float]:
        """The range of a tensor to quantize, as (lowest, highest) value; see `Histogram.range`.

        Raises:
            EngineError: the tensor was not calibrated.
        """
        key = (tensor, algorithm)
        if key not in self._ranges:
            if tensor not in self._histograms:
                raise EngineError(f"tensor {tensor!r} is not calibrated; call calibrate first")
            self._ranges[key] = self._histograms[tensor].range(algorithm, self.percentile)
        return self._ranges[key]

    def replace(self, histograms: Mapping[str, Histogram]) -> dict[str, Histogram]:
        """Take new histograms of some tensors; return all earlier ones, which can be given back in the same way."""
        before = self._histograms
        self._take({**before, **histograms})
        return before

    def run(
        self,
        collect: Collect,
        when: str,
        pairs: Sequence[Pair[Any]],
        use: Callable[[Mapping[str, Array] | None], None],
        noise: Callable[[], float],
        leaves: Callable[[float], bool] = lambda _: True,
    ) -> None:
        """Collect histograms, then equalize channels if `when` asks for it; an equalized graph takes a second pass.

        Args:
            collect: Returns the histograms of the graph in use.
            when: ``auto``, ``always`` or ``never``.
            pairs: Pairs of operators whose channels can be equalized; none for no equalization.
            use: Switches to the graph that is equalized by these peaks; None for the graph without equalization.
            noise: Returns the noise-to-signal ratio of the all-int8 version of the graph in use.
            leaves: Whether there is time for so many seconds; without it, ``auto`` does not try to equalize.

        Raises:
            InputError: the data does not fit the model, or a value is not finite.
        """
        self.remarks = ()
        peaks = Peaks(pairs)
        begin = time.perf_counter()
        plain = collect(peaks.look)
        self._take(plain)
        if not pairs:
            return
        if when == EQUALIZE_MODES[0] and not leaves(TRIAL_PASSES * (time.perf_counter() - begin)):
            self.remarks = (NO_TIME,)
            return

        def switch(equalized: bool) -> None:
            use(peaks.values if equalized else None)
            self._take(collect(_ignore) if equalized else plain)

        self.remarks = adopt(when, len(pairs), noise, switch)

    def _take(self, histograms: dict[str, Histogram]) -> None:
        self._histograms = histograms
        self._ready = True
        self._ranges.clear()


def _ignore(name: str, values: NDArray[Any]) -> None:
    """Callback for the second pass, in which the peaks are known already."""
