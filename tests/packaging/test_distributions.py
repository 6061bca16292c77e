"""What wheels and sdists hold and say: files, versions, licences, requirements.

They are built here, or taken from the folder that the environment variable NC_STRATEGIES_DISTRIBUTIONS names, as
``.ci/packages`` does. No engine is needed.
"""

from __future__ import annotations

import ast
import re
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "nc_strategies" / "__init__.py").read_text(), re.MULTILINE)[1]
PROJECTS = {folder.name: folder for folder in sorted((ROOT / "plugins").iterdir()) if folder.is_dir()}
PROJECTS["nc-strategies"] = ROOT
PYTHONS = {
    "nc-strategies": ["3.11", "3.12", "3.13"],
    "nc-strategies-litert": ["3.11", "3.13"],
    "nc-strategies-openvino": ["3.11", "3.12", "3.13"],
    "nc-strategies-optuna": ["3.11", "3.12", "3.13"],
    "nc-strategies-sigopt": ["3.11", "3.13"],
}
"""Versions of Python with which a project was run, as its classifiers say; 3.11 alone where it is not named."""
OWNER = {
    "hydra": "hydra-core",
    "yaml": "pyyaml",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "optimum": "optimum-onnx",
    "vl_convert": "vl-convert-python",
    "mlflow": "mlflow-skinny",
}
"""The distribution of a module that has another name."""
NOT_DECLARED = {
    "keras": "tensorflow requires the release that fits it",
    "h5py": "the same",
    "pytest": "the suites for plugins are used by tests only",
    "sigoptlite": "optional, and cannot be installed beside numpy 1.23 or newer",
}
"""Modules that a package imports although it does not require their distribution, and why."""


def package(name):
    """The folder of a project's package."""
    module = name.replace("-", "_")
    return ROOT / module if name == "nc-strategies" else PROJECTS[name] / "src" / module


def files(folder):
    return {p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts and p.suffix != ".pyc"}


def wheel(distributions, name):
    (path,) = distributions.glob(f"{name.replace('-', '_')}-*.whl")
    return zipfile.ZipFile(path)


def metadata(distributions, name):
    archive = wheel(distributions, name)
    (file,) = [member for member in archive.namelist() if member.endswith(".dist-info/METADATA")]
    return Parser().parsestr(archive.read(file).decode())


def requirements(distributions, name):
    """Requirements as (name, rest) pairs."""
    found = metadata(distributions, name).get_all("Requires-Dist")
    return [re.match(r"([\w.-]+)(.*)", line).groups() for line in found]


@pytest.mark.parametrize("name", PROJECTS)
def test_a_wheel_holds_all_files_of_its_package_and_no_others(distributions, name):
    source = package(name)
    expected = {(PurePosixPath(source.name) / p.relative_to(source).as_posix()) for p in files(source)}
    if name == "nc-strategies":
        expected |= {PurePosixPath(source.name) / p.relative_to(ROOT).as_posix() for p in files(ROOT / "conf")}
    held = {PurePosixPath(member) for member in wheel(distributions, name).namelist()}
    assert {member for member in held if not member.parts[0].endswith(".dist-info")} == expected
    assert PurePosixPath(source.name) / "py.typed" in held


@pytest.mark.parametrize("name", PROJECTS)
def test_an_sdist_holds_the_package_its_tests_and_what_they_read(distributions, name):
    (path,) = distributions.glob(f"{name.replace('-', '_')}-*.tar.gz")
    with tarfile.open(path) as archive:
        held = {PurePosixPath(*PurePosixPath(member).parts[1:]) for member in archive.getnames()}
    project = PROJECTS[name]
    folders = [package(name), project / "tests", *([ROOT / "conf"] if name == "nc-strategies" else [])]
    expected = {PurePosixPath(p.relative_to(project).as_posix()) for folder in folders for p in files(folder)}
    assert expected - held == set()
    assert {PurePosixPath(x) for x in ("pyproject.toml", "README.md", "LICENSE", "PKG-INFO")} <= held
    assert not [member for member in held if "__pycache__" in member.parts or ".git" in member.parts]


@pytest.mark.parametrize("name", PROJECTS)
def test_metadata_say_version_licence_and_pythons(distributions, name):
    found = metadata(distributions, name)
    assert (found["Name"], found["Version"]) == (name, VERSION)
    assert (found["License-Expression"], found["Requires-Python"]) == ("Apache-2.0", ">=3.11")
    (licence,) = [m for m in wheel(distributions, name).namelist() if m.endswith(".dist-info/licenses/LICENSE")]
    assert wheel(distributions, name).read(licence) == (ROOT / "LICENSE").read_bytes()
    classifiers = found.get_all("Classifier")
    named = [c.rpartition(" ")[2] for c in classifiers if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", c)]
    assert named == PYTHONS.get(name, ["3.11"])
    assert "Typing :: Typed" in classifiers
    assert found["Description-Content-Type"] == "text/markdown"


@pytest.mark.parametrize("name", PROJECTS)
def test_each_requirement_has_a_lower_bound(distributions, name):
    for required, rest in requirements(distributions, name):
        if required != name:
            assert ">=" in rest, required
        if required in PROJECTS and required != name:
            assert f">={VERSION.rpartition('.')[0]}" in rest, "a plugin is tested with this version only"


@pytest.mark.parametrize("name", PROJECTS)
def test_each_module_that_is_imported_belongs_to_a_requirement(distributions, name):
    asked = requirements(distributions, name)
    extras = {extra for _, rest in asked for extra in re.findall(r"\[([\w-]+)\]", rest)}
    declared = {required.lower() for required, _ in asked} | extras | {name}
    for path in package(name).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            for module in {m.partition(".")[0] for m in modules} - sys.stdlib_module_names - set(NOT_DECLARED):
                assert OWNER.get(module, module.replace("_", "-")) in declared, (path, module)


@pytest.mark.parametrize("name", sorted(set(PROJECTS) - {"nc-strategies"}))
def test_a_plugin_s_entry_point_is_its_package(distributions, name):
    archive = wheel(distributions, name)
    (file,) = [member for member in archive.namelist() if member.endswith("/entry_points.txt")]
    (line,) = re.findall(r"^\w+ = (\w+)$", archive.read(file).decode(), re.MULTILINE)
    assert f"{line}/__init__.py" in archive.namelist()


def test_each_extra_that_a_message_names_exists(distributions):
    extras = set(metadata(distributions, "nc-strategies").get_all("Provides-Extra"))
    assert extras == set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    for name in PROJECTS:
        for path in package(name).rglob("*.py"):
            for named in re.findall(r"nc-strategies\[([\w,-]+)\]", path.read_text()):
                assert set(named.split(",")) <= extras, (path, named)
