"""Settings of preprocessing and of the data loaders. Only light modules are imported here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nc_strategies.errors import InputError

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


@dataclass
class NpzSettings:
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
class ImageFolderSettings:
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
class CsvSettings:
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
class PythonDataSettings:
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
class TfdsSettings:
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
class HuggingFaceDataSettings:
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
class SampleDataSettings:
    """Settings of `SampleData`. Its pixels range from 0 to 255, its model's input from -1 to 1."""

    name: str = "sample"
    calibration_samples: int = CALIBRATION_SAMPLES
    preprocess: Preprocess = field(default_factory=lambda: Preprocess(scale=2 / 255, offset=-1.0))
