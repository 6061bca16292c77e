"""Shared by this distribution's tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture(autouse=True)
def no_storage(monkeypatch):
    """Whatever storage the machine's user has set stays out of the tests."""
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
