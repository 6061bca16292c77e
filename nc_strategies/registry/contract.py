"""The version of what plugins and this package promise each other."""

from __future__ import annotations

CONTRACT_VERSION = 1
"""Version of the hooks, of the names in `nc_strategies.api` and of the interfaces behind them."""
OLDEST_CONTRACT = 1
"""Oldest version whose plugins still run."""
ATTRIBUTE = "ncs_contract"


class ContractError(Exception):
    """A plugin was made for another version of the contract."""


def check_contract(plugin: object) -> None:
    """See that a plugin can work with this package.

    Args:
        plugin: What its entry point names. Its attribute ``ncs_contract`` holds the version it was made for; one
            without is taken to be of the first.

    Raises:
        ContractError: made for a version that this package does not know yet, or no longer.
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
