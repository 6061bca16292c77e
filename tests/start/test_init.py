"""``nc-strategies init``: the folder that it writes runs as it is, whatever was answered."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from onnx import TensorProto, helper, numpy_helper

from nc_strategies import samples
from nc_strategies.app import commands, starting_folder
from nc_strategies.app.hydra_app import conf_dir, publish
from nc_strategies.app.settings import run_config
from nc_strategies.app.starting_folder import Answers, choices
from nc_strategies.app.starting_folder.files import write_folder
from nc_strategies.errors import InputError
from nc_strategies.registry import registry

QUICK = ("tuning.max_trials=1", "measure.latency_runs=20", "measure.final_runs=20", "strategy=basic", "isolation=none")
FILES = {"tune.yaml", "data.py", "run.sh", "README.md"}
MODEL = "it's ${now}, #1.onnx"
"""A name that a shell, YAML and Hydra would each take for something else."""
PICTURES = 160
"""Pictures of the .npz file: fewer than twice the usual calibration samples."""


def dense(path, inputs, outputs=3, **metadata):
    """A small model: a matrix product of its first input, which is float32."""
    first = inputs[0]
    weights = numpy_helper.from_array(np.random.default_rng(0).normal(size=(first[2][-1], outputs)).astype("f"), "w")
    nodes = [helper.make_node("MatMul", [first[0], "w"], ["scores"])]
    given = [helper.make_tensor_value_info(*entry) for entry in inputs]
    out = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [*first[2][:-1], outputs])
    model = helper.make_model(
        helper.make_graph(nodes, "g", given, [out], [weights]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    helper.set_model_props(model, metadata)
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A model and its samples, in the model's own form."""
    folder = tmp_path_factory.mktemp("scene") / "my models"
    folder.mkdir()
    (folder / MODEL).write_bytes(samples.onnx_model().read_bytes())
    with np.load(samples.evaluation_images()) as file:
        x = file["x"][:PICTURES].astype(np.float32) * np.float32(samples.SCALE) + np.float32(samples.OFFSET)
        np.savez(folder / "data.npz", x=x, y=file["y"][:PICTURES])
    return folder


def settings(folder):
    """The configuration of a written folder, checked as a run checks it before it opens anything."""
    publish()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(folder), version_base="1.3"):
        config = compose("tune", overrides=[f"hydra.searchpath=['file://{conf_dir()}']"])
    found = run_config(OmegaConf.to_container(config, resolve=True))
    for kind in ("strategy", "backend", "model", "data", "executor"):
        registry().settings(kind, getattr(found, kind))
    return found


def written(folder, **answers):
    """The settings of a folder written from answers; those that are not given are the proposed ones."""
    starting_folder.init(folder, Answers(proposed=True, **answers))
    return settings(folder)


# --- the folder runs


def test_the_folder_of_the_bundled_sample_runs_as_it_is(tmp_path, command):
    status, out, err = command("nc-strategies", "init", "start", "--yes", cwd=tmp_path)
    assert (status, err) == (0, "")
    assert {path.name for path in (tmp_path / "start").iterdir()} == FILES
    assert out.splitlines()[-1] == "start with: ./start/run.sh"
    status, out, err = command(*shlex.split(out.splitlines()[-1].partition(": ")[2]), *QUICK, cwd=tmp_path)
    assert status in (0, 3), err
    result = json.loads((tmp_path / "start" / "out" / "result.json").read_text())
    assert (result["model"], result["data"], result["goal"]["metric"]) == ("fashion_cnn", "python", "top1")
    assert result["goal"]["tolerable_loss"] == 0.01
    assert result["measure"]["samples"] == 3000
    assert command("nc-strategies", "check", "start/out", cwd=tmp_path)[0] == status


def test_the_folder_of_an_onnx_file_and_an_npz_runs_as_it_is(scene, command):
    """Four answers on standard input; the model and the data are in another folder than the one that is written."""
    answers = f"{MODEL}\ndata.npz\n2%\n\n"
    status, _, err = command("nc-strategies", "init", "it is/new", cwd=scene, answers=answers)
    assert status == 0, err
    assert re.findall(r"^(\d)\. ", err, re.MULTILINE) == ["1", "2", "3", "4"]
    status, _, err = command(str(scene / "it is/new/run.sh"), *QUICK, cwd="/")
    assert status in (0, 3), err
    result = json.loads((scene / "it is/new/out/result.json").read_text())
    assert (result["goal"]["criterion"], result["goal"]["tolerable_loss"]) == ("relative", 0.02)
    calibration = PICTURES // 5
    assert (result["measure"]["samples"], result["measure"]["calibration_samples"]) == (
        PICTURES - calibration,
        calibration,
    )
    assert result["baseline"]["accuracy"] > 0.8
    status, out, err = command("python", "data.py", cwd=scene / "it is/new")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "x: float32 (160, 28, 28, 1), from -1.0 to 1.0",
        "y: int64 (160,), from 0 to 9",
    ]


