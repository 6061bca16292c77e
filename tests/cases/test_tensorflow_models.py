"""Models of TensorFlow as people have them: SavedModels of any version, own classes in Keras, files of Keras 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")

import tensorflow as tf

from nc_strategies.backends.tensorflow.backend import TensorFlowBackend
from nc_strategies.backends.tensorflow.settings import TensorFlowSettings
from nc_strategies.errors import InputError
from nc_strategies.models.built import PythonModel
from nc_strategies.models.objects import model_source
from nc_strategies.models.settings import PythonModelSettings
from nc_strategies.models.source import FileModel, FileModelSettings, ModelSource
from nc_strategies.space import Config

keras = tf.keras
X = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
SPEC = tf.TensorSpec([None, 6], tf.float32, name="x")


def loaded(source: ModelSource) -> Any:
    backend = TensorFlowBackend(TensorFlowSettings(), 1)
    backend.load(source)
    return backend


def outputs(backend: Any, *arrays: Any) -> Any:
    """Outputs of the model as given, its inputs in their order."""
    names = [port.spec.name for port in backend._loaded.inputs]
    return backend.reference().predict(dict(zip(names, arrays or (X,), strict=True)))


def operators(backend: Any) -> int:
    return len(backend.capabilities().ops)


def refused(key: str, words: str, make: Any) -> None:
    with pytest.raises(InputError, match=words) as raised:
        make()
    assert raised.value.key == key
    assert "\n" not in str(raised.value)


class Layered(tf.Module):
    """Functions within functions, a loop that reads a variable, a conditional, and two signatures."""

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(1)
        self.first = tf.Variable(rng.normal(size=(6, 8)).astype(np.float32))
        self.step = tf.Variable(rng.normal(size=(8, 8)).astype(np.float32) / 4)
        self.last = tf.Variable(rng.normal(size=(8, 3)).astype(np.float32))
        self.table = tf.Variable(rng.normal(size=(4, 8)).astype(np.float32))
        self.unused = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [1]), 0)

    @tf.function
    def features(self, x):
        y = self.inner(tf.nn.relu(x @ self.first))
        for _ in tf.range(2):
            y = tf.nn.tanh(y @ self.step)
        return y + tf.gather(self.table, [1])

    @tf.function
    def inner(self, x):
        return tf.cond(tf.constant(True), lambda: x * 2.0, lambda: x)

    @tf.function(input_signature=[SPEC])
    def classify(self, x):
        return {"scores": tf.nn.softmax(self.features(x) @ self.last)}

    @tf.function(input_signature=[SPEC])
    def embed(self, x):
        return {"features": self.features(x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])
    def count(self, words):
        return {"n": tf.cast(self.unused.lookup(words), tf.float32)}

    @tf.function(input_signature=[SPEC])
    def look_up(self, x):
        return {"n": x @ self.first + tf.cast(self.unused.lookup(tf.strings.as_string(x[:, :1])), tf.float32)}


@pytest.fixture(scope="module")
def layered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    module, path = Layered(), tmp_path_factory.mktemp("layered") / "saved"
    signatures = {name: getattr(module, name) for name in ("classify", "embed", "count", "look_up")}
    tf.saved_model.save(module, str(path), signatures=signatures)
    return module, path


@pytest.mark.parametrize(("name", "output", "count"), [("classify", "scores", 2), ("embed", "features", 1)])
def test_a_signature_is_chosen_and_its_functions_become_operators(layered, tmp_path, name, output, count):
    module, path = layered
    backend = loaded(ModelSource("layered", {"saved_model": path}, signature=name))
    np.testing.assert_allclose(outputs(backend)[0], getattr(module, name)(X)[output], atol=1e-5)
    assert operators(backend) == count
    backend.calibrate([{"x": X}])
    able = backend.capabilities()
    config = Config(tuple((op.name, op.schemes[0]) for op in able.ops))
    served = tf.saved_model.load(str(backend.save(config, tmp_path / "tuned"))).signatures
    assert list(served) == [name]
    assert served[name](x=tf.constant(X))[output].shape == getattr(module, name)(X)[output].shape


def test_a_signature_that_is_not_said_or_not_there_is_asked_for_by_the_names_there_are(layered):
    source = {"saved_model": layered[1]}
    refused("model.signature", "classify, count, embed, look_up; choose one", lambda: loaded(ModelSource("m", source)))
    refused("model.signature", "no signature 'x'", lambda: loaded(ModelSource("m", source, signature="x")))
    refused("model.path", "'words' .*not numeric", lambda: loaded(ModelSource("m", source, signature="count")))
    refused("model.path", "need a lookup table", lambda: loaded(ModelSource("m", source, signature="look_up")))


def test_a_saved_model_is_loaded_without_the_objects_of_its_version(layered, monkeypatch):
    def fails(_: str) -> None:
        raise AttributeError("'_UserObject' object has no attribute 'add_slot'")

    monkeypatch.setattr(tf.saved_model, "load", fails)
    assert operators(loaded(ModelSource("m", {"saved_model": layered[1]}, signature="classify"))) == 2


def test_a_saved_model_of_tensorflow_1_is_loaded_from_any_tensor_on(tmp_path):
    v1 = tf.compat.v1
    path, graph = tmp_path / "saved", tf.Graph()
    with graph.as_default(), v1.Session() as session:
        given = v1.placeholder(tf.string, (None,), "examples")
        x = v1.placeholder_with_default(tf.reshape(tf.io.decode_raw(given, tf.float32), [-1, 6]), (None, 6))
        weight = v1.get_variable("w", initializer=np.ones((6, 4), np.float32), use_resource=False)
        bias = v1.get_variable("b", initializer=np.arange(4, dtype=np.float32), use_resource=True)
        y = tf.nn.relu(x @ weight + bias)
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(path), {"x": x}, {"y": y})
    backend = loaded(ModelSource("old", {"saved_model": path}))
    np.testing.assert_allclose(outputs(backend)[0], np.maximum(X.sum(1, keepdims=True) + np.arange(4), 0), atol=1e-5)
    assert operators(backend) == 1


def test_variables_that_only_the_objects_of_a_saved_model_tell_apart_are_read(tmp_path):
    net = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)])
    module = tf.Module()
    module.net = net
    call = tf.function(lambda x: {"y": net(x)}, input_signature=[SPEC])
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures={"serving_default": call})
    backend = loaded(ModelSource("m", {"saved_model": tmp_path / "saved"}))
    np.testing.assert_allclose(outputs(backend)[0], net.predict(X, verbose=0), atol=1e-5)


def frozen(tmp_path: Path, reach: bool) -> ModelSource:
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, (None, 6), "x")
        y = x @ tf.ones((6, 4))
        tf.io.write_file("out.txt", tf.strings.as_string(y[0, 0]))
        if reach:
            y = y + tf.strings.to_number(tf.io.read_file("in.txt"))
        tf.identity(y, "y")
    return ModelSource("m", model_source(graph.as_graph_def(), tmp_path).files)


def test_operators_are_judged_by_what_the_outputs_need(tmp_path):
    assert operators(loaded(frozen(tmp_path, False))) == 1
    refused("model.path", "reach beyond the model .ReadFile", lambda: loaded(frozen(tmp_path, True)))


OWN = """
import keras

