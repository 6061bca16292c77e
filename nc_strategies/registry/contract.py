"""The version of the contract between plugins and this package."""

from __future__ import annotations

CONTRACT_VERSION = 1
"""Version of the hooks, of the names in `nc_strategies.api` and of the interfaces behind them."""
OLDEST_CONTRACT = 1
"""Oldest contract version whose plugins are still supported."""
ATTRIBUTE = "ncs_contract"


class ContractError(Exception):
    """A plugin was written for an unsupported version of the contract."""


def check_contract(plugin: object) -> None:
    """Check that this package supports a plugin's contract version.

    Args:
        plugin: The object that the entry point names. Its attribute ``ncs_contract`` holds the version that it was
            written for; without the attribute, version 1 is assumed.

    Raises:
        ContractError: this package does not support the version yet, or no longer.
        TypeError: the attribute is not a whole number.
    """
    version = getattr(plugin, ATTRIBUTE, 1)
    if type(version) is not int:
        raise TypeError(f"{ATTRIBUTE} is {version!r}, not a whole number")
    if version > CONTRACT_VERSION:
        raise ContractError(
            f"made for contract {version}, this nc-strategies has {CONTRACT_VERSION}: upgrade nc-strategies"
        )
    if version < OLDEST_CONTRACT:
        raise ContractError(
            f"made for contract {version}, this nc-strategies takes {OLDEST_CONTRACT} to "
            f"{CONTRACT_VERSION}: upgrade the plugin"
        )
