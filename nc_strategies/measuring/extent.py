"""How much data and time the preparation of a run may use, so that a small time budget still holds its trials."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

from nc_strategies.models.info import Batch


@dataclass(frozen=True)
class ExtentRules:
    """Limits on the reduction of samples."""

    least_samples: int = 100
    """Evaluation samples below which a longer evaluation is accepted (`Allowance.most_evaluation_seconds`). The
    sequential test that stops hopeless trials needs about as many."""
    fewest_samples: int = 2
    """Minimum number of evaluation samples in any case: an interval needs two."""
    batches_per_evaluation: int = 8
    """Minimum number of batches of an evaluation in a run with a time limit: the deadline is checked once per batch."""
    calibration_batch: int = 5
    """Samples per calibration batch in a run with a time limit: the time is checked once per batch."""
    calibration_work: float = 2.0
    """Most seconds of the passes and of trying equalization, relative to those of one pass."""
    noise_passes: float = 3.0
    """Seconds of one estimate of an operator's noise, relative to running the same samples through fp32. The graph that
    holds both precisions of every operator takes about three times as long."""
    timed_runs_of_estimate: int = 3
    """Timed runs of fp32 that estimate the seconds per sample; their median is used."""


EXTENT_RULES = ExtentRules()


@dataclass(frozen=True)
class Allowance:
    """Limits on what is read and timed before and in the trials; without a time limit of the run there are none.

    Args:
        calibration_seconds: Seconds of one pass over the calibration samples.
        evaluation_seconds: Seconds to evaluate fp32 on all samples that are used.
        most_evaluation_seconds: The same where fewer than `ExtentRules.least_samples` samples would be left.
        timing_seconds: Seconds to time one trial beside fp32.
        noise_seconds: Seconds to estimate the noise of all operators.
        samples: Number of evaluation samples that an earlier preparation has chosen; 0 to choose it.
        calibration_samples: Number of calibration samples that an earlier preparation has read; 0 to choose it.
        recovery_seconds: Seconds of recovery during calibration.
        equalization: False where an earlier preparation had no time to try equalization.
    """

    calibration_seconds: float = math.inf
    evaluation_seconds: float = math.inf
    most_evaluation_seconds: float = math.inf
    timing_seconds: float = math.inf
    noise_seconds: float = math.inf
    samples: int = 0
    calibration_samples: int = 0
    recovery_seconds: float = math.inf
    equalization: bool = True

    @property
    def limited(self) -> bool:
        """Whether perhaps not all samples are used."""
        return math.isfinite(self.calibration_seconds) or self.samples > 0 or self.calibration_samples > 0

    def fixed(self, extent: Extent) -> Allowance:
        """The same limits with the numbers of samples that were used, for a preparation that repeats an earlier one."""
        return replace(
            self,
            samples=extent.samples,
            calibration_samples=extent.calibration_samples,
            equalization=bool(extent.equalization),
        )

    def evaluation_samples(self, given: int, sample_seconds: float) -> int:
        """Number of evaluation samples to use.

        Args:
            given: Number of evaluation samples.
            sample_seconds: Seconds of fp32 per sample.
        """
        if self.samples or not math.isfinite(self.evaluation_seconds):
            return min(given, self.samples or given)
        per_sample = max(sample_seconds, 1e-9)
        fit = math.floor(self.evaluation_seconds / per_sample)
        most = math.floor(self.most_evaluation_seconds / per_sample)
        return min(given, max(fit, min(most, EXTENT_RULES.least_samples), EXTENT_RULES.fewest_samples))

    def batch_size(self, asked: int, sample_seconds: float) -> int:
        """Samples per run of an evaluation.

        Args:
            asked: Configured maximum.
            sample_seconds: Seconds of fp32 per sample.
        """
        if not math.isfinite(self.evaluation_seconds):
            return asked
        seconds = self.evaluation_seconds / EXTENT_RULES.batches_per_evaluation
        return max(1, min(asked, math.floor(seconds / max(sample_seconds, 1e-9))))

    def noise_samples(self, most: int, operators: int, sample_seconds: float) -> int:
        """Calibration samples per estimate of an operator's noise.

        Args:
            most: Maximum number of samples.
            operators: Number of groups of operators whose noise is estimated.
            sample_seconds: Seconds of fp32 per sample.
        """
        if not math.isfinite(self.noise_seconds):
            return most
        each = EXTENT_RULES.noise_passes * max(operators, 1) * max(sample_seconds, 1e-9)
        return max(1, min(most, math.floor(self.noise_seconds / each)))


@dataclass(frozen=True)
class Extent:
    """Numbers of samples that a run uses, of those given.

    Args:
        samples: Evaluation samples used; 0 where a user's function evaluates models.
        samples_given: Evaluation samples in the data; 0 likewise.
        calibration_samples: Calibration samples read.
        calibration_samples_given: Calibration samples in the data.
        equalization: 0 where there was no time to try equalization, else 1.
    """

    samples: int = 0
    samples_given: int = 0
    calibration_samples: int = 0
    calibration_samples_given: int = 0
    equalization: int = 1

    def text(self, timeout: float) -> str:
        """One sentence about a reduction; empty if all samples are used.

        Args:
            timeout: The run's time limit in seconds.
        """
        parts = [
            f"{used:,} of {given:,} {kind} samples"
            for used, given, kind in (
                (self.samples, self.samples_given, "evaluation"),
                (self.calibration_samples, self.calibration_samples_given, "calibration"),
            )
            if used < given
        ]
        if not parts:
            return ""
        return f"{' and '.join(parts)} are used, so that tuning.timeout={timeout:g} has time for trials"

    def to_dict(self) -> dict[str, int]:
        """A JSON-serializable dictionary; the inverse of ``Extent(**data)``."""
        return {
            "samples": self.samples,
            "samples_given": self.samples_given,
            "calibration_samples": self.calibration_samples,
            "calibration_samples_given": self.calibration_samples_given,
            "equalization": self.equalization,
        }


class BatchesInTime(Sequence[Batch]):
    """Calibration batches, of which the first pass reads as many as its time allows; later passes read the same ones.

    The first batch is always read. A further one is read if the mean time per batch so far leaves time for it.

    Args:
        batches: All batches.
        seconds: Seconds of all passes together; of the first one if no number is expected.
        clock: Clock in seconds; `time.perf_counter` by default.
        further: Whether there may be time for further work; False where an earlier preparation had none.

    Attributes:
        further: Whether there was time for all further work that was asked for.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        seconds: float,
        clock: Callable[[], float] | None = None,
        further: bool = True,
    ) -> None:
        self._batches, self._seconds, self.further = batches, seconds, further
        self._start: float | None = None
        self._clock = clock or time.perf_counter
        self._count: int | None = None
        self._passes = 1

    def expect_passes(self, count: int) -> None:
        """See `nc_strategies.backends.collection.InTime`."""
        self._passes = max(1, count)

    def leaves(self, seconds: float) -> bool:
        """See `nc_strategies.backends.collection.InTime`."""
        spent = 0.0 if self._start is None else self._clock() - self._start
        self.further = self.further and spent + seconds <= EXTENT_RULES.calibration_work * self._seconds
        return self.further

    def __iter__(self) -> Iterator[Batch]:
        """Batches of one pass."""
        if self._count is not None:
            yield from self._batches[: self._count]
            return
        self._start = start = self._clock()
        number = 0
        for number, batch in enumerate(self._batches, 1):
            yield batch
            spent = self._clock() - start
            if spent * (number + 1) / number > self._seconds / self._passes:
                break
        self._count = number

    def __len__(self) -> int:
        return len(self._batches) if self._count is None else self._count

    @overload
    def __getitem__(self, index: int) -> Batch: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...

    def __getitem__(self, index: Any) -> Any:
        """A batch by its position."""
        return self._batches[: len(self)][index]
