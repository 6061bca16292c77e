"""What is saved is what was measured, and stock TensorFlow serves it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from nc_strategies.backends.tensorflow.backend import TensorFlowBackend
from nc_strategies.backends.tensorflow.settings import TensorFlowSettings
from nc_strategies.errors import InputError
from nc_strategies.models import ModelSource
from nc_strategies.space import Space

SERVE = """
import json, sys
import numpy as np
import tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
signature = loaded.signatures["serving_default"]
data = np.load(sys.argv[2])
outputs = signature(**{name: tf.constant(data[name]) for name in data.files})
ops = sorted({op.type for op in signature.graph.get_operations()})
np.savez(sys.argv[3], **{name: value.numpy() for name, value in outputs.items()})
print(json.dumps({"ops": ops, "ours": [name for name in sys.modules if name.startswith("nc_strategies")]}))
"""


@pytest.fixture(scope="module")
def saved(loaded, tmp_path_factory):
    backend, info = loaded("cnn")
    space = Space(backend.capabilities())
    config = space.default().with_op(next(iter(space.ops)))
    return backend, info, config, backend.save(config, tmp_path_factory.mktemp("saved") / "model")


def test_opened_by_a_user_it_gives_the_same_outputs_and_executes_the_same_operators(saved, batch):
    backend, info, config, path = saved
    measured, opened = backend.build(config), backend.open(path)
    for count in (1, 5):
        data = batch(info, count)
        for one, other in zip(measured.predict(data), opened.predict(data), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)
    one, other = measured.executed(), opened.executed()
    assert one == other
    assert one.int8_names == set(config.int8_ops)
    assert backend.open(path).executed() == opened.executed() == one


def test_what_is_saved_executes_what_was_measured_whichever_operator_stays_in_float(loaded, batch, tmp_path):
    # With oneDNN, TensorFlow fuses a depthwise convolution with its bias and activation when it serves a model.
    backend, info = loaded("cnn")
    space, data = Space(backend.capabilities()), batch(info, 1)
    for number, name in enumerate(space.ops):
        config = space.default().with_op(name)
        measured, opened = backend.build(config), backend.open(backend.save(config, tmp_path / str(number)))
        for model in (measured, opened):
            model.predict(data)
        assert measured.executed() == opened.executed(), name
        measured.close()


def test_a_process_that_knows_only_tensorflow_serves_it(saved, batch, tmp_path):
    backend, info, config, path = saved
    data = batch(info, 3)
    np.savez(tmp_path / "in.npz", **data)
    command = [sys.executable, "-c", SERVE, str(path), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    assert said["ours"] == []
    assert {"_FusedQuantizedConv2D", "_FusedQuantizedDepthwiseConv2D", "_QuantizedMatMul"} <= set(said["ops"])
    given = np.load(tmp_path / "out.npz")
    assert given.files == [port.name for port in info.outputs]
    np.testing.assert_allclose(given[info.outputs[0].name], backend.build(config).predict(data)[0], atol=1e-6)


def test_names_types_and_free_batch_of_the_signature_survive(loaded, tmp_path):
    import tensorflow as tf

    backend, _ = loaded("two_by_two")
    path = backend.save(Space(backend.capabilities()).default(), tmp_path / "model")
    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    inputs = signature.structured_input_signature[1]
    assert {name: (spec.shape.as_list(), spec.dtype) for name, spec in inputs.items()} == {
        "left": ([None, 8, 8, 3], tf.float32),
        "right": ([None, 6], tf.float32),
    }
    assert {name: spec.shape.as_list() for name, spec in signature.structured_outputs.items()} == {
        "kind": [None, 3],
        "size": [None, 1],
    }


def test_a_saved_model_can_be_tuned_again_and_keeps_its_signature(model_path, batch, tmp_path):
    import tensorflow as tf

    class Model(tf.Module):
        def __init__(self):
            super().__init__()
            self.weight = tf.Variable(np.random.default_rng(0).normal(0, 1, (6, 4)).astype(np.float32))

        @tf.function(input_signature=[tf.TensorSpec((None, 6), tf.float32, name="row")])
        def score(self, row):
            return {"z_first": tf.nn.relu(row @ self.weight), "a_second": tf.reduce_sum(row, 1)}

    model = Model()
    tf.saved_model.save(model, str(tmp_path / "given"), signatures={"score": model.score})
    backend = TensorFlowBackend(TensorFlowSettings(), 1)
    info = backend.load(ModelSource("given", {"saved_model": tmp_path / "given"}))
    data = batch(info, 4)
    backend.calibrate([data])
    config = Space(backend.capabilities()).default()
    assert backend.build(config).executed().int8 == {"MatMul": 1}
    path = backend.save(config, tmp_path / "out")
    assert list(tf.saved_model.load(str(path)).signatures) == ["score"]
    opened = backend.open(path).predict(data)
    for port, one, other in zip(info.outputs, opened, backend.reference().predict(data), strict=True):
        assert one.shape == other.shape, port.name
        np.testing.assert_allclose(one, other, atol=0.1)


def test_an_earlier_result_is_replaced_and_anything_else_is_left_alone(loaded, tmp_path):
    backend, _ = loaded("mlp")
    config = Space(backend.capabilities()).default()
    folder = tmp_path / "model"
    backend.save(config, folder)
    backend.save(config, folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not a SavedModel"):
        backend.save(config, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()
