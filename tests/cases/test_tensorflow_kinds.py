"""Everyday kinds of TensorFlow models: the same function in floating point, int8 where it is asked for, as saved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from nc_strategies.backends.tensorflow.backend import TensorFlowBackend
from nc_strategies.backends.tensorflow.settings import TensorFlowSettings
from nc_strategies.errors import InputError
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


def causal_and_dilated(layers: Any) -> Any:
    x = keras().Input((24, 6), name="series")
    y = layers.Conv1D(8, 3, padding="causal", dilation_rate=2, activation="relu")(x)
    z = layers.Conv1D(8, 3, padding="causal", dilation_rate=4, activation="relu")(y)
    y = layers.ReLU()(layers.Add()([layers.Conv1D(8, 3, padding="causal", dilation_rate=4)(z), y]))
    return x, layers.SeparableConv1D(4, 3, dilation_rate=2, padding="same")(y)


def transposed_sequences(layers: Any) -> Any:
    x = keras().Input((12, 6), name="series")
    y = layers.Conv1DTranspose(8, 4, strides=2, padding="same", activation="relu")(x)
    y = layers.Conv1DTranspose(6, 6, strides=3, use_bias=False)(y)
    return x, layers.Conv1DTranspose(4, 2, strides=2)(layers.ReLU()(layers.BatchNormalization()(y)))


def grouped(layers: Any) -> Any:
    x, y = picture(layers)
    y = layers.Conv2D(16, 3, groups=4, activation="relu")(y)
    return x, layers.Conv2D(8, 1)(y)


def rows(layers: Any) -> Any:
    x = keras().Input((6, 12), name="rows")
    y = layers.Dense(16, activation="relu")(x)
    y = layers.Dense(16, activation="relu")(y)
    return x, layers.Dense(4)(layers.LayerNormalization()(y + layers.Dense(16)(y)))


def recurrent(layers: Any) -> Any:
    x = keras().Input((7, 6), name="series")
    y = layers.LSTM(8, return_sequences=True, dropout=0.1)(x)
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
    causal_and_dilated: {"Conv2D": 4, "DepthwiseConv2dNative": 1},
    transposed_sequences: {"Conv2D": 3},
    grouped: {"Conv2D": 2},
    rows: {"MatMul": 4},
    recurrent: {"MatMul": 2},
    volumes: {"MatMul": 2},
    nested: {"Conv2D": 5},
}


WHOLLY_FUSED = (dilated, transposed, multiplied, causal_and_dilated, transposed_sequences)
"""Kinds with nothing in floating point: biases, sums and activations are computed by the int8 kernels."""


@pytest.mark.parametrize("build", KINDS, ids=lambda build: build.__name__)
def test_a_kind_of_model_is_the_same_in_float_and_int8_where_asked(tmp_path, build):
    model = randomized(keras().Model(*build(keras().layers)))
    names = sorted(model.output) if isinstance(model.output, dict) else None

    def reference(data: Any) -> Any:
        made = model.predict(next(iter(data.values())), verbose=0)
        return [made[name] for name in names] if names else [made]

    executed = held(model_source(model, tmp_path), tmp_path, reference)
    assert dict(executed.int8) == KINDS[build]
    assert not executed.fp32 or build not in WHOLLY_FUSED


def graph_source(tmp_path: Any, build: Any) -> Any:
    """A frozen graph that a function of TensorFlow builds."""
    import tensorflow as tf

    graph = tf.Graph()
    with graph.as_default():
        build(tf, tf.compat.v1.placeholder)
    return model_source(graph.as_graph_def(), tmp_path)


def constant(tf: Any, *shape: int, seed: int = 0, dtype: Any = np.float32) -> Any:
    values = np.random.default_rng(seed).normal(0, (2 / max(1, np.prod(shape[:-1]))) ** 0.5, shape)
    return tf.constant(values.astype(np.float32), dtype)


def channels_first(tf: Any, placeholder: Any) -> None:
    """A residual block, a depthwise convolution, pools, a Concat and BatchNorm, all with channels first."""
    first = {"data_format": "NCHW"}
    x = placeholder(tf.float32, (None, 4, 12, 12), "x")
    padded = tf.pad(x, [[0, 0], [0, 0], [1, 1], [1, 1]])
    y = tf.nn.relu(
        tf.nn.bias_add(tf.nn.conv2d(padded, constant(tf, 3, 3, 4, 8), 2, "VALID", **first), [0.1] * 8, **first)
    )
    y = tf.nn.max_pool2d(y, 3, 1, "SAME", **first)
    z = tf.nn.relu(tf.nn.conv2d(y, constant(tf, 1, 1, 8, 8, seed=2), 1, "SAME", **first))
    z = tf.nn.conv2d(z, constant(tf, 3, 3, 8, 8, seed=1), 1, "SAME", **first)
    z, _, _ = tf.compat.v1.nn.fused_batch_norm(
        z, [1.0] * 8, [0.2] * 8, [0.1] * 8, [0.5] * 8, is_training=False, **first
    )
    y = tf.nn.relu(z + y)
    y = tf.concat([y, tf.nn.avg_pool2d(y, 3, 1, "SAME", **first)], 1)
    y = tf.nn.depthwise_conv2d(y, constant(tf, 3, 3, 16, 1), [1, 1, 2, 2], "SAME", **first)
    y = tf.nn.relu6(y * np.linspace(0.5, 1, 16, dtype=np.float32).reshape(1, 16, 1, 1))
    y = tf.nn.conv2d(y, constant(tf, 1, 1, 16, 8), 1, [[0, 0], [0, 0], [1, 0], [0, 1]], **first)
    tf.matmul(tf.reduce_mean(tf.nn.relu(y), [2, 3]), constant(tf, 8, 5))


def test_channels_first_is_computed_with_channels_last_and_without_conversions_between(tmp_path):
    executed = held(graph_source(tmp_path, channels_first), tmp_path)
    assert dict(executed.int8) == {"Conv2D": 4, "DepthwiseConv2dNative": 1, "MatMul": 1, "MaxPool": 1, "AvgPool": 1}
    assert set(executed.fp32) == {"Mean"}


def short(dtype: str, ends: str) -> Any:
    """A network that computes in a type, with inputs and outputs of the same or another one."""

    def build(tf: Any, placeholder: Any) -> None:
        inner = tf.as_dtype(dtype)
        x = tf.cast(placeholder(tf.as_dtype(ends), (None, 8, 8, 4), "x"), inner)
        y = tf.nn.relu(tf.nn.conv2d(x, constant(tf, 3, 3, 4, 8, dtype=inner), 1, "SAME"))
        y = tf.reduce_mean(tf.nn.softplus(y), [1, 2]) * tf.constant(0.5, inner)
        y = tf.nn.relu(tf.nn.bias_add(tf.matmul(y, constant(tf, 8, 6, dtype=inner)), tf.constant([0.1] * 6, inner)))
        tf.cast(tf.matmul(y, constant(tf, 6, 5, dtype=inner)), tf.as_dtype(ends))

    return build


@pytest.mark.parametrize(
    ("inner", "ends"),
    [
        ("float16", "float32"),
        ("float16", "float16"),
        ("bfloat16", "float32"),
        ("float64", "float64"),
        ("float64", "float32"),
    ],
)
def test_a_graph_of_another_float_type_keeps_its_inputs_and_outputs_and_runs_in_int8(tmp_path, inner, ends):
    tolerance = {"float16": 5e-3, "bfloat16": 3e-2, "float64": 1e-5}[inner]
    executed = held(graph_source(tmp_path, short(inner, ends)), tmp_path, tolerance=tolerance)
    assert dict(executed.int8) == {"Conv2D": 1, "MatMul": 2}


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_model_of_a_mixed_policy_runs_in_int8(tmp_path, policy):
    layers = keras().layers
    x = keras().Input((8, 8, 3))
    y = layers.Conv2D(8, 3, dtype=policy, use_bias=False)(x)
    y = layers.Activation("relu", dtype=policy)(layers.BatchNormalization(dtype=policy)(y))
    y = layers.Conv2D(8, 3, dtype=policy, activation="relu")(y)
    y = layers.Dense(5, dtype="float32")(layers.GlobalAveragePooling2D(dtype=policy)(y))
    executed = held(model_source(randomized(keras().Model(x, y)), tmp_path), tmp_path, tolerance=3e-2)
    assert dict(executed.int8) == {"Conv2D": 2, "MatMul": 1}


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_recurrent_model_of_a_mixed_policy_runs_around_its_loop(tmp_path, policy):
    layers = keras().layers
    x = keras().Input((6, 5))
    y = layers.GRU(6, dtype=policy)(layers.Masking(dtype=policy)(x))
    y = layers.Dense(4, dtype="float32")(layers.Dense(8, activation="relu", dtype=policy)(y))
    executed = held(model_source(randomized(keras().Model(x, y)), tmp_path), tmp_path, tolerance=3e-2)
    assert (executed.int8["MatMul"], executed.fp32["While"]) == (4, 1)


def test_a_bias_of_as_many_channels_as_columns_is_a_bias_with_channels_first(tmp_path):
    layers = keras().layers
    x = keras().Input((4, 8, 8))
    y = layers.Conv2D(8, 3, padding="same", activation="relu", data_format="channels_first")(x)
    y = layers.Conv2DTranspose(8, 2, strides=2, data_format="channels_first")(y)
    y = layers.Conv2D(3, 3, dilation_rate=2, padding="same", data_format="channels_first")(layers.ReLU()(y))
    model = randomized(keras().Model(x, y))
    source = model_source(model, tmp_path)
    executed = held(source, tmp_path, lambda data: [model.predict(next(iter(data.values())), verbose=0)])
    assert dict(executed.int8) == {"Conv2D": 3}


def transposed_in_float(layers: Any, **arguments: Any) -> Any:
    """Why a transposed convolution that is followed by another convolution stays in floating point."""
    x, y = picture(layers)
    return x, layers.Conv2D(4, 1)(layers.Conv2DTranspose(8, **{"kernel_size": 4, "strides": 2, **arguments})(y))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kernel_size": 3}, "kernel of 3 by 3 is no multiple"),
        ({"strides": (2, 1)}, "strides are 2 and 1"),
        ({"strides": 1, "dilation_rate": 2}, "dilated"),
    ],
)
def test_the_reason_says_what_keeps_a_transposed_convolution_in_float(tmp_path, arguments, words):
    backend = TensorFlowBackend(TensorFlowSettings(), 1)
    backend.load(model_source(keras().Model(*transposed_in_float(keras().layers, **arguments)), tmp_path))
    found = [op for op in backend.capabilities().float_ops if op.type == "Conv2DBackpropInput"]
    assert [op.fixable for op in found] == [True]
    assert words in found[0].reason


def test_a_model_that_carries_state_from_call_to_call_is_refused(tmp_path):
    x = keras().Input(batch_shape=(2, 4, 3))
    model = keras().Model(x, keras().layers.LSTM(4, stateful=True)(x))
    with pytest.raises(InputError, match="keeps state from call to call"):
        TensorFlowBackend(TensorFlowSettings(), 1).load(model_source(model, tmp_path))


def scaled_by(factor: float) -> Any:
    """A network whose values are tiny or huge."""

    def build(tf: Any, placeholder: Any) -> None:
        x = placeholder(tf.float32, (None, 8, 8, 4), "x") * factor
        y = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, constant(tf, 3, 3, 4, 8), 1, "SAME"), [0.1 * factor] * 8))
        y = tf.nn.conv2d(y, constant(tf, 3, 3, 8, 8) * np.float32(factor), 1, "SAME")
        y = tf.matmul(tf.reduce_mean(tf.nn.relu(y / factor), [1, 2]), constant(tf, 8, 6))
        tf.matmul(tf.nn.relu(y), constant(tf, 6, 5) / np.float32(factor))

    return build


@pytest.mark.parametrize("factor", [1e-13, 1e-9, 1.0, 1e9])
def test_ranges_have_no_absolute_floor(tmp_path, factor):
    executed = held(graph_source(tmp_path, scaled_by(factor)), tmp_path, noise=0.05)
    assert dict(executed.int8) == {"Conv2D": 2, "MatMul": 2}


def test_a_tensor_that_is_zero_on_calibration_data_does_not_break_the_model(tmp_path):
    def build(tf: Any, placeholder: Any) -> None:
        x = placeholder(tf.float32, (None, 8, 8, 4), "x")
        dead = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, constant(tf, 3, 3, 4, 8), 1, "SAME"), [-1e3] * 8))
        y = tf.nn.conv2d(dead, constant(tf, 3, 3, 8, 8) * 0, 1, "SAME")
        tf.nn.conv2d(
            tf.nn.relu(y + tf.nn.conv2d(x, constant(tf, 1, 1, 4, 8), 1, "SAME")), constant(tf, 1, 1, 8, 3), 1, "SAME"
        )

    held(graph_source(tmp_path, build), tmp_path)


def convolved(tf: Any, x: Any, seed: int, size: int = 3, channels: int = 8) -> Any:
    weight = constant(tf, size, size, x.shape[-1], channels, seed=seed)
    return tf.nn.bias_add(tf.nn.conv2d(x, weight, 1, "SAME"), [0.1] * channels)


def sum_with_own_input(tf: Any, x: Any) -> None:
    y = tf.nn.relu(convolved(tf, x, 1))
    convolved(tf, tf.nn.relu(convolved(tf, y, 2) + y), 3)


def sum_with_what_is_read_later(tf: Any, x: Any) -> None:
    y = tf.nn.relu(convolved(tf, x, 1))
    z = tf.nn.relu(convolved(tf, tf.nn.relu(convolved(tf, y, 2)), 3) + y)
    convolved(tf, tf.concat([convolved(tf, z, 4), y, convolved(tf, y, 5)], 3), 6)


def sum_with_a_view_of_its_input(tf: Any, x: Any) -> None:
    y = tf.nn.relu(convolved(tf, x, 1))
    convolved(tf, tf.nn.relu(convolved(tf, y, 2) + tf.reshape(y, [-1, 8, 8, 8])), 3)


def sum_with_its_padded_input(tf: Any, x: Any) -> None:
    y = tf.nn.relu(convolved(tf, x, 1))
    padded = tf.pad(y, [[0, 0], [2, 0], [2, 0], [0, 0]])
    z = tf.nn.bias_add(tf.nn.conv2d(padded, constant(tf, 3, 3, 8, 8, seed=2), 1, "VALID"), [0.1] * 8)
    convolved(tf, tf.nn.relu(z + y), 3)


def sum_of_signed_tensors(tf: Any, x: Any) -> None:
    y = tf.nn.relu(convolved(tf, x, 1))
    z = tf.nn.relu(convolved(tf, y, 2) + convolved(tf, y, 3))
    convolved(tf, tf.nn.relu(z), 4)


@pytest.mark.parametrize(
    "build",
    [
        sum_with_own_input,
        sum_with_what_is_read_later,
        sum_with_a_view_of_its_input,
        sum_with_its_padded_input,
        sum_of_signed_tensors,
    ],
    ids=lambda build: build.__name__,
)
def test_a_residual_sum_is_right_whoever_else_reads_its_operands(tmp_path, build):
    source = graph_source(tmp_path, lambda tf, placeholder: build(tf, placeholder(tf.float32, (None, 8, 8, 4), "x")))
    held(source, tmp_path, noise=0.05)
