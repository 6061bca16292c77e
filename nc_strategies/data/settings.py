"""Settings of preprocessing and of the data loaders. Only light modules are imported here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nc_strategies.errors import InputError, first_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

LAYOUTS = ("nhwc", "nchw")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box")
CALIBRATION_SAMPLES = 100
"""Default number of calibration samples, as in Neural Compressor's ``calibration_sampling_size``."""


@dataclass
class Preprocess:
    """Preprocessing: ``value = ((x * scale + offset) - mean) / std``, after a bilinear resize, in the model's layout.

    Args:
        scale: Factor.
        offset: Number that is added after scaling.
        mean: Number that is subtracted, one or one per channel.
        std: Divisor, one or one per channel.
        resize: ``[height, width]``, or None to keep the size.
        layout: Layout of the model, ``nhwc`` or ``nchw``, if it differs from the data's; None keeps the data's layout.
            The data's layout follows from the axis with 1, 3 or 4 channels; without such an axis, the data is assumed
            to have the other layout.
        inputs: Names of the model's inputs that are preprocessed; None for all. Others are passed on unchanged.
    """

    scale: float = 1.0
    offset: float = 0.0
    mean: list[float] = field(default_factory=lambda: [0.0])
    std: list[float] = field(default_factory=lambda: [1.0])
    resize: list[int] | None = None
    layout: str | None = None
    inputs: list[str] | None = None

    def __post_init__(self) -> None:
        if self.layout is not None and self.layout not in LAYOUTS:
            raise InputError("data.preprocess.layout", f"is {self.layout!r}", f"allowed: {', '.join(LAYOUTS)}")
        if any(value == 0 for value in self.std):
            raise InputError("data.preprocess.std", "holds a zero", "values are divided by it")
        if self.resize is not None and (len(self.resize) != 2 or min(self.resize) < 1):
            raise InputError("data.preprocess.resize", f"is {list(self.resize)}", "expected [height, width]")

    @property
    def is_identity(self) -> bool:
        """Whether values are passed on unchanged."""
        plain = (self.scale, self.offset, list(self.mean), list(self.std)) == (1.0, 0.0, [0.0], [1.0])
        return plain and self.resize is None and self.layout is None

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """Preprocess a batch; see `nc_strategies.data.preprocess.apply`."""
        from nc_strategies.data.preprocess import apply

        return apply(self, x)


@dataclass(frozen=True)
class InputRules:
    """What the user says about the model's inputs beyond the samples, see `InputSettings`.

    Args:
        constants: Input to the value that it has in each run.
        axes: Input or output to the axis that counts samples in it.
        state: Input to the output whose value it gets in the next step of a sequence.
        calibration_batch_size: Most samples of a calibration run; None for no limit but memory.
        pad: Value that fills samples up to the longest of a batch, or a mapping of inputs to values.
        lengths: Input to the array of the data that holds the length of its samples along their free axis.
    """

    constants: Mapping[str, Any] = field(default_factory=dict)
    axes: Mapping[str, int] = field(default_factory=dict)
    state: Mapping[str, str] = field(default_factory=dict)
    calibration_batch_size: int | None = None
    pad: float | Mapping[str, float] = 0
    lengths: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(settings: Any) -> InputRules:
        """The rules in the settings of a data component; none for a component whose settings have no such fields.

        Raises:
            InputError: a value is not of the right type.
        """
        values = {name: getattr(settings, name, None) for name in ("constants", "axes", "state")}
        constants, axes, state = (_mapping(f"data.{name}", value) for name, value in values.items())
        for name, axis in axes.items():
            if not isinstance(axis, int) or isinstance(axis, bool) or axis < 0:
                raise InputError("data.axes", f"names axis {axis!r} of {name!r}", "a number from 0")
        for name, output in state.items():
            if not isinstance(output, str):
                raise InputError("data.state", f"names {output!r} for {name!r}", "the name of an output")
        if both := sorted(set(constants) & set(state)):
            raise InputError("data.state", f"and data.constants both name {both[0]!r}", "one of them")
        size = getattr(settings, "calibration_batch_size", None)
        if size is not None and (not isinstance(size, int) or size < 1):
            raise InputError("data.calibration_batch_size", f"is {size!r}", "at least 1")
        lengths = _mapping("data.lengths", getattr(settings, "lengths", None))
        for name, array in lengths.items():
            if not isinstance(array, str):
                raise InputError("data.lengths", f"names {array!r} for {name!r}", "the name of an array of the data")
        return InputRules(constants, axes, state, size, _pad(getattr(settings, "pad", None)), lengths)


