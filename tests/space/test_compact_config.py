"""A stored configuration is small, and answers as the plain tuple of pairs does."""

import copy
import hashlib
import json
import pickle
import threading
import tracemalloc

import numpy as np
import pytest

from nc_strategies.measuring.worker import messages
from nc_strategies.space import FLOAT, Config, OpScheme, TensorScheme
from nc_strategies.testing import ToyOp, toy_space

SCHEMES = [
    FLOAT,
    *(
        OpScheme(TensorScheme(dtype, kind, "per_tensor", algorithm), weight)
        for dtype, kind in (("uint8", "asym"), ("int8", "sym"))
        for algorithm in ("minmax", "percentile", "dynamic")
        for weight in (None, TensorScheme("int8", "sym", "per_channel"), TensorScheme("int4", "sym", "per_block_32"))
    ),
]
MANY = [OpScheme(TensorScheme("fp32", "none", "none", "none"), TensorScheme("int4", f"s{i}")) for i in range(300)]


def plain_fingerprint(ops, options):
    """The definition of a fingerprint, on which journals rely."""
    quantized = any(not scheme.is_float for _, scheme in ops)
    data = {"ops": {n: s.to_dict() for n, s in ops}, "options": dict(options) if quantized else {}}
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def drawn(rng, names, schemes=SCHEMES):
    return tuple((name, schemes[int(rng.integers(len(schemes)))]) for name in names)


@pytest.mark.parametrize("seed", range(25))
def test_a_configuration_answers_as_its_pairs_do(seed):
    rng = np.random.default_rng(seed)
    names = [f'op "{i}" \u00e4/{rng.integers(100)}_{i}' for i in rng.permutation(int(rng.integers(0, 40)))]
    schemes = [SCHEMES, [FLOAT], MANY][seed % 3]
    ops, others = drawn(rng, names, schemes), drawn(rng, names, schemes)
    options = (("fold", bool(seed % 2)), ("n\u00e9", 0.5), ("reduce_range", 1))[: seed % 4]
    config, other = Config(ops, options), Config(others, options)
    assert (config.ops, config.options, dict(config.schemes)) == (ops, options, dict(ops))
    assert config.names == tuple(names)
    assert config.float_ops == tuple(n for n, s in ops if s.is_float)
    assert config.int8_ops == tuple(n for n, s in ops if not s.is_float)
    assert config.all_float == (not config.int8_ops)
    assert config.fingerprint == plain_fingerprint(ops, options)
    assert config.to_dict() == {"ops": {n: s.to_dict() for n, s in ops}, "options": dict(options)}
    assert config.diff(other) == {n: (a, b) for (n, a), (_, b) in zip(ops, others, strict=True) if a != b}
    assert (config == other) == (ops == others)
    again = Config(drawn(np.random.default_rng(0), names[:0]) + ops, options)
    assert (again, hash(again)) == (config, hash(config))
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))).ops == ops
    restored = pickle.loads(pickle.dumps(config))
    assert (restored, restored.fingerprint) == (config, config.fingerprint)
    changed = dict(others[::2])
    assert config.with_ops(changed).ops == tuple((n, changed.get(n, s)) for n, s in ops)


def test_the_difference_of_configurations_with_operators_in_another_order():
    a = Config((("x", SCHEMES[1]), ("y", FLOAT)))
    b = Config((("y", FLOAT), ("x", FLOAT)))
    assert a.diff(b) == {"x": (SCHEMES[1], FLOAT)}
    assert a != b


def test_two_configurations_that_are_read_in_turn_do_not_mix():
    space = toy_space([ToyOp(str(i)) for i in range(5)])
    rng = np.random.default_rng(1)
    pairs = [(config := space.sample(rng), config.ops) for _ in range(4)]
    for config, ops in [*pairs, *reversed(pairs)]:
        assert config.ops == ops
        assert dict(config.schemes) == dict(ops)


def test_threads_that_meet_new_schemes_agree_on_their_codes():
    fresh = [OpScheme(TensorScheme("int8", f"new{i}")) for i in range(200)]
    start, found = threading.Barrier(4), []

    def make():
        start.wait()
        found.append(Config(tuple((str(i), scheme) for i, scheme in enumerate(fresh))))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert found[0].ops == tuple((str(i), scheme) for i, scheme in enumerate(fresh))


def test_samples_are_those_of_one_draw_after_the_other():
    """A resumed run of an earlier version proposes the same configurations again."""
    space = toy_space([ToyOp(str(i)) for i in range(50)])
    one, other = np.random.default_rng(3), np.random.default_rng(3)
    for _ in range(5):
        single = [space.schemes(group)[int(other.integers(len(space.schemes(group))))] for group in space.groups]
        assert [scheme for _, scheme in space.sample(one).ops] == single


def test_a_configuration_passes_between_a_run_and_its_worker():
    """Messages of a worker may hold classes only, see `messages`; also those with more than 256 schemes."""
    for schemes in (SCHEMES, MANY):
        config = Config(drawn(np.random.default_rng(0), map(str, range(400)), schemes), (("fold", True),))
        again = messages.loads(messages.dumps({"config": config}))["config"]
        assert (again, again.ops, again.fingerprint) == (config, config.ops, config.fingerprint)
        assert copy.copy(config) == copy.deepcopy(config) == config


def test_a_space_takes_operators_in_any_order_and_no_foreign_scheme():
    space = toy_space([ToyOp(str(i)) for i in range(5)])
    config = space.default()
    assert space.contains(Config(tuple(reversed(config.ops)), config.options))
    assert not space.contains(config.with_op("3", scheme=SCHEMES[-1]))
    assert not space.contains(Config(config.ops[:-1], config.options))
    assert not space.contains(Config(config.ops, (("fold", True),)))


def test_a_configuration_of_many_operators_takes_little_more_than_a_byte_each():
    space = toy_space([ToyOp(f"features/block_{i}/conv") for i in range(2000)])
    rng = np.random.default_rng(0)
    space.sample(rng).fingerprint  # noqa: B018 - what all configurations share
    tracemalloc.start()
    try:
        held = [space.sample(rng) for _ in range(20)]
        for config in held:
            assert config.fingerprint
            assert config.schemes
        taken = tracemalloc.get_traced_memory()[0] / len(held)
    finally:
        tracemalloc.stop()
    # The mapping of the configuration that was read last, 150 kB, is the model's.
    assert taken < 2500 + 200_000 / len(held)
