"""Files that mean harm: refused in one line, no code of theirs runs, nothing outside is read or written."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from nc_strategies import samples
from nc_strategies.backends.tensorflow import loading
from nc_strategies.data.loaders import read_npz
from nc_strategies.errors import InputError
from nc_strategies.onnx_graph import graph


def refused(words, call, *arguments):
    with pytest.raises(InputError, match=words) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return Path.write_text, (self.place, "caught")


class TestData:
    def test_a_pickle_in_an_npz_is_refused_and_not_opened(self, tmp_path):
        np.savez(tmp_path / "data.npz", x=np.array([Trap(tmp_path / "caught")], object), y=np.zeros(1))
        refused(
            "data.path.*cannot be read as .npz.*allow_pickle=False", read_npz, "data.path", str(tmp_path / "data.npz")
        )
        assert not (tmp_path / "caught").exists()

    def test_a_bare_pickle_is_refused_and_not_opened(self, tmp_path):
        (tmp_path / "data.npz").write_bytes(pickle.dumps(Trap(tmp_path / "caught")))
        refused("data.path", read_npz, "data.path", str(tmp_path / "data.npz"))
        assert not (tmp_path / "caught").exists()

    def test_an_archive_that_unpacks_to_far_more_is_refused_before_it_is_read(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "data.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            archive.writestr("x.npy", bytes(100_000_000))
        refused("unpacks to .* times its size", read_npz, "data.path", str(tmp_path / "data.npz"))

    def test_a_header_that_promises_more_than_there_is_is_refused(self, tmp_path):
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (10**13,)})
        with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
            archive.writestr("x.npy", stream.getvalue())
        refused("cannot be read as .npz", read_npz, "data.path", str(tmp_path / "data.npz"))


class TestOnnx:
    @pytest.mark.parametrize(
        "place", ["../secret.bin", "sub/../../secret.bin", "{tmp}/secret.bin", "link.bin", "*/_ORT_MEM_ADDR_/*"]
    )
    @pytest.mark.parametrize("where", ["initializer", "attribute"])
    def test_external_data_outside_of_the_models_folder_is_refused(self, tmp_path, place, where):
        folder = tmp_path / "models"
        folder.mkdir()
        (tmp_path / "secret.bin").write_bytes(np.arange(16, dtype=np.float32).tobytes())
        (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
        weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 4], bytes(64), raw=True)
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (("location", place.format(tmp=tmp_path)), ("offset", "0"), ("length", "64")):
            entry = weight.external_data.add()
            entry.key, entry.value = key, value
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
        if where == "attribute":
            nodes.insert(0, helper.make_node("Constant", [], ["w"], value=weight))
        model = helper.make_model(
            helper.make_graph(
                nodes,
                "g",
                [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 4])],
                [weight] if where == "initializer" else [],
            ),
            opset_imports=[helper.make_opsetid("", 17)],
        )
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        refused("external data cannot be read", graph.read, folder / "model.onnx")

    def test_what_is_no_model_is_refused(self, tmp_path):
        data = samples.onnx_model().read_bytes()
        for number, text in enumerate((b"", data[: len(data) // 2], data[::-1])):
            path = tmp_path / f"{number}.onnx"
            path.write_bytes(text)
            refused("model.path", lambda p=path: graph.prepare(graph.read(p)))
        assert onnx.load(str(samples.onnx_model())).graph.node


class TestTensorFlow:
    @pytest.mark.parametrize("form", ["keras", "h5"])
    def test_a_layer_with_python_code_is_refused_unless_it_is_trusted(self, tmp_path, form):
        import keras

        place = tmp_path / "caught"
        spring = eval(f"lambda x: (__import__('pathlib').Path({str(place)!r}).write_text('caught'), x)[1]")
        inputs = keras.Input((4,))
        layer = keras.layers.Lambda(spring, output_shape=(4,))
        model = keras.Model(inputs, keras.layers.Dense(2)(layer(inputs)))
        model.save(tmp_path / f"model.{form}")
        place.unlink(missing_ok=True)
        refused("holds Python code.*model.trust=true", loading.load, form, tmp_path / f"model.{form}")
        assert not place.exists()
        loading.load(form, tmp_path / f"model.{form}", True)
        assert place.exists()

    def test_a_keras_archive_that_unpacks_to_far_more_is_refused(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "model.keras", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            archive.writestr("config.json", bytes(100_000_000))
        refused("unpacks to .* times its size", loading.load, "keras", tmp_path / "model.keras")

    @pytest.mark.parametrize("form", ["saved_model", "graph_def"])
    def test_operators_that_write_files_are_refused(self, tmp_path, form):
        import tensorflow as tf

        class Module(tf.Module):
            @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32)])
            def __call__(self, x):
                tf.io.write_file(str(tmp_path / "caught"), "caught")
                return tf.matmul(x, tf.ones((4, 4)))

        module, path = Module(), tmp_path / "model"
        if form == "saved_model":
            tf.saved_model.save(module, str(path))
        else:
            path.write_bytes(module.__call__.get_concrete_function().graph.as_graph_def().SerializeToString())
        refused("reach beyond the model .*WriteFile.*model.trust=true", loading.load, form, path)
        assert not (tmp_path / "caught").exists()
