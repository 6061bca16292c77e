"""Files that travel to another machine: compressed, and once each, by the hash of their content."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from nc_strategies.runtime import cache

FOLDER = "target"
"""Folder of the user's cache on the other machine, in which each run has one of its own."""
BATCH = "batch.npz"
"""File of a batch's arrays, in the order of its names."""


@dataclass(frozen=True)
class StoreRules:
    """How files travel and how long they stay.

    Args:
        level: Level of deflate: the fastest one, since trained weights are close to noise.
        most_bytes: Bytes of parcels that a run keeps on either machine. Those that were not used for the longest time
            make room, unless they are in use. A finalist whose parcel is gone travels once more.
        keep_seconds: Age at which a run's folder is removed by the next one: a run whose connection was lost for good
            leaves it behind, and one that goes on finds it.
    """

    level: int = 1
    most_bytes: int = 2**30
    keep_seconds: float = 86400.0


RULES = StoreRules()


@dataclass(frozen=True)
class Parcel:
    """A folder of files, packed.

    Args:
        archive: The packed file.
        key: Hash of the content.
        path: The path in the folder that is opened; empty for the folder itself.
    """

    archive: Path
    key: str
    path: str = ""


class Parcels:
    """The models that a run has packed, each once, as long as there is room."""

    def __init__(self) -> None:
        self._packed: dict[str, Parcel] = {}
        self._users: Counter[str] = Counter()

    def take(self, name: str, make: Callable[[], Parcel]) -> Parcel:
        """A parcel, which stays until it was given back as often as it was taken.

        Args:
            name: What is packed.
            make: Packs it.
        """
        parcel = self._packed.pop(name, None) or make()
        self._packed[name] = parcel  # the last one is that which was used last
        self._users[parcel.key] += 1
        self._make_room()
        return parcel

    def give_back(self, parcel: Parcel) -> None:
        """Say that a parcel that was taken is not used any more."""
        self._users[parcel.key] -= 1

    def _make_room(self) -> None:
        sizes = {name: parcel.archive.stat().st_size for name, parcel in self._packed.items()}
        excess = sum(sizes.values()) - RULES.most_bytes
        for name, size in sizes.items():
            if excess > 0 and not self._users[self._packed[name].key]:
                self._packed.pop(name).archive.unlink(missing_ok=True)
                excess -= size


def pack(opened: Path, folder: Path, archive: Path) -> Parcel:
    """Pack a folder.

    Args:
        opened: The path that is opened: `folder`, or a path in it.
        folder: The folder.
        archive: The file to write.

    Raises:
        OSError: a file cannot be read, or there is no room for the packed one.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digest = hashlib.sha256()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=RULES.level) as packed:
        for path in files:
            name = path.relative_to(folder).as_posix()
            digest.update(f"{name}\0{path.stat().st_size}\0".encode())
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            with path.open("rb") as source, packed.open(info, "w", force_zip64=True) as target:
                while block := source.read(2**20):
                    digest.update(block)
                    target.write(block)
    inside = "" if opened == folder else opened.relative_to(folder).as_posix()
    return Parcel(archive, digest.hexdigest()[:40], inside)


class Store:
    """The files of one run on the machine that it measures on.

    Args:
        run: Name of the run's folder: hexadecimal digits.
    """

    def __init__(self, run: str) -> None:
        if not run.isalnum():
            raise ValueError(f"{run!r} is no name of a run")
        self._sizes: dict[str, int] = {}
        self._top = cache.folder() / FOLDER
        self.folder = self._top / run
        self.folder.mkdir(parents=True, exist_ok=True)
        os.utime(self.folder)
        self._remove_old()

    def _remove_old(self) -> None:
        now = time.time()
        for other in self._top.iterdir():
            try:
                old = now - other.stat().st_mtime > RULES.keep_seconds
            except OSError:
                continue  # the run that it belongs to has just removed it
            if old:
                shutil.rmtree(other, ignore_errors=True)

    def find(self, key: str) -> Path | None:
        """The folder of a parcel; None if it has not arrived."""
        path = self._path(key)
        if not path.is_dir():
            return None
        if key in self._sizes:
            self._sizes[key] = self._sizes.pop(key)  # the last one is that which was used last
        return path

    def add(self, key: str, data: bytes, first: bool, last: bool, used: Collection[str] = ()) -> list[str]:
        """Receive a part of a parcel, and unpack it after the last one.

        Args:
            key: The parcel.
            data: The part.
            first: Whether it is the first one.
            last: Whether it is the last one.
            used: Parcels that are not removed to make room.

        Returns:
            Parcels that were removed.

        Raises:
            OSError: the disk is full.
        """
        path = self._path(key)
        packed = path.with_suffix(".zip")
        try:
            with packed.open("wb" if first else "ab") as stream:
                stream.write(data)
            if not last:
                return []
            unpacked = path.with_suffix(".partial")
            shutil.rmtree(unpacked, ignore_errors=True)
            with zipfile.ZipFile(packed) as archive:
                archive.extractall(unpacked)
            packed.unlink()
            unpacked.rename(path)
            self._sizes[key] = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        except OSError:
            packed.unlink(missing_ok=True)
            shutil.rmtree(path.with_suffix(".partial"), ignore_errors=True)
            raise
        return self._make_room({key, *used})

    def _make_room(self, used: Collection[str]) -> list[str]:
        removed = []
        excess = sum(self._sizes.values()) - RULES.most_bytes
        for key, size in list(self._sizes.items()):
            if excess > 0 and key not in used:
                shutil.rmtree(self._path(key), ignore_errors=True)
                del self._sizes[key]
                removed.append(key)
                excess -= size
        return removed

    def remove(self) -> None:
        """Remove everything that the run has sent."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, key: str) -> Path:
        if not key.isalnum():
            raise ValueError(f"{key!r} is no hash")
        return self.folder / key
