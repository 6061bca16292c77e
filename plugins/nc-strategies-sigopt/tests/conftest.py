"""Shared by this distribution's tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from sigopt_standin import StandIn

TOKEN = "secret-token-123456"


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """Whatever the machine's user has configured stays out of the tests."""
    for name in ("SIGOPT_API_TOKEN", "SIGOPT_API_URL", "SIGOPT_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SIGOPT_HOME", str(tmp_path / "no-sigopt-home"))
    monkeypatch.setattr("nc_strategies_sigopt.calls.FIRST_WAIT", 0.01)


@pytest.fixture
def server():
    """A server with the project nc-demo and one client."""
    with StandIn() as stand_in:
        yield stand_in
