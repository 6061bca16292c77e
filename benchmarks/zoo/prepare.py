"""A case's files: the model taken out of its package, converted once where it is TensorFlow's, and the data."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo import packages
from zoo.cases import CASES, SHARED, Case, case_of
from zoo.inputs import Maker, make

DATA = ("calib.npz", "eval.npz")
EXPORT = """
import sys
from pathlib import Path
from nc_strategies.backends.tensorflow.export import export_onnx
from nc_strategies.models.objects import model_source
source, target = Path(sys.argv[1]), Path(sys.argv[2])
export_onnx(model_source(str(source), target.parent), target.parent / "converted").rename(target)
"""
"""TensorFlow needs a process of its own: it fixes its threads and keeps its memory."""


@dataclass(frozen=True)
class Places:
    """Where things are.

    Args:
        folder: The work folder: wheels, models, data, environments, results.
        shared: Folder of reference models.
    """

    folder: Path
    shared: Path

    @property
    def wheels(self) -> Path:
        """Wheels, one folder a package."""
        return self.folder / "wheels"

    def of(self, case: Case) -> Path:
        """The folder of a case's model and data."""
        return self.folder / "cases" / case.name

    def model(self, case: Case) -> Path:
        """The model that is tuned."""
        place = self.of(case)
        return place / "saved_model" if case.file.endswith("/") else place / "model.onnx"


def prepare(case: Case, places: Places) -> Path:
    """Fetch the model, check it, make the data; what is there stays. Returns the case's folder.

    Raises:
        SystemExit: something cannot be had.
    """
    folder = places.of(case)
    folder.mkdir(parents=True, exist_ok=True)
    model = places.model(case)
    if not model.exists():
        _fetch(case, places, model)
    marker, wanted = folder / "data.txt", f"{case.calibration} for calibration, {case.samples} for evaluation\n"
    if not all((folder / name).is_file() for name in DATA) or not marker.is_file() or marker.read_text() != wanted:
        _data(case, places, model, folder)
        marker.write_text(wanted)
    return folder


def _fetch(case: Case, places: Places, model: Path) -> None:
    partial = model.with_name("partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    if case.package == SHARED:
        source = places.shared / case.file
        if not source.exists():
            raise SystemExit(f"{source} is missing; --shared names the folder that has it")
        packages.check(source if source.is_file() else source / "saved_model.pb", case.sha256)
        target = partial / "model.onnx"
        done = subprocess.run(
            [sys.executable, "-c", EXPORT, str(source), str(target)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{case.name} cannot be converted: {done.stderr.strip().splitlines()[-1:]}")
        target.rename(model)
    else:
        files = packages.wheel(case.package, places.wheels)
        if case.file.endswith("/"):
            for name in files.namelist():
                if case.file in name and not name.endswith("/"):
                    target = partial / "saved_model" / name.split(case.file, 1)[1]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(files.read(name))
            packages.check(partial / "saved_model" / "saved_model.pb", case.sha256)
            (partial / "saved_model").rename(model)
        else:
            target = partial / "model.onnx"
            target.write_bytes(packages.member(files, case.file))
            packages.check(target, case.sha256)
            target.rename(model)
    shutil.rmtree(partial)


def _data(case: Case, places: Places, model: Path, folder: Path) -> None:
    if case.like:
        source = case_of(case.like)
        other = prepare(source, places)
        names = dict(zip(source.inputs, case.inputs, strict=True))
        for name in DATA:
            with np.load(other / name) as stored:
                _save(folder / name, {names.get(k, k): stored[k] for k in stored.files})
        return
    data = make(Maker(case, model, places.wheels, places.shared))
    _save(folder / "calib.npz", {k: v[: case.calibration] for k, v in data.items() if k != "y"})
    _save(folder / "eval.npz", {k: v[case.calibration :] for k, v in data.items()})


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **arrays)  # type: ignore[arg-type]
    partial.rename(path)


def listed() -> str:
    """A table in Markdown of all cases: what they are, and where they come from."""
    lines = ["| case | kind | from | licence | inputs |", "| --- | --- | --- | --- | --- |"]
    for case in CASES:
        package = packages.PACKAGES.get(case.package)
        origin = package.requirement if package else f"../shared/models/{case.file}"
        lines.append(
            f"| {case.name} | {case.kind} | {origin} | {package.licence if package else case.licence} | {case.made} |"
        )
    return "\n".join(lines)