# --- what is asked


def test_without_standard_input_one_line_names_the_flags(tmp_path, command):
    status, out, err = command("nc-strategies", "init", "new", cwd=tmp_path)
    assert (status, out) == (2, "")
    assert err == (
        "error: --model: is not given, and standard input has no answer; give --model, --data, --loss, --backend; "
        "or --yes\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_asked_where_flags_answer(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    answers = Answers("sample", "sample", "0.5 %", "onnxruntime")
    starting_folder.init(tmp_path / "new", answers)
    assert capsys.readouterr().err == ""
    assert settings(tmp_path / "new").tuning.goal == ("relative", 0.005)


def test_at_a_terminal_a_wrong_answer_is_asked_again(tmp_path, environment):
    there, here = pty.openpty()
    os.write(there, b"no.onnx\nsample\n\nmuch\n1\n0.03 absolute\nonnxruntime\n")
    done = subprocess.run(
        ["nc-strategies", "init", "new"],
        cwd=tmp_path,
        env=environment,
        stdin=here,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    os.close(here)
    os.close(there)
    assert done.returncode == 0, done.stderr
    assert [done.stderr.count(f"{number}. Which") for number in range(1, 5)] == [2, 1, 3, 1]
    assert "--model: no such file: no.onnx" in done.stderr
    assert "--loss: is 'much'" in done.stderr
    assert settings(tmp_path / "new").tuning.goal == ("absolute", 0.03)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"model": "none.onnx"}, "--model: no such file"),
        ({"model": __file__}, "has no known model format"),
        ({"data": "none.npz"}, "--data: no such file"),
        ({"data": __file__}, "--data: the form of "),
        ({"loss": "a lot"}, "--loss: is 'a lot'"),
        ({"loss": "nan"}, "--loss: is 'nan'"),
        ({"loss": "1.5"}, "--loss: "),
        ({"backend": "abacus"}, "abacus"),
    ],
)
def test_an_answer_that_cannot_be_used_writes_nothing(tmp_path, answers, words):
    with pytest.raises(InputError, match=re.escape(words)):
        written(tmp_path / "new", **answers)
    assert list(tmp_path.iterdir()) == []


# --- what is written


