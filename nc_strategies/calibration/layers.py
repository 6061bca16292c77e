"""Statistics of one operator's tensors and of its quantization error: plain numpy, for any engine.

Source of the signal-to-quantization-noise ratio per tensor: onnxruntime's ``qdq_loss_debug``. Source of the range
facts: AIMET's quantization analyzer, which draws each tensor's histogram with its range.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.calibration.histogram import Histogram

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LayerRules:
    """Definitions and limits of the facts about an operator.

    Args:
        exact_db: Ratio in dB that stands for an output without any error.
        broken_db: Ratio in dB that stands for an output that is not finite where fp32's is.
        outlier_ratio: A channel is an outlier if its largest magnitude is more than this multiple of the median
            channel's. With one scale for the whole tensor, a channel loses log2(ratio) bits: of 8 bits, the median
            channel has at most 5 left at a ratio of 8. Source of the measure: the range of a channel against that of
            the tensor, Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV
            2019), section 4.1.
        least_channels: Fewest channels that vary in a tensor in which outliers are looked for.
        central_share: Share of the values, around the median, whose width tells how many integers most values use.
        bars: Bars of the histogram that is reported.
        listed: Most channels that are listed by number.
    """

    exact_db: float = 200.0
    broken_db: float = -200.0
    outlier_ratio: float = 8.0
    least_channels: int = 8
    central_share: float = 0.99
    bars: int = 64
    listed: int = 16


RULES = LayerRules()


@dataclass(frozen=True)
class ActivationRange:
    """The real values that the integers of a tensor represent.

    Args:
        low: The value of the lowest integer.
        high: The value of the highest one.
        levels: Steps between the two; 0 is a multiple of a step.
    """

    low: float
    high: float
    levels: int

    @property
    def step(self) -> float:
        """Difference between neighbouring values."""
        return (self.high - self.low) / self.levels

    def rounded(self, values: NDArray[Any]) -> Floats:
        """The values as the integers represent them."""
        step = self.step
        integers = np.rint(np.asarray(values, np.float64) / step)
        return np.asarray(np.clip(integers, round(self.low / step), round(self.high / step)) * step)


def decibel(signal: float, noise: float, rules: LayerRules = RULES) -> float:
    """Signal-to-quantization-noise ratio ``10 log10(signal / noise)`` in dB, of two sums of squares."""
    if not math.isfinite(noise):
        return rules.broken_db
    if noise <= 0:
        return rules.exact_db
    if signal <= 0:
        return rules.broken_db
    return max(rules.broken_db, min(rules.exact_db, 10 * math.log10(signal / noise)))


def _by_channel(values: NDArray[Any], axis: int) -> tuple[NDArray[Any], tuple[int, ...]]:
    """The values, and the axes other than that of the channels; a tensor without such an axis is one channel."""
    if not -values.ndim <= axis < values.ndim:
        values, axis = values.reshape(-1, 1), 1
    axis %= values.ndim
    return values, tuple(i for i in range(values.ndim) if i != axis)


def _joined(
    before: Floats, new: Floats, join: Callable[[Floats, Floats], Floats], whole: Callable[[Floats], Any]
) -> Floats:
    """Figures of channels with those of another run; of one channel where the number of channels differs.

    An axis whose length changes from run to run, such as that of the positions of a text, counts no channels.
    """
    if not before.size:
        return new
    if len(before) != len(new):
        before, new = np.atleast_1d(whole(before)), np.atleast_1d(whole(new))
    return join(before, new)


class NoiseSum:
    """Sums of squares of a signal and of its error, per channel, relative to the signal of their sample.

    Each sample counts alike: one that exceeds all ranges, whose squares would outweigh those of all others, does not
    hide what happens to the others. Where the first axis counts channels, all values count alike.

    Args:
        axis: The axis that counts channels.
    """

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self.signal: Floats = np.zeros(0)
        self.noise: Floats = np.zeros(0)

    def update(self, signal: NDArray[Any], output: NDArray[Any]) -> None:
        """Add a run.

        Args:
            signal: fp32's values, any shape. Values that are not finite, such as masks, are left out.
            output: The other model's, of the same number of elements.
        """
        wanted, axis = np.asarray(signal, np.float64), self._axis
        if not wanted.size:
            return
        if not -wanted.ndim <= axis < wanted.ndim:  # one channel, whose samples are on the first axis
            wanted, axis = wanted.reshape(len(np.atleast_1d(wanted)), -1, 1), 2
        got = np.asarray(output, np.float64).reshape(wanted.shape)
        wanted, others = _by_channel(wanted, axis)
        finite = np.isfinite(wanted)
        if not finite.all():
            wanted, got = np.where(finite, wanted, 0.0), np.where(finite, got, 0.0)
        with np.errstate(over="ignore", invalid="ignore"):
            error = np.square(got - wanted)
        # An output that is not a number is as wrong as one that is infinite.
        error = np.where(np.isnan(error), np.inf, error)
        power = np.square(wanted)
        if 0 in others:
            total = power.sum(tuple(range(1, power.ndim)), keepdims=True)
            mean = total.mean() or 1.0
            power, error = (part / np.where(total > 0, total, mean) for part in (power, error))
        power, error = power.sum(others), error.sum(others)
        self.signal = _joined(self.signal, power, np.add, np.sum)
        self.noise = _joined(self.noise, error, np.add, np.sum)

    def db(self) -> float | None:
        """Ratio over all channels in dB; None without any value."""
        return decibel(float(self.signal.sum()), float(self.noise.sum())) if self.signal.size else None

    def median_channel_db(self) -> float | None:
        """Median of the channels' own ratios in dB, without channels that are zero; None if all are.

        Large channels hide what happens to the others in the ratio over all channels.
        """
        found = [decibel(float(s), float(n)) for s, n in zip(self.signal, self.noise, strict=True) if s > 0]
        return float(np.median(found)) if found else None


@dataclass(frozen=True)
class TensorFacts:
    """An activation and its range, see `TensorStatistics`.

    Args:
        tensor: Its name.
        role: ``input`` or ``output`` of the operator.
        low: Least value seen.
        high: Greatest value seen.
        range: Lowest and highest value that its integers represent; None where they are computed at run time, or where
            it is not quantized.
        clipped: Share of the values outside `range`.
        unused: Share of `range` that no value reaches.
        central_levels: Steps that the central 99 % of the values span, of 255.
        sqnr_db: Signal-to-quantization-noise ratio of rounding this tensor and nothing else, in dB.
        median_channel_db: The same of the median channel.
        channels: Number of channels.
        dead: Number of channels that are constant on all samples.
        dead_channels: The first of them.
        outliers: Number of outlier channels, see `LayerRules`.
        outlier_channels: The largest of them: pairs (channel, its peak as a multiple of the median channel's).
        bars: Shares of the values in equal intervals of `bar_range`.
        bar_range: From the least to the greatest of values and range.
    """

    tensor: str
    role: str
    low: float
    high: float
    range: tuple[float, float] | None
    clipped: float | None
    unused: float | None
    central_levels: float | None
    sqnr_db: float | None
    median_channel_db: float | None
    channels: int
    dead: int
    dead_channels: tuple[int, ...]
    outliers: int
    outlier_channels: tuple[tuple[int, float], ...]
    bars: tuple[float, ...]
    bar_range: tuple[float, float]


class TensorStatistics:
    """Statistics of one activation over all samples.

    Args:
        axis: The axis that counts channels.
        range: The values that its integers represent; None if it is not quantized with a constant range.
    """

    def __init__(self, axis: int, range: ActivationRange | None) -> None:
        self._axis, self._range = axis, range
        self._histogram = Histogram()
        self._noise = NoiseSum(axis)
        self._low: Floats = np.zeros(0)
        self._high: Floats = np.zeros(0)
        self._clipped = self._count = 0

    def update(self, values: NDArray[Any]) -> None:
        """Add the fp32 values of a run; infinite ones are left out.

        Raises:
            ValueError: a value is NaN.
        """
        if not values.size:
            return
        self._histogram.update(values)
        wide, others = _by_channel(values, self._axis)
        finite = np.isfinite(wide)
        low = np.where(finite, wide, np.inf).min(others).astype(np.float64)
        high = np.where(finite, wide, -np.inf).max(others).astype(np.float64)
        self._low = _joined(self._low, low, np.minimum, np.min)
        self._high = _joined(self._high, high, np.maximum, np.max)
        self._count += int(finite.sum())
        if self._range is not None:
            # Half a step beyond the range is still rounded to its end.
            half = self._range.step / 2
            outside = (wide < self._range.low - half) | (wide > self._range.high + half)
            self._clipped += int((outside & finite).sum())
            self._noise.update(wide, self._range.rounded(np.where(finite, wide, 0.0)))

    def facts(self, tensor: str, role: str, rules: LayerRules = RULES) -> TensorFacts | None:
        """The facts under a tensor's name and role; None if no finite value was seen."""
        seen, span = self._histogram, self._range
        if seen.low > seen.high:
            return None
        peaks = np.maximum(np.abs(self._low), np.abs(self._high))
        dead = np.flatnonzero(~(self._high > self._low))
        outliers = outlier_channels(peaks, dead, rules)
        lowest, highest = (
            (seen.low, seen.high) if span is None else (min(seen.low, span.low), max(seen.high, span.high))
        )
        unused = central = None
        if span is not None:
            reached = max(0.0, min(seen.high, span.high) - max(seen.low, span.low))
            unused = 1 - reached / (span.high - span.low)
            tail = 100 * (1 - (1 - rules.central_share) / 2)
            inner_low, inner_high = seen.range("percentile", tail)
            central = min((inner_high - inner_low) / span.step, float(span.levels))
        return TensorFacts(
            tensor,
            role,
            seen.low,
            seen.high,
            None if span is None else (span.low, span.high),
            None if span is None else self._clipped / self._count,
            unused,
            central,
            None if span is None else self._noise.db(),
            None if span is None else self._noise.median_channel_db(),
            len(peaks),
            len(dead),
            tuple(map(int, dead[: rules.listed])),
            len(outliers),
            outliers[: rules.listed],
            bars(seen, lowest, highest, rules.bars),
            (lowest, highest),
        )


def outlier_channels(peaks: Floats, dead: NDArray[np.intp], rules: LayerRules = RULES) -> tuple[tuple[int, float], ...]:
    """Channels whose peak is far beyond the median channel's, the largest first; see `LayerRules.outlier_ratio`.

    Args:
        peaks: Largest magnitude of each channel, shape (channels,).
        dead: Channels that do not count.
        rules: Definition of an outlier.

    Returns:
        Pairs (channel, peak as a multiple of the median's).
    """
    alive = np.setdiff1d(np.arange(len(peaks)), dead)
    if len(alive) < rules.least_channels:
        return ()
    middle = float(np.median(peaks[alive]))
    if middle <= 0:
        return ()
    far = [(int(channel), float(peaks[channel] / middle)) for channel in alive]
    return tuple(sorted((c for c in far if c[1] > rules.outlier_ratio), key=lambda c: -c[1]))


def bars(histogram: Histogram, low: float, high: float, count: int) -> tuple[float, ...]:
    """Shares of a histogram's values in equal intervals from `low` to `high`; values spread evenly over its bins."""
    total = int(histogram.counts.sum())
    if not total or not histogram.bound or high <= low:
        return (1.0,) + (0.0,) * (count - 1) if total else (0.0,) * count
    edges = np.linspace(-histogram.bound, histogram.bound, len(histogram.counts) + 1)
    below = np.concatenate([[0], np.cumsum(histogram.counts)]) / total
    inside = np.interp(np.linspace(low, high, count + 1), edges, below)
    inside[0], inside[-1] = 0.0, 1.0
    return tuple(float(share) for share in np.diff(inside))


@dataclass(frozen=True)
class WeightFacts:
    """A quantized weight.

    Args:
        granularity: Granularity of its scales.
        sqnr_db: Signal-to-quantization-noise ratio of its rounding in dB.
        spread: Largest magnitude of its largest output channel as a multiple of the median channel's.
        channels: Number of output channels.
        zero_channels: Number of output channels that are all zero.
    """

    granularity: str
    sqnr_db: float
    spread: float
    channels: int
    zero_channels: int


def weight_facts(original: NDArray[Any], used: NDArray[Any], axis: int, granularity: str) -> WeightFacts:
    """Facts about a weight.

    Args:
        original: The weight in fp32.
        used: What the integers stand for, of the same shape.
        axis: The axis of its output channels.
        granularity: Granularity of its scales.
    """
    noise = NoiseSum(axis)
    noise.update(original, used)
    wide, others = _by_channel(np.asarray(original), axis)
    peaks = np.abs(wide).max(others).astype(np.float64)
    filled = peaks[peaks > 0]
    spread = float(filled.max() / np.median(filled)) if filled.size else 1.0
    return WeightFacts(granularity, noise.db() or 0.0, spread, len(peaks), int((peaks == 0).sum()))