class Scale(keras.layers.Layer):
    def build(self, shape):
        self.g = self.add_weight(shape=(shape[-1],), initializer=keras.initializers.Constant(2.0))

    def call(self, x):
        return x * self.g

def bent(x):
    return keras.ops.tanh(x) * x

class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.a, self.b = keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)

    def call(self, x):
        return self.b(self.a(x))

def layers():
    x = keras.Input((6,), name="x")
    y = keras.layers.Dense(8, activation=bent)(Scale()(x))
    return keras.Model(x, {"scores": keras.layers.Dense(3)(y), "again": keras.layers.Lambda(lambda t: t + 1)(y)})

def two_inputs():
    left, right = keras.Input((6,), name="zeta"), keras.Input((4,), name="alpha")
    return keras.Model([left, right], keras.layers.Dense(3)(keras.ops.concatenate([Scale()(left), right], axis=1)))

def subclass():
    model = Net()
    model(keras.ops.zeros((1, 6)))
    return model

def uncalled():
    return Net()
"""


@pytest.fixture
def own(tmp_path, monkeypatch) -> Any:
    """A file of the user's with classes and functions, in the working directory; and what it defines."""
    (tmp_path / "own_code.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {"__name__": "own_code_of_a_test"}
    exec(compile(OWN, "own_code.py", "exec"), space)
    keras.utils.set_random_seed(0)
    return space


@pytest.mark.parametrize(
    ("function", "count", "inputs"),
    [("layers", 2, (X,)), ("two_inputs", 1, (X, X[:, :4])), ("subclass", 2, (X,))],
)
def test_an_object_with_own_classes_is_the_model_whoever_loads_it(tmp_path, own, function, count, inputs):
    model = own[function]()
    source = model_source(model, tmp_path / "written")
    backend = loaded(ModelSource("m", source.files))
    made = model(list(inputs) if len(inputs) > 1 else inputs[0])
    wanted = [made[name] for name in sorted(made)] if isinstance(made, dict) else [made]
    for one, two in zip(outputs(backend, *inputs), wanted, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    assert operators(backend) == count
    assert source.sha256("saved_model") == model_source(model, tmp_path / "again").sha256("saved_model")


def test_a_model_that_was_never_called_is_refused_with_what_to_do(tmp_path, own):
    refused("model", "call it once", lambda: model_source(own["uncalled"](), tmp_path / "written"))


def test_a_function_of_the_command_line_returns_a_model_with_own_classes(own):
    source = PythonModel(PythonModelSettings(target="own_code.py:layers")).load()
    assert operators(loaded(source)) == 2


def test_custom_objects_name_the_classes_of_a_keras_file(tmp_path, own):
    x = keras.Input((6,), name="x")
    model = keras.Model(x, keras.layers.Dense(3, activation=own["bent"])(own["Scale"]()(x)))
    for name in ("model.keras", "model.h5"):
        model.save(name)
        refused("model.custom_objects", "Scale|bent", lambda name=name: loaded(ModelSource("m", {"keras": Path(name)})))
        objects = {"Scale": "own_code.py:Scale", "bent": "own_code.py:bent"}
        settings = FileModelSettings("keras", name, custom_objects=objects)
        backend = loaded(FileModel(settings).load())
        np.testing.assert_allclose(outputs(backend)[0], model.predict(X, verbose=0), atol=1e-5)
    settings.custom_objects["Scale"] = "own_code.py:Missing"
    refused("model.custom_objects", "no function 'Missing'", lambda: loaded(FileModel(settings).load()))


def as_keras_2_wrote_it(path: Path, **changed: Any) -> None:
    """Put arguments into a file that layers of Keras 2 had."""
    import h5py

    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        for layer in config["config"]["layers"]:
            inner = layer["config"]
            if layer["class_name"] == "DepthwiseConv2D":
                inner["groups"] = 1
            if layer["class_name"] == "LSTM":
                inner.update({"time_major": False, "implementation": 2} | changed)
            if layer["class_name"] == "BatchNormalization":
                inner["axis"] = [inner["axis"]]
            if layer["class_name"] == "InputLayer":
                inner["batch_input_shape"] = inner.pop("batch_shape")
                inner.update({"sparse": False, "ragged": False})
        if config["class_name"] == "Sequential":
            first = config["config"]["layers"].pop(0)
            config["config"]["layers"][0]["config"]["batch_input_shape"] = first["config"]["batch_input_shape"]
        file.attrs["model_config"] = json.dumps(config)


def test_files_of_keras_2_are_read_with_what_layers_had_then(tmp_path):
    k = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3), name="picture"),
            k.DepthwiseConv2D(3, activation="relu"),
            k.Conv2D(4, 1, use_bias=False),
            k.BatchNormalization(),
            k.Reshape((36, 4)),
            k.LSTM(5),
            k.Dense(2),
        ]
    )
    path = tmp_path / "old.h5"
    model.save(path)
    picture = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    as_keras_2_wrote_it(path)
    before = path.read_bytes()
    found = outputs(loaded(ModelSource("old", {"keras": path})), picture)[0]
    np.testing.assert_allclose(found, model.predict(picture, verbose=0), atol=1e-5)
    assert path.read_bytes() == before
    time_first = tmp_path / "time.h5"
    model.save(time_first)
    as_keras_2_wrote_it(time_first, time_major=True)
    refused(
        "model.path",
        "LSTM of Keras 2 has time_major=True",
        lambda: loaded(ModelSource("old", {"keras": time_first})),
    )


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (FileModelSettings("keras", "model.keras", signature="x"), "model.signature"),
        (FileModelSettings("saved_model", "saved", custom_objects={"A": "a:A"}), "model.custom_objects"),
    ],
)
def test_keys_of_another_format_are_refused(tmp_path, monkeypatch, settings, key):
    monkeypatch.chdir(tmp_path)
    Path("model.keras").touch()
    Path("saved").mkdir()
    refused(key, "is given for model=", lambda: FileModel(settings).load())
