"""SigOpt Lite, SigOpt's own optimizer in this process, where the user has installed it."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np

from nc_strategies.api import InputError
from nc_strategies_sigopt.client import part
from nc_strategies_sigopt.settings import KEY

REMOVED_FROM_NUMPY = {
    "bool": bool,
    "int": int,
    "float": float,
    "object": object,
    "float_": np.float64,
    "Inf": np.inf,
    "infty": np.inf,
    "NaN": np.nan,
    "product": np.prod,
    "cumproduct": np.cumprod,
    "alltrue": np.all,
    "sometrue": np.any,
    "in1d": np.isin,
    "row_stack": np.vstack,
    "asfarray": lambda a: np.asarray(a, np.float64),
}
"""Names that ``libsigopt`` and what it needs take from numpy, and which current versions no longer have."""


class LiteDriver:
    """`sigoptlite`'s driver, answering what this package asks.

    It keeps one experiment, in memory, takes no metadata, and reports refusals as plain errors.

    Raises:
        InputError: the package is missing.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("sigoptlite") is None:
            raise InputError(
                f"{KEY}.driver",
                "is lite, but the package sigoptlite is not installed",
                "pip install --no-deps sigoptlite libsigopt qmcpy, or use driver=local",
            )
        for name, value in REMOVED_FROM_NUMPY.items():
            if name not in vars(np):
                setattr(np, name, value)
        self._suggested: dict[str, Any] = {}
        self._observations = 0
        try:
            self._inner: Any = importlib.import_module("sigoptlite").LocalDriver()
        except ImportError as error:
            raise InputError(
                f"{KEY}.driver",
                f"is lite, but sigoptlite cannot be imported ({error})",
                "install what it names, or use driver=local",
            ) from None

    def request(self, method: str, path: list[Any], data: Any, headers: Any) -> Any:
        """Answer a request; see `LocalDriver.request`."""
        refused = part("exception").ApiException
        parts, kept = [str(part) for part in path], dict(data or {})
        if method == "GET" and parts[-1] == "suggestions":
            return _page([])
        for name in ("metadata", "project", "parallel_bandwidth"):
            kept.pop(name, None)
        if kept.get("suggestion") is not None:
            # It knows the latest suggestion only.
            kept["assignments"] = self._suggested[kept.pop("suggestion")]
        try:
            answer = self._inner.request(method, parts, kept, headers)
        except (AssertionError, ValueError) as error:
            raise refused({"message": str(error), "status": 400}, 400) from None
        if answer.get("object") == "pagination":
            return _page(answer["data"])
        if method == "POST" and parts[-1] == "suggestions":
            self._suggested[answer["id"]] = answer["assignments"]
        if method == "POST" and parts[-1] == "observations":
            self._observations += 1
            return {**answer, "id": str(self._observations)}
        return answer


def _page(items: list[Any]) -> dict[str, Any]:
    return {"object": "pagination", "count": len(items), "data": items, "paging": {"before": None, "after": None}}
