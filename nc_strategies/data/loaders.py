"""Where samples come from: files of arrays, functions of the user's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from nc_strategies.data.dataset import Raw
from nc_strategies.data.npz import read_npz
from nc_strategies.data.settings import NpzSettings, PythonDataSettings, SampleDataSettings
from nc_strategies.data.spool import Spool
from nc_strategies.errors import InputError
from nc_strategies.runtime.lazy_target import guarded, load_target

__all__ = ["NpzData", "PythonData", "SampleData", "check_samples", "read_npz", "split"]


def check_samples(wanted: int) -> None:
    """Check how many calibration samples are asked for.

    Raises:
        InputError: none.
    """
    if wanted < 1:
        raise InputError("data.calibration_samples", f"is {wanted}", "at least 1")


def split(evaluation: Raw, calibration: Raw | None, wanted: int, other: str) -> tuple[Raw, Raw]:
    """Evaluation and calibration samples; without the latter, the head of the former, left out of it.

    Args:
        evaluation: All of it.
        calibration: Samples of their own, or None.
        wanted: Calibration samples.
        other: The key that would give samples of their own.

    Raises:
        InputError: nothing would be left to evaluate.
    """
    if calibration is not None:
        return evaluation, calibration.take(0, wanted)
    if len(evaluation) <= wanted:
        raise InputError(
            "data.calibration_samples",
            f"takes {wanted} of {len(evaluation)} samples",
            f"some must be left to evaluate; give {other} or fewer",
        )
    return evaluation.take(wanted, len(evaluation)), evaluation.take(0, wanted)


class NpzData:
    """Samples in ``.npz`` files: ``x`` (or an array an input, named for it) and ``y``, see `read_npz`.

    Without a calibration file, calibration samples come from the head and are left out of the evaluation.
    """

    def __init__(self, settings: NpzSettings) -> None:
        self.settings = settings
        check_samples(settings.calibration_samples)

    def load(self) -> tuple[Raw, Raw]:
        """Evaluation and calibration samples.

        Raises:
            InputError: a file is missing, not an ``.npz``, or holds something else.
        """
        settings = self.settings
        calibration = None
        evaluation = read_npz("data.path", settings.path)
        if settings.calibration_path is not None:
            calibration = read_npz("data.calibration_path", settings.calibration_path)
        return split(evaluation, calibration, settings.calibration_samples, "data.calibration_path")


class SampleData:
    """The bundled Fashion-MNIST pictures."""

    def __init__(self, settings: SampleDataSettings) -> None:
        from nc_strategies import samples

        self._files = NpzData(
            NpzSettings(
                path=str(samples.evaluation_images()),
                calibration_path=str(samples.calibration_images()),
                calibration_samples=settings.calibration_samples,
            )
        )

    def load(self) -> tuple[Raw, Raw]:
        """Evaluation and calibration samples."""
        return self._files.load()


class PythonData:
    """What a function of the user's returns: arrays, or batches one after the other, which are kept on disk."""

    def __init__(self, settings: PythonDataSettings) -> None:
        self.settings = settings
        check_samples(settings.calibration_samples)

    def load(self) -> tuple[Raw, Raw]:
        """Evaluation and calibration samples.

        Raises:
            InputError: the function cannot be found, raises, or returns something else; the message names it.
        """
        settings = self.settings
        calibration = None
        evaluation = self._call("data.target", settings.target)
        if settings.calibration_target is not None:
            calibration = self._call(
                "data.calibration_target", settings.calibration_target, settings.calibration_samples
            )
        return split(evaluation, calibration, settings.calibration_samples, "data.calibration_target")

    def _call(self, key: str, target: str, wanted: int = 0) -> Raw:
        function = load_target(key, target)
        return cast(Raw, guarded(key, target, lambda: _as_raw(key, target, function(), wanted)))


def _as_raw(key: str, target: str, made: Any, wanted: int) -> Raw:
    if _is_pair(made) or _is_input(made):
        arrays = _named(key, target, made)
    elif isinstance(made, Iterable):
        with Spool(key) as spool:
            seen = 0
            for batch in made:
                taken = _named(key, target, batch)
                spool.append(taken)
                seen += len(next(iter(taken.values())))
                if wanted and seen >= wanted:
                    break
            arrays = spool.arrays()
    else:
        raise InputError(
            key, f"{target} returned a {type(made).__name__}", "expected (x, y) or an iterable of (x, y) batches"
        )
    labels = arrays.pop("y", None)
    return Raw(key, arrays, labels)


def _is_input(value: Any) -> bool:
    return hasattr(value, "__array__") or isinstance(value, Mapping)


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and _is_input(value[0])


def _named(key: str, target: str, batch: Any) -> dict[str, NDArray[Any]]:
    """A pair (x, y), or x alone, as arrays by name; the labels' is ``y``."""
    if not _is_pair(batch) and not _is_input(batch):
        raise InputError(key, f"{target} gave a {type(batch).__name__} for a batch", "expected (x, y)")
    x, y = batch if _is_pair(batch) else (batch, None)
    inputs = dict(x) if isinstance(x, Mapping) else {"x": x}
    if "y" in inputs:
        raise InputError(key, f"{target} calls an input 'y'", "which is the name of the labels")
    arrays = {str(name): np.asarray(array) for name, array in inputs.items()}
    if y is not None:
        arrays["y"] = np.asarray(y)
    for name, array in arrays.items():
        if array.ndim == 0:
            raise InputError(key, f"array {name!r} of {target} is a single number where samples are expected")
    return arrays
