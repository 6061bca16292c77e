"""Capabilities that the tests of the space share."""

import pytest

from nc_strategies.space import FLOAT, Capabilities, OpCapability, OpScheme, TensorScheme

ACT = TensorScheme("uint8", "asym")
PER_CHANNEL = OpScheme(ACT, TensorScheme("int8", "sym", "per_channel"))
PER_TENSOR = OpScheme(ACT, TensorScheme("int8", "sym", "per_tensor"))
NO_WEIGHT = OpScheme(ACT)


@pytest.fixture
def capabilities():
    """Two convolutions, a tied pair without weights, a normalization that is better left alone, one option."""
    return Capabilities(
        ops=(
            OpCapability("block_1/conv", "Conv", (PER_CHANNEL, PER_TENSOR, FLOAT), parameters=9),
            OpCapability("block_2/conv", "Conv", (PER_CHANNEL, PER_TENSOR, FLOAT), parameters=9),
            OpCapability("add", "Add", (NO_WEIGHT, FLOAT)),
            OpCapability("concat", "Concat", (NO_WEIGHT, FLOAT)),
            OpCapability("norm", "LayerNorm", (FLOAT, NO_WEIGHT), opt_in=True),
        ),
        tied=(("add", "concat"),),
        options=(("fold", (True, False)), ("reduce_range", (0, 1, 2))),
    )
