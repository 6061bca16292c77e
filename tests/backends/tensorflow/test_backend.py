"""What a configuration becomes, on every kind of model."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from nc_strategies.backends.tensorflow import kernels
from nc_strategies.errors import EngineError
from nc_strategies.space import Space

MODELS = ["cnn", "mlp", "transformer", "two_by_two", "recurrent", "unfoldable", "clipped", "padded"]


@pytest.mark.parametrize("name", MODELS)
def test_all_float_equals_the_model_as_given(loaded, name, batch):
    backend, info = loaded(name)
    data = batch(info, 5, 7)
    wanted = backend.reference().predict(data)
    given = backend.build(Space(backend.capabilities()).all_float()).predict(data)
    assert len(given) == len(info.outputs)
    for one, other in zip(wanted, given, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_default_runs_every_offered_operator_in_int8_and_stays_close(loaded, name, batch):
    backend, info = loaded(name)
    data = batch(info, 8, 1)
    default = Space(backend.capabilities()).default()
    executable = backend.build(default)
    for one, other in zip(backend.reference().predict(data), executable.predict(data), strict=True):
        assert np.linalg.norm(one - other) < 0.1 * np.linalg.norm(one)
    assert executable.executed().int8_names == set(default.int8_ops)


def test_a_closed_model_says_so_and_leaves_no_thread(loaded, batch):
    backend, info = loaded("cnn")
    default = Space(backend.capabilities()).default()
    before = set(threading.enumerate())
    executable = backend.build(default)
    executable.predict(batch(info, 2, 1))
    assert set(threading.enumerate()) - before
    executable.close()
    executable.close()
    assert set(threading.enumerate()) <= before
    with pytest.raises(EngineError, match="was closed"):
        executable.predict(batch(info, 2, 1))


@pytest.mark.parametrize("name", ["cnn", "transformer"])
def test_each_offered_scheme_really_executes(loaded, name, batch):
    backend, info = loaded(name)
    data = batch(info, 2)
    space = Space(backend.capabilities())
    for index in range(max(len(op.schemes) for op in space.ops.values())):
        config = space.default().with_ops(
            {op.name: op.schemes[min(index, len(op.schemes) - 1)] for op in space.ops.values()}
        )
        executable = backend.build(config)
        executable.predict(data)
        assert executable.executed().int8_names == set(config.int8_ops)


def test_alone_in_int8_each_operator_executes_and_the_others_do_not(loaded, batch):
    backend, info = loaded("cnn")
    data = batch(info, 4)
    space = Space(backend.capabilities())
    wanted = backend.reference().predict(data)[0]
    for op in space.ops.values():
        config = space.all_float().with_op(op.name, scheme=op.schemes[0])
        executable = backend.build(config)
        given = executable.predict(data)[0]
        assert executable.executed().int8_names == {op.name}
        assert 0 < np.linalg.norm(wanted - given) < 0.05 * np.linalg.norm(wanted), op.name


def test_pools_between_int8_operators_run_in_int8_and_the_counts_add_up(loaded):
    backend, _ = loaded("cnn")
    space = Space(backend.capabilities())
    ran = backend.build(space.default()).executed()
    assert ran.int8 == {"Conv2D": 5, "DepthwiseConv2dNative": 1, "MatMul": 2, "MaxPool": 1, "AvgPool": 1}
    assert ran.fp32_count == 0
    mixed = backend.build(space.default().with_op(*list(space.ops)[:2])).executed()
    assert mixed.int8_count + mixed.fp32_count >= ran.int8_count
    assert mixed.int8["Conv2D"] == 3
    assert mixed.conversions > ran.conversions


def test_the_same_configuration_gives_the_same_graph_and_fingerprint(loaded, batch):
    backend, info = loaded("cnn")
    data = batch(info, 3)
    space = Space(backend.capabilities())
    one, other = backend.build(space.default()), backend.build(space.default())
    assert one.fingerprint == other.fingerprint
    np.testing.assert_array_equal(one.predict(data)[0], other.predict(data)[0])
    for name, op in space.ops.items():
        for scheme in (op.schemes[1], op.schemes[-1]):
            assert backend.build(space.default().with_op(name, scheme=scheme)).fingerprint != one.fingerprint


def test_a_tensor_read_twice_takes_the_algorithm_of_its_first_reader(loaded):
    backend, _ = loaded("cnn")
    space = Space(backend.capabilities())
    default = backend.build(space.default()).fingerprint
    kl = {op.name.split("/")[-2].removesuffix("_1"): (op.name, op.schemes[4]) for op in space.ops.values()}
    fingerprints = [
        backend.build(space.default().with_op(name, scheme=scheme)).fingerprint
        for name, scheme in (kl["depthwise"], kl["branch"])
    ]
    assert sorted(fingerprint == default for fingerprint in fingerprints) == [False, True]


def test_options_without_an_effect_leave_the_fingerprint_alone(loaded):
    backend, _ = loaded("cnn")
    space = Space(backend.capabilities())
    config = space.all_float()
    if "reduce_range" not in space.options:
        pytest.skip("products do not saturate on this processor")
    assert backend.build(config).fingerprint == backend.build(config.with_option("reduce_range", False)).fingerprint
    default = space.default()
    assert backend.build(default).fingerprint != backend.build(default.with_option("reduce_range", False)).fingerprint


def test_no_asymmetric_scheme_is_offered(loaded):
    backend, _ = loaded("cnn")
    schemes = {scheme.activation.scheme for op in backend.capabilities().ops for scheme in op.schemes}
    assert schemes == {"sym", "none"}


def test_activation_type_follows_the_sign_of_the_input(loaded):
    backend, _ = loaded("cnn")
    dtypes = {
        op.name.split("/")[-2].removesuffix("_1"): op.schemes[0].activation.dtype for op in backend.capabilities().ops
    }
    assert dtypes["stem"] == "int8"
    assert {dtypes[name] for name in ("residual_a", "residual_b", "depthwise", "last", "hidden", "logits")} == {"uint8"}


def test_edges_and_order_name_the_operators_in_execution_order(loaded):
    backend, _ = loaded("cnn")
    capabilities = backend.capabilities()
    names = [op.name for op in capabilities.ops]
    assert [name for name in capabilities.order if name in names] == names
    for producer, consumer in capabilities.edges:
        assert names.index(producer) < names.index(consumer)
    assert (names[0], names[1]) in capabilities.edges


def test_scales_of_an_earlier_graph_do_not_come_back(loaded, batch):
    backend, info = loaded("cnn")
    data = batch(info, 3)
    space = Space(backend.capabilities())
    configs = [space.default(), space.default().with_ops({op.name: op.schemes[1] for op in space.ops.values()})]
    kept = [backend.build(config) for config in configs]
    wanted = [executable.predict(data)[0] for executable in kept]
    for _ in range(10):
        for config, value in zip(configs, wanted, strict=True):
            executable = backend.build(config)
            np.testing.assert_array_equal(executable.predict(data)[0], value)
            executable.close()


def test_padding_eight_channels_at_a_time_is_padding(loaded, batch, monkeypatch):
    """The same outputs bit by bit as TensorFlow's own 8-bit padding, which is the slow one."""
    backend, info = loaded("padded")
    config = Space(backend.capabilities()).default()
    data = batch(info, 3)
    fast = backend.build(config)
    monkeypatch.setattr(kernels, "pad", lambda *_: False)
    plain = backend.build(config)
    assert fast.fingerprint != plain.fingerprint
    assert fast.executed().int8["MaxPool"] == 3
    np.testing.assert_array_equal(fast.predict(data)[0], plain.predict(data)[0])
