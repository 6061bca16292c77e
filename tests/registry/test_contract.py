"""Plugins made for another version of the contract are named and left out; those that fit work."""

from __future__ import annotations

import itertools
from importlib.metadata import EntryPoint

import pytest

from nc_strategies.api import CONTRACT_VERSION
from nc_strategies.registry import contract
from nc_strategies.registry.hookspecs import GROUP
from nc_strategies.registry.registry import Registry

COUNTER = itertools.count()
PLUGIN = """
from nc_strategies.api import (Component, hookimpl)
{statement}

@hookimpl
def ncs_components():
    return [Component("strategy", "mine", "json:loads")]
"""


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry with a plugin that makes a statement, and one beside it that makes none."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(statement):
        number = next(COUNTER)
        (tmp_path / f"ncs_contract_{number}.py").write_text(PLUGIN.format(statement=statement))
        (tmp_path / f"ncs_silent_{number}.py").write_text(PLUGIN.format(statement="").replace("mine", "silent"))
        return Registry(
            [
                EntryPoint("stating", f"ncs_contract_{number}", GROUP),
                EntryPoint("silent", f"ncs_silent_{number}", GROUP),
            ]
        )

    return make


def test_a_plugin_made_for_this_contract_works(registry):
    found = registry(f"ncs_contract = {CONTRACT_VERSION}")
    assert found.broken == {}
    assert {"mine", "silent"} <= set(found.names("strategy"))


@pytest.mark.parametrize(
    ("version", "why"),
    [
        (
            str(CONTRACT_VERSION + 1),
            f"ContractError: made for contract {CONTRACT_VERSION + 1}, this nc-strategies has "
            f"{CONTRACT_VERSION}: upgrade nc-strategies",
        ),
        (
            "0",
            f"ContractError: made for contract 0, this nc-strategies takes 1 to {CONTRACT_VERSION}: upgrade the plugin",
        ),
        ("'1'", "TypeError: ncs_contract is '1', not a whole number"),
        ("True", "TypeError: ncs_contract is True, not a whole number"),
        ("1.0", "TypeError: ncs_contract is 1.0, not a whole number"),
    ],
    ids=["newer", "older", "text", "truth", "fraction"],
)
def test_any_other_is_left_out_with_the_reason_and_does_no_harm(registry, version, why):
    found = registry(f"ncs_contract = {version}")
    assert found.broken == {"stating": why}
    assert "mine" not in found.names("strategy")
    assert {"basic", "silent"} <= set(found.names("strategy"))


def test_a_plugin_that_says_nothing_is_of_the_first_contract(registry, monkeypatch):
    monkeypatch.setattr(contract, "CONTRACT_VERSION", 3)
    monkeypatch.setattr(contract, "OLDEST_CONTRACT", 2)
    found = registry("ncs_contract = 2")
    assert list(found.broken) == ["silent"]
    assert "upgrade the plugin" in found.broken["silent"]
    assert "mine" in found.names("strategy")
