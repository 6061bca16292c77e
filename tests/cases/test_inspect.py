"""What ``nc-strategies inspect`` says of models, from their files alone."""

import json
import shlex
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nc_strategies import samples
from nc_strategies.app.commands import main
from nc_strategies.app.hydra_app import translate
from nc_strategies.app.inspect import inspect, render
from nc_strategies.config import SpaceConfig
from nc_strategies.errors import InputError
from nc_strategies.onnx_graph.header import read_header
from nc_strategies.registry import registry
from nc_strategies.space import FLOAT, Capabilities, FloatOp, OpCapability, OpScheme, TensorScheme
from nc_strategies.study.setup import make_space

WIDTH, HIDDEN, CLASSES = 16, 32, 5
INT8 = OpScheme(TensorScheme("uint8", "asym"), TensorScheme("int8", "sym", "per_channel"))


def weight(name, *shape, dtype=np.float32):
    values = np.random.default_rng(len(name)).normal(size=shape) / 4
    return numpy_helper.from_array(values.astype(dtype), name)


def info(name, shape, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def saved(path, nodes, inputs, outputs, constants, metadata=None):
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="maker")
    if metadata:
        helper.set_model_props(model, metadata)
    onnx.save(model, str(path))
    return path


def dense(path, bias=(HIDDEN,), metadata=None, **attributes):
    """Gemm, Relu and a MatMul by a weight that is computed."""
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], "first", **attributes),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "v"], ["scores"], "last"),
    ]
    constants = [weight("w", WIDTH, HIDDEN), weight("b", *bias), weight("v", HIDDEN, CLASSES)]
    return saved(path, nodes, [info("x", ["N", WIDTH])], [info("scores", ["N", CLASSES])], constants, metadata)


def reasons(found):
    return {row["type"]: row["float"] for row in found["operators"] if row["float"]}


def test_a_model_is_described_from_its_file(tmp_path):
    names = "{" + ", ".join(f"{i}: 'class {i}'" for i in range(50)) + "}"
    metadata = {"names": names, "mean": "0.5,0.4,0.3", "std": "[0.2, 0.2, 0.1]"}
    found = inspect(dense(tmp_path / "m.onnx", metadata=metadata))
    assert (found["format"], found["quantized"], found["refused"]) == ("onnx", "", "")
    assert found["versions"] == {"IR version": "8", "opset": "17", "written by": "maker"}
    assert found["inputs"] == [
        {
            "name": "x",
            "dtype": "float32",
            "shape": ["N", WIDTH],
            "sample_axis": 0,
            "suggested_by": "its size is named 'N'",
            "free_axes": [],
        }
    ]
    assert found["metadata"]["names"].endswith("... (780 characters)")
    assert [(row["type"], row["int8"]) for row in found["operators"]] == [("Gemm", 2)]
    assert "data.preprocess.mean=[0.5,0.4,0.3]" in found["start"]["arguments"]
    assert "data.preprocess.std=[0.2,0.2,0.1]" in found["start"]["arguments"]
    text = render(found)
    assert "operators on onnxruntime, after folding: 2 of 2 can be int8" in text
    assert f"data.npz holds x: float32 (N, {WIDTH}); y: int64 (N,), class numbers from 0 to {CLASSES - 1}" in text


