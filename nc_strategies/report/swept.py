"""What tells the runs of a sweep apart: the overrides in which they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SHOWN_ANYWAY = ("strategy", "backend")
"""Keys with a column of their own in every comparison."""
NOT_GIVEN = "-"


def swept(results: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """For each run, its values of the keys in which the runs differ, shortened to what tells them apart.

    Args:
        results: Results of a sweep's jobs; ``overrides`` maps the keys that the command line set to their values.

    Returns:
        One mapping per result, all with the same keys in the same order; empty mappings if the runs do not differ.
    """
    given = [{str(key): str(value) for key, value in (r.get("overrides") or {}).items()} for r in results]
    keys = dict.fromkeys(key for overrides in given for key in overrides if key not in SHOWN_ANYWAY)
    columns = {key: [overrides.get(key, NOT_GIVEN) for overrides in given] for key in keys}
    short = {key: shortened(values) for key, values in columns.items() if len(set(values)) > 1}
    return [{key: values[position] for key, values in short.items()} for position in range(len(given))]


def shortened(values: Sequence[str]) -> list[str]:
    """Paths without the leading and trailing folders and names that all of them share; other values as they are.

    Example:
        >>> shortened(["runs/a/model.onnx", "runs/b c/model.onnx"])
        ['a', 'b c']
        >>> shortened(["runs/epoch=9.onnx", "runs/epoch=10.onnx"])
        ['epoch=9.onnx', 'epoch=10.onnx']
    """
    paths = [value.split("/") for value in values if value != NOT_GIVEN]
    most = min(map(len, paths), default=1) - 1
    first = next((n for n in range(most) if len({path[n] for path in paths}) > 1), most)
    last = next((n for n in range(most - first) if len({path[-1 - n] for path in paths}) > 1), most - first)
    return [
        value if value == NOT_GIVEN else "/".join((parts := value.split("/"))[first : len(parts) - last])
        for value in values
    ]
