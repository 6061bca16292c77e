"""Neural Compressor's recipes: those that are accepted, and the reasons why others are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nc_strategies.errors import InputError

BY_NAME = "keep operators in fp32 by name with op_name_dict; the basic strategy tries this by itself"
TENSORRT = "it is for TensorRT only"
WEIGHT_ONLY = "approach='weight_only' leaves data type and block size to the search"
TRIED = "the ONNX Runtime backend tries it by itself, and keeps it where it leaves less noise"
REFUSED: dict[str, tuple[Any, str]] = {
    "smooth_quant": (False, TRIED),
    "layer_wise_quant": (False, WEIGHT_ONLY),
    "fast_bias_correction": (False, TRIED),
    "weight_correction": (False, "weights are not corrected"),
    "first_conv_or_matmul_quantization": (True, BY_NAME),
    "last_conv_or_matmul_quantization": (True, BY_NAME),
    "pre_post_process_quantization": (True, BY_NAME),
    "add_qdq_pair_to_weight": (False, TENSORRT),
    "dedicated_qdq_pair": (False, TENSORRT),
    "optypes_to_exclude_output_quant": ([], BY_NAME),
    "graph_optimization_level": ("ENABLE_ALL", "models are measured with the engine's default, ENABLE_ALL"),
    "layer_wise_quant_args": ({}, WEIGHT_ONLY),
    "rtn_args": ({}, WEIGHT_ONLY),
    "awq_args": ({}, WEIGHT_ONLY),
    "gptq_args": ({}, WEIGHT_ONLY),
    "teq_args": ({}, WEIGHT_ONLY),
    "autoround_args": ({}, WEIGHT_ONLY),
}
"""Recipe to the only accepted value, which has no effect, and the reason why others are refused."""
ACCEPTED = {"smooth_quant_args": dict, "gemm_to_matmul": bool}
"""Recipes without effect here to their types: arguments of a recipe that is off, and preparation of ONNX graphs."""


def checked_recipes(key: str, recipes: Any) -> dict[str, Any]:
    """Check recipes and return them as a dictionary.

    Raises:
        InputError: a recipe is unknown, or its value is not supported.
    """
    if recipes is None:
        return {}
    if not isinstance(recipes, Mapping):
        raise InputError(key, f"is {recipes!r}", "a mapping of recipes to values")
    for name, value in recipes.items():
        where = f"{key}.{name}"
        if name in ACCEPTED:
            if value is not None and not isinstance(value, ACCEPTED[name]):
                raise InputError(where, f"is {value!r}", f"expected a {ACCEPTED[name].__name__}")
        elif name not in REFUSED:
            raise InputError(where, "is not a recipe", f"recipes: {', '.join(sorted({*REFUSED, *ACCEPTED}))}")
        else:
            neutral, why = REFUSED[name]
            if value is not None and (type(value) is not type(neutral) or value != neutral):
                raise InputError(where, f"is {value!r}: not supported, {why}", f"allowed: {neutral!r}")
    return dict(recipes)
