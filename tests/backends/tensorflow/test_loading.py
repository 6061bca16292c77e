"""What is loaded, what is refused, and in which words."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from nc_strategies.backends.tensorflow import loading
from nc_strategies.backends.tensorflow.backend import TensorFlowBackend
from nc_strategies.backends.tensorflow.graph import Graph
from nc_strategies.backends.tensorflow.settings import TensorFlowSettings
from nc_strategies.errors import InputError
from nc_strategies.models import ModelSource
from nc_strategies.space import Space


def backend_for(**files):
    backend = TensorFlowBackend(TensorFlowSettings(), 1)
    return backend, backend.load(ModelSource("model", files))


def refused(key, words, **files):
    with pytest.raises(InputError, match=words) as raised:
        backend_for(**files)[0].capabilities()
    assert raised.value.key == key
    assert "\n" not in str(raised.value)


def frozen(tmp_path, build):
    import tensorflow as tf

    graph = tf.Graph()
    with graph.as_default():
        build(tf)
    path = tmp_path / "frozen.pb"
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


def test_settings_and_package_do_not_import_tensorflow():
    code = (
        "import sys, nc_strategies.backends.tensorflow.settings, nc_strategies.backends.tensorflow.backend;"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("expendable", [True, False])
def test_a_worker_imports_tensorflow_without_what_keras_takes_only_if_it_is_there(expendable):
    code = (
        "import sys; from nc_strategies.runtime.process import be_expendable;"
        "from nc_strategies.backends.tensorflow.import_tensorflow import tensorflow;"
        f"{'be_expendable();' if expendable else ''}"
        "layers = tensorflow().keras.layers;"
        "print(sorted(name for name in ('matplotlib', 'pandas', 'sklearn') if name in sys.modules));"
        "import sklearn.metrics, matplotlib.figure, pandas; pandas.DataFrame([1])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == ("[]" if expendable else "['matplotlib', 'pandas', 'sklearn']")


@pytest.mark.parametrize("expendable", [True, False])
@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_is_collected_while_tensorflow_is_imported_nor_from_it_in_a_worker(expendable, enabled):
    code = (
        "import gc; from nc_strategies.runtime.process import be_expendable;"
        "from nc_strategies.backends.tensorflow.import_tensorflow import tensorflow;"
        f"{'be_expendable();' if expendable else ''} {'' if enabled else 'gc.disable();'}"
        "gc.collect(); seen = []; gc.callbacks.append(lambda phase, info: seen.append(phase));"
        "tensorflow(); gc.callbacks.clear();"
        "print(len(seen) < 10, gc.isenabled(), gc.get_freeze_count() > 100_000)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == f"True {enabled} {expendable}"


def test_an_onnx_file_is_refused(tmp_path):
    refused("model", "backend=tensorflow does not take", onnx=tmp_path / "model.onnx")


def test_files_that_are_not_what_they_are_called_are_refused(tmp_path):
    for name in ("model.keras", "model.h5", "model.pb"):
        (tmp_path / name).write_bytes(b"not a model")
    refused("model.path", "no such file", keras=tmp_path / "missing.keras")
    refused("model.path", "Keras cannot load", keras=tmp_path / "model.keras")
    refused("model.path", "Keras cannot load", keras=tmp_path / "model.h5")
    refused("model.path", "not a SavedModel", saved_model=tmp_path)
    refused("model.path", "not a frozen GraphDef", graph_def=tmp_path / "model.pb")


def test_code_hidden_in_a_keras_file_does_not_run(tmp_path):
    import tensorflow as tf

    keras = tf.keras
    path = tmp_path / "lambda.keras"
    keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2), keras.layers.Dense(2)]).save(path)
    refused("model.path", "holds Python code", keras=path)


def test_a_model_without_weighted_operators_says_why_none_runs_in_int8(tmp_path):
    def build(tf):
        tf.nn.softmax(tf.compat.v1.placeholder(tf.float32, (None, 4), "x"))

    able = backend_for(graph_def=frozen(tmp_path, build))[0].capabilities()
    assert able.ops == ()
    assert able.float_reasons() == (("Softmax", "the engine has no int8 kernel", 1),)


def test_control_flow_of_tensorflow_1_is_refused(tmp_path):
    def build(tf):
        from tensorflow.python.ops import control_flow_ops

        x = tf.compat.v1.placeholder(tf.float32, (None, 4), "x")
        off, on = control_flow_ops.switch(x, tf.constant(True))
        control_flow_ops.merge([off @ tf.ones((4, 2)), on @ tf.ones((4, 2))])

    refused("model.path", "control flow of TensorFlow 1", graph_def=frozen(tmp_path, build))


def test_state_that_cannot_be_frozen_is_refused(tmp_path):
    def build(tf):
        x = tf.compat.v1.placeholder(tf.float32, (None, 4), "x")
        tf.matmul(x, tf.compat.v1.get_variable("w", (4, 2), use_resource=True))

    refused("model.path", "cannot be frozen", graph_def=frozen(tmp_path, build))


def test_text_inputs_are_refused(tmp_path):
    def build(tf):
        tf.strings.length(tf.compat.v1.placeholder(tf.string, (None,), "x"))

    refused("model.path", "not numeric", graph_def=frozen(tmp_path, build))


def test_an_h5_file_is_taken(tmp_path, batch):
    import tensorflow as tf

    keras = tf.keras
    model = keras.Sequential(
        [keras.Input((4,), name="row"), keras.layers.Dense(3, activation="relu"), keras.layers.Dense(2)]
    )
    path = tmp_path / "model.h5"
    model.save(path)
    backend, info = backend_for(keras=path)
    data = batch(info, 3)
    np.testing.assert_allclose(backend.reference().predict(data)[0], model.predict(data["row"], verbose=0), atol=1e-5)


def plain(keras, x):
    twice = keras.layers.Dense(8, activation="silu")
    return keras.layers.Dense(3)(twice(twice(x)) + np.linspace(0, 1, 8, dtype=np.float32))


def looked_up(keras, x):
    return keras.layers.Dense(3)(keras.layers.Embedding(4, 8)(keras.ops.cast(x > 0, "int32")))


def recurrent(keras, x):
    return keras.layers.Dense(3)(keras.layers.GRU(4)(keras.ops.expand_dims(x, -1)))


@pytest.mark.parametrize(("build", "converted"), [(plain, False), (looked_up, False), (recurrent, True)])
def test_variables_are_frozen_in_place_where_nothing_but_reading_is_done_with_them(
    tmp_path, batch, monkeypatch, build, converted
):
    import tensorflow as tf
    from tensorflow.python.framework import convert_to_constants

    calls = []
    convert = convert_to_constants.convert_variables_to_constants_v2
    monkeypatch.setattr(
        convert_to_constants,
        "convert_variables_to_constants_v2",
        lambda *args, **kwargs: calls.append(1) or convert(*args, **kwargs),
    )
    x = tf.keras.Input((8,), name="row")
    model = tf.keras.Model(x, build(tf.keras, x))
    model.save(tmp_path / "model.keras")
    backend, info = backend_for(keras=tmp_path / "model.keras")
    assert bool(calls) == converted
    data = batch(info, 5)
    np.testing.assert_allclose(backend.reference().predict(data)[0], model.predict(data["row"], verbose=0), atol=1e-5)


def test_a_variable_that_is_gathered_from_is_left_to_the_conversion_of_tensorflow(tmp_path):
    import tensorflow as tf

    table = tf.Variable(np.arange(12, dtype=np.float32).reshape(4, 3))
    function = tf.function(lambda rows: {"output_0": tf.gather(table, rows)}, autograph=False)
    model = loading._freeze(tmp_path, function, tf.TensorSpec((None,), tf.int32, "rows"), ["rows"])
    ops = {node.op for node in model.graph.nodes.values()}
    assert {"GatherV2", "Const"} <= ops
    assert not ops & loading.RESOURCE_OPS


def test_what_a_function_captures_and_calls_becomes_part_of_the_graph(tmp_path):
    import tensorflow as tf

    weight = np.random.default_rng(0).normal(0, 1, (40, 30)).astype(np.float32)
    held = tf.constant(weight)  # too large for TensorFlow to write it into the graph by itself
    inner = tf.function(lambda x: tf.nn.relu(tf.matmul(x, held)), autograph=False)
    row = tf.TensorSpec((None, 40), tf.float32, "row")
    for called, body in (("here", lambda x: tf.nn.relu(tf.matmul(x, held))), ("in a function", inner)):
        function = tf.function(lambda x, body=body: {"output_0": body(x)}, autograph=False)
        model = loading._freeze(tmp_path, function, row, ["row"])
        graph = model.graph
        ops = [node.op for node in graph.nodes.values()]
        assert ops.count("Placeholder") == 1, called
        assert "MatMul" in ops
        assert not [op for op in ops if "Call" in op]
        held_again = [graph.value(name) for name, node in graph.nodes.items() if node.op == "Const"]
        assert any(np.array_equal(value, weight) for value in held_again)


def test_explicit_padding_of_a_depthwise_convolution_is_rewritten_and_cannot_abort(tmp_path, batch):
    def build(tf):
        x = tf.compat.v1.placeholder(tf.float32, (None, 8, 8, 4), "x")
        rng = np.random.default_rng(0)
        weight = tf.constant(rng.normal(0, 1, (3, 3, 4, 1)).astype(np.float32))
        padded = tf.raw_ops.DepthwiseConv2dNative(
            input=x, filter=weight, strides=[1, 2, 2, 1], padding="EXPLICIT", explicit_paddings=[0, 0, 0, 1, 0, 1, 0, 0]
        )
        tf.nn.relu(tf.nn.bias_add(padded, tf.constant(rng.normal(0, 1, 4).astype(np.float32))))

    backend, info = backend_for(graph_def=frozen(tmp_path, build))
    data = batch(info, 3)
    backend.calibrate([data])
    space = Space(backend.capabilities())
    one, other = (backend.build(config).predict(data)[0] for config in (space.all_float(), space.default()))
    assert one.shape == (3, 4, 4, 4)
    np.testing.assert_allclose(one, other, atol=0.05 * np.abs(one).max())


def test_a_graph_that_reads_a_node_it_does_not_have_is_refused():
    import tensorflow as tf

    graph_def = tf.compat.v1.GraphDef()
    graph_def.node.add(name="y", op="Identity", input=["gone"])
    with pytest.raises(InputError, match="no node 'gone'"):
        Graph.from_def(graph_def).prune(["y"])


def test_a_setting_out_of_range_is_refused():
    with pytest.raises(InputError, match=r"backend\.percentile"):
        TensorFlowBackend(TensorFlowSettings(percentile=10))


def test_calibration_data_that_is_missing_or_not_finite_is_refused(model_path):
    backend, _ = backend_for(keras=model_path("mlp"))
    with pytest.raises(InputError, match="no calibration data"):
        backend.calibrate([])
    with pytest.raises(InputError, match="computes NaN"):
        backend.calibrate([{"features": np.full((2, 20), np.nan, np.float32)}])
