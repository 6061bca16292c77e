"""The user's overrides: what they leave, and what is said when they cannot be followed."""

import pytest

from nc_strategies.errors import InputError
from nc_strategies.space import FLOAT, Capabilities, OpCapability, OpScheme, Overrides, Space, TensorScheme

FP32 = {"activation": {"dtype": ["fp32"]}, "weight": {"dtype": ["fp32"]}}


def granularities(space, name):
    return {s.weight.granularity for s in space.ops[name].schemes if not s.is_float}


def float_only(space):
    return {name for name, op in space.ops.items() if all(s.is_float for s in op.schemes)}


def test_no_overrides_leave_everything_but_opt_in_operators(capabilities):
    left = {op.name: op.schemes for op in Overrides().apply(capabilities)}
    assert left == {op.name: op.schemes if op.name != "norm" else op.schemes[:1] for op in capabilities.ops}


def test_a_override_by_type_holds_for_all_operators_of_the_type(capabilities):
    space = Space(capabilities, Overrides({"Conv": FP32}))
    assert float_only(space) == {"block_1/conv", "block_2/conv", "norm"}


def test_keys_are_matched_in_full(capabilities):
    with pytest.raises(InputError, match=r"space\.op_type_dict\.Con: matches no operator type"):
        Space(capabilities, Overrides({"Con": FP32}))
    # "Co.." begins Concat, "block_./con" begins both convolutions: neither is all of it
    assert float_only(Space(capabilities, Overrides({"Co..": FP32}))) == {"block_1/conv", "block_2/conv", "norm"}
    assert float_only(Space(capabilities, Overrides(op_name_dict={"add|block_./con": FP32}))) == {"add", "norm"}


def test_names_are_regular_expressions(capabilities):
    space = Space(capabilities, Overrides(op_name_dict={r"block_\d/.*": FP32}))
    assert float_only(space) == {"block_1/conv", "block_2/conv", "norm"}


def test_a_override_by_name_replaces_those_by_type(capabilities):
    by_type = {"Conv": FP32}
    by_name = {"block_1/conv": {"weight": {"granularity": ["per_tensor"]}}}
    space = Space(capabilities, Overrides(by_type, by_name))
    assert float_only(space) == {"block_2/conv", "norm"}
    assert granularities(space, "block_1/conv") == {"per_tensor"}


def test_several_overrides_that_match_one_operator_all_hold(capabilities):
    by_name = {"block_1/.*": {"weight": {"granularity": ["per_tensor"]}}, ".*conv": {"weight": {"dtype": ["int8"]}}}
    space = Space(capabilities, Overrides(op_name_dict=by_name))
    assert [str(s.weight) for s in space.ops["block_1/conv"].schemes] == ["int8 sym per_tensor minmax"]
    assert len(space.ops["block_2/conv"].schemes) == 2


def test_fp32_stays_possible_unless_a_dtype_override_leaves_it_out(capabilities):
    free = Space(capabilities, Overrides({"Conv": {"weight": {"granularity": ["per_tensor"], "scheme": ["sym"]}}}))
    bound = Space(capabilities, Overrides({"Conv": {"weight": {"dtype": ["int8"]}}}))
    assert any(s.is_float for s in free.ops["block_1/conv"].schemes)
    assert not any(s.is_float for s in bound.ops["block_1/conv"].schemes)


def test_a_weight_override_does_not_touch_operators_without_weights(capabilities):
    space = Space(capabilities, Overrides({"Add|Conv": {"weight": {"granularity": ["per_tensor"]}}}))
    assert space.ops["add"].schemes == capabilities.ops[2].schemes


def test_a_single_name_stands_for_a_list_of_one(capabilities):
    single = Overrides({"Conv": {"weight": {"granularity": "per_tensor"}}})
    listed = Overrides({"Conv": {"weight": {"granularity": ["per_tensor"]}}})
    assert Space(capabilities, single).fingerprint == Space(capabilities, listed).fingerprint


@pytest.mark.parametrize(
    "overrides",
    [
        Overrides(op_name_dict={"norm": {"activation": {"dtype": ["uint8", "fp32"]}}}),
        Overrides(op_type_dict={"LayerNorm": {"activation": {"dtype": ["uint8", "fp32"]}}}),
    ],
    ids=["by name", "by type"],
)
def test_an_opt_in_operator_is_quantized_only_when_its_dtype_is_asked_for(capabilities, overrides):
    assert float_only(Space(capabilities)) == {"norm"}
    space = Space(capabilities, overrides)
    assert float_only(space) == set()
    assert "norm" in space.default().int8_ops


def test_a_override_for_everything_changes_an_opt_in_operator_only_by_naming_dtypes(capabilities):
    space = Space(capabilities, Overrides({".*": {"activation": {"scheme": ["asym"]}}}))
    assert float_only(space) == {"norm"}


@pytest.mark.parametrize(
    ("excluded", "left"),
    [
        (("int8",), {"block_1/conv", "block_2/conv", "norm"}),
        (("uint8",), {"block_1/conv", "block_2/conv", "add", "concat", "norm"}),
        (("int8", "uint8"), {"block_1/conv", "block_2/conv", "add", "concat", "norm"}),
    ],
)
def test_excluded_precisions_are_used_by_neither_activations_nor_weights(capabilities, excluded, left):
    assert float_only(Space(capabilities, Overrides(excluded_precisions=excluded))) == left


def test_excluding_all_that_an_operator_can_do_names_it(capabilities):
    with pytest.raises(
        InputError,
        match=r"^space\.excluded_precisions: leaves nothing for operator 'add' "
        r"\(Add\); it can use fp32, uint8$",
    ):
        Space(Capabilities(capabilities.ops[2:]), Overrides(excluded_precisions=("fp32", "uint8")))


