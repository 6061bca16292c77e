"""An environment of its own for each peer: made once with ``venv`` and ``pip``, exact versions, then kept."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

INSTALLED = "installed.txt"


@dataclass(frozen=True)
class Peer:
    """Another tool.

    Args:
        driver: Script that runs it, beside this file.
        packages: What its environment holds; none: the environment of this project is used.
        variant: For a driver that knows several.
    """

    driver: str
    packages: tuple[str, ...] = ()
    variant: str = ""


PEERS = {
    "onnxruntime": Peer("run_onnxruntime.py"),
    "onnxruntime-u8s8": Peer("run_onnxruntime.py", variant="u8s8"),
    # 2.6 is of mid 2024 and names no upper bounds: these are the releases of its time that run it on Python 3.11.
    # It imports six without asking for it.
    "inc": Peer(
        "run_inc.py",
        (
            "neural-compressor==2.6",
            "onnx==1.16.1",
            "onnxruntime==1.18.1",
            "numpy==1.26.4",
            "six==1.17.0",
            "setuptools<81",
        ),
    ),
    "nncf": Peer("run_nncf.py", ("nncf==3.4.0", "onnx==1.23.2", "onnxruntime==1.32.0", "numpy==2.4.6")),
}


def python_of(name: str, work: Path, base: str) -> str:
    """The interpreter of a peer's environment, which is made when it is not there or holds something else.

    Args:
        name: The peer.
        work: Folder that keeps the environments.
        base: Interpreter to make it with, Python 3.11.

    Raises:
        SystemExit: the packages cannot be installed.
    """
    return ensure(name, PEERS[name].packages, work / "environments", base)


def variables(extra: Mapping[str, str]) -> dict[str, str]:
    """Environment variables of a tool's process: one thread, quiet, no secrets, and some more."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SIGOPT_") and key != "PYTHONPATH"}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # NNCF and Olive report their use over the network unless they are told not to.
    silent = {"NNCF_CI": "1", "OLIVE_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    return {**kept, **threads, **silent, "PYTHONUNBUFFERED": "1", "TF_CPP_MIN_LOG_LEVEL": "3", **extra}


def ensure(name: str, packages: tuple[str, ...], environments: Path, base: str) -> str:
    """The interpreter of an environment with exactly these packages, made when it is not there.

    Args:
        name: Name of its folder below `environments`.
        packages: Requirements; none: `base` is used.
        environments: Folder that keeps the environments.
        base: Interpreter to make it with, Python 3.11.

    Raises:
        SystemExit: the packages cannot be installed.
    """
    if not packages:
        return base
    folder = environments / name
    python, marker = folder / "bin" / "python", folder / INSTALLED
    wanted = "\n".join(packages) + "\n"
    if not marker.is_file() or marker.read_text() != wanted:
        print(f"installing {name}: {', '.join(packages)}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([base, "-m", "venv", str(folder)], check=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{name} cannot be installed:\n{done.stdout}")
        marker.write_text(wanted)
    return str(python)
