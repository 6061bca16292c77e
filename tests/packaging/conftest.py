"""One new environment for all of this folder: the built wheel, and third parties' packages beside it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
EXAMPLE = ROOT / "plugins" / "nc-strategies-example"


@pytest.fixture(scope="session")
def tutorial(tmp_path_factory):
    """The distributions of the tutorial, made of its text, in a folder outside the tree."""
    spec = importlib.util.spec_from_file_location("tutorial", HERE / "tutorial.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("tutorial")
    module.write((ROOT / "docs" / "plugin-tutorial.md").read_text(), folder)
    return folder


@pytest.fixture(scope="session")
def builder(tmp_path_factory):
    """An environment whose processes find the build backend: one copy for all builds."""
    folder = tmp_path_factory.mktemp("builder")
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "install", "--quiet", "--target", str(folder), "hatchling"], check=True)
    return {**os.environ, "PYTHONPATH": str(folder)}


@pytest.fixture(scope="session")
def distributions(tmp_path_factory, request):
    """A folder with the wheel and the sdist of the project and of each plugin."""
    if given := os.environ.get("NC_STRATEGIES_DISTRIBUTIONS"):
        return Path(given)
    env, folder = request.getfixturevalue("builder"), tmp_path_factory.mktemp("distributions")
    for project in (ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))):
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=project, check=True, env=env
        )
    return folder


@pytest.fixture(scope="session")
def wheels(tmp_path_factory, tutorial, builder):
    """Wheels of the project, of third parties' plugins, of the example and of the tutorial's."""
    folder = tmp_path_factory.mktemp("wheels")
    sources = [ROOT, HERE / "tiny", HERE / "broken", EXAMPLE, *sorted(tutorial.iterdir())]
    pip = [sys.executable, "-m", "pip"]
    subprocess.run(
        [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder), *map(str, sources)],
        check=True,
        env=builder,
    )
    return folder


@pytest.fixture(scope="session")
def environment(tmp_path_factory, wheels):
    """A new virtual environment: the wheels, their own requirements, and pytest for the plugins' own tests."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(folder / "bin" / "python"),
            "install",
            "--quiet",
            "--no-compile",
            "-c",
            str(ROOT / "constraints.txt"),
            "pytest",
            *map(str, wheels.glob("*.whl")),
        ],
        check=True,
    )
    return folder / "bin"


@pytest.fixture
def command(environment):
    """Runs a program of the environment in a folder, without a trace of this one."""

    def run(program, *arguments, cwd, **env):
        hidden = ("PYTHONPATH", "VIRTUAL_ENV", "PYTEST_ADDOPTS")
        clean = {key: value for key, value in os.environ.items() if key not in hidden}
        return subprocess.run(
            [str(environment / program), *arguments],
            cwd=cwd,
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env={**clean, **env},
            check=False,
        )

    return run
