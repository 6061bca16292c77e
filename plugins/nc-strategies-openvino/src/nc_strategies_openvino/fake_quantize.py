"""Q/DQ pairs as FakeQuantize operators, the form that OpenVINO's passes know best.

The engine makes the same of most pairs when it compiles a model. But some of its passes run before that: one moves the
stride of a 1x1 convolution to the operators before it, right between QuantizeLinear and DequantizeLinear, and the
convolution then runs in floating point. A FakeQuantize is one operator, into which nothing is put.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nc_strategies_openvino import engine

LARGEST = 255
"""Largest value of an 8-bit tensor."""


def with_fake_quantize(model: Any) -> Any:
    """Replace the pairs of quantization and dequantization of activations in a model that was read from ONNX.

    Args:
        model: An ``openvino.Model``, changed in place.

    Returns:
        The model.
    """
    opset = engine.openvino().opset13
    for scaled in model.get_ordered_ops():
        found = _pair(scaled)
        if found is None:
            continue
        quantize, zero, scale = found
        fake = quantize.input_value(0).get_node()
        low, high = ((bound - zero) * scale for bound in (np.float32(0), np.float32(LARGEST)))
        inputs = [fake.input_value(index) for index in range(3)]
        made = opset.fake_quantize(*inputs, opset.constant(low), opset.constant(high), LARGEST + 1)
        made.set_friendly_name(quantize.get_friendly_name())
        scaled.output(0).replace(made.output(0))
    return model


def _pair(scaled: Any) -> tuple[Any, np.float32, np.float32] | None:
    """The quantization that a multiplication is the end of the dequantization of, its zero point and scale."""
    shifted = _made_by(scaled, "Multiply", "Subtract")
    widened = _made_by(shifted, "Subtract", "Convert")
    quantize = _made_by(widened, "Convert", "Convert")
    if _made_by(quantize, "Convert", "FakeQuantize") is None:
        return None
    zero = _made_by(shifted, "Subtract", "Convert", 1)
    constants = [_made_by(zero, "Convert", "Constant"), _made_by(scaled, "Multiply", "Constant", 1)]
    if any(constant is None or constant.get_data().size != 1 for constant in constants):
        return None
    values = [np.float32(constant.get_data().reshape(-1)[0]) for constant in constants]
    return quantize, values[0], values[1]


def _made_by(op: Any, kind: str, source_kind: str, index: int = 0) -> Any:
    """What makes an input of an operator, if both are of these types; else None."""
    if op is None or op.get_type_name() != kind:
        return None
    source = op.input_value(index).get_node()
    return source if source.get_type_name() == source_kind else None