def test_axes_that_count_samples_are_told_apart(tmp_path):
    nodes = [
        helper.make_node("Gemm", ["input", "w"], ["h"], "g"),
        helper.make_node("ReduceSum", ["state", "axis"], ["s"], "sum", keepdims=0),
        helper.make_node("Add", ["h", "s"], ["a"], "add"),
        helper.make_node("Cast", ["sr"], ["rate"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["a", "rate"], ["scores"], "mul"),
        helper.make_node("Identity", ["state"], ["next"], "id"),
    ]
    found = inspect(
        saved(
            tmp_path / "m.onnx",
            nodes,
            [info("input", ["batch", WIDTH]), info("state", [2, "batch", HIDDEN]), info("sr", [], TensorProto.INT64)],
            [info("scores", ["batch", HIDDEN]), info("next", [2, "batch", HIDDEN])],
            [weight("w", WIDTH, HIDDEN), numpy_helper.from_array(np.array([0]), "axis")],
        )
    )
    axes = {entry["name"]: entry["sample_axis"] for entry in (*found["inputs"], *found["outputs"])}
    assert axes == {"input": 0, "state": 1, "sr": None, "scores": 0, "next": 1}


@pytest.mark.parametrize(
    ("shape", "output", "axis", "why"),
    [
        ([1, WIDTH], [HIDDEN], None, "no input has as many"),
        ([1, WIDTH], ["found", 5], None, "no input has free batches"),
        ([8, WIDTH], [8, 5], 0, "batches of 8"),
        ([None, WIDTH], [None, 5], 0, "axis 0 is free"),
    ],
)
def test_an_output_s_axis_is_judged_by_the_inputs(shape, output, axis, why):
    from nc_strategies.models.facts import TensorFacts, sample_axis

    inputs = [TensorFacts("x", "float32", tuple(shape))]
    found, reason = sample_axis(TensorFacts("y", "float32", tuple(output)), inputs)
    assert found == axis
    assert why in reason


def test_operators_that_stay_float_have_the_true_reason(tmp_path):
    nodes = [
        helper.make_node("Softplus", ["x"], ["p"], "plus"),
        helper.make_node("Conv", ["x", "kernel"], ["c"], "conv"),
        helper.make_node("LSTM", ["seq", "lw", "lr"], ["", "last"], "lstm", hidden_size=4),
        helper.make_node("Gemm", ["flat", "v"], ["scores"], "gemm"),
        helper.make_node("Transpose", ["c"], ["t"], "t", perm=[0, 2, 1]),
        helper.make_node("Flatten", ["t"], ["flat"], "f"),
    ]
    nodes = [nodes[i] for i in (0, 1, 2, 4, 5, 3)]
    path = saved(
        tmp_path / "m.onnx",
        nodes,
        [info("x", ["N", 2, 8]), info("kernel", [3, 2, 1]), info("seq", [6, "N", 2])],
        [info("scores", ["N", CLASSES]), info("p", ["N", 2, 8]), info("last", [1, "N", 4])],
        [weight("lw", 1, 16, 2), weight("lr", 1, 16, 4), weight("v", 24, CLASSES)],
    )
    told = reasons(inspect(path))
    assert told["Conv"] == {"its weight is computed, not constant": 1}
    assert told["Softplus"] == {"the engine has no int8 kernel": 1}
    assert "LSTM" not in told  # the dynamic kernel takes it
    assert "Gemm" not in told


def test_a_double_model_is_described_though_nothing_runs_in_int8(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "m")]
    path = saved(
        tmp_path / "m.onnx",
        nodes,
        [info("x", ["N", WIDTH], TensorProto.DOUBLE)],
        [info("y", ["N", 4], TensorProto.DOUBLE)],
        [weight("w", WIDTH, 4, dtype=np.float64)],
    )
    found = inspect(path)
    assert found["inputs"][0]["dtype"] == "float64"
    if found["refused"]:
        assert next(iter(reasons(found)["MatMul"])).startswith("computes in fp64")
        assert found["start"] is None


def test_a_quantized_model_is_told_and_gets_no_command(tmp_path):
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], "dql"),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["i"], "mmi"),
        helper.make_node("Cast", ["i"], ["y"], "cast", to=TensorProto.FLOAT),
    ]
    constants = [numpy_helper.from_array(np.ones((WIDTH, 4), np.uint8), "w")]
    path = saved(tmp_path / "m.onnx", nodes, [info("x", ["N", WIDTH])], [info("y", ["N", 4])], constants)
    found = inspect(path)
    assert found["quantized"] == "1 DynamicQuantizeLinear, 1 MatMulInteger"
    assert found["start"] is None
    assert "quantized" in found["refused"]


def test_a_model_that_the_engine_refuses_is_described_with_the_reason(tmp_path, capsys):
    nodes = [helper.make_node("NoSuchOperator", ["x"], ["y"], "n")]
    path = saved(tmp_path / "m.onnx", nodes, [info("x", ["N", 3])], [info("y", ["N", 3])], [])
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "cannot be tuned on onnxruntime: the engine refuses the model" in shown
    assert "operators in the file: NoSuchOperator 1" in shown


def test_a_header_is_the_model_without_values(tmp_path):
    path = dense(tmp_path / "m.onnx")
    whole, header = onnx.load(str(path)), read_header(path)
    assert header.ByteSize() < 1000 < whole.ByteSize()
    assert [(i.name, list(i.dims)) for i in header.graph.initializer] == [
        (i.name, list(i.dims)) for i in whole.graph.initializer
    ]
    for tensor in whole.graph.initializer:
        tensor.ClearField("raw_data")
    assert header == whole


