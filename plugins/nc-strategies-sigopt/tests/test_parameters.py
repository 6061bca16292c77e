"""Spaces as SigOpt can search them."""

import numpy as np
import pytest
from nc_strategies_sigopt.estimate import estimate
from nc_strategies_sigopt.parameters import SENSITIVE, Parameters

from nc_strategies.api import (
    FLOAT,
    Capabilities,
    Constraint,
    Evaluation,
    Goal,
    Objective,
    OpCapability,
    OpScheme,
    Overrides,
    Problem,
    Space,
    TensorScheme,
)

CHANNEL, TENSOR = (
    OpScheme(TensorScheme("uint8", "asym"), TensorScheme("int8", "sym", granularity))
    for granularity in ("per_channel", "per_tensor")
)
PLAIN = OpScheme(TensorScheme("uint8", "asym"))


def space(count=40, **more):
    ops = tuple(
        OpCapability("x" * 120 + f"/block_{i}/conv", "Conv", (CHANNEL, TENSOR, FLOAT), parameters=10 + i)
        for i in range(count)
    )
    return Space(Capabilities((*ops, OpCapability("pool", "Pool", (PLAIN, FLOAT))), **more))


def problem(of, **more):
    done = Evaluation((("accuracy", 0.9),), (), (("latency", 1.0),))
    return Problem(
        of, Goal((Constraint("accuracy", 0.89, 0.9),), (Objective("latency"),)), done, np.random.default_rng(0), **more
    )


def parameters(of, budget=40, **more):
    return Parameters(of, estimate(problem(of, **more)), budget)


@pytest.mark.parametrize(("budget", "groups"), [(1, 2), (8, 2), (20, 5), (40, 10), (100, 12), (0, 12)])
def test_there_are_a_quarter_as_many_groups_as_trials(budget, groups):
    assert len(parameters(space(), budget).groups) == groups


def test_no_more_groups_than_operators():
    assert len(parameters(space(2), 40).groups) == 3


def test_names_and_metadata_are_within_the_limits():
    found = parameters(space())
    assert all(0 < len(p["name"]) <= 100 for p in found.definition())
    assert all(len(text) <= 500 for text in found.aliases().values())
    assert set(found.group_names) <= set(found.aliases())


@pytest.mark.parametrize("count", [0, 1, 40])
def test_there_always_is_an_integer_with_room(count):
    integer = [p for p in parameters(space(count)).definition() if p["type"] == "int"]
    assert [p["name"] for p in integer] == [SENSITIVE]
    assert integer[0]["bounds"]["min"] < integer[0]["bounds"]["max"]


def test_known_points_are_fp32_and_the_default():
    of = space()
    found = parameters(of)
    assert found.config(found.all_float()).int8_ops == ()
    assert found.config(found.all_int8()) == of.default()


def test_groups_follow_the_ranking_of_loss_for_what_is_saved():
    of = space(39)
    loss = {name: float(i) for i, name in enumerate(of.ops)}
    found = parameters(of, sensitivity=lambda: loss, latency_model=lambda c: 1 - 0.01 * len(c.int8_ops))
    order = [tied_op[0] for group in found.groups for tied_op in [found.estimate.tied_ops[i] for i in group]]
    assert order == list(of.ops)


def test_the_integer_takes_the_least_worthwhile_out_of_int8():
    of = space(39)
    found = parameters(of)
    less = found.config({**found.all_int8(), SENSITIVE: 2})
    assert set(less.float_ops) == {name for tied_op in found.estimate.tied_ops[-2:] for name in tied_op}


def test_graph_wide_choices_are_parameters():
    of = space(4, options=(("smooth", (False, True)),))
    found = parameters(of)
    assert found.knobs == {"weight_granularity": ["per_channel", "per_tensor"]}
    config = found.config({**found.all_int8(), "weight_granularity": "per_tensor", "option_01": "True"})
    assert config.option("smooth") is True
    assert {str(s.weight.granularity) for n, s in config.ops if n != "pool"} == {"per_tensor"}
    assert of.contains(config)


def test_tied_operators_move_together():
    names = tuple(f"{'x' * 120}/block_{i}/conv" for i in (0, 7))
    of = space(8, tied=(names,))
    found = parameters(of)
    for wanted in range(len(found.estimate.tied_ops) + 1):
        assert of.contains(found.config(found.worthwhile(wanted)))


def test_overrides_hold():
    of = Space(space(8).capabilities, Overrides(op_type_dict={"Conv": {"activation": {"dtype": ["uint8"]}}}))
    found = parameters(of)
    assert found.config(found.all_float()).float_ops == ("pool",)
    none = Space(space(8).capabilities, Overrides(excluded_precisions=("fp32",)))
    assert parameters(none).config(parameters(none).all_float()) == none.default()


def test_estimates_of_nothing_are_as_good_as_none():
    of = space(4)
    guess = estimate(problem(of, sensitivity=dict, latency_model=lambda _: 1.0))
    assert guess.loss.sum() == pytest.approx(1.0)
    assert (guess.saved > 0).all()
