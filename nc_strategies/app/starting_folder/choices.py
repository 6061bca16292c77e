"""The settings of a run from a model, its data, the loss that is allowed and the engine."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser

from nc_strategies import samples
from nc_strategies.app.detector_outputs import METRIC as DETECTION
from nc_strategies.app.goals import default_goal
from nc_strategies.config import TuningConfig
from nc_strategies.data.labels import BOX_ARRAYS
from nc_strategies.data.settings import CALIBRATION_SAMPLES
from nc_strategies.data.spool import LARGE
from nc_strategies.defaults import CRITERION, TOLERABLE_LOSS
from nc_strategies.errors import InputError, first_line

SAMPLE, SAMPLE_TEXT = "sample", "sample_text"
LABELS, NO_LABELS = "labels", "no-labels"
"""Answers for data that is not there yet."""
FIDELITY, MAE = "fidelity", "mae_latency"
"""Sets of metrics, see the folder conf/metrics."""
PACKED_BOXES = "numbers (N, most boxes of a sample, 6), which nc_strategies.data.labels.pack_boxes makes of the boxes"
"""Labels that a function returns for a detector."""
PACKED_AXES = 3
"""Their axes."""
UNLABELLED: Mapping[str, Any] = {"metrics": FIDELITY, "accuracy": {}}
"""Metric of data without labels, as arguments of `Choices`."""
TEXT_SUFFIXES = (".tsv", ".jsonl", ".json")
TABLES = (".csv", *TEXT_SUFFIXES)
DATA_FORMS = (
    ".npz arrays, a .csv table, texts (.csv, .tsv, .jsonl, .json), a folder with one subfolder of pictures per class, "
    f"'{LABELS}' or '{NO_LABELS}' to write data.py yourself, or '{SAMPLE}' for the bundled samples"
)
WHOLE_IMAGE = 0.875
"""Part of a resized picture's shorter side that the centre crop keeps: 224 of 256, as classifiers are evaluated."""
LEAST_CROPPED = 96
"""Pixels of a model's input from which on pictures are cropped; smaller pictures are resized whole."""