def test_nothing_is_replaced_without_force(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.py").write_text("mine")
    status, err = commands.main(["init", "--yes"]), capsys.readouterr().err
    assert (status, err) == (2, "error: FOLDER: . holds data.py already; another FOLDER, or --force\n")
    assert [path.name for path in tmp_path.iterdir()] == ["data.py"]
    assert (tmp_path / "data.py").read_text() == "mine"
    assert commands.main(["init", "--yes", "--force"]) == 0
    assert "def samples()" in (tmp_path / "data.py").read_text()


def test_a_disk_that_fails_leaves_nothing_half_written(tmp_path, monkeypatch):
    opened, asked = Path.open, []

    def failing(path, *args, **kwargs):
        asked.append(path)
        if len(asked) == 3:
            raise OSError(28, "No space left on device")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", failing)
    with pytest.raises(InputError, match="No space left on device"):
        write_folder(tmp_path / "a" / "b", dict.fromkeys("wxyz", "text"))
    assert len(asked) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        written(tmp_path / "file")
    with pytest.raises(InputError, match="a name that Hydra does not interpolate"):
        written(tmp_path / "a${now}b")
    (tmp_path / "folder" / "tune.yaml").mkdir(parents=True)
    with pytest.raises(InputError, match="is a folder"):
        starting_folder.init(tmp_path / "folder", Answers(proposed=True), replace=True)


def test_what_is_inside_the_folder_is_named_from_there(tmp_path):
    dense(tmp_path / "m.onnx", [("x", TensorProto.FLOAT, [None, 8])])
    np.savez(tmp_path / "d.npz", x=np.zeros((500, 8), "f"), y=np.zeros(500, int))
    found = written(tmp_path, model=str(tmp_path / "m.onnx"), data=str(tmp_path / "d.npz"))
    assert found.model["path"] == "m.onnx"
    assert 'SOURCE = "d.npz"' in (tmp_path / "data.py").read_text()
    assert found.data["calibration_samples"] == 100


# --- what is proposed


def test_labels_in_the_file_choose_the_metric(tmp_path):
    model = str(dense(tmp_path / "m.onnx", [("x", TensorProto.FLOAT, [None, 8])]))
    number = str(dense(tmp_path / "n.onnx", [("x", TensorProto.FLOAT, [None, 8])], outputs=1))
    x = np.zeros((300, 8), "f")
    np.savez(tmp_path / "classes.npz", x=x, y=np.zeros(300, int))
    np.savez(tmp_path / "numbers.npz", x=x, y=np.zeros(300, "f"))
    np.savez(tmp_path / "none.npz", x=x)
    cases = {("m", "classes"): "top1", ("n", "numbers"): "mae", ("m", "none"): "cosine", ("n", "none"): "cosine"}
    for (name, data), metric in cases.items():
        folder = tmp_path / f"{name}{data}"
        found = written(folder, model=model if name == "m" else number, data=str(tmp_path / f"{data}.npz"))
        assert found.metrics.accuracy["name"] == metric, (name, data)


def test_a_detector_gets_a_metric_of_boxes_or_none_of_labels(tmp_path):
    """What reads its outputs, whichever labels are there: never a classifier's metric."""

    def model(name, **outputs):
        nodes, constants, declared = [helper.make_node("Flatten", ["x"], ["flat"])], [], []
        for out, shape in outputs.items():
            weights = np.random.default_rng(0).normal(size=(48, int(np.prod(shape)))).astype("f")
            constants += [
                numpy_helper.from_array(weights, f"{out}_w"),
                numpy_helper.from_array(np.array([-1, *shape]), f"{out}_s"),
            ]
            nodes.append(helper.make_node("MatMul", ["flat", f"{out}_w"], [f"{out}_f"]))
            nodes.append(helper.make_node("Reshape", [f"{out}_f", f"{out}_s"], [out]))
            declared.append(helper.make_tensor_value_info(out, TensorProto.FLOAT, ["N", *shape]))
        given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4, 4])
        made = helper.make_model(
            helper.make_graph(nodes, "g", [given], declared, constants),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )
        onnx.save(made, str(tmp_path / f"{name}.onnx"))
        return str(tmp_path / f"{name}.onnx")

    models = {
        "decoded": model("decoded", scores=(8,), boxes=(8, 4), classes=(8,)),
        "raw": model("raw", output0=(60, 8)),
    }
    x = np.zeros((300, 3, 4, 4), "f")
    boxes = {"boxes": np.zeros((9, 4), "f"), "labels": np.zeros(9, int), "image_ids": np.zeros(9, int)}
    np.savez(tmp_path / "boxes.npz", x=x, **boxes)
    np.savez(tmp_path / "classes.npz", x=x, y=np.zeros(300, int))
    read = {"name": "coco_map", "scores": 0, "boxes": 1}
    for name, data, accuracy in (
        ("decoded", "labels", read),
        ("decoded", "no-labels", {"name": "cosine"}),
        ("decoded", str(tmp_path / "boxes.npz"), read),
        ("decoded", str(tmp_path / "classes.npz"), {"name": "cosine"}),
        ("raw", "labels", {"name": "cosine"}),
        ("raw", str(tmp_path / "boxes.npz"), {"name": "cosine"}),
    ):
        folder = tmp_path / f"{name} {Path(data).stem}"
        found = written(folder, model=models[name], data=data).metrics.accuracy
        assert {key: found[key] for key in accuracy} == accuracy, (name, data)
        if (name, data) == ("decoded", "labels"):
            assert "nc_strategies.data.labels.pack_boxes" in (folder / "data.py").read_text()


def test_preprocessing_of_the_models_metadata_is_proposed(tmp_path):
    model = dense(tmp_path / "m.onnx", [("x", TensorProto.FLOAT, [None, 8])], mean="[0.5]", std="[0.25]")
    np.savez(tmp_path / "d.npz", x=np.zeros((300, 8), "f"), y=np.zeros(300, int))
    found = written(tmp_path / "new", model=str(model), data=str(tmp_path / "d.npz"))
    assert registry().settings("data", found.data).preprocess.mean == [0.5]
    assert registry().settings("data", found.data).preprocess.std == [0.25]
    assert "Look at the preprocessing" in (tmp_path / "new" / "README.md").read_text()


def test_bytes_for_a_float_input_get_a_scale_to_look_at(tmp_path):
    model = dense(tmp_path / "m.onnx", [("x", TensorProto.FLOAT, [None, 8])])
    np.savez(tmp_path / "d.npz", x=np.zeros((300, 8), np.uint8), y=np.zeros(300, int))
    found = written(tmp_path / "new", model=str(model), data=str(tmp_path / "d.npz"))
    assert registry().settings("data", found.data).preprocess.scale == pytest.approx(1 / 255)
    assert "Look at the preprocessing" in (tmp_path / "new" / "README.md").read_text()


