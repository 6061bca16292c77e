"""The version of this package."""

from __future__ import annotations

import importlib


def own_version() -> str:
    """The version of this package, whether it is installed or only on the search path.

    The package's own module is asked by its name: a module below it that imports it would depend on all that it offers.
    """
    return str(importlib.import_module("nc_strategies").__version__)