def _pad(given: Any) -> float | dict[str, float]:
    """The value that fills samples up, or a value by input."""
    if isinstance(given, str):
        import yaml

        try:
            given = yaml.safe_load(given)
        except yaml.YAMLError as error:
            raise InputError("data.pad", f"cannot be read ({first_line(error)})", "a number, or a mapping") from None
    by_name = given if isinstance(given, Mapping) else {"": 0 if given is None else given}
    for name, value in by_name.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            where = f" for {name!r}" if name else ""
            raise InputError("data.pad", f"is {value!r}{where}", "a number, or one by input such as {input_ids: 1}")
    return {str(name): value for name, value in by_name.items()} if isinstance(given, Mapping) else by_name[""]


def _mapping(key: str, value: Any) -> dict[str, Any]:
    """A mapping, also from a string in YAML or JSON: the command line's grammar has no quoted keys."""
    if isinstance(value, str):
        import yaml

        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(key, f"cannot be read ({first_line(error)})", "a mapping in YAML or JSON") from None
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(key, f"is {value!r}", "a mapping by name, such as {state: 1}")
    return {str(name): entry for name, entry in value.items()}


@dataclass
class InputSettings:
    """Settings that every data component shares. Mappings may be strings in YAML or JSON.

    Args:
        constants: Inputs that have the same value in each run, such as ``{sr: 16000}``; their values need not be in the
            data.
        axes: The axis that counts samples in inputs and outputs where it is not axis 0, such as ``{state: 1}``. In the
            data, samples come first.
        state: State that the model carries along a sequence: input to output, such as ``{h: h_out}``. The input is zero
            at the start of a sequence, then it gets the output of the step before. Samples are the steps of one
            sequence in their order; an array ``sequence`` of the data, shape (N,), numbers the sequences if there are
            several.
        calibration_batch_size: Most samples of a calibration run; None to choose it by memory.
        pad: Value that fills samples up to the longest of their batch, in the model's input; a mapping such as
            ``{input_ids: 1}`` gives other inputs than those it names 0. It is used where the model has a mask among its
            inputs; the mask is filled up with zeros.
        lengths: For padded samples without a mask: input to the array of the data that holds each sample's length along
            the input's only free axis, such as ``{x: width}``. What is beyond it is cut.
    """

    constants: Any = None
    axes: Any = None
    state: Any = None
    calibration_batch_size: int | None = None
    pad: Any = None
    lengths: Any = None


@dataclass
class NpzSettings(InputSettings):
    """Settings of `NpzData`."""

    name: str = "npz"
    path: str = "???"
    calibration_path: str | None = None
    calibration_samples: int = CALIBRATION_SAMPLES
    preprocess: Preprocess = field(default_factory=Preprocess)


