"""Neural Compressor's specifications of a metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nc_strategies.errors import InputError
from nc_strategies.metrics.base import Metric
from nc_strategies.metrics.objects import UserMetric

KEY = "eval_metric"
NAMES = {"topk": "topk", "accuracy": "top1", "f1": "f1", "mae": "mae", "mse": "mse"}
NOT_SUPPORTED = ("rmse", "loss", "map", "cocomap", "cocomapv2", "vocmap", "squadf1", "miou", "glue", "roc", "bleu")


def metric_of(given: Any, higher_is_better: bool) -> Any:
    """Convert a metric to the `metric` argument of `nc_strategies.tune`.

    Args:
        given: A mapping of one built-in metric to its arguments (``{"topk": 1}``, ``{"MSE": {}}``); a name; an object
            with ``name`` and ``kwargs`` or ``metric_cls``, as Neural Compressor's ``Metric`` has; or a metric object.
        higher_is_better: Direction of a metric object.

    Raises:
        InputError: the metric is not supported, or there are several.
    """
    if isinstance(given, (str, Metric)):
        return NAMES.get(given.lower(), given) if isinstance(given, str) else given
    if isinstance(given, Mapping):
        names = [name for name in given if name not in ("weight", "higher_is_better")]
        if len(names) != 1:
            raise InputError(KEY, f"names {len(names)} metrics", "one; combine several in an eval_func")
        return _built_in(str(names[0]), given[names[0]])
    if getattr(given, "metric_cls", None) is not None:
        arguments = dict(getattr(given, "kwargs", None) or {})
        return UserMetric(
            given.metric_cls(**arguments) if isinstance(given.metric_cls, type) else given.metric_cls, higher_is_better
        )
    if isinstance(getattr(given, "name", None), str) and hasattr(given, "kwargs"):
        return _built_in(given.name, given.kwargs)
    return UserMetric(given, higher_is_better)


def _built_in(name: str, arguments: Any) -> dict[str, Any]:
    metric = NAMES.get(name.lower())
    if metric is None:
        raise InputError(
            f"{KEY}.{name}",
            "is not supported" if name.lower() in NOT_SUPPORTED else "is not a metric",
            f"allowed: {', '.join(NAMES)}, an object with update and result, or eval_func",
        )
    remaining = dict(arguments) if isinstance(arguments, Mapping) else ({} if arguments is None else {"k": arguments})
    if metric == "topk":
        k = remaining.pop("k", 1)
        if isinstance(k, bool) or not isinstance(k, int):
            raise InputError(f"{KEY}.{name}.k", f"is {k!r}", "a whole number")
        settings: dict[str, Any] = {"name": "topk", "k": k}
    else:
        settings = {"name": metric, **({"average": "binary"} if metric == "f1" else {})}
        if remaining.get("compare_label", True) is True:
            remaining.pop("compare_label", None)
    if remaining:
        raise InputError(
            f"{KEY}.{name}",
            f"has arguments that are not supported: {', '.join(map(str, remaining))}",
            "topk takes k, the others none",
        )
    return settings
