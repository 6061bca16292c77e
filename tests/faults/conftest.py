"""Shared by the tests of faults."""

import sys
import types
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import lab as labs


@pytest.fixture
def lab(tmp_path):
    """A toy problem in a folder of the test's."""
    return labs.Lab(tmp_path)


@pytest.fixture
def tools():
    """Helpers for the tests of this folder."""
    return types.SimpleNamespace(wait_for=labs.wait_for, workers=labs.workers, kill_and_resume=labs.kill_and_resume)
