"""Cross-layer equalization of TensorFlow graphs: the same function, in int8 with less noise."""

from __future__ import annotations

import numpy as np
import pytest

from nc_strategies.backends.tensorflow import equalize
from nc_strategies.backends.tensorflow.backend import TensorFlowBackend
from nc_strategies.backends.tensorflow.settings import TensorFlowSettings
from nc_strategies.errors import InputError
from nc_strategies.models import ModelSource
from nc_strategies.space import Space


def uneven(path, spread):
    """A convolution with a padding of its own, a depthwise one, two dense layers; channels differ in range."""
    import keras

    layers, rng = keras.layers, np.random.default_rng(3)
    model = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="c1"),
            layers.DepthwiseConv2D(3, padding="same", activation="relu", name="dw"),
            layers.ZeroPadding2D(1),
            layers.Conv2D(24, 3, name="c2"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(12, activation="relu", name="f1"),
            layers.Dense(5, name="f2"),
        ]
    )
    for layer in model.layers:
        layer.set_weights([rng.normal(0, (2 / max(1, w[..., 0].size)) ** 0.5, w.shape) for w in layer.get_weights()])
    for first, second, axis in (("c1", "dw", 2), ("dw", "c2", 2)):
        one, other = model.get_layer(first), model.get_layer(second)
        factors = rng.lognormal(0, spread, 16)
        kernel, bias = one.get_weights()
        one.set_weights([kernel * (factors[None, None, :, None] if first == "dw" else factors), bias * factors])
        kernel, bias = other.get_weights()
        shape = [1] * 4
        shape[axis] = -1
        other.set_weights([kernel / factors.reshape(shape), bias])
    model.save(path)
    return path


def calibrated(path, when="auto"):
    backend = TensorFlowBackend(TensorFlowSettings(equalize=when), 1)
    info = backend.load(ModelSource("small", {"keras": path}))
    rng, name = np.random.default_rng(0), info.inputs[0].name
    backend.calibrate([{name: rng.normal(size=(10, 12, 12, 3)).astype(np.float32)} for _ in range(4)])
    return backend, Space(backend.capabilities()), {name: rng.normal(size=(20, 12, 12, 3)).astype(np.float32)}


def noise(backend, config, batch):
    fp32, int8 = (model.predict(batch)[0] for model in (backend.reference(), backend.build(config)))
    return float(np.square(int8 - fp32).sum() / np.square(fp32).sum())


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return uneven(tmp_path_factory.mktemp("models") / "uneven.keras", 2.0)


def test_every_tensor_between_two_weighted_operators_is_found(path):
    backend, _, _ = calibrated(path, "never")
    parts = backend._context
    found = equalize.pairs(parts.graph, parts.matched, parts.outputs)
    assert [(p.first.op, p.second.op, p.channels) for p in found] == [
        ("Conv2D", "DepthwiseConv2dNative", 16),
        ("DepthwiseConv2dNative", "Conv2D", 16),
        ("MatMul", "MatMul", 12),
    ]


def test_fp32_gives_the_same_outputs(path):
    backend, space, batch = calibrated(path, "always")
    plain, _, _ = calibrated(path, "never")
    np.testing.assert_allclose(
        backend.build(space.all_float()).predict(batch)[0], plain.build(space.all_float()).predict(batch)[0], atol=1e-6
    )
    assert backend.remarks()
    assert not plain.remarks()


def test_where_channels_differ_in_range_int8_is_several_times_less_noisy(path, tmp_path):
    auto, space, batch = calibrated(path)
    plain, _, _ = calibrated(path, "never")
    assert noise(auto, space.default(), batch) < 0.3 * noise(plain, space.default(), batch)
    opened = auto.open(auto.save(space.default(), tmp_path / "out"))
    np.testing.assert_allclose(opened.predict(batch)[0], auto.build(space.default()).predict(batch)[0], atol=1e-6)


def test_an_even_model_is_left_as_it_is(tmp_path):
    backend, _, _ = calibrated(uneven(tmp_path / "even.keras", 0.0))
    assert backend.remarks() == ()


def test_another_value_of_the_setting_is_refused():
    with pytest.raises(InputError, match=r"backend\.equalize.*auto, always, never"):
        TensorFlowBackend(TensorFlowSettings(equalize="sometimes"), 1)
