"""Spaces as SigOpt can search them."""

import json

import numpy as np
import pytest
from nc_strategies_optuna.estimate import estimate
from nc_strategies_optuna.known import known_points
from nc_strategies_optuna.parameters import Parameters
from nc_strategies_sigopt.form import aliases, definition
from nc_strategies_sigopt.opening import opening

from nc_strategies.api import (
    FLOAT,
    Capabilities,
    Constraint,
    Evaluation,
    Goal,
    InputError,
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


def parameters(of, **more):
    return Parameters(of, estimate(problem(of, **more)))


@pytest.mark.parametrize(("count", "groups"), [(1, 2), (40, 41), (300, 64)])
def test_each_operator_is_a_step_up_to_a_limit(count, groups):
    found = parameters(space(count))
    (steps,) = found.groups.values()
    assert len(steps) == groups
    assert [i for step in steps for i in step] == list(range(count + 1))


@pytest.mark.parametrize(
    ("categories", "numeric", "bandwidth", "wanted"),
    [
        ((), 1, 1, 4),
        ((), 6, 1, 6),
        ((2, 3), 1, 1, 5),
        ((2, 3), 4, 1, 20),
        ((2,) * 60, 1, 1, 100),
        ((2,) * 60, 1, 3, 102),
    ],
)
def test_the_opening_is_as_long_as_a_servers(categories, numeric, bandwidth, wanted):
    """Products of categories and numeric parameters, as the server's own source computes them."""
    made = [{"type": "categorical", "categorical_values": list(range(n))} for n in categories]
    made += [{"type": "int"}] * numeric
    assert opening(made, bandwidth) == wanted


def test_the_opening_is_shorter_than_half_of_a_small_budget():
    found = parameters(space(40, options=(("smooth", (False, True)), ("narrow", (False, True)))))
    assert opening(definition(found)) <= 5


def test_stored_parameters_are_those_that_were_stored():
    of = space(39)
    made = parameters(of, sensitivity=lambda: {name: float(i) for i, name in enumerate(of.ops)})
    found = Parameters.from_record(of, json.loads(json.dumps(made.record())))
    assert definition(found) == definition(made)
    for count in (0, 7, 40):
        assert found.config(found.first(count)) == made.config(made.first(count))


def test_stored_parameters_of_another_model_are_refused():
    with pytest.raises(InputError, match="other operators"):
        Parameters.from_record(space(3), parameters(space(5)).record())


def test_names_and_metadata_are_within_the_limits():
    found = parameters(space())
    assert all(0 < len(p["name"]) <= 100 for p in definition(found))
    assert all(len(text) <= 500 for text in aliases(found).values())
    assert {p["name"] for p in definition(found)} == set(aliases(found))


@pytest.mark.parametrize("count", [0, 1, 40])
def test_every_parameter_is_an_integer_with_room(count):
    made = definition(parameters(space(count)))
    assert {p["type"] for p in made} == {"int"}
    assert all(p["bounds"]["min"] < p["bounds"]["max"] for p in made)


def test_known_points_are_fp32_and_the_default():
    of = space()
    found = parameters(of)
    assert found.config(found.all_float()).int8_ops == ()
    assert found.config(found.all_int8()) == of.default()


def test_groups_follow_the_ranking_of_loss_for_what_is_saved():
    of = space(39)
    loss = {name: float(i) for i, name in enumerate(of.ops)}
    found = parameters(of, sensitivity=lambda: loss, latency_model=lambda c: 1 - 0.01 * len(c.int8_ops))
    order = [
        tied_op[0] for step in found.groups["int8_groups"] for tied_op in [found.estimate.tied_ops[i] for i in step]
    ]
    assert order == list(of.ops)


def test_fewer_groups_leave_the_least_worthwhile_in_fp32():
    of = space(39)
    found = parameters(of)
    less = found.config(found.first(38))
    assert set(less.float_ops) == {name for tied_op in found.estimate.tied_ops[-2:] for name in tied_op}


def test_graph_wide_choices_are_parameters():
    of = space(4, options=(("smooth", (False, True)),))
    found = parameters(of)
    assert found.knobs == {"weight_granularity": ["per_channel", "per_tensor"]}
    config = found.config({**found.all_int8(), "weight_granularity": 1, "option_01": 1})
    assert config.option("smooth") is True
    assert {str(s.weight.granularity) for n, s in config.ops if n != "pool"} == {"per_tensor"}
    assert of.contains(config)


def test_tied_operators_move_together():
    names = tuple(f"{'x' * 120}/block_{i}/conv" for i in (0, 7))
    of = space(8, tied=(names,))
    found = parameters(of)
    for wanted in range(len(found.estimate.tied_ops) + 1):
        assert of.contains(found.config(found.first(wanted)))


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


DYNAMIC = OpScheme(TensorScheme("uint8", "asym", algorithm="dynamic"), TensorScheme("int8", "sym", "per_channel"))
FEW = OpScheme(TensorScheme("fp32", "none", "none", "none"), TensorScheme("int4", "sym", "per_block_32"))
PARTS = ("query", "key", "value", "attention/output", "up", "down")


def encoder(layers=12):
    names = [f"layer.{i}/{part}" for i in range(layers) for part in PARTS]
    ops = [OpCapability(name, "MatMul", (CHANNEL, TENSOR, DYNAMIC, FEW, FLOAT), parameters=64) for name in names]
    return Space(Capabilities((*ops, OpCapability("pool", "Pool", (PLAIN, FLOAT)))))


def test_modes_are_chosen_for_each_role_in_all_layers():
    of = encoder()
    found = parameters(of)
    modes = {name: values for name, values in found.knobs.items() if name.startswith("mode_")}
    assert set(modes) == {f"mode_{part.rpartition('/')[2]}" for part in PARTS}
    assert all(values == ["static", "dynamic", "weight_only int4"] for values in modes.values())
    assert found.knobs["weight_granularity"] == ["per_channel", "per_tensor"]
    config = found.config({**found.all_int8(), "mode_down": 1, "mode_up": 2, "weight_granularity": 1})
    assert of.contains(config)
    chosen = {part: {config.schemes[f"layer.{i}/{part}"] for i in range(12)} for part in PARTS}
    assert chosen["down"] == {DYNAMIC}
    assert chosen["up"] == {FEW}
    assert chosen["query"] == {TENSOR}
    assert [found.knob_of(config, f"mode_{part}") for part in ("down", "up", "query")] == [
        "dynamic", "weight_only int4", "static"
    ]  # fmt: skip
    assert len(definition(found)) == 1 + len(PARTS) + 1


def test_known_points_try_each_mode_everywhere_once():
    of = encoder(3)
    found = parameters(of)
    points = list(known_points(found, problem(of), {}))
    assert [p.mark for p in points] == ["known int8", "known dynamic", "known weight_only int4"]
    assert points[0].config == of.default()
    assert {s.mode for n, s in points[1].config.ops if n != "pool"} == {"dynamic"}
    rest = list(known_points(found, problem(of), {}, skip="known dynamic"))
    assert [p.mark for p in rest] == ["known weight_only int4"]
    assert list(known_points(found, problem(of), {}, skip="known estimate")) == []