def test_pictures_get_the_size_and_layout_of_the_input(tmp_path):
    (tmp_path / "pictures" / "cats").mkdir(parents=True)
    sizes = {"large": [None, 3, 224, 192], "small": [None, 32, 32, 3]}
    expected = {"large": ([219], [224, 192], "nchw"), "small": ([32, 32], None, None)}
    for name, shape in sizes.items():
        model = dense(tmp_path / f"{name}.onnx", [("x", TensorProto.FLOAT, shape)])
        found = written(tmp_path / name, model=str(model), data=str(tmp_path / "pictures"))
        made = registry().settings("data", found.data)
        assert (made.image.resize, made.image.crop, made.preprocess.layout) == expected[name]
    with pytest.raises(InputError, match="has no subfolder"):
        written(tmp_path / "bad", model=str(model), data=str(tmp_path / "pictures" / "cats"))


def test_tables_and_texts_are_told_apart_by_the_model(tmp_path):
    (tmp_path / "t.csv").write_text("text,label\na,b\n")
    numbers = str(dense(tmp_path / "m.onnx", [("x", TensorProto.FLOAT, [None, 8])]))
    assert written(tmp_path / "a", model=numbers, data=str(tmp_path / "t.csv")).data["name"] == "csv"
    assert (
        written(tmp_path / "b", model=str(samples.text_onnx_model()), data=str(tmp_path / "t.csv")).data["name"]
        == "text"
    )
    assert {path.name for path in (tmp_path / "b").iterdir()} == FILES - {"data.py"}
    assert written(tmp_path / "c", model="sample_text").data["name"] == "sample_text"


def test_data_that_is_not_there_is_random_or_to_be_written(tmp_path, command):
    inputs = [
        ("x", TensorProto.FLOAT, ["batch", 8]),
        ("state", TensorProto.FLOAT, [2, "batch", 4]),
        ("attention_mask", TensorProto.INT64, ["batch", "length"]),
        ("sr", TensorProto.INT64, []),
    ]
    model = str(dense(tmp_path / "m.onnx", inputs))
    found = written(tmp_path / "random", model=model, data="no-labels")
    assert (found.data["axes"], found.data["constants"]) == ({"state": 1}, {"sr": 16000})
    names = {}
    exec((tmp_path / "random" / "data.py").read_text(), names)
    given = names["samples"]()
    assert {name: (array.shape, str(array.dtype)) for name, array in given.items()} == {
        "x": ((300, 8), "float32"),
        "state": ((300, 2, 4), "float32"),
        "attention_mask": ((300, 32), "int64"),
    }
    assert given["attention_mask"].all()
    simple = str(dense(tmp_path / "s.onnx", [("x", TensorProto.FLOAT, [None, 8])]))
    starting_folder.init(tmp_path / "open", Answers(simple, "labels", proposed=True))
    status, _, err = command("./run.sh", "isolation=none", cwd=tmp_path / "open")
    assert (status, err.count("\n")) == (2, 1)
    assert "write samples() in data.py" in err
    assert not (tmp_path / "open" / "out").exists()


def test_an_npz_with_arrays_of_ragged_samples_is_read_as_such(tmp_path):
    model = str(dense(tmp_path / "m.onnx", [("x", TensorProto.FLOAT, [None, None, 8])]))
    np.savez(tmp_path / "d.npz", **{"x.values": np.zeros(800, "f"), "x.offsets": np.arange(0, 801, 80)})
    found = written(tmp_path / "new", model=model, data=str(tmp_path / "d.npz"))
    assert (found.data["name"], found.data["path"]) == ("npz", str(tmp_path / "d.npz"))
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match=r"cannot be read as \.npz"):
        written(tmp_path / "bad", model=model, data=str(tmp_path / "bad.npz"))


def test_a_loss_is_read_as_it_is_said():
    relative, absolute = ("relative", 0.01), ("absolute", 0.05)
    assert choices.read_loss("0.02", relative) == ("relative", 0.02)
    assert choices.read_loss("2%", relative) == ("relative", 0.02)
    assert choices.read_loss("0.5 absolute", relative) == ("absolute", 0.5)
    assert choices.read_loss("0.1", absolute) == ("absolute", 0.1)
    with pytest.raises(InputError, match="takes an absolute loss"):
        choices.read_loss("1%", absolute)


def test_the_written_configuration_is_plain_yaml(scene, tmp_path):
    model = scene / MODEL
    found = written(tmp_path / "new", model=str(model), data=str(scene / "data.npz"))
    assert found.model["path"] == str(model)
    plain = yaml.safe_load((tmp_path / "new" / "tune.yaml").read_text())
    assert plain["defaults"][0] == "config"
