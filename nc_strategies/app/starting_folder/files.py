"""Files of a starting folder: all of them are written, or none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from nc_strategies.errors import InputError
from nc_strategies.runtime.files import PARTIAL

EXECUTABLE = 0o755
"""Mode of a script that is started by its name."""
PLAIN = 0o644


def write_folder(folder: Path, texts: Mapping[str, str], replace: bool = False) -> list[Path]:
    """Write files into a folder, which is made where there is none.

    Args:
        folder: The folder.
        texts: Name of each file to its content; names that end in ``.sh`` become executable.
        replace: Whether files that are there are replaced.

    Returns:
        The files.

    Raises:
        InputError: the folder is a file, a file is there and is not to be replaced, or one cannot be written; nothing
            was changed then.
    """
    check_folder(folder, texts, replace)
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    partial: dict[Path, Path] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            path = folder / name
            partial[path] = path.with_name(f".{name}{PARTIAL}")
            with partial[path].open("w", encoding="utf-8", newline="\n") as stream:
                stream.write(text)
            partial[path].chmod(EXECUTABLE if name.endswith(".sh") else PLAIN)
        for path, written in partial.items():
            written.replace(path)
    except OSError as error:
        for written in partial.values():
            written.unlink(missing_ok=True)
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise InputError("FOLDER", f"{folder} cannot be written ({error.strerror})") from None
    return list(partial)


def check_folder(folder: Path, names: Iterable[str], replace: bool = False) -> None:
    """Check that the files can be put into the folder, before anything is asked or written.

    Raises:
        InputError: see `write_folder`.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError("FOLDER", f"{folder} is a file", "a new folder, or one without these files")
    if "${" in str(folder.absolute()):
        raise InputError(
            "FOLDER", f"{folder.absolute()} has a name with '${{'", "a name that Hydra does not interpolate"
        )
    there = [name for name in names if (folder / name).exists() or (folder / name).is_symlink()]
    blocked = [name for name in there if (folder / name).is_dir()]
    if blocked:
        raise InputError("FOLDER", f"{folder / blocked[0]} is a folder", "another FOLDER")
    if there and not replace:
        raise InputError("FOLDER", f"{folder} holds {', '.join(there)} already", "another FOLDER, or --force")
