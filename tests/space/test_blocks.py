"""Repeated layers, and the roles of the operators in them."""

import pytest

from nc_strategies.space import FLOAT, OpCapability, OpScheme, TensorScheme
from nc_strategies.space.blocks import find_kinds, find_repetitions, find_roles

INT8 = OpScheme(TensorScheme("uint8", "asym"), TensorScheme("int8", "sym", "per_channel"))


def op(name, kind="MatMul", parameters=0):
    return OpCapability(name, kind, (INT8, FLOAT), parameters=parameters)


def layer(prefix, names, width=8):
    """The operators of one encoder layer, with names of their roles or without."""
    q, k, s, v, m, o, up, down = names
    return [
        op(f"{prefix}/{q}", parameters=width**2),
        op(f"{prefix}/{k}", parameters=width**2),
        op(f"{prefix}/{s}"),
        op(f"{prefix}/softmax", "Softmax"),
        op(f"{prefix}/{v}", parameters=width**2),
        op(f"{prefix}/{m}"),
        op(f"{prefix}/{o}", parameters=width**2),
        op(f"{prefix}/residual", "Add"),
        op(f"{prefix}/{up}", parameters=4 * width**2),
        op(f"{prefix}/{down}", parameters=4 * width**2),
        op(f"{prefix}/residual_1", "Add"),
    ]


NUMBERED = [f"MatMul_{i}" for i in range(8)]
NAMES = {
    "numbers": NUMBERED,
    "BERT": [
        "attention/self/query/MatMul",
        "attention/self/key/MatMul",
        "attention/self/MatMul",
        "attention/self/value/MatMul",
        "attention/self/MatMul_1",
        "attention/output/dense/MatMul",
        "intermediate/dense/MatMul",
        "output/dense/MatMul",
    ],
    "projections": [
        "self_attn/q_proj/MatMul",
        "self_attn/k_proj/MatMul",
        "self_attn/MatMul",
        "self_attn/v_proj/MatMul",
        "self_attn/MatMul_1",
        "self_attn/out_proj/MatMul",
        "fc1/MatMul",
        "fc2/MatMul",
    ],
    "DistilBERT": [
        "attention/q_lin/MatMul",
        "attention/k_lin/MatMul",
        "attention/MatMul",
        "attention/v_lin/MatMul",
        "attention/MatMul_1",
        "attention/out_lin/MatMul",
        "ffn/lin1/MatMul",
        "ffn/lin2/MatMul",
    ],
}
ORDER = ["query", "key", "scores", "value", "mix", "output", "up", "down"]


def encoder(layers, names=NUMBERED):
    inner = [o for i in range(layers) for o in layer(f"/encoder/layer.{i}", names)]
    return [op("/embeddings/Add", "Add"), *inner, op("/head/dense", "Gemm", parameters=16)]


@pytest.mark.parametrize("layers", [2, 12, 24])
def test_layers_that_repeat_are_found_whatever_their_names(layers):
    ops = encoder(layers)
    (found,) = find_repetitions(ops)
    assert len(found.copies) == layers
    assert [len(copy) for copy in found.copies] == [11] * layers
    assert found.copies[1] == tuple(o.name for o in layer("/encoder/layer.1", NUMBERED))
    assert found.alike[3] == tuple(f"/encoder/layer.{i}/softmax" for i in range(layers))


def test_an_operator_that_one_layer_alone_has_does_not_hide_the_repetition():
    ops = encoder(4)
    ops.insert(4, op("/mask/Mul", "Mul"))
    (found,) = find_repetitions(ops)
    assert len(found.copies) == 4
    assert "/mask/Mul" not in {name for copy in found.copies for name in copy}
    assert found.alike[3] == tuple(f"/encoder/layer.{i}/softmax" for i in range(4))


def test_stretches_of_several_widths_are_found_apart():
    ops = [
        o
        for width, start in ((8, 0), (16, 3))
        for i in range(start, start + 3)
        for o in layer(f"/l{i}", NUMBERED, width)
    ]
    assert [len(r.copies) for r in find_repetitions(ops)] == [3, 3]


def test_a_model_without_repetition_has_none():
    assert find_repetitions([op(f"conv_{i}", "Conv", parameters=10 + i) for i in range(6)]) == ()
    assert find_repetitions([]) == ()


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_roles_are_read_from_names_or_from_the_order(names):
    roles = find_roles(encoder(3, names))
    for i in range(3):
        assert [roles[f"/encoder/layer.{i}/{name}"] for name in names] == ORDER
    assert "/head/dense" not in roles


def test_roles_do_not_depend_on_where_the_repetition_begins():
    ops = encoder(4)
    # The first projection reads the embeddings in another way, so that the repetition begins one operator later.
    ops[1] = OpCapability(ops[1].name, "MatMul", (FLOAT,), parameters=64)
    roles = find_roles(ops)
    for i in (1, 2):
        assert [roles[f"/encoder/layer.{i}/{name}"] for name in NUMBERED] == ORDER


def test_operators_that_are_alike_are_of_one_kind():
    kinds = find_kinds(encoder(12))
    assert len(set(kinds.values())) == 11
    assert kinds["/encoder/layer.3/residual"] == kinds["/encoder/layer.9/residual"]
    assert kinds["/encoder/layer.3/residual"] != kinds["/encoder/layer.3/residual_1"]
    assert "/embeddings/Add" not in kinds
