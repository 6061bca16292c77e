"""Data loaders: array files, the bundled sample, and functions of the user."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from nc_strategies.data.arrange import arrange
from nc_strategies.data.dataset import Raw
from nc_strategies.data.npz import read_npz
from nc_strategies.data.ragged import Ragged, Samples, as_samples
from nc_strategies.data.settings import NpzSettings, PythonDataSettings, SampleDataSettings
from nc_strategies.data.spool import Spool
from nc_strategies.errors import InputError
from nc_strategies.runtime.lazy_target import guarded, load_target

__all__ = ["NpzData", "PythonData", "SampleData", "check_samples", "read_npz", "split"]


def check_samples(wanted: int) -> None:
    """Check the requested number of calibration samples.

    Raises:
        InputError: the number is below 1.
    """
    if wanted < 1:
        raise InputError("data.calibration_samples", f"is {wanted}", "at least 1")


def split(evaluation: Raw, calibration: Raw | None, wanted: int, other: str) -> tuple[Raw, Raw]:
    """Split data into evaluation and calibration samples.

    Without separate calibration data, the first samples are used for calibration and removed from the evaluation; a
    sequence is not cut in two.

    Args:
        evaluation: The evaluation data.
        calibration: Separate calibration data, or None.
        wanted: Number of calibration samples.
        other: The configuration key of separate calibration data.

    Raises:
        InputError: no samples would be left to evaluate.
    """
    if calibration is not None:
        return evaluation, calibration.take(0, wanted)
    wanted = evaluation.end_of_sequence(wanted)
    if len(evaluation) <= wanted:
        raise InputError(
            "data.calibration_samples",
            f"takes {wanted} of {len(evaluation)} samples",
            f"some must be left to evaluate; set {other}, or take fewer",
        )
    return evaluation.take(wanted, len(evaluation)), evaluation.take(0, wanted)


class NpzData:
    """Samples in ``.npz`` files: ``x`` (or one array per input, with the input's name) and ``y``, see `read_npz`.

    Without a calibration file, the first samples are used for calibration and removed from the evaluation.
    """

    def __init__(self, settings: NpzSettings) -> None:
        self.settings = settings
        check_samples(settings.calibration_samples)

    def load(self) -> tuple[Raw, Raw]:
        """Evaluation and calibration samples.

        Raises:
            InputError: a file is missing, is not an ``.npz`` file, or holds no samples.
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
    """Data that a function of the user returns: arrays, or an iterable of batches, which are stored on disk."""

    def __init__(self, settings: PythonDataSettings) -> None:
        self.settings = settings
        check_samples(settings.calibration_samples)

    def load(self) -> tuple[Raw, Raw]:
        """Evaluation and calibration samples.

        Raises:
            InputError: the function cannot be found, raises, or returns an unsupported type; the message names it.
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


def _as_raw(key: str, target: str, data: Any, wanted: int) -> Raw:
    arrays: dict[str, Samples]
    if _is_pair(data) or _is_input(data):
        arrays = _named(key, target, data)
    elif isinstance(data, Iterable):
        with Spool(key) as spool:
            count = 0
            for batch in data:
                named = _named(key, target, batch)
                spool.append(named)
                count += len(next(iter(named.values())))
                if wanted and count >= wanted:
                    break
            arrays = spool.arrays()
    else:
        raise InputError(
            key, f"{target} returned a {type(data).__name__}", "expected (x, y) or an iterable of (x, y) batches"
        )
    labels = arrays.pop("y", None)
    return arrange(key, arrays, labels)


def _is_input(value: Any) -> bool:
    return hasattr(value, "__array__") or isinstance(value, Mapping | Ragged)


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and (_is_input(value[0]) or _is_list_of_samples(*value))


def _is_list_of_samples(x: Any, y: Any) -> bool:
    """Whether these are a list of arrays, one per sample, and as many labels."""
    listed = isinstance(x, list) and bool(x) and all(hasattr(sample, "__array__") for sample in x)
    return listed and (hasattr(y, "__array__") or isinstance(y, list)) and len(y) == len(x)


def _named(key: str, target: str, batch: Any) -> dict[str, Samples]:
    """A pair (x, y), or x alone, as arrays by name; labels have the name ``y``."""
    if not _is_pair(batch) and not _is_input(batch):
        raise InputError(key, f"{target} yielded a {type(batch).__name__} as a batch", "expected (x, y)")
    x, y = batch if _is_pair(batch) else (batch, None)
    inputs = dict(x) if isinstance(x, Mapping) else {"x": x}
    if "y" in inputs:
        raise InputError(key, f"{target} names an input 'y'", "'y' is the name of the labels")
    arrays = {str(name): as_samples(array) for name, array in inputs.items()}
    if y is not None:
        arrays["y"] = as_samples(y)
    if "y" in arrays and arrays["y"].ndim == 0:
        raise InputError(key, f"the labels of {target} are a single number where samples are expected")
    return arrays
