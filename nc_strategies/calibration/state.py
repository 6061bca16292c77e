"""What a backend keeps of a calibration: histograms, the ranges derived from them, and what was equalized."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from nc_strategies.calibration.equalization import Array, Pair, Peaks, adopt
from nc_strategies.calibration.histogram import Histogram
from nc_strategies.errors import EngineError

Look = Callable[[str, NDArray[Any]], None]
"""Is shown a tensor's name and its values."""
Collect = Callable[[Look], dict[str, Histogram]]
"""Runs the floating-point graph in use over the calibration data; every array is shown to its argument too."""


class CalibrationState:
    """The calibration of one loaded model, shared by all backends.

    Args:
        percentile: For the ``percentile`` algorithm: the share of values kept on either side, in percent.
    """

    def __init__(self, percentile: float) -> None:
        self.percentile = percentile
        self.remarks: tuple[str, ...] = ()
        self._histograms: dict[str, Histogram] = {}
        self._ranges: dict[tuple[str, str], tuple[float, float]] = {}

    @property
    def ready(self) -> bool:
        """Whether calibration data was seen."""
        return bool(self._histograms)

    def clear(self) -> None:
        """Forget everything: another model was loaded."""
        self.remarks = ()
        self._take({})

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

    def run(
        self,
        collect: Collect,
        when: str,
        pairs: Sequence[Pair[Any]],
        use: Callable[[Mapping[str, Array] | None], None],
        noise: Callable[[], float],
    ) -> None:
        """Collect histograms, and equalize channels where that is asked for and helps; then there is a second pass.

        Args:
            collect: Gives the histograms of the graph in use.
            when: ``auto``, ``always`` or ``never``.
            pairs: Pairs of operators whose channels can be equalized; none for no equalization.
            use: Takes the graph equalized by these peaks as the one in use; the plain graph for None.
            noise: Noise-to-signal ratio of int8 everywhere, of the graph in use.

        Raises:
            InputError: the data does not fit the model, or a value is not finite.
        """
        self.remarks = ()
        peaks = Peaks(pairs)
        plain = collect(peaks.look)
        self._take(plain)
        if not pairs:
            return

        def switch(equalized: bool) -> None:
            use(peaks.values if equalized else None)
            self._take(collect(_look_away) if equalized else plain)

        self.remarks = adopt(when, len(pairs), noise, switch)

    def _take(self, histograms: dict[str, Histogram]) -> None:
        self._histograms = histograms
        self._ranges.clear()


def _look_away(name: str, values: NDArray[Any]) -> None:
    """For a pass in which peaks are known already."""
