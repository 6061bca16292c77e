"""Plain data that OmegaConf must not interpolate."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar, cast

T = TypeVar("T")
INTERPOLATION = re.compile(r"(\\*)\$\{")


def literal(value: T) -> T:
    r"""Plain data with every ``${`` in its strings escaped, so that OmegaConf reads them as they are.

    Example:
        >>> literal({"path": "${x}.onnx"})
        {'path': '\\${x}.onnx'}
    """
    if isinstance(value, str):
        return cast(T, INTERPOLATION.sub(lambda found: f"{found[1] * 2}\\${{", value))
    if isinstance(value, Mapping):
        return cast(T, {key: literal(item) for key, item in value.items()})
    return cast(T, [literal(item) for item in value]) if isinstance(value, list | tuple) else value