@dataclass
class ImageForm:
    """Conversion of an image to an array, as usual for the evaluation of classifiers: resize, then centre crop.

    Args:
        resize: ``[size]``: length of the shorter side, with the aspect ratio kept; ``[height, width]``: this size,
            whatever the aspect ratio; None keeps the size.
        crop: ``[height, width]`` of the centre crop; None for no crop.
        channels: 3 for RGB, 1 for grey, None for the image's own number.
        interpolation: Pillow's filter: ``nearest``, ``bilinear``, ``bicubic``, ``lanczos`` or ``box``. All but
            ``nearest`` antialias when an image shrinks.
    """

    resize: list[int] | None = field(default_factory=lambda: [256])
    crop: list[int] | None = field(default_factory=lambda: [224, 224])
    channels: int | None = 3
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if self.resize is not None and (len(self.resize) not in (1, 2) or min(self.resize) < 1):
            raise InputError("data.image.resize", f"is {list(self.resize)}", "expected [size] or [height, width]")
        if self.crop is not None and (len(self.crop) != 2 or min(self.crop) < 1):
            raise InputError("data.image.crop", f"is {list(self.crop)}", "expected [height, width]")
        if self.channels not in (1, 3, None):
            raise InputError("data.image.channels", f"is {self.channels}", "allowed: 1, 3, null")
        if self.interpolation not in INTERPOLATIONS:
            raise InputError(
                "data.image.interpolation", f"is {self.interpolation!r}", f"allowed: {', '.join(INTERPOLATIONS)}"
            )


def _as_stored() -> ImageForm:
    return ImageForm(None, None, None)


@dataclass
class ImageFolderSettings(InputSettings):
    """Settings of `ImageFolderData`.

    Args:
        name: The option's name.
        path: A folder with one subfolder per class; classes are numbered in the order of their names.
        calibration_path: A folder of images, in subfolders or not. With None, images evenly spread over `path` are used
            and removed from the evaluation.
        calibration_samples: Number of calibration samples.
        image: Conversion of images to uint8 arrays.
        preprocess: Preprocessing of these arrays.
    """

    name: str = "image_folder"
    path: str = "???"
    calibration_path: str | None = None
    calibration_samples: int = CALIBRATION_SAMPLES
    image: ImageForm = field(default_factory=ImageForm)
    preprocess: Preprocess = field(default_factory=Preprocess)


@dataclass
class CsvSettings(InputSettings):
    """Settings of `CsvData`.

    Args:
        name: The option's name.
        path: A table whose first line holds the column names.
        label: Column of the labels: numbers, or class names, which are numbered in alphabetical order; None for the
            last column.
        columns: Columns that are the model's input, in its order; None for all but the label.
        delimiter: Separator of columns.
        calibration_path: A separate table for calibration; its label column may be missing.
        calibration_samples: Number of calibration samples.
        preprocess: Preprocessing of rows; mean and std may have one number per column.
    """

    name: str = "csv"
    path: str = "???"
    label: str | None = None
    columns: list[str] | None = None
    delimiter: str = ","
    calibration_path: str | None = None
    calibration_samples: int = CALIBRATION_SAMPLES
    preprocess: Preprocess = field(default_factory=Preprocess)


@dataclass
class PythonDataSettings(InputSettings):
    """Settings of `PythonData`.

    Args:
        name: The option's name.
        target: ``module:function`` or ``path/to/file.py:function``; called without arguments, it returns ``(x, y)``
            arrays or an iterable of ``(x, y)`` batches, where ``x`` may be a mapping of input name to array.
        calibration_target: The same for calibration data; it may return ``x`` without labels.
        calibration_samples: Number of calibration samples.
        preprocess: Preprocessing of samples.
    """

    name: str = "python"
    target: str = "???"
    calibration_target: str | None = None
    calibration_samples: int = CALIBRATION_SAMPLES
    preprocess: Preprocess = field(default_factory=Preprocess)


@dataclass
class TfdsSettings(InputSettings):
    """Settings of `TfdsData`.

    Args:
        name: The option's name.
        dataset: Name of the data set in ``tensorflow_datasets``.
        split: Split for evaluation.
        calibration_split: Split for calibration. With None, the first samples of `split` are used and removed from the
            evaluation.
        calibration_samples: Number of calibration samples.
        data_dir: Folder of the data set; None for the package's default.
        download: Whether it may be downloaded.
        x: Feature that is the model's input; several, separated by commas, are the inputs of the same names.
        y: Feature that is the label.
        image: Conversion of features that are images.
        preprocess: Preprocessing of samples.
    """

    name: str = "tfds"
    dataset: str = "???"
    split: str = "test"
    calibration_split: str | None = None
    calibration_samples: int = CALIBRATION_SAMPLES
    data_dir: str | None = None
    download: bool = False
    x: str = "image"
    y: str = "label"
    image: ImageForm = field(default_factory=_as_stored)
    preprocess: Preprocess = field(default_factory=Preprocess)