@dataclass(frozen=True)
class Tensor:
    """An input of the model, as `nc_strategies.app.inspect` describes it.

    Args:
        name: Its name.
        dtype: Its numpy type; empty if unknown.
        shape: Its shape; text or None for a free axis. None if unknown.
        axis: The axis that counts samples; None if there is none.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None
    axis: int | None

    @property
    def sample_shape(self) -> tuple[int | str | None, ...]:
        """Shape of a sample, without the axis that counts samples."""
        return tuple(size for axis, size in enumerate(self.shape or ()) if axis != self.axis)

    @property
    def text(self) -> str:
        """Name, type and shape as they stand in the data, with samples first."""
        sizes = ["N", *(str(size) if isinstance(size, int) else "any" for size in self.sample_shape)]
        return f"{self.name}: {self.dtype or 'numbers'} ({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


@dataclass(frozen=True)
class Model:
    """The model, and what is known of it.

    Args:
        name: The option of ``model=``.
        path: Its file or folder; None for a bundled one.
        backend: The engine that judged it.
        inputs: Its inputs.
        settings: Settings that `nc_strategies.app.start_command` proposes: key to value.
        labels: What the labels are that the proposed metric reads; empty for a metric that needs none.
        detector: Whether it looks like an object detector.
    """

    name: str
    path: Path | None
    backend: str
    inputs: tuple[Tensor, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    labels: str = ""
    detector: bool = False

    @staticmethod
    def inspected(name: str, path: Path | None, found: Mapping[str, Any]) -> Model:
        """From the result of `nc_strategies.app.inspect.inspect`.

        Args:
            name: The option of ``model=``.
            path: See the class.
            found: The description of a model that can be tuned.
        """
        inputs = tuple(
            Tensor(
                entry["name"],
                entry["dtype"],
                None if entry["shape"] is None else tuple(entry["shape"]),
                entry["sample_axis"],
            )
            for entry in found["inputs"]
        )
        parser = OverridesParser.create()
        overrides = [parser.parse_override(argument) for argument in found["start"]["arguments"][1:]]
        settings = {override.key_or_group: _plain(override.value()) for override in overrides}
        start = found["start"]
        labels = PACKED_BOXES if settings.get("metrics.accuracy.name") == DETECTION else start["labels"]
        return Model(name, path, found["backend"], inputs, settings, labels, start["detector"])


@dataclass(frozen=True)
class Choices:
    """Everything that the files of a starting folder say.

    Args:
        model: The model.
        source: File or folder of the data; None for data that is bundled, or that the user writes.
        data: Settings of ``data``, its name included.
        script: What ``data.py`` does: ``npz``, ``sample``, `LABELS` or `NO_LABELS`; empty for no such file.
        arrays: Names of the input arrays of an ``.npz`` file, in their order.
        metrics: The option of ``metrics=``; None for the default.
        accuracy: Settings of the metric; empty for the option's own.
        criterion: How the loss is stated.
        tolerable_loss: The loss that is allowed.
        placeholders: Whether the preprocessing is to be looked at, because the files say nothing about it.
    """

    model: Model
    source: Path | None
    data: Mapping[str, Any]
    script: str = ""
    arrays: tuple[str, ...] = ()
    metrics: str | None = None
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    criterion: str = CRITERION
    tolerable_loss: float = TOLERABLE_LOSS
    placeholders: bool = False

    @property
    def metric(self) -> str:
        """Name of the metric."""
        named = self.accuracy.get("name")
        return str(named) if named else {FIDELITY: "cosine", MAE: "mae"}.get(self.metrics or "", "top1")

    def allowing(self, criterion: str, loss: float) -> Choices:
        """The same with this loss.

        Raises:
            InputError: the loss is not one that can be allowed.
        """
        try:
            TuningConfig(criterion=criterion, tolerable_loss=loss).validate()
        except InputError as error:
            raise InputError("--loss", error.problem, error.allowed) from None
        return replace(self, criterion=criterion, tolerable_loss=loss)


def default_loss(choices: Choices) -> tuple[str, float]:
    """The criterion and the loss that are proposed for the metric."""
    own = default_goal(choices.metric)
    return (CRITERION, TOLERABLE_LOSS) if own is None else ("absolute", own.tolerable_loss)


def read_loss(text: str, proposed: tuple[str, float]) -> tuple[str, float]:
    """The criterion and the loss that an answer states, such as ``0.01``, ``1%`` or ``0.5 absolute``.

    Args:
        text: The answer.
        proposed: What `default_loss` says; its criterion holds where the answer names none.

    Raises:
        InputError: the answer is no number, or a criterion that the metric cannot have.
    """
    allowed = (
        "a number or a percentage of fp32's value, such as 0.01 or 1%; or an absolute loss, such as '0.5 absolute'"
    )
    number, _, word = " ".join(text.replace("%", " % ").split()).partition(" ")
    if word not in ("", "%", "relative", "absolute"):
        raise InputError("--loss", f"is {text!r}", allowed)
    try:
        loss = float(number)
    except ValueError:
        loss = math.nan
    if not math.isfinite(loss):
        raise InputError("--loss", f"is {text!r}", allowed)
    absolute_only = proposed[0] == "absolute"
    if absolute_only and word in ("%", "relative"):
        raise InputError("--loss", f"is {text!r}, but this metric takes an absolute loss", f"such as {proposed[1]:g}")
    if word == "%":
        return "relative", loss / 100
    return word or proposed[0], loss


def choose_data(model: Model, answer: str) -> Choices:
    """The settings of the data and the metric.

    Args:
        model: The model.
        answer: The answer on the data, see `DATA_FORMS`.

    Raises:
        InputError: there is no such data, or its form is not known.
    """
    if answer == SAMPLE:
        return _sample(model)
    if answer in (LABELS, NO_LABELS):
        return _to_write(model, answer)
    path = Path(answer).expanduser()
    if not path.exists():
        raise InputError("--data", f"no such file or folder: {path}", DATA_FORMS)
    path, suffix = path.resolve(), path.suffix.lower()
    if path.is_dir():
        return _pictures(model, path)
    if suffix == ".npz":
        return _npz(model, path)
    if suffix not in TABLES:
        raise InputError("--data", f"the form of {path} is not known", DATA_FORMS)
    name = "text" if suffix in TEXT_SUFFIXES or _reads_tokens(model) else "csv"
    return Choices(model, path, {"name": name, "path": str(path)}, **_labelled_metric(model, None))


def _sample(model: Model) -> Choices:
    bundled = model.name
    if bundled == SAMPLE_TEXT:
        return Choices(model, None, {"name": SAMPLE_TEXT}, accuracy={"name": "top1"})
    shape = model.inputs[0].sample_shape if len(model.inputs) == 1 else ()
    if bundled != SAMPLE and shape != (28, 28, 1):
        raise InputError(
            "--data", f"is {SAMPLE}, but the model does not take the bundled pictures of 28 x 28 x 1", DATA_FORMS
        )
    data = _script("samples", True) | {"preprocess": {"scale": samples.SCALE, "offset": samples.OFFSET}}
    return Choices(model, None, data, SAMPLE, accuracy={"name": "top1"})


def _to_write(model: Model, answer: str) -> Choices:
    metric = _labelled_metric(model, None) if answer == LABELS else UNLABELLED
    data = _script("samples") | _input_rules(model)
    return Choices(model, None, data, answer, **metric)


def _npz(model: Model, path: Path) -> Choices:
    arrays = _headers(path)
    inputs = tuple(name for name in arrays if name != "y")
    boxes = set(BOX_ARRAYS) <= set(arrays)
    if not inputs:
        raise InputError("--data", f"{path} holds no input array", "x, or one array per input of the model")
    metric = UNLABELLED
    if "y" in arrays:
        metric = _labelled_metric(model, arrays["y"])
    elif boxes:
        metric = _boxes_metric(model)
    preprocess = _preprocess(model)
    if not preprocess and len(inputs) == 1 and arrays[inputs[0]][1] == np.uint8 and _reads_floats(model):
        # Pixels from 0 to 255: no model was trained on these as they are.
        preprocess = {"preprocess": {"scale": 1 / 255, "offset": 0.0, "mean": [0.0], "std": [1.0]}}
    special = boxes or any(name.endswith((".values", ".offsets")) for name in arrays)
    if special or path.stat().st_size > LARGE:
        data = {"name": "npz", "path": str(path)} | preprocess | _input_rules(model)
        return Choices(model, path, data, "", inputs, **metric)
    count = next(iter(arrays.values()))[0][:1]
    calibration = CALIBRATION_SAMPLES
    if count and count[0] < 2 * CALIBRATION_SAMPLES:
        calibration = max(1, count[0] // 5)
    data = _script("samples") | {"calibration_samples": calibration} | preprocess | _input_rules(model)
    return Choices(model, path, data, "npz", inputs, **metric)


def _pictures(model: Model, path: Path) -> Choices:
    """A folder of pictures; their size and layout follow from the model's input."""
    if not any(child.is_dir() for child in path.iterdir()):
        raise InputError("--data", f"{path} has no subfolder", "one subfolder of pictures per class")
    image: dict[str, Any] = {}
    layout: dict[str, Any] = {}
    shape = model.inputs[0].sample_shape if len(model.inputs) == 1 else ()
    if len(shape) == 3:
        first = shape[0] in (1, 3) and shape[2] not in (1, 3)
        channels, height, width = (shape[0], shape[1], shape[2]) if first else (shape[2], shape[0], shape[1])
        layout = {"layout": "nchw"} if first else {}
        image = {"channels": channels} if channels in (1, 3) else {}
        if isinstance(height, int) and isinstance(width, int):
            if min(height, width) >= LEAST_CROPPED:
                image |= {"resize": [round(min(height, width) / WHOLE_IMAGE)], "crop": [height, width]}
            else:
                image |= {"resize": [height, width], "crop": None}
    stated = _preprocess(model).get("preprocess", {})
    data = {
        "name": "image_folder",
        "path": str(path),
        "image": image,
        "preprocess": {"scale": 1 / 255, "mean": [0.0], "std": [1.0], **stated, **layout},
    }
    metric = _labelled_metric(model, ((1,), np.dtype(np.int64)))
    return Choices(model, path, data, placeholders=True, **metric)