@pytest.mark.parametrize("length", [0, 1, 7, 200, -300])
def test_an_unreadable_file_is_one_line_and_status_2(tmp_path, capsys, length):
    content = dense(tmp_path / "whole.onnx").read_bytes()
    path = tmp_path / "broken.onnx"
    path.write_bytes(content[:length])
    assert main(["inspect", str(path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("error: MODEL: ")


def test_what_is_no_model_is_status_2(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "fake.keras").write_bytes(b"not a zip archive")
    for name in ("missing.onnx", "notes.txt", "fake.keras", "."):
        assert main(["inspect", str(tmp_path / name)]) == 2
    assert main(["inspect", str(dense(tmp_path / "m.onnx")), "--backend", "nowhere"]) == 2
    assert capsys.readouterr().err.count("\n") == 5


def test_the_command_to_start_with_runs(tmp_path):
    """An odd name survives the shell and Hydra, and the arrays are as they were described."""
    folder = tmp_path / "it's (1)"
    folder.mkdir()
    found = inspect(dense(folder / "epoch=9,b.onnx"))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, WIDTH)).astype(np.float32), rng.integers(CLASSES, size=200)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    assert found["start"]["labels"] == f"int64 (N,), class numbers from 0 to {CLASSES - 1}"
    arguments = shlex.split(found["start"]["command"])
    assert arguments[0] == "nc-strategies"
    done = subprocess.run(
        [sys.executable, "-m", "nc_strategies", *arguments[1:], "plan=true", "metrics.allow_poor_baseline=true"],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Gemm" in done.stdout


def test_an_onnx_file_is_inspected_without_tensorflow(tmp_path):
    code = (
        "import sys; from nc_strategies.app.commands import main;"
        f"status = main(['inspect', {str(samples.onnx_model())!r}, '--json']);"
        "sys.exit(status or 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["start"]["arguments"][:2] == ["nc-strategies", "model=onnx"]
    assert sum(row["int8"] for row in found["operators"]) > 3


@pytest.mark.slow
def test_a_keras_file_is_described_by_layers_and_operators(capsys):
    assert main(["inspect", str(samples.keras_model()), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["file_operators"]["counted"] == "layers"
    assert found["file_operators"]["types"]["Conv2D"] > 0
    assert next(row for row in found["operators"] if row["type"] == "Conv2D")["int8"] > 0
    assert reasons(found)["Softmax"] == {"the engine has no int8 kernel": 1}


def test_a_refusal_names_reasons_by_type_and_not_the_overrides():
    able = Capabilities((), float_ops=tuple(FloatOp(f"g{i}", "Gemm", "its alpha is 2", True) for i in range(3)))
    with pytest.raises(InputError, match=r"^model: no operator .* \(3 Gemm: its alpha is 2\)$"):
        make_space(SimpleNamespace(space=SpaceConfig({}, {})), able)


def test_a_refusal_blames_overrides_where_they_removed_int8():
    able = Capabilities((OpCapability("c", "Conv", (INT8, FLOAT)),), float_ops=(FloatOp("s", "Sub", "no kernel"),))
    overrides = {"Conv": {"activation": {"dtype": ["fp32"]}}}
    with pytest.raises(InputError, match=r"^space: the overrides leave no operator in int8; .*: 1 Conv$"):
        make_space(SimpleNamespace(space=SpaceConfig(overrides, {})), able)


def test_a_refused_run_says_what_about_the_model_is_the_reason(tmp_path):
    import nc_strategies

    nodes = [helper.make_node("Softplus", ["x"], ["y"], "plus")]
    path = saved(tmp_path / "m.onnx", nodes, [info("x", ["N", 4])], [info("y", ["N", 4])], [])
    data = np.eye(4, dtype=np.float32).repeat(50, 0), np.arange(4).repeat(50)
    why = r"no operator of this model can run in int8 on this backend \(1 Softplus: the engine has no int8 kernel\)$"
    with pytest.raises(InputError, match=why):
        nc_strategies.tune(path, data, run_dir=tmp_path / "out", max_trials=1)


def test_the_path_of_the_command_is_quoted_for_hydra_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argument = inspect(dense(tmp_path / "a b#1.onnx"))["start"]["arguments"][2]
    assert argument == f"model.path='{tmp_path}/a b#1.onnx'"
    assert translate([argument]) == [argument]


def detector(path, **outputs):
    """A model of pictures with outputs by name: their types, float32 or int64, and the shapes of a sample."""
    nodes = [helper.make_node("Flatten", ["picture"], ["flat"], "flat")]
    constants, declared = [], []
    for name, (kind, shape) in outputs.items():
        kernel = np.random.default_rng(len(name)).uniform(size=(48, int(np.prod(shape)))).astype(np.float32)
        constants += [
            numpy_helper.from_array(kernel, f"{name}_weight"),
            numpy_helper.from_array(np.array([-1, *shape]), f"{name}_shape"),
        ]
        nodes.append(helper.make_node("MatMul", ["flat", f"{name}_weight"], [f"{name}_flat"], f"{name}_product"))
        made = name if kind is float else f"{name}_float"
        nodes.append(helper.make_node("Reshape", [f"{name}_flat", f"{name}_shape"], [made], f"{name}_reshape"))
        if kind is int:
            nodes.append(helper.make_node("Cast", [made], [name], f"{name}_cast", to=TensorProto.INT64))
        declared.append(info(name, ["N", *shape], TensorProto.FLOAT if kind is float else TensorProto.INT64))
    return saved(path, nodes, [info("picture", ["N", 3, 4, 4])], declared, constants)


def started(path):
    """The words of the suggested command that are about metrics, and the notes."""
    start = inspect(path)["start"]
    return [word for word in start["arguments"] if word.startswith("metrics")], start["notes"], start["detector"]


BOXES, NUMBERS = (float, (8, 4)), (float, (8,))


@pytest.mark.parametrize(
    ("outputs", "positions"),
    [
        ({"boxes": BOXES, "scores": NUMBERS, "classes": (int, (8,))}, {}),
        ({"a": BOXES, "b": NUMBERS, "c": NUMBERS}, {}),
        ({"a": BOXES, "b": (int, (8,)), "c": NUMBERS}, {"scores": 2, "classes": 1}),
        (
            {"count": (float, (1,)), "labels": NUMBERS, "confidence": NUMBERS, "xyxy": BOXES},
            {"boxes": 3, "scores": 2, "classes": 1},
        ),
    ],
)
def test_a_detector_gets_the_metric_that_reads_its_outputs(tmp_path, outputs, positions):
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("pycocotools")
    path = detector(tmp_path / "m.onnx", **outputs)
    words, notes, flagged = started(path)
    assert words == ["metrics.accuracy.name=coco_map", *(f"metrics.accuracy.{k}={v}" for k, v in positions.items())]
    assert flagged
    assert "boxes: float32 (M, 4), labels: int64 (M,), image_ids: int64 (M,)" in notes[0]
    found = ort.InferenceSession(str(path)).run(None, {"picture": np.ones((2, 3, 4, 4), np.float32)})
    kept = registry().create("metric", {"name": "coco_map", **positions}).keep(found)
    place = {"boxes": 0, "scores": 1, "classes": 2} | positions
    assert kept[:, 0, 4] == pytest.approx(found[place["scores"]].max(1))
    assert kept[0, 0, :4] == pytest.approx(found[place["boxes"]][0, found[place["scores"]][0].argmax()])


@pytest.mark.parametrize(
    "outputs",
    [
        {"output0": (float, (60, 8))},
        {"output0": (float, (8, 60))},
        {"output0": (float, (60, 8)), "grid": (float, (2, 3, 4, 6))},
        {"logits": (float, (10, 5)), "pred_boxes": (float, (10, 4))},
        {"boxes": BOXES, "scores": NUMBERS},
        {"a": (float, (7, 8, 8)), "b": (float, (7, 4, 4)), "c": (float, (7, 2, 2))},
        {"a": (float, (3, 2, 2, 7)), "b": (float, (3, 4, 4, 7))},
    ],
    ids=["boxes first", "numbers first", "grids beside", "logits and boxes", "no classes", "grids", "grids by anchor"],
)
def test_a_detector_that_no_metric_reads_is_compared_with_fp32(tmp_path, outputs):
    words, notes, flagged = started(detector(tmp_path / "m.onnx", **outputs))
    assert words == ["metrics=fidelity"]
    assert flagged
    assert any("function of your own that decodes them" in note for note in notes)


@pytest.mark.parametrize(
    ("outputs", "metric"),
    [
        ({"scores": (float, (5,))}, "metrics.accuracy.name=top1"),
        ({"scores": (float, (5,)), "hidden": (float, (12, 8))}, "metrics.accuracy.name=top1"),
        ({"patches": (float, (12, 8))}, "metrics=fidelity"),
        ({"mask": (float, (7, 4, 4))}, "metrics.accuracy.name=mean_iou"),
        ({"mask": (float, (7, 4, 4)), "aside": (float, (7, 4, 4))}, "metrics.accuracy.name=mean_iou"),
    ],
)
def test_a_model_of_pictures_that_finds_no_boxes_is_no_detector(tmp_path, outputs, metric):
    words, _, flagged = started(detector(tmp_path / "m.onnx", **outputs))
    assert words[0] == metric
    assert not flagged
