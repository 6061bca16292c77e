"""Settings of preprocessing and of the data loaders; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nc_strategies.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

LAYOUTS = ("nhwc", "nchw")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box")
CALIBRATION_SAMPLES = 100


@dataclass
class Preprocess:
    """``value = ((x * scale + offset) - mean) / std``, after a bilinear resize, in the model's layout.

    Args:
        scale: A factor.
        offset: Added to it.
        mean: Subtracted, one number or one a channel.
        std: Divided by, one number or one a channel.
        resize: ``[height, width]``, or None to keep the size.
        layout: Layout the model takes, ``nhwc`` or ``nchw``, when it differs from the data's; None keeps the data's.
            Which one the data is in is seen from its 1, 3 or 4 channels; where that does not tell, it is the other.
        inputs: Names of the model's inputs that it is for; None for all. The others are passed on as they are.
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
            raise InputError("data.preprocess.std", "holds a zero", "it divides the values")
        if self.resize is not None and (len(self.resize) != 2 or min(self.resize) < 1):
            raise InputError("data.preprocess.resize", f"is {list(self.resize)}", "expected [height, width]")

    @property
    def is_identity(self) -> bool:
        """Whether values are passed on as they are."""
        plain = (self.scale, self.offset, list(self.mean), list(self.std)) == (1.0, 0.0, [0.0], [1.0])
        return plain and self.resize is None and self.layout is None

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """Apply it to a batch; see `nc_strategies.data.preprocess.apply`."""
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
    """How a picture becomes an array, as evaluations of classifiers usually do: resize, then cut out the middle.

    Args:
        resize: ``[size]``: the shorter side becomes that long; ``[height, width]``: just that, whatever the picture's
            own ratio; None keeps the size.
        crop: ``[height, width]`` to cut out of the middle; None for all of it.
        channels: 3 for RGB, 1 for grey, None for as many as the picture has.
        interpolation: Pillow's filter: ``nearest``, ``bilinear``, ``bicubic``, ``lanczos`` or ``box``; all but the
            first average when they shrink.
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
        path: A folder of folders, one a class; classes are numbered in the order of their names.
        calibration_path: A folder of pictures, in folders or not; None to take some of `path`, evenly spread, which
            are then left out of the evaluation.
        calibration_samples: How many.
        image: How pictures become arrays of bytes.
        preprocess: How those become what the model takes.
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
        path: A table with a line of column names.
        label: Column of the labels: numbers, or names of classes, which are numbered in the order of their names;
            None for the last column.
        columns: Columns that the model takes, in its order; None for all but the label's.
        delimiter: What stands between columns.
        calibration_path: Another table, in which the label may be missing.
        calibration_samples: How many lines to calibrate with.
        preprocess: How lines become what the model takes; mean and std may have a number a column.
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
        calibration_target: The same for calibration; ``x`` alone will do.
        calibration_samples: How many.
        preprocess: How samples become what the model takes.
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
        dataset: Its name, as ``tensorflow_datasets`` takes it.
        split: Samples to evaluate with.
        calibration_split: Samples to calibrate with; None to take the head of `split`, left out of the evaluation.
        calibration_samples: How many.
        data_dir: Where the data set is; None for the package's own place.
        download: Whether it may be downloaded.
        x: Feature that the model takes; several, with commas between them, go to the inputs of their names.
        y: Feature that is the label.
        image: How pictures become arrays; for features that are pictures.
        preprocess: How samples become what the model takes.
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
        dataset: A data set's id on the hub, a folder that ``load_dataset`` takes, or one of ``save_to_disk``.
        subset: Its configuration, where it has several.
        split: Samples to evaluate with.
        calibration_split: Samples to calibrate with; None to take the head of `split`, left out of the evaluation.
        calibration_samples: How many.
        revision: Branch, tag or commit.
        x: Column that the model takes; several, with commas between them, go to the inputs of their names.
        y: Column that is the label.
        image: How pictures become arrays; for columns of pictures.
        preprocess: How samples become what the model takes.
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
    """Settings of `SampleData`; its pictures hold 0 to 255, its model takes -1 to 1."""

    name: str = "sample"
    calibration_samples: int = CALIBRATION_SAMPLES
    preprocess: Preprocess = field(default_factory=lambda: Preprocess(scale=2 / 255, offset=-1.0))
