"""Folders of image files, decoded to uint8 arrays. Needs Pillow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nc_strategies.data.dataset import Raw
from nc_strategies.data.loaders import check_samples
from nc_strategies.data.settings import ImageFolderSettings, ImageForm
from nc_strategies.data.spool import NoRoomError, allocate
from nc_strategies.errors import InputError, first_line

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})


def fit(image: Image.Image, form: ImageForm) -> NDArray[np.uint8]:
    """Resize, crop and convert an image.

    Args:
        image: The image.
        form: The settings.

    Returns:
        Shape (height, width, channels).

    Raises:
        ValueError: the image is smaller than the crop.
    """
    grey = form.channels == 1 or (form.channels is None and image.mode in ("1", "L"))
    image = image.convert("L" if grey else "RGB")
    if form.resize is not None:
        width, height = image.size
        if len(form.resize) == 2:
            target = (form.resize[1], form.resize[0])
        else:
            share = form.resize[0] / min(width, height)
            target = (form.resize[0], int(height * share)) if width <= height else (int(width * share), form.resize[0])
        image = image.resize(target, Image.Resampling[form.interpolation.upper()])
    if form.crop is not None:
        height, width = form.crop
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        if left < 0 or top < 0:
            raise ValueError(f"is {image.height} x {image.width}, smaller than data.image.crop={list(form.crop)}")
        image = image.crop((left, top, left + width, top + height))
    array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array


class ImageFolderData:
    """Images in one folder per class. They are decoded once to uint8, in memory or, if they are many, on disk.

    Without a calibration folder, images evenly spread over the classes are used for calibration and removed from the
    evaluation.

    Raises:
        InputError: the number of calibration samples is below 1.
    """

    def __init__(self, settings: ImageFolderSettings) -> None:
        self.settings = settings
        check_samples(settings.calibration_samples)

    def load(self) -> tuple[Raw, Raw]:
        """Evaluation and calibration samples.

        Raises:
            InputError: a folder is missing, or an image cannot be read; the message names its file.
        """
        settings, wanted = self.settings, self.settings.calibration_samples
        files, labels = _classes(Path(settings.path).expanduser())
        if settings.calibration_path is not None:
            others = _pictures("data.calibration_path", Path(settings.calibration_path).expanduser())
            calibration = [others[i] for i in _spread(len(others), min(wanted, len(others)))]
            return self._read("data.path", files, labels), self._read("data.calibration_path", calibration)
        if len(files) <= wanted:
            raise InputError(
                "data.calibration_samples",
                f"takes {wanted} of {len(files)} pictures",
                "some must be left to evaluate; set data.calibration_path, or take fewer",
            )
        chosen = _spread(len(files), wanted)
        remaining = np.setdiff1d(np.arange(len(files)), chosen)
        return (
            self._read("data.path", [files[i] for i in remaining], labels[remaining]),
            self._read("data.path", [files[i] for i in chosen], labels[chosen]),
        )

    def _read(self, key: str, files: Sequence[Path], labels: NDArray[Any] | None = None) -> Raw:
        form = self.settings.image
        first = _decode(key, files[0], form)
        try:
            pictures = allocate((len(files), *first.shape), np.uint8)
        except NoRoomError as error:
            raise InputError(key, f"the pictures cannot be stored: {error}") from None

        def read(place: int) -> None:
            array = _decode(key, files[place], form)
            if array.shape != first.shape:
                raise InputError(
                    key,
                    f"{files[place]} is of shape {array.shape}, {files[0]} of {first.shape}",
                    "data.image.crop, or data.image.resize=[height,width], makes them equal",
                )
            pictures[place] = array

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            jobs = [pool.submit(read, place) for place in range(len(files))]
            try:
                for job in jobs:
                    job.result()
            finally:
                pool.shutdown(cancel_futures=True)
        return Raw(key, {"x": pictures}, labels)


def _decode(key: str, file: Path, form: ImageForm) -> NDArray[np.uint8]:
    try:
        with Image.open(file) as image:
            return fit(image, form)
    except Exception as error:  # Pillow raises many classes of exceptions for damaged files
        raise InputError(key, f"{file} cannot be read as a picture ({first_line(error)})") from error


def _pictures(key: str, folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(key, f"no such folder: {folder}")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not files:
        raise InputError(key, f"{folder} holds no pictures", f"files ending in {', '.join(sorted(SUFFIXES))}")
    return files


def _classes(folder: Path) -> tuple[list[Path], NDArray[np.int64]]:
    key = "data.path"
    _pictures(key, folder)
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise InputError(key, f"{folder} holds no folders", "expected one folder of pictures per class")
    files, labels = [], []
    for number, name in enumerate(names):
        of_class = _pictures(key, folder / name)
        files += of_class
        labels += [number] * len(of_class)
    return files, np.array(labels, np.int64)


def _spread(count: int, wanted: int) -> NDArray[np.int64]:
    """`wanted` different positions, evenly spread over `count`."""
    return np.asarray((np.arange(wanted) + 0.5) * count / wanted, np.int64)
