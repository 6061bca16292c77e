"""Small real models, built and saved by Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def keras() -> Any:
    """Keras, as TensorFlow brings it."""
    import tensorflow as tf

    return tf.keras


def randomize(model: Any, seed: int = 0) -> Any:
    """Give every weight, BatchNorm statistics included, values that make a difference."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        value, name = np.asarray(variable), variable.name
        if "variance" in name or "gamma" in name:
            variable.assign(rng.uniform(0.5, 1.5, value.shape))
        elif value.ndim > 1:
            variable.assign(rng.normal(0, (2 / max(1, np.prod(value.shape[:-1]))) ** 0.5, value.shape))
        else:
            variable.assign(rng.normal(0, 0.2, value.shape))
    return model


def cnn() -> Any:
    """Every operator with an int8 kernel: convolutions, depthwise, residual sum, pools, Concat, Dense."""
    k = keras()
    layers = k.layers
    x = inputs = k.Input((16, 16, 3), name="picture")
    x = layers.ZeroPadding2D(((1, 1), (1, 1)))(x)
    x = layers.Conv2D(16, 3, use_bias=False, name="stem")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.ZeroPadding2D(1)(x)
    x = layers.MaxPooling2D(3, 2)(x)
    y = layers.Conv2D(16, 3, padding="same", name="residual_a")(x)
    y = layers.ReLU()(layers.BatchNormalization()(y))
    y = layers.Conv2D(16, 1, name="residual_b")(y)
    y = layers.BatchNormalization()(y)
    x = layers.ReLU()(layers.Add()([x, y]))
    d = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    d = layers.ReLU(6.0)(layers.BatchNormalization()(d))
    p = layers.Conv2D(16, 1, activation="relu6", name="branch")(x)
    x = layers.Concatenate()([d, p])
    x = layers.AveragePooling2D(2)(x)
    x = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="last")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(24, activation="relu", name="hidden")(x)
    return randomize(k.Model(inputs, layers.Dense(10, name="logits")(x)))


def mlp() -> Any:
    """Dense layers only."""
    k = keras()
    return randomize(
        k.Sequential(
            [
                k.Input((20,), name="features"),
                k.layers.Dense(32, activation="relu"),
                k.layers.Dense(32, activation="relu"),
                k.layers.Dense(3, activation="softmax"),
            ]
        )
    )


def transformer() -> Any:
    """One encoder block over token numbers: attention, LayerNorm, GELU, products written as Einsum."""
    k = keras()
    layers = k.layers
    inputs = k.Input((12,), dtype="int32", name="tokens")
    x = layers.Embedding(50, 16)(inputs)
    a = layers.MultiHeadAttention(2, 8, name="attention")(x, x)
    x = layers.LayerNormalization()(x + a)
    h = layers.Dense(32, activation="gelu", name="up")(x)
    x = layers.LayerNormalization()(x + layers.Dense(16, name="down")(h))
    return randomize(k.Model(inputs, layers.Dense(4, name="head")(x)))


def two_by_two() -> Any:
    """Two inputs and two outputs, named."""
    k = keras()
    layers = k.layers
    one, two = k.Input((8, 8, 3), name="left"), k.Input((6,), name="right")
    x = layers.Flatten()(layers.Conv2D(8, 3, activation="relu")(one))
    x = layers.Concatenate()([x, layers.Dense(8, activation="relu")(two)])
    return randomize(k.Model([one, two], {"kind": layers.Dense(3)(x), "size": layers.Dense(1)(x)}))


def recurrent() -> Any:
    """A loop (functional control flow) in front of Dense layers."""
    k = keras()
    inputs = k.Input((10, 4), name="series")
    x = k.layers.LSTM(8)(inputs)
    x = k.layers.Dense(16, activation="relu")(x)
    return randomize(k.Model(inputs, k.layers.Dense(2)(x)))


def unfoldable() -> Any:
    """BatchNorm that must not be folded: something else reads the convolution; and one in front of a convolution."""
    k = keras()
    layers = k.layers
    inputs = k.Input((8, 8, 4), name="picture")
    x = layers.Conv2D(8, 3, padding="same")(inputs)
    x = layers.Add()([layers.BatchNormalization()(x), x])
    x = layers.BatchNormalization()(x)
    return randomize(k.Model(inputs, layers.Conv2D(4, 1)(x)))


def clipped() -> Any:
    """ReLU6 where int8 ranges must not be widened past 6: in front of a Concat with a wider tensor, and after Dense."""
    k = keras()
    layers = k.layers
    inputs = k.Input((8, 8, 4), name="picture")
    scaled = layers.Rescaling(8.0)(inputs)
    x = layers.Concatenate()(
        [layers.Conv2D(8, 1, activation="relu6")(scaled), layers.Conv2D(8, 1, activation="relu")(scaled)]
    )
    x = layers.Flatten()(layers.Conv2D(8, 3, activation="relu6")(x))
    x = layers.Dense(16, activation="relu6")(x)
    return randomize(k.Model(inputs, layers.Dense(4, activation="relu6")(x)))


def padded() -> Any:
    """Paddings of unequal sides between int8 neighbours: of tensors with and without negative values."""
    k = keras()
    layers = k.layers
    inputs = k.Input((9, 7, 4), name="picture")
    x = layers.Conv2D(16, 3, activation="relu")(inputs)
    x = layers.MaxPooling2D(2)(layers.ZeroPadding2D(((1, 2), (0, 3)))(x))
    x = layers.ZeroPadding2D(((2, 0), (1, 1)))(layers.Conv2D(8, 1)(x))
    x = layers.MaxPooling2D(2)(x)
    x = layers.Conv2D(12, 1)(x)
    x = layers.MaxPooling2D(2)(layers.ZeroPadding2D(1)(x))
    return randomize(k.Model(inputs, layers.Conv2D(4, 1)(x)))


BUILDERS = {
    "padded": padded,
    "cnn": cnn,
    "mlp": mlp,
    "transformer": transformer,
    "two_by_two": two_by_two,
    "recurrent": recurrent,
    "unfoldable": unfoldable,
    "clipped": clipped,
}


def save(name: str, folder: Path) -> Path:
    """Build and save a model."""
    path = folder / f"{name}.keras"
    BUILDERS[name]().save(path)
    return path


def batch(info: Any, count: int, seed: int = 1) -> dict[str, Any]:
    """Random data for a model's inputs."""
    rng = np.random.default_rng(seed)
    data = {}
    for spec in info.inputs:
        shape = [count, *(size or 8 for size in spec.shape[1:])]
        data[spec.name] = (rng.integers(0, 50, shape) if spec.dtype.kind in "iu" else rng.normal(0, 1, shape)).astype(
            spec.dtype
        )
    return data