def test_excluding_fp32_forces_int8_but_not_on_operators_nobody_asked_to_quantize(capabilities):
    space = Space(capabilities, Overrides(excluded_precisions=("fp32",)))
    assert float_only(space) == {"norm"}
    assert space.size() == 2 * 2 * 1 * 1 * 6


MALFORMED = {
    "not a mapping": ({"Conv": "int8"}, "space.op_type_dict.Conv", "allowed keys: activation, weight"),
    "nothing": ({"Conv": None}, "space.op_type_dict.Conv", "allowed keys: activation, weight"),
    "part not a mapping": (
        {"Conv": {"weight": ["int8"]}},
        "space.op_type_dict.Conv.weight",
        "allowed keys: dtype, scheme, granularity, algorithm",
    ),
    "unknown part": ({"Conv": {"bias": {}}}, "space.op_type_dict.Conv", "allowed: activation, weight"),
    "unknown field": (
        {"Conv": {"weight": {"bits": [4]}}},
        "space.op_type_dict.Conv.weight",
        "allowed: dtype, scheme, granularity, algorithm",
    ),
    "numbers": ({"Conv": {"weight": {"dtype": [8]}}}, "space.op_type_dict.Conv.weight.dtype", "for example [int8]"),
    "empty list": ({"Conv": {"weight": {"dtype": []}}}, "space.op_type_dict.Conv.weight.dtype", "for example [int8]"),
    "unknown value": (
        {"Conv": {"weight": {"dtype": ["int4"]}}},
        "space.op_type_dict.Conv.weight.dtype",
        "possible: fp32, int8",
    ),
    "not possible": (
        {"Conv": {"activation": {"dtype": ["int8"]}}},
        "space.op_type_dict.Conv.activation.dtype",
        "possible: fp32, uint8",
    ),
    "a value nothing has": (
        {"Add": {"activation": {"granularity": ["per_channel"]}}},
        "space.op_type_dict.Add.activation.granularity",
        "possible: per_tensor",
    ),
    "no such type": ({"Gemm": {}}, "space.op_type_dict.Gemm", "there are: Add, Concat, Conv, LayerNorm"),
    "no expression": ({"Conv(": {}}, "space.op_type_dict.Conv(", "not a regular expression"),
}


@pytest.mark.parametrize(("overrides", "key", "allowed"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_override_is_one_line_with_its_key_and_what_is_allowed(capabilities, overrides, key, allowed):
    with pytest.raises(InputError) as caught:
        Space(capabilities, Overrides(overrides))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{key}: ")
    assert allowed in message


def test_a_name_that_matches_nothing_lists_some_names(capabilities):
    with pytest.raises(
        InputError,
        match=r"^space\.op_name_dict\.conv: matches no operator that can be quantized; "
        r"there are: block_1/conv, block_2/conv, add, concat, norm$",
    ):
        Space(capabilities, Overrides(op_name_dict={"conv": FP32}))


def test_an_unknown_precision_lists_the_known_ones(capabilities):
    with pytest.raises(
        InputError,
        match=r"^space\.excluded_precisions: unknown precision 'bf16'; "
        r"allowed: int8, uint8, int4, fp32$",
    ):
        Space(capabilities, Overrides(excluded_precisions=("bf16",)))


def test_one_wrong_value_among_right_ones_is_an_error(capabilities):
    with pytest.raises(InputError, match="int9"):
        Space(capabilities, Overrides({"Conv": {"weight": {"dtype": ["int8", "int9"]}}}))


def test_overrides_that_are_no_mapping_are_an_input_error(capabilities):
    with pytest.raises(InputError, match=r"space\.op_type_dict"):
        Space(capabilities, Overrides(["Conv"]))


DYNAMIC = OpScheme(TensorScheme("uint8", "asym", "per_tensor", "dynamic"), TensorScheme("int8", "sym", "per_channel"))
FOUR_BITS = OpScheme(TensorScheme("fp32", "none", "none", "none"), TensorScheme("int4", "sym", "per_block_32"))


@pytest.mark.parametrize(
    ("override", "left"),
    [
        ({"activation": {"quant_mode": ["dynamic"]}}, {"dynamic", "fp32"}),
        ({"activation": {"dtype": ["uint8"], "quant_mode": "dynamic"}}, {"dynamic"}),
        ({"weight": {"dtype": ["int4"], "group_size": [32]}}, {"weight_only"}),
        ({"weight": {"group_size": [-1]}}, {"static", "dynamic", "fp32"}),
        ({"activation": {"dtype": ["fp32"]}}, {"weight_only", "fp32"}),
    ],
)
def test_overrides_choose_a_quantization_mode_in_neural_compressors_words(override, left):
    static = OpScheme(TensorScheme("uint8", "asym"), TensorScheme("int8", "sym", "per_channel"))
    able = Capabilities((OpCapability("m", "MatMul", (static, DYNAMIC, FOUR_BITS, FLOAT)),))
    (op,) = Overrides(op_type_dict={"MatMul": override}).apply(able)
    assert {scheme.mode for scheme in op.schemes} == left


def test_a_group_size_that_no_operator_offers_is_named():
    able = Capabilities((OpCapability("m", "MatMul", (FOUR_BITS, FLOAT)),))
    with pytest.raises(InputError, match=r"weight\.group_size: '64' is not possible .*possible: -1, 32"):
        Overrides(op_type_dict={"MatMul": {"weight": {"group_size": [64]}}}).apply(able)
