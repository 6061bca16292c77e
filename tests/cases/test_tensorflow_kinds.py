"""Everyday kinds of TensorFlow models: the same function in floating point, int8 where it is asked for, as saved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from nc_strategies.backends.tensorflow.backend import TensorFlowBackend
from nc_strategies.backends.tensorflow.settings import TensorFlowSettings
from nc_strategies.models.objects import model_source
from nc_strategies.space import Config

SAMPLES = 6


def keras() -> Any:
    import tensorflow as tf

    return tf.keras


def randomized(model: Any) -> Any:
    """Weights that make a difference everywhere, BatchNorm statistics included."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        shape = tuple(variable.shape)
        if "variance" in variable.name or "gamma" in variable.name:
            variable.assign(rng.uniform(0.5, 1.5, shape))
        elif len(shape) > 1:
            variable.assign(rng.normal(0, (2 / max(1, np.prod(shape[:-1]))) ** 0.5, shape))
        else:
            variable.assign(rng.normal(0, 0.2, shape))
    return model


def data_for(info: Any, seed: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    data = {}
    for spec in info.inputs:
        shape = [size or (SAMPLES if axis == 0 else 8) for axis, size in enumerate(spec.shape)]
        values = rng.integers(0, 10, shape) if spec.dtype.kind in "iu" else rng.normal(0, 1, shape)
        data[spec.name] = values.astype(spec.dtype)
    return data


def relative(found: Any, expected: Any) -> float:
    """Largest difference of outputs, relative to the largest expected value of each."""
    return max(
        float(np.abs(np.float64(one) - np.float64(two)).max() / np.abs(np.float64(two)).max())
        for one, two in zip(found, expected, strict=True)
    )


def configured(able: Any, int8: set[str]) -> Config:
    return Config(
        tuple((op.name, op.schemes[0] if op.name in int8 else op.schemes[-1]) for op in able.ops),
        tuple((name, values[0]) for name, values in able.options),
    )


def held(source: Any, tmp_path: Any, reference: Any = None, tolerance: float = 1e-5, noise: float = 0.1) -> Any:
    """Check a model in floating point, all int8, mixed, and saved; return the all-int8 executed operators by type."""
    backend = TensorFlowBackend(TensorFlowSettings(), 1)
    info = backend.load(source)
    data = data_for(info)
    given = backend.reference().predict(data)
    if reference is not None:
        assert relative(given, reference(data)) < tolerance
    backend.calibrate([data])
    able = backend.capabilities()
    names = [op.name for op in able.ops]
    plain = backend.build(configured(able, set()))
    outputs = plain.predict(data)
    assert [(o.dtype, o.shape) for o in outputs] == [(o.dtype, o.shape) for o in given]
    assert relative(outputs, given) < tolerance
    assert not plain.executed().int8_names
    whole = backend.build(configured(able, set(names)))
    assert relative(whole.predict(data), given) < noise
    executed = whole.executed()
    assert executed.int8_names == set(names)
    mixed = configured(able, set(names[::2]))
    built = backend.build(mixed)
    there = built.predict(data)
    assert built.executed().int8_names == set(names[::2])
    saved = backend.open(backend.save(mixed, tmp_path / "saved"))
    assert relative(saved.predict(data), there) < 1e-6
    assert saved.executed().int8_names == set(names[::2])
    return executed


def picture(layers: Any, size: int = 12, channels: int = 8) -> tuple[Any, Any]:
    x = keras().Input((size, size, channels), name="picture")
    return x, layers.Conv2D(16, 3, padding="same", activation="relu")(x)


def dilated(layers: Any) -> Any:
    x, y = picture(layers, 13)
    y = layers.Conv2D(16, 3, padding="same", dilation_rate=2, activation="relu")(y)
    y = layers.BatchNormalization()(layers.Conv2D(8, 3, dilation_rate=(3, 1))(y))
    return x, layers.DepthwiseConv2D(3, dilation_rate=2, padding="same", activation="relu")(y)


def transposed(layers: Any) -> Any:
    x, y = picture(layers)
    y = layers.Conv2DTranspose(8, 2, strides=2, activation="relu")(y)
    y = layers.Conv2DTranspose(8, 4, strides=2, padding="same", use_bias=False)(y)
    y = layers.ReLU()(layers.BatchNormalization()(y))
    y = layers.Conv2DTranspose(8, (2, 4), strides=2)(y)
    return x, layers.Conv2DTranspose(4, 3, strides=1, padding="same")(y)


def transposed_with_more_work(layers: Any) -> Any:
    x, y = picture(layers)
    y = layers.Conv2DTranspose(8, 3, strides=2, padding="same", activation="relu")(y)
    y = layers.Conv2DTranspose(8, 2, strides=2, output_padding=1)(y)
    return x, layers.Conv2D(8, 1)(y)


def multiplied(layers: Any) -> Any:
    x, y = picture(layers)
    y = layers.DepthwiseConv2D(3, depth_multiplier=3, activation="relu")(y)
    return x, layers.SeparableConv2D(12, 3, depth_multiplier=2, strides=2, padding="same", activation="relu")(y)


def sequences(layers: Any) -> Any:
    x = keras().Input((20, 8), name="series")
    y = layers.Conv1D(16, 3, padding="causal", activation="relu")(x)
    z = layers.Conv1D(16, 3, padding="causal", dilation_rate=2, use_bias=False)(y)
    y = layers.ReLU()(layers.Add()([layers.BatchNormalization()(z), y]))
    y = layers.Conv1D(8, 5, strides=2, padding="same", activation="relu")(y)
    return x, layers.Dense(5)(layers.GlobalAveragePooling1D()(y))


def rows(layers: Any) -> Any:
    x = keras().Input((6, 12), name="rows")
    y = layers.Dense(16, activation="relu")(x)
    y = layers.Dense(16, activation="relu")(y)
    return x, layers.Dense(4)(layers.LayerNormalization()(y + layers.Dense(16)(y)))


def recurrent(layers: Any) -> Any:
    x = keras().Input((7, 6), name="series")
    y = layers.LSTM(8, return_sequences=True)(x)
    y = layers.Bidirectional(layers.GRU(6))(y)
    return x, layers.Dense(5)(layers.Dense(16, activation="relu")(y))


def volumes(layers: Any) -> Any:
    x = keras().Input((5, 6, 6, 2), name="volume")
    y = layers.Conv3D(4, 3, activation="relu")(x)
    return x, layers.Dense(5)(layers.Dense(16, activation="relu")(layers.Flatten()(y)))


def nested(layers: Any) -> Any:
    k = keras()
    x, y = picture(layers)
    inner = k.Sequential([k.Input((12, 12, 16)), layers.Conv2D(8, 3, use_bias=False), layers.BatchNormalization()])
    block = layers.Conv2D(8, 3, padding="same", activation="relu")
    return x, {"late": block(block(inner(y))), "early": layers.Conv2D(4, 1)(y)}


KINDS = {
    dilated: {"Conv2D": 3, "DepthwiseConv2dNative": 1},
    transposed: {"Conv2D": 5},
    transposed_with_more_work: {"Conv2D": 2},
    multiplied: {"Conv2D": 2, "DepthwiseConv2dNative": 2},
    sequences: {"Conv2D": 3, "MatMul": 1},
    rows: {"MatMul": 4},
    recurrent: {"MatMul": 2},
    volumes: {"MatMul": 2},
    nested: {"Conv2D": 5},
}


@pytest.mark.parametrize("build", KINDS, ids=lambda build: build.__name__)
def test_a_kind_of_model_is_the_same_in_float_and_int8_where_asked(tmp_path, build):
    model = randomized(keras().Model(*build(keras().layers)))
    names = sorted(model.output) if isinstance(model.output, dict) else None

    def reference(data: Any) -> Any:
        made = model.predict(next(iter(data.values())), verbose=0)
        return [made[name] for name in names] if names else [made]

    executed = held(model_source(model, tmp_path), tmp_path, reference)
    assert dict(executed.int8) == KINDS[build]
