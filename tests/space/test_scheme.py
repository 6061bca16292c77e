"""How tensors and operators are quantized, and how that is written down."""

import json

import pytest

from nc_strategies.space import FLOAT, OpScheme, TensorScheme

WEIGHT = TensorScheme("int8", "sym", "per_channel", "minmax")
SCHEMES = [
    FLOAT,
    OpScheme(TensorScheme("uint8", "asym", "per_tensor", "kl")),
    OpScheme(TensorScheme("int8", "sym", "per_tensor", "percentile"), WEIGHT),
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_scheme_survives_json(scheme):
    assert OpScheme.from_dict(json.loads(json.dumps(scheme.to_dict()))) == scheme


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"dtype": "int8"},
        {"activation": {"dtype": "int8"}},
        {"activation": {"dtype": "int8", "colour": "red"}, "weight": None},
    ],
)
def test_data_of_another_form_is_refused(data):
    with pytest.raises((KeyError, TypeError)):
        OpScheme.from_dict(data)


def test_only_fp32_is_float():
    assert FLOAT.is_float
    assert FLOAT.activation.is_float
    assert not any(scheme.is_float for scheme in SCHEMES[1:])


def test_a_scheme_without_weight_says_so():
    assert str(SCHEMES[1]) == "activation uint8 asym per_tensor kl; weight none"
    assert str(FLOAT) == "fp32"


def test_schemes_that_differ_in_one_field_are_different():
    variants = {
        WEIGHT,
        TensorScheme("uint8", "sym", "per_channel"),
        TensorScheme("int8", "asym", "per_channel"),
        TensorScheme("int8", "sym", "per_tensor"),
        TensorScheme("int8", "sym", "per_channel", "kl"),
    }
    assert len(variants) == 5
