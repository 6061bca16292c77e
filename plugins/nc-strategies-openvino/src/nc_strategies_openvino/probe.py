"""Properties of this processor's int8 kernels, determined by running them."""

from __future__ import annotations

from functools import cache

import numpy as np

from nc_strategies_openvino import engine

DEPTH, COLUMNS = 64, 64
"""Length of the probe's dot products, more than one pair, and their number: a whole block of the kernels."""
LARGEST, LARGEST_WEIGHT = 255, 127
SCALE = 1 / 64
"""Scale of the weights; a power of two, with which the sums are exact in fp32."""


@cache
def saturates() -> bool:
    """Whether products of uint8 activations and int8 weights saturate before they are accumulated in int32.

    Without VNNI, x86 kernels add pairs of products in 16 bits (oneDNN's documentation, "Nuances of int8 computations").
    """
    openvino = engine.openvino()
    opset = openvino.opset13
    x = opset.parameter([DEPTH, DEPTH], np.float32)
    low, high = opset.constant(np.float32(0)), opset.constant(np.float32(LARGEST))
    weight = opset.constant(np.full((DEPTH, COLUMNS), LARGEST_WEIGHT, np.int8))
    scaled = opset.multiply(opset.convert(weight, "f32"), opset.constant(np.float32(SCALE)))
    product = opset.matmul(opset.fake_quantize(x, low, high, low, high, LARGEST + 1), scaled, False, False)
    model = openvino.Model([product], [x], "probe")
    request = engine.compiled(model, engine.options(1)).create_infer_request()
    engine.run(request, {0: np.full((DEPTH, DEPTH), LARGEST, np.float32)})
    found = request.get_output_tensor(0).data
    return bool(np.any(found != LARGEST * LARGEST_WEIGHT * DEPTH * SCALE))
