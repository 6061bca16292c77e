"""Models handed over in Python."""

import subprocess
import sys

import onnx
import pytest

from nc_strategies import samples
from nc_strategies.errors import InputError
from nc_strategies.models import build
from nc_strategies.models.objects import model_source
from nc_strategies.models.source import format_of


def test_a_path_tells_the_format_by_its_name(tmp_path):
    assert dict(model_source(str(samples.onnx_model()), tmp_path).files) == {"onnx": samples.onnx_model()}
    assert list(model_source(samples.keras_model(), tmp_path).files) == ["keras"]
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"")
    assert dict(model_source(folder, tmp_path).files) == {"saved_model": folder}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.onnx", "onnx"),
        ("A.ONNX", "onnx"),
        ("a.keras", "keras"),
        ("a.h5", "keras"),
        ("a.pb", "graph_def"),
        ("a.txt", None),
        ("folder", None),
    ],
)
def test_a_format_is_told_alike_by_who_reads_models_and_who_builds_them(tmp_path, monkeypatch, name, expected):
    path = tmp_path / name
    path.mkdir() if name == "folder" else path.touch()
    assert format_of(path) == expected
    monkeypatch.setattr(build, "call_target", lambda *_: path)
    settings = {"name": "python", "target": "mine:model"}
    if expected is None:
        for call in (
            lambda: model_source(path, tmp_path),
            lambda: build.build({"settings": settings, "folder": str(tmp_path)}),
        ):
            with pytest.raises(InputError):
                call()
    else:
        assert list(model_source(path, tmp_path).files) == [expected]
        assert build.build({"settings": settings, "folder": str(tmp_path)})["format"] == expected


def test_a_model_proto_is_written_and_is_the_same_model_each_time(tmp_path):
    proto = onnx.load(str(samples.onnx_model()))
    one = model_source(proto, tmp_path, "mine")
    assert one.name == "mine"
    assert onnx.load(str(one.files["onnx"])) == proto
    assert one.sha256("onnx") == model_source(proto, tmp_path).sha256("onnx")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (3, "is of type int"),
        ("nowhere.onnx", "no such file"),
        (samples.evaluation_images(), "has no known model format"),
        (type("Module", (), {"__module__": "torch.nn"})(), r"torch\.onnx\.export"),
    ],
)
def test_what_is_no_model_is_refused_with_what_is_one(model, says, tmp_path):
    with pytest.raises(InputError, match=f"^model: .*{says}"):
        model_source(model, tmp_path)


@pytest.mark.slow
def test_a_keras_model_has_the_same_hash_whenever_it_is_written(tmp_path):
    code = (
        "import sys, tensorflow as tf; from pathlib import Path\n"
        "from nc_strategies.models.objects import model_source\n"
        "from nc_strategies import samples\n"
        "model = tf.keras.models.load_model(samples.keras_model(), compile=False)\n"
        "found = model_source(model, Path(sys.argv[1]))\n"
        "first = found.sha256('keras')\n"
        "weights = model.get_weights(); weights[0] = weights[0] + 1; model.set_weights(weights)\n"
        "other = model_source(model, Path(sys.argv[1])).sha256('keras')\n"
        "print(found.files['keras'].is_file(), first, first != other)"
    )
    said = {
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(said) == 1
    words = said.pop().split()
    assert (words[0], words[2]) == ("True", "True")