@dataclass
class HuggingFaceDataSettings(InputSettings):
    """Settings of `HuggingFaceData`.

    Args:
        name: The option's name.
        dataset: A data set's id on the hub, a folder that ``load_dataset`` reads, or one that ``save_to_disk`` wrote.
        subset: Configuration of the data set, if it has several.
        split: Split for evaluation.
        calibration_split: Split for calibration. With None, the first samples of `split` are used and removed from the
            evaluation.
        calibration_samples: Number of calibration samples.
        revision: Branch, tag or commit.
        x: Column that is the model's input; several, separated by commas, are the inputs of the same names.
        y: Column that is the label.
        image: Conversion of columns that hold images.
        preprocess: Preprocessing of samples.
    """

    name: str = "huggingface"
    dataset: str = "???"
    subset: str | None = None
    split: str = "test"
    calibration_split: str | None = None
    calibration_samples: int = CALIBRATION_SAMPLES
    revision: str | None = None
    x: str = "image"
    y: str = "label"
    image: ImageForm = field(default_factory=_as_stored)
    preprocess: Preprocess = field(default_factory=Preprocess)


@dataclass
class SampleDataSettings(InputSettings):
    """Settings of `SampleData`. Its pixels range from 0 to 255, its model's input from -1 to 1."""

    name: str = "sample"
    calibration_samples: int = CALIBRATION_SAMPLES
    preprocess: Preprocess = field(default_factory=lambda: Preprocess(scale=2 / 255, offset=-1.0))


@dataclass
class TextSettings(InputSettings):
    """Settings of `TextData`.

    Args:
        name: The option's name.
        path: A ``.csv``, ``.tsv``, ``.jsonl`` or ``.json`` file.
        text: Column of the texts; None for one of a usual name, such as ``text``, ``sentence``, or ``sentence1`` beside
            ``sentence2``.
        pair: Column of the second texts; None for none, or for one of a usual name if `text` is None.
        label: Column of the labels; None for one of a usual name, such as ``label``, or for no labels.
        labels: Names of the classes in the order of their numbers; None for those of the model's ``config.json``, and
            without it those of the data in sorted order.
        words: Whether each text is a list of words, with one tag for each as its label; None to decide by the columns.
        tokenizer: ``tokenizer.json``, ``vocab.txt`` or ``vocab.json``, or a folder with one of them; None for the one
            beside the model.
        max_length: Most tokens of a text; None for the tokenizer's limit. A length that the model fixes limits it.
        delimiter: Separator of columns; None for a comma, in ``.tsv`` files a tab.
        encoding: Encoding of the file.
        calibration_path: A separate file for calibration; its label column may be missing.
        calibration_samples: Number of calibration samples.
        preprocess: Not used; it must not change anything.
    """

    name: str = "text"
    path: str = "???"
    text: str | None = None
    pair: str | None = None
    label: str | None = None
    labels: list[str] | None = None
    words: bool | None = None
    tokenizer: str | None = None
    max_length: int | None = None
    delimiter: str | None = None
    encoding: str = "utf-8"
    calibration_path: str | None = None
    calibration_samples: int = CALIBRATION_SAMPLES
    preprocess: Preprocess = field(default_factory=Preprocess)


@dataclass
class SampleTextSettings(InputSettings):
    """Settings of `SampleTextData`."""

    name: str = "sample_text"
    calibration_samples: int = CALIBRATION_SAMPLES
    preprocess: Preprocess = field(default_factory=Preprocess)
