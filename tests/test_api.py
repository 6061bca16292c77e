"""The module that plugins import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from nc_strategies import api


def test_every_name_it_promises_is_there():
    for name in api.__all__:
        assert getattr(api, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = api.nothing


def test_type_checkers_and_python_see_the_same_names_in_the_same_places():
    tree = ast.parse(Path(api.__file__).read_text())
    branch = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname or alias.name: f"{node.module}:{alias.name}" if alias.asname else node.module
        for node in branch.body
        for alias in node.names
    }
    assert seen == api._PLACES
    assert set(seen) == set(api.__all__)


def test_registering_a_component_imports_nothing_heavy():
    code = (
        "import sys; from nc_strategies.api import Component, InputError, hookimpl; "
        "print({'numpy', 'onnxruntime', 'tensorflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