def _labelled_metric(model: Model, labels: tuple[tuple[int, ...], np.dtype[Any]] | None) -> dict[str, Any]:
    """The option of ``metrics=`` and the metric: what the model suggests, or else the labels' shape and type."""
    if model.detector:
        packed = labels is None or len(labels[0]) == PACKED_AXES
        return _boxes_metric(model) if packed else {"metrics": FIDELITY, "accuracy": {}, "placeholders": True}
    accuracy = _section(model, "metrics.accuracy")
    metrics = model.settings.get("metrics")
    if labels is not None and np.issubdtype(labels[1], np.floating) and accuracy.get("name") == "top1":
        # An output that looks like a probability, with labels that are no class numbers.
        return {"metrics": MAE, "accuracy": {}, "placeholders": True}
    if metrics != FIDELITY and (accuracy or metrics):
        return {"metrics": metrics, "accuracy": accuracy}
    if labels is None:
        return {"metrics": None, "accuracy": {"name": "top1"}, "placeholders": True}
    shape, dtype = labels
    if np.issubdtype(dtype, np.floating):
        return {"metrics": MAE, "accuracy": {}, "placeholders": True}
    if len(shape) == 1:
        return {"metrics": None, "accuracy": {"name": "top1"}, "placeholders": True}
    # Labels whose meaning the files do not tell: fp32's outputs are a reference that always fits.
    return {"metrics": FIDELITY, "accuracy": {}, "placeholders": True}


