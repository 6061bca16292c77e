"""One point of the space: immutable, comparable, with a fingerprint that means the same everywhere."""

import dataclasses
import json
import os
import pickle
import subprocess
import sys

import pytest

from nc_strategies.space import FLOAT, Config, OpScheme, Space, TensorScheme

OTHER = OpScheme(TensorScheme("uint8", "asym"), TensorScheme("int8", "sym", "per_tensor"))

PRINT = """
import json, sys
from nc_strategies.space import Config
config = Config.from_dict(json.load(sys.stdin))
print(config.fingerprint, hash("a string"))
"""


@pytest.fixture
def config(capabilities):
    return Space(capabilities).default()


def test_with_op_changes_just_the_named_operators(config):
    changed = config.with_op("block_1/conv", "add")
    assert changed.float_ops == ("block_1/conv", "add", "norm")
    assert [name for name, _ in changed.ops] == [name for name, _ in config.ops]
    assert changed.options == config.options
    assert config.float_ops == ("norm",)


def test_with_ops_gives_each_operator_its_own_scheme(config):
    changed = config.with_ops({"block_1/conv": OTHER, "block_2/conv": FLOAT})
    assert (changed.schemes["block_1/conv"], changed.schemes["block_2/conv"]) == (OTHER, FLOAT)
    assert changed.schemes["add"] == config.schemes["add"]


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.with_op("nobody"),
        lambda c: c.with_ops({"nobody": FLOAT}),
        lambda c: c.with_option("nothing", 1),
    ],
)
def test_what_a_configuration_does_not_have_cannot_be_changed(config, change):
    with pytest.raises(KeyError):
        change(config)


def test_options_are_read_and_replaced_by_name(config):
    changed = config.with_option("reduce_range", 2)
    assert (config.option("reduce_range"), changed.option("reduce_range")) == (0, 2)
    assert changed.option("fold") is True
    assert changed.option("nothing", "default") == "default"
    assert changed.ops == config.ops


def test_diff_names_both_sides(config):
    changed = config.with_op("block_2/conv", scheme=OTHER)
    assert config.diff(changed) == {"block_2/conv": (config.schemes["block_2/conv"], OTHER)}
    assert config.diff(config) == {}


def test_int8_and_float_operators_are_all_operators(config):
    changed = config.with_op("block_2/conv")
    assert set(changed.int8_ops) | set(changed.float_ops) == set(changed.schemes)
    assert not set(changed.int8_ops) & set(changed.float_ops)


def test_a_configuration_is_immutable(config):
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.ops = ()


def test_equal_configurations_have_one_hash(config):
    again = config.with_op("add").with_op("add", scheme=config.schemes["add"])
    assert again == config
    assert len({again, config, config.with_op("add")}) == 2


def test_a_configuration_survives_json(config):
    changed = config.with_op("block_1/conv").with_option("fold", False)
    again = Config.from_dict(json.loads(json.dumps(changed.to_dict())))
    assert again == changed
    assert again.fingerprint == changed.fingerprint


def test_a_configuration_survives_pickle_also_after_its_caches_were_filled(config):
    assert config.fingerprint
    assert config.schemes
    again = pickle.loads(pickle.dumps(config))
    assert again == config
    assert hash(again) == hash(config)
    assert again.fingerprint == config.fingerprint


def test_pickles_carry_no_caches(config):
    before = len(pickle.dumps(config))
    assert config.schemes
    assert config.fingerprint
    assert len(pickle.dumps(config)) == before


@pytest.mark.parametrize("seed", ["1", "4242"])
def test_the_fingerprint_is_the_same_in_another_process(config, seed):
    changed = config.with_op("block_2/conv", scheme=OTHER).with_option("reduce_range", 1)
    done = subprocess.run(
        [sys.executable, "-c", PRINT],
        input=json.dumps(changed.to_dict()),
        text=True,
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": seed},
    )
    fingerprint, text_hash = done.stdout.split()
    assert int(text_hash) != hash("a string")
    assert fingerprint == changed.fingerprint


def test_the_fingerprint_is_pinned():
    """Journals of earlier versions are read by it; a change needs a new schema version."""
    config = Config((("conv", OTHER), ("add", FLOAT)), (("fold", True),))
    assert config.fingerprint == "c87ad6aac855f67a"


def test_each_neighbour_has_a_fingerprint_of_its_own(capabilities):
    space = Space(capabilities)
    prints = [c.fingerprint for c in (space.default(), *space.neighbours(space.default()))]
    assert len(set(prints)) == len(prints)


def test_options_do_not_tell_all_float_configurations_apart(capabilities):
    space = Space(capabilities)
    fp32, int8 = space.all_float(), space.default()
    assert fp32.with_option("fold", False).fingerprint == fp32.fingerprint
    assert int8.with_option("fold", False).fingerprint != int8.fingerprint
