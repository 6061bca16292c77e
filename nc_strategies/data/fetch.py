"""Child process that reads data sets of hubs; see `nc_strategies.data.hubs`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.data.ragged import Ragged, Samples
from nc_strategies.data.settings import ImageForm
from nc_strategies.data.spool import Spool
from nc_strategies.errors import InputError, first_line
from nc_strategies.runtime.child import serve

BLOCK = 64
"""Number of samples that are stacked and written together."""
KEY = "data.dataset"


def fetch(request: dict[str, Any]) -> dict[str, Any]:
    """Write the samples of a split into a folder, one file per array.

    Returns:
        ``arrays``: array name to shape and data type, see `Spool.forms`.

    Raises:
        InputError: the data set cannot be read.
    """
    settings = request["settings"]
    form = ImageForm(**settings["image"])
    inputs = [name.strip() for name in settings["x"].split(",")]
    names = {name: name if len(inputs) > 1 else "x" for name in inputs}
    rows = {"tfds": _tfds, "huggingface": _huggingface}[settings["name"]](settings, request["split"])
    if request["wanted"]:
        rows = islice(rows, request["wanted"])
    samples = (_sample(row, names, settings["y"], form) for row in rows)
    with Spool(KEY, Path(request["folder"])) as spool:
        while block := list(islice(samples, BLOCK)):
            spool.append({name: _stack(name, [sample[name] for sample in block]) for name in block[0]})
        forms = spool.forms()
    if not forms:
        raise InputError(KEY, f"split {request['split']} holds no samples")
    return {"arrays": forms}


def _sample(row: Mapping[str, Any], names: Mapping[str, str], label: str, form: ImageForm) -> dict[str, NDArray[Any]]:
    for key, name in [*(("data.x", name) for name in names), ("data.y", label)]:
        if name not in row:
            raise InputError(key, f"the data set has no {name!r}", f"it has: {', '.join(map(str, row))}")
    return {**{names[name]: _array(row[name], form) for name in names}, "y": np.asarray(row[label])}


def _array(value: Any, form: ImageForm) -> NDArray[Any]:
    shape: tuple[int, ...] = getattr(value, "shape", ())
    picture = len(shape) == 3 and shape[2] in (1, 3, 4) and value.dtype == np.uint8
    if not picture and type(value).__module__.partition(".")[0] != "PIL":
        return np.asarray(value)
    try:
        from PIL import Image

        from nc_strategies.data.pictures import fit
    except ImportError as error:
        raise InputError(
            KEY, f"a package is missing ({first_line(error)})", "pip install 'nc-strategies[images]'"
        ) from None
    try:
        return fit(Image.fromarray(value[:, :, 0] if shape[2] == 1 else value) if picture else value, form)
    except ValueError as error:
        raise InputError(KEY, f"a picture {first_line(error)}") from None


def _stack(name: str, arrays: list[NDArray[Any]]) -> Samples:
    if {array.ndim for array in arrays} == {1} and len({array.shape for array in arrays}) > 1:
        return Ragged.of(arrays)
    try:
        return np.stack(arrays)
    except ValueError:
        shapes = sorted({str(array.shape) for array in arrays})
        raise InputError(
            KEY,
            f"samples of {name!r} have different shapes ({', '.join(shapes[:3])})",
            "data.image.resize and data.image.crop make pictures equal",
        ) from None


def _tfds(settings: dict[str, Any], split: str) -> Iterator[Mapping[str, Any]]:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise InputError(
            "data=tfds", f"a package is missing ({first_line(error)})", "pip install 'nc-strategies[tfds]'"
        ) from None
    try:
        dataset = tfds.load(
            settings["dataset"],
            split=split,
            data_dir=settings["data_dir"],
            download=settings["download"],
            shuffle_files=False,
        )
        yield from _mappings(tfds.as_numpy(dataset))
    except InputError:
        raise
    except Exception as error:  # the package passes on exceptions of any class
        raise InputError(
            KEY, f"{settings['dataset']} cannot be read ({first_line(error)})", "see data.data_dir and data.download"
        ) from error


def _huggingface(settings: dict[str, Any], split: str) -> Iterator[Mapping[str, Any]]:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            "data=huggingface", f"a package is missing ({first_line(error)})", "pip install 'nc-strategies[datasets]'"
        ) from None
    name = settings["dataset"]
    folder = Path(name).expanduser()
    try:
        if (folder / "dataset_dict.json").is_file():
            dataset = datasets.load_from_disk(str(folder))[split]
        elif (folder / "state.json").is_file():
            dataset = datasets.load_from_disk(str(folder))
        else:
            dataset = datasets.load_dataset(name, settings["subset"], split=split, revision=settings["revision"])
        yield from _mappings(dataset)
    except InputError:
        raise
    except Exception as error:  # as above
        raise InputError(
            KEY, f"{name} cannot be read ({first_line(error)})", "an id of the hub, or a folder; see data.split"
        ) from error


def _mappings(rows: Iterable[Any]) -> Iterator[Mapping[str, Any]]:
    for row in rows:
        if not isinstance(row, Mapping):
            raise InputError(KEY, f"has samples of type {type(row).__name__}", "expected named features")
        yield row


if __name__ == "__main__":
    serve(fetch)
