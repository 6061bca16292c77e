"""Models that code builds: what it may return, and what is said when it fails."""

import gc
import importlib.util

import numpy as np
import onnx
import pytest

from nc_strategies.errors import InputError
from nc_strategies.models.built import HuggingFaceModel, KerasApplicationsModel, PythonModel
from nc_strategies.models.settings import HuggingFaceModelSettings, KerasApplicationsSettings, PythonModelSettings

CODE = """
import pathlib
import numpy as np
from onnx import TensorProto, helper, numpy_helper

def proto():
    print("building")
    weights = numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    value = lambda name, size: helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, size])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [value("x", 4)], [value("y", 2)],
                              [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

def path():
    import onnx
    file = pathlib.Path(__file__).with_name("written.onnx")
    onnx.save(proto(), file)
    return str(file)

def text_file():
    return __file__

def nowhere():
    return "nowhere.onnx"

def number():
    return 3

def broken():
    raise RuntimeError("no weights\\nmore")

def dies():
    import os
    os._exit(7)

def leaves():
    raise SystemExit("bye")

def keras_model():
    import keras
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
"""
KERAS = importlib.util.find_spec("keras") is not None
OPTIMUM = all(importlib.util.find_spec(name) for name in ("optimum", "torch", "transformers"))


@pytest.fixture
def python(tmp_path):
    (tmp_path / "own_model.py").write_text(CODE)
    return lambda name: PythonModel(PythonModelSettings(target=f"{tmp_path / 'own_model.py'}:{name}")).load()


def test_an_onnx_model_is_written_where_it_lives_as_long_as_its_source(python):
    source = python("proto")
    file = source.files["onnx"]
    assert source.name == "proto"
    assert [node.op_type for node in onnx.load(str(file)).graph.node] == ["MatMul"]
    del source
    gc.collect()
    assert not file.parent.exists()


def test_the_same_function_gives_the_same_hash(python):
    assert python("proto").sha256("onnx") == python("proto").sha256("onnx")


def test_a_path_is_taken_as_it_is(python, tmp_path):
    assert dict(python("path").files) == {"onnx": tmp_path / "written.onnx"}
    assert (tmp_path / "written.onnx").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", r"own_model\.py:broken raised RuntimeError: no weights$"),
        ("leaves", "leaves raised SystemExit: bye$"),
        ("number", "number returned a int; expected a Keras model, an onnx.ModelProto or the path"),
        ("nowhere", r"nowhere\.onnx, which does not exist"),
        ("text_file", r"own_model\.py, which is not a model"),
        ("missing", "has no function 'missing'"),
        ("dies", "building the model ended with status 7"),
    ],
)
def test_what_goes_wrong_in_it_is_one_line_that_names_it(python, name, message):
    with pytest.raises(InputError, match=rf"^model\.target: .*{message}") as caught:
        python(name)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(not KERAS, reason="needs nc-strategies[tensorflow]")
class TestKeras:
    def make(self, **settings):
        settings = {
            "architecture": "MobileNet",
            "weights": None,
            "input_shape": [32, 32, 3],
            "classes": 5,
            "options": {"alpha": 0.25},
            **settings,
        }
        return KerasApplicationsModel(KerasApplicationsSettings(**settings)).load()

    def test_random_weights_are_the_same_each_time_and_of_a_file_those_of_the_file(self):
        first, again = self.make(), self.make()
        assert first.name == "MobileNet"
        assert first.sha256("keras") == again.sha256("keras")
        other = self.make(seed=1)
        assert other.sha256("keras") != first.sha256("keras")
        loaded = self.make(seed=1, weights=str(first.files["keras"]))
        assert loaded.sha256("keras") == first.sha256("keras")

    def test_a_keras_model_of_a_function_is_written(self, python):
        assert python("keras_model").files["keras"].suffix == ".keras"

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"architecture": "MobilNet"}, r"^model\.architecture: .* has no 'MobilNet'; it has: .*MobileNet"),
            ({"options": {"beta": 1}}, r"^model: Keras cannot build MobileNet \(.*beta"),
            ({"weights": "none.weights.h5"}, r"^model\.weights: no such file: none\.weights\.h5"),
        ],
    )
    def test_what_does_not_fit_is_one_line(self, settings, message):
        with pytest.raises(InputError, match=message) as caught:
            self.make(**settings)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(not OPTIMUM, reason="needs nc-strategies[huggingface]")
@pytest.mark.filterwarnings("default")
def test_a_transformers_model_is_exported_and_computes_the_same(tmp_path):
    import onnxruntime
    import torch
    import transformers

    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=8,
        num_labels=3,
    )
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "vit")
    settings = HuggingFaceModelSettings(model=str(tmp_path / "vit"), task="image-classification")
    source = HuggingFaceModel(settings).load()
    assert source.name == "vit"
    x = np.random.default_rng(0).random((2, 3, 16, 16), np.float32)
    session = onnxruntime.InferenceSession(str(source.files["onnx"]), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        want = model(torch.from_numpy(x)).logits.numpy()
    np.testing.assert_allclose(session.run(None, {"pixel_values": x})[0], want, atol=1e-4)
    with pytest.raises(InputError, match=r"^model\.model: .*nothing cannot be exported to ONNX \("):
        HuggingFaceModel(HuggingFaceModelSettings(model=str(tmp_path / "nothing"))).load()


@pytest.mark.skipif(OPTIMUM, reason="optimum is installed")
def test_without_optimum_one_line_names_the_extra():
    with pytest.raises(InputError, match=r"^model=huggingface: a package is missing .*nc-strategies\[huggingface\]'$"):
        HuggingFaceModel(HuggingFaceModelSettings(model="none/none")).load()