def _boxes_metric(model: Model) -> dict[str, Any]:
    """The metric for boxes as labels. fp32's outputs are the reference where no metric reads a detector's outputs."""
    suggested = _section(model, "metrics.accuracy")
    if model.detector and suggested.get("name") != DETECTION:
        return {"metrics": FIDELITY, "accuracy": {}, "placeholders": True}
    return {"metrics": None, "accuracy": suggested if model.detector else {"name": DETECTION}, "placeholders": True}


def _script(function: str, calibration: bool = False) -> dict[str, Any]:
    data = {"name": "python", "target": f"data.py:{function}"}
    return data | ({"calibration_target": "data.py:calibration"} if calibration else {})


def _preprocess(model: Model) -> dict[str, Any]:
    stated = _section(model, "data.preprocess")
    return {"preprocess": stated} if stated else {}


def _input_rules(model: Model) -> dict[str, Any]:
    """Inputs that are the same in each run, and axes of samples that are not the first."""
    found = {name: model.settings.get(f"data.{name}") for name in ("axes", "constants")}
    return {name: value for name, value in found.items() if value}


def _section(model: Model, name: str) -> dict[str, Any]:
    return {key.removeprefix(f"{name}."): value for key, value in model.settings.items() if key.startswith(f"{name}.")}


def _reads_tokens(model: Model) -> bool:
    """Whether the model's inputs look like those of a text model: integers along a free axis."""
    return any("int" in tensor.dtype and len(tensor.sample_shape) == 1 for tensor in model.inputs)


def _reads_floats(model: Model) -> bool:
    return len(model.inputs) == 1 and "float" in model.inputs[0].dtype


def _headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of each array of an ``.npz`` file; the arrays are not read.

    Raises:
        InputError: the file cannot be read, or holds pickled objects.
    """
    found: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as stream:
                    version = np.lib.format.read_magic(stream)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(stream)
                    if dtype.hasobject:
                        raise ValueError(f"array {member} holds pickled objects")
                    found[member.removesuffix(".npy")] = shape, dtype
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, RuntimeError) as error:
        raise InputError(
            "--data", f"{path} cannot be read as .npz ({first_line(error)})", "arrays x and y saved by numpy.savez"
        ) from None
    return found


def _plain(value: Any) -> Any:
    """A value of Hydra's grammar as plain data: a quoted string becomes its text."""
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value.text if hasattr(value, "text") else value
