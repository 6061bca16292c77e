"""Neural Compressor's recipes: those that ask for what is done here anyway, and why the others are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nc_strategies.errors import InputError

BY_NAME = "hold operators to fp32 by name in op_name_dict; the basic strategy tries this one by itself"
TENSORRT = "it is for TensorRT only"
WEIGHT_ONLY = "weight-only quantization is not supported"
REFUSED: dict[str, tuple[Any, str]] = {
    "smooth_quant": (False, "activations are not smoothed; the search keeps operators that lose too much in fp32"),
    "layer_wise_quant": (False, WEIGHT_ONLY),
    "fast_bias_correction": (False, "biases are kept as they are"),
    "weight_correction": (False, "weights are kept as they are"),
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
"""Recipe to the one value that is accepted, which asks for nothing, and why no other is."""
ACCEPTED = {"smooth_quant_args": dict, "gemm_to_matmul": bool}
"""Recipes of no effect here, with their types: arguments of one that is off, and how ONNX graphs are prepared."""


def checked_recipes(key: str, recipes: Any) -> dict[str, Any]:
    """Recipes, all of which are possible.

    Raises:
        InputError: an unknown recipe, or one that is not supported.
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
            raise InputError(where, "is not a recipe", f"there are: {', '.join(sorted({*REFUSED, *ACCEPTED}))}")
        else:
            idle, why = REFUSED[name]
            if value is not None and (type(value) is not type(idle) or value != idle):
                raise InputError(where, f"is {value!r}: not supported, {why}", f"allowed: {idle!r}")
    return dict(recipes)
