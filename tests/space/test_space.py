"""The search space: what is in it, what is beside what."""

import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from nc_strategies.errors import InputError
from nc_strategies.space import FLOAT, Capabilities, OpCapability, OpScheme, Overrides, Space, TensorScheme
from nc_strategies.testing import ToyOp, toy_space

ACT = TensorScheme("uint8", "asym")
INT8 = OpScheme(ACT)
OTHER_INT8 = OpScheme(TensorScheme("int8", "sym"))


@pytest.fixture
def space(capabilities):
    return Space(capabilities)


def differing_groups(space, a, b):
    return [group for group in space.groups if a.schemes[group[0]] != b.schemes[group[0]]]


def test_size_counts_schemes_of_groups_and_values_of_options(space):
    # two convolutions of 3, one tied pair of 2, the normalization fixed, options of 2 and 3
    assert space.size() == 3 * 3 * 2 * 1 * 2 * 3


def test_size_is_the_number_of_configurations_that_can_be_reached(space):
    reached, front = {space.default()}, [space.default()]
    while front:
        for neighbour in space.neighbours(front.pop()):
            if neighbour not in reached:
                reached.add(neighbour)
                front.append(neighbour)
    assert len(reached) == space.size()


def test_size_is_exact_where_it_no_longer_fits_a_float():
    assert toy_space([ToyOp(f"op{i}") for i in range(500)]).size() == 5**500


def test_the_default_takes_the_first_of_everything(space):
    default = space.default()
    assert default.schemes["block_1/conv"] == space.ops["block_1/conv"].schemes[0]
    assert dict(default.options) == {"fold": True, "reduce_range": 0}
    assert default.float_ops == ("norm",)


def test_samples_are_inside_and_deterministic_in_the_seed(space):
    first, second = ([space.sample(np.random.default_rng(5)) for _ in range(1)] for _ in range(2))
    assert first == second
    rng = np.random.default_rng(0)
    assert all(space.contains(space.sample(rng)) for _ in range(200))


def test_samples_are_uniform(space):
    rng = np.random.default_rng(1)
    draws = 60 * space.size()
    counts = Counter(space.sample(rng) for _ in range(draws))
    assert len(counts) == space.size()
    expected = draws / space.size()
    chi2 = sum((count - expected) ** 2 / expected for count in counts.values())
    freedom = space.size() - 1
    assert abs(chi2 - freedom) < 4 * np.sqrt(2 * freedom)


def test_neighbours_differ_in_one_thing(space):
    config = space.sample(np.random.default_rng(2))
    neighbours = list(space.neighbours(config))
    for other in neighbours:
        assert space.contains(other)
        options = sum(config.option(name) != other.option(name) for name in space.options)
        assert len(differing_groups(space, config, other)) + options == 1
    assert len(set(neighbours)) == len(neighbours) == 2 + 2 + 1 + 0 + 1 + 2


def test_tied_operators_always_share_a_scheme(space):
    rng = np.random.default_rng(3)
    for config in [space.default(), *space.neighbours(space.default()), *(space.sample(rng) for _ in range(50))]:
        assert config.schemes["add"] == config.schemes["concat"]


def test_a_configuration_that_parts_a_tied_group_is_outside(space):
    assert not space.contains(space.default().with_op("add"))


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.with_op("block_1/conv", scheme=OpScheme(ACT)),
        lambda c: c.with_op("norm", scheme=OpScheme(ACT)),
        lambda c: c.with_option("reduce_range", 3),
        lambda c: type(c)(c.ops[1:], c.options),
        lambda c: type(c)((*c.ops, ("more", FLOAT)), c.options),
        lambda c: type(c)(c.ops, c.options[1:]),
        lambda c: type(c)(c.ops, (*c.options, ("more", 1))),
    ],
    ids=["scheme", "opt-in", "option value", "operator missing", "operator more", "option missing", "option more"],
)
def test_what_the_space_does_not_offer_is_outside(space, change):
    assert space.contains(space.default())
    assert not space.contains(change(space.default()))


def test_falling_back_takes_tied_operators_along(space):
    config = space.fall_back(space.default(), "add", "block_1/conv")
    assert set(config.float_ops) == {"add", "concat", "block_1/conv", "norm"}
    assert space.contains(config)


def test_falling_back_leaves_an_operator_alone_that_must_be_int8(capabilities):
    space = Space(capabilities, Overrides({"Add": {"activation": {"dtype": ["uint8"]}}}))
    default = space.default()
    assert space.fall_back(default, "add") == default
    assert space.fall_back(default, "add", "block_1/conv").float_ops == ("block_1/conv", "norm")


def test_all_float_is_the_reference_also_where_overrides_forbid_it(capabilities):
    space = Space(capabilities, Overrides({"Conv": {"weight": {"dtype": ["int8"]}}}))
    assert space.all_float().int8_ops == ()
    assert dict(space.all_float().options) == {"fold": True, "reduce_range": 0}
    assert not space.contains(space.all_float())


def test_a_tied_group_takes_only_what_all_its_operators_can():
    space = Space(
        Capabilities(
            (OpCapability("a", "Add", (INT8, OTHER_INT8, FLOAT)), OpCapability("b", "Mul", (OTHER_INT8, FLOAT))),
            tied=(("a", "b"),),
        )
    )
    assert space.schemes(("a", "b")) == (OTHER_INT8, FLOAT)
    assert space.size() == 2
    assert space.contains(space.default())


def test_a_tied_group_without_a_common_scheme_is_an_input_error():
    with pytest.raises(InputError, match=r"^space: no scheme is left that a, b have in common; .* must share one$"):
        Space(Capabilities((OpCapability("a", "Add", (INT8,)), OpCapability("b", "Mul", (FLOAT,))), tied=(("a", "b"),)))


def test_quantizable_are_the_operators_with_an_int8_scheme(space):
    assert [op.name for op in space.quantizable] == ["block_1/conv", "block_2/conv", "add", "concat"]


def test_capabilities_refuse_names_used_twice_and_operators_without_schemes():
    with pytest.raises(ValueError, match="unique"):
        Capabilities((OpCapability("a", "Conv", (FLOAT,)), OpCapability("a", "Conv", (FLOAT,))))
    with pytest.raises(ValueError, match="operator a has no scheme"):
        Capabilities((OpCapability("a", "Conv", ()),))


def test_the_space_has_a_fingerprint_that_overrides_and_ties_change(capabilities, space):
    assert Space(capabilities).fingerprint == space.fingerprint
    narrowed = Space(capabilities, Overrides({"Conv": {"weight": {"granularity": ["per_tensor"]}}}))
    untied = Space(Capabilities(capabilities.ops, options=capabilities.options))
    optionless = Space(Capabilities(capabilities.ops, tied=capabilities.tied))
    assert len({s.fingerprint for s in (space, narrowed, untied, optionless)}) == 4


def test_the_space_has_the_same_fingerprint_in_another_process():
    code = "from nc_strategies.testing import ToyOp, toy_space\nprint(toy_space([ToyOp('a'), ToyOp('b')]).fingerprint)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        text=True,
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": "99"},
    )
    assert done.stdout.strip() == toy_space([ToyOp("a"), ToyOp("b")]).fingerprint
