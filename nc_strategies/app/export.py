"""``nc-strategies export``: a copy of a run's chosen model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import cast

from nc_strategies.backends.base import Backend
from nc_strategies.errors import InputError
from nc_strategies.models.source import files_sha256, format_of
from nc_strategies.registry import registry
from nc_strategies.report.run_files import RunFiles


def export(run_dir: Path, to: Path, form: str | None = None, force: bool = False) -> Path:
    """Copy a run's model and open the copy in its engine.

    Args:
        run_dir: The run's folder.
        to: Path of the copy; where it is a folder and the model a file, the copy is made in the folder.
        form: Expected format; any format when None.
        force: Replace an existing file or folder.

    Returns:
        Path of the copy.

    Raises:
        InputError: there is no run or no model, the format differs, the path exists, or the copy cannot be written.
        EngineError: the engine cannot open the copy, which is removed.
    """
    run = RunFiles.read(run_dir)
    if run.saved_model is None:
        raise InputError(str(run_dir), "holds no model", "a run that has ended with one")
    return copy_model(run.saved_model, to, form, force, _backend(run))


def copy_model(source: Path, to: Path, form: str | None, force: bool, backend: Backend) -> Path:
    """Copy a saved model and open the copy in its engine.

    Args:
        source: The saved model.
        to: Path of the copy; see `export`.
        form: Expected format; any format when None.
        force: Replace an existing file or folder.
        backend: Opens the copy.

    Returns:
        Path of the copy.

    Raises:
        InputError, EngineError: see `export`.
    """
    have = _format(source)
    if form is not None and form != have:
        raise InputError(
            "--format",
            f"is {form}, the model of this run is {have}",
            f"{have}; another one takes a run with a backend that saves it",
        )
    target = _target(source, to, force)
    further = _further_files(backend.companions(source), source, target, force)
    staging = target.with_name(f".{target.name}.partial")
    copies = [(source, staging / target.name), *((file, staging / name) for file, name in further.items())]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove(staging)
        staging.mkdir()
        for original, copy in copies:
            _copy(original, copy)
        if any(files_sha256(copy) != files_sha256(original) for original, copy in copies):
            raise InputError("--to", f"{target} is not what was copied", "a disk that keeps what is written")
        backend.open(copies[0][1]).close()
        _move([copy for _, copy in reversed(copies)], target.parent)
    except OSError as error:
        raise InputError("--to", f"{target} cannot be written ({error.strerror or error})") from None
    finally:
        _remove(staging)
    return target


def _target(source: Path, to: Path, force: bool) -> Path:
    """Path of the copy.

    Raises:
        InputError: it exists, or is the run's own model.
    """
    target = to / source.name if to.is_dir() and source.is_file() else to
    if target.resolve() == source.resolve() or source.resolve() in target.resolve().parents:
        raise InputError("--to", f"{target} is the run's own model")
    if target.exists() and not force:
        raise InputError("--to", f"{target} exists", "another path, or --force to replace it")
    return target


def _further_files(files: tuple[Path, ...], source: Path, target: Path, force: bool) -> dict[Path, str]:
    """The files that hold a part of a model, and the names of their copies.

    A file that is called like the model but for its ending, as engines find it then, is called like the copy. Others
    keep their names, because the model refers to them.

    Raises:
        InputError: the folder of the copy has a file of such a name.
    """
    names = {file: target.stem + file.suffix if file.stem == source.stem else file.name for file in files}
    for name in names.values():
        if (target.parent / name).exists() and not force:
            raise InputError("--to", f"{target.parent / name} exists", "another folder, or --force to replace it")
    return names


def _move(copies: list[Path], folder: Path) -> None:
    """Move files to a folder, over those of the same names."""
    for copy in copies:
        _remove(folder / copy.name)
        copy.rename(folder / copy.name)


def _backend(run: RunFiles) -> Backend:
    settings = run.config.get("backend") or (run.config.get("identity") or {}).get("backend")
    if not isinstance(settings, dict):
        raise InputError(str(run.path / "config.yaml"), "names no backend")
    return cast(Backend, registry().create("backend", settings))


def _format(model: Path) -> str:
    return format_of(model) or model.suffix.lstrip(".") or "folder"


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
