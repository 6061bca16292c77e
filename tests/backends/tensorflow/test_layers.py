"""Outputs of single operators: the kernels' own values, against numpy and against the graph that executes."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from nc_strategies.backends.tensorflow import probe
from nc_strategies.backends.tensorflow.backend import TensorFlowBackend
from nc_strategies.backends.tensorflow.capabilities import limits
from nc_strategies.backends.tensorflow.settings import TensorFlowSettings
from nc_strategies.backends.tensorflow.weights import quantize
from nc_strategies.measuring.diagnosis import diagnose
from nc_strategies.models import ModelSource
from nc_strategies.space import Space


def cut(data, size):
    count = len(next(iter(data.values())))
    for start in range(0, count, size):
        yield {k: v[start : start + size] for k, v in data.items()}, min(size, count - start)


def diagnosed(backend, data):
    config = Space(backend.capabilities()).default()
    reader = backend.layers(config, config)
    found, count = diagnose(reader, lambda size: cut(data, size), backend.largest_batch)
    reader.close()
    assert count == len(next(iter(data.values())))
    return {layer.name: layer for layer in found}


def values_of(backend, data):
    """The operators, and all values that the reader gives in one run."""
    config = Space(backend.capabilities()).default()
    reader = backend.layers(config, config)
    values = dict(reader.reader([layer.name for layer in reader.layers])(data))
    layers = {layer.name: layer for layer in reader.layers}
    reader.close()
    return config, layers, values


def test_every_int8_operator_is_read_in_execution_order(loaded, batch):
    backend, info = loaded("cnn")
    found = diagnosed(backend, batch(info, 24, 3))
    assert list(found) == list(Space(backend.capabilities()).default().int8_ops)
    assert all(15 < layer.alone_db < 120 for layer in found.values())
    assert all(layer.weight is not None and layer.weight.sqnr_db > 20 for layer in found.values())


def test_accumulated_values_are_those_of_the_graph_that_executes(loaded, batch):
    backend, info = loaded("cnn")
    data = batch(info, 5, 4)
    config, layers, values = values_of(backend, data)
    last = list(layers)[-1]
    executable = backend.build(config)
    np.testing.assert_allclose(values[last].accumulated, executable.predict(data)[0], rtol=1e-5, atol=1e-5)
    executable.close()


def test_outputs_are_read_before_a_sum_overwrites_them(loaded, batch):
    backend, info = loaded("cnn")
    data = batch(info, 5, 4)
    config, _, values = values_of(backend, data)
    adding = next(op.name for op in backend._matched.fused_ops.values() if op.addend)
    reader = backend.layers(config.with_op(adding), config)
    names = [layer.name for layer in reader.layers]
    without = dict(reader.reader(names)(data))
    reader.close()
    earlier = names[: names.index(adding)]
    assert len(earlier) > 1
    for name in earlier:
        np.testing.assert_array_equal(values[name].accumulated, without[name].accumulated)


def test_fp32_values_are_those_of_the_model(loaded, batch):
    backend, info = loaded("cnn")
    data = batch(info, 5, 4)
    _, layers, values = values_of(backend, data)
    reference = backend.reference()
    np.testing.assert_allclose(values[list(layers)[-1]].reference, reference.predict(data)[0], atol=1e-3)
    reference.close()


def test_a_product_alone_is_numpy_on_the_same_integers(loaded, batch):
    backend, info = loaded("mlp")
    _, layers, values = values_of(backend, batch(info, 9, 7))
    layer = list(layers.values())[1]  # its input is never negative
    op = backend._matched.fused_ops[layer.name]
    source, output = layer.tensors
    x = source.range.rounded(values[layer.name].tensors[0])
    weight = backend._context.graph.value(op.weight)
    limit = limits(probe.kernels(), True)(op.op, layer.scheme.activation.dtype)
    largest, integers = quantize(weight, 1, layer.scheme.weight.granularity, limit)
    bias = backend._context.graph.value(op.bias)
    # Alone, a product returns floating point: no operator behind it reads int8.
    expected = np.maximum(x @ (integers * (largest / np.float64(limit))) + bias, 0)
    assert output.range is not None  # in the configuration it does
    np.testing.assert_allclose(values[layer.name].alone, expected, atol=1e-4)


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """Three products; channel 5 of the first is 100 times larger, channel 3 is dead, channel 2 of the second too."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [
            tf.keras.Input((20,), name="features"),
            layers.Dense(32, activation="relu", name="first"),
            layers.Dense(32, activation="relu", name="second"),
            layers.Dense(8, name="third"),
        ]
    )
    first, second, third = (rng.normal(0, 0.3, s).astype(np.float32) for s in ((20, 32), (32, 32), (32, 8)))
    first[:, 5] *= 100
    second[5] /= 100
    bias = np.zeros(32, np.float32)
    dead = bias.copy()
    dead[3] = -100
    model.get_layer("first").set_weights([first, dead])
    model.get_layer("second").set_weights([second, bias])
    model.get_layer("third").set_weights([third, np.zeros(8, np.float32)])
    path = tmp_path_factory.mktemp("spoilt") / "spoilt.keras"
    model.save(path)
    backend = TensorFlowBackend(TensorFlowSettings(equalize="never"), 1)
    backend.load(ModelSource("spoilt", {"keras": path}))
    data = {"features": rng.normal(size=(64, 20)).astype(np.float32)}
    backend.calibrate([data])
    return backend, data


def test_the_product_that_reads_an_outlier_channel_is_worst(spoilt):
    found = diagnosed(*spoilt)
    first, second, third = found.values()
    assert min(found.values(), key=lambda layer: layer.alone_db) is second
    assert second.alone_db < third.alone_db - 10
    assert [channel for channel, _ in second.tensors[0].outlier_channels] == [5]
    assert first.tensors[-1].dead_channels == (3,)
    assert first.tensors[-1].outlier_channels[0][0] == 5


def test_ranges_on_other_samples_say_what_is_clipped(spoilt):
    backend, data = spoilt
    found = diagnosed(backend, {"features": 2 * data["features"]})
    first = next(iter(found.values())).tensors[0]
    low, high = first.range
    assert low == -high
    values, half = 2 * data["features"], (high - low) / 254 / 2
    assert first.clipped == pytest.approx((np.abs(values) > high + half).mean(), abs=1e-6)
    assert first.clipped > 0
