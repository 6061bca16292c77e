"""Models in other floating-point types, models whose weights are files, and models that only onnxruntime opens."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import nc_strategies
from nc_strategies.backends.onnxruntime.backend import OnnxRuntimeBackend
from nc_strategies.backends.onnxruntime.settings import OnnxRuntimeSettings
from nc_strategies.errors import InputError
from nc_strategies.models import ModelSource
from nc_strategies.onnx_graph import external
from nc_strategies.space import Space

HALF_TYPES = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
WIDTH, CLASSES = 64, 10


class Model:
    """A classifier of three products, with further nodes behind them."""

    def __init__(self, data_type=TensorProto.FLOAT, io=None, seed=0):
        self.type, self.io, self.rng = data_type, io or data_type, np.random.default_rng(seed)
        self.dtype = helper.tensor_dtype_to_np_dtype(data_type)
        self.nodes, self.weights, self.last, self.functions, self.domains = [], [], "x", [], {"": 17}
        if self.io != data_type:
            self.add("Cast", ["x"], to=data_type)
        for index, (rows, columns) in enumerate(((WIDTH, 128), (128, 128), (128, CLASSES))):
            scale = (2 / rows) ** 0.5
            weight = self.constant(f"w{index}", self.rng.normal(size=(rows, columns)) * scale)
            self.add("Gemm", [self.last, weight, self.constant(f"b{index}", np.zeros(columns))])
            if index < 2:
                self.add("Relu", [self.last])

    def constant(self, name, values, dtype=None):
        self.weights.append(numpy_helper.from_array(np.asarray(values).astype(dtype or self.dtype), name))
        return name

    def add(self, op, inputs, output="", **attributes):
        name = f"{op}_{len(self.nodes)}"
        self.last = output or f"{name}_out"
        self.nodes.append(helper.make_node(op, inputs, [self.last], name=name, **attributes))
        return self.last

    def proto(self):
        if self.io != self.type:
            self.add("Cast", [self.last], "scores", to=self.io)
        else:
            self.add("Identity", [self.last], "scores")
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "classifier",
            [value("x", self.io, ["N", WIDTH])],
            [value("scores", self.io, ["N", CLASSES])],
            self.weights,
        )
        opsets = [helper.make_opsetid(*item) for item in self.domains.items()]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=self.functions)

    def save(self, folder):
        path = folder / "model.onnx"
        onnx.save(self.proto(), path)
        return path


def samples(count=40, dtype=np.float32):
    return np.random.default_rng(1).normal(size=(count, WIDTH)).astype(dtype)


def opened(path):
    backend = OnnxRuntimeBackend(OnnxRuntimeSettings())
    info = backend.load(ModelSource("model", {"onnx": path}))
    space = Space(backend.capabilities())
    backend.calibrate([{"x": samples(dtype=info.inputs[0].dtype)}])
    return backend, space, info


def check(path, tolerance, int8=3):
    """The float form agrees with the model as given, and int8 follows it; returns the backend and the space."""
    backend, space, info = opened(path)
    feed = {"x": samples(dtype=info.inputs[0].dtype)}
    given = np.asarray(backend.reference().predict(feed)[0], np.float64)
    in_float = backend.build(space.all_float()).predict(feed)[0]
    assert np.abs(in_float - given).max() <= tolerance * np.abs(given).max()
    run = backend.build(space.default())
    assert run.executed().int8_count >= int8
    assert np.abs(run.predict(feed)[0] - given).max() < 0.1 * np.abs(given).max()
    return backend, space


def ends_of(path):
    graph = onnx.load(path).graph
    return [v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)]


# Half, bfloat16 and double graphs


@pytest.mark.parametrize("io", ["same", "float"])
@pytest.mark.parametrize("data_type", HALF_TYPES, ids=TensorProto.DataType.Name)
def test_another_floating_point_type_runs_in_int8_and_keeps_its_ends(tmp_path, data_type, io):
    ends = data_type if io == "same" else TensorProto.FLOAT
    path = Model(data_type, ends).save(tmp_path)
    backend, space = check(path, tolerance=1e-5 if data_type == TensorProto.DOUBLE else 2e-2)
    assert ends_of(backend.save(space.default(), tmp_path / "saved")) == [ends, ends]
    assert "keep their types" in " ".join(backend.remarks())


@pytest.mark.parametrize("limit", [1.0, 1e4], ids=["then", "else"])
def test_a_branch_that_reads_half_tensors_outside_is_converted(tmp_path, limit):
    model = Model(TensorProto.FLOAT16)
    outside = model.last
    value = helper.make_tensor_value_info("then_out", TensorProto.FLOAT16, None)
    two = numpy_helper.from_array(np.float16(2.0), "two")
    then = helper.make_graph([helper.make_node("Mul", [outside, "two"], ["then_out"])], "then", [], [value], [two])
    half = helper.make_node("Constant", [], ["half"], value=numpy_helper.from_array(np.float16(0.5)))
    nodes = [
        half,
        helper.make_node("Mul", [outside, "half"], ["product"]),
        helper.make_node("ReduceMax", ["x"], ["input_peak"], keepdims=0),
        helper.make_node("Add", ["product", "input_peak"], ["else_out"]),
    ]
    value = helper.make_tensor_value_info("else_out", TensorProto.FLOAT16, None)
    otherwise = helper.make_graph(nodes, "else", [], [value])
    model.add("ReduceMax", [outside], "peak", keepdims=0)
    model.add("Greater", ["peak", model.constant("limit", limit)], "above")
    model.add("If", ["above"], then_branch=then, else_branch=otherwise)
    check(model.save(tmp_path), tolerance=1e-2)


def test_types_that_nodes_name_are_converted(tmp_path):
    model = Model(TensorProto.FLOAT16)
    scores = model.last
    model.add("Shape", [scores], "shape")
    filled = model.add("ConstantOfShape", ["shape"], value=numpy_helper.from_array(np.array([0.25], np.float16)))
    eye = model.add("EyeLike", [scores], dtype=TensorProto.FLOAT16)
    model.add("Add", [model.add("Add", [scores, filled]), eye])
    model.add("CastLike", [model.last, "b0"])
    check(model.save(tmp_path), tolerance=1e-2)


def test_an_operator_without_float32_keeps_its_type(tmp_path):
    model = Model(TensorProto.FLOAT16)
    model.add("SequenceConstruct", [model.last, model.last], "pair")
    model.add("SequenceAt", ["pair", model.constant("one", 1, np.int64)])
    backend, space = check(model.save(tmp_path), tolerance=1e-2)
    saved = onnx.load(backend.save(space.default(), tmp_path / "saved"))
    assert [n.op_type for n in saved.graph.node].count("SequenceConstruct") == 1


def test_double_arithmetic_beside_float_products_is_left_alone(tmp_path):
    model = Model()
    scores = model.last
    model.add("Cast", [scores], to=TensorProto.DOUBLE)
    model.add("Add", [model.last, model.constant("tiny", 1e-12, np.float64)])
    model.add("Cast", [model.last], to=TensorProto.FLOAT)
    backend, space = check(model.save(tmp_path), tolerance=1e-6)
    assert backend.remarks() == ()
    saved = onnx.load(backend.save(space.default(), tmp_path / "saved"))
    assert "tiny" in {i.name for i in saved.graph.initializer if i.data_type == TensorProto.DOUBLE}


def test_a_half_model_is_tuned_on_data_in_float32(tmp_path):
    path = Model(TensorProto.FLOAT16).save(tmp_path)
    x = samples(200)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    y = session.run(None, {"x": x.astype(np.float16)})[0].argmax(1)
    study = nc_strategies.tune(
        path, (x, y), run_dir=tmp_path / "run", max_trials=1, latency_runs=20, final_runs=20, tolerable_loss=0.1
    )
    assert study.result["baseline"]["accuracy"] == 1.0
    assert study.result["tuned"]["int8_ops"] == 3
    run = ort.InferenceSession(study.model_path, providers=["CPUExecutionProvider"])
    assert run.get_inputs()[0].type == run.get_outputs()[0].type == "tensor(float16)"


# Weights in files


@pytest.fixture
def everything_is_large(monkeypatch):
    """Limits at which a model of some kilobytes takes the way of one above 2 GB."""
    limits = replace(external.LIMITS, model_bytes=1000, tensor_bytes=256, message_bytes=1000)
    monkeypatch.setattr(external, "LIMITS", limits)


def save_external(model, folder, **how):
    path = folder / "model.onnx"
    onnx.save(model.proto(), path, save_as_external_data=True, size_threshold=16, **how)
    return path


@pytest.mark.parametrize("how", ["one file", "many files", "inline", "half"])
def test_large_weights_stay_in_files_from_loading_to_saving(tmp_path, monkeypatch, everything_is_large, how):
    given = tmp_path / "given"
    given.mkdir()
    model = Model(TensorProto.FLOAT16 if how == "half" else TensorProto.FLOAT)
    if how == "inline":
        path = model.save(given)
    else:
        path = save_external(
            model,
            given,
            location="weights.bin" if how != "many files" else None,
            all_tensors_to_one_file=how != "many files",
        )
    monkeypatch.chdir(tmp_path)
    backend, space = check(path.relative_to(tmp_path), tolerance=1e-2)
    for initializer in backend.graph.model.graph.initializer:
        assert external.is_external(initializer) == (np.prod(initializer.dims) * 4 >= 256)
    if how in ("one file", "many files"):
        places = {
            e.value for i in backend.graph.model.graph.initializer for e in i.external_data if e.key == "location"
        }
        assert all(place.startswith(str(given.resolve().relative_to("/"))) for place in places)
    saved = backend.save(space.default(), tmp_path / "saved")
    assert {file.name for file in saved.parent.iterdir()} == {"model.onnx", "model.onnx.data"}
    assert saved.stat().st_size < 8000
    x = samples(dtype=np.float16 if how == "half" else np.float32)
    mine = backend.build(space.default())
    assert mine.size_bytes == pytest.approx(sum(f.stat().st_size for f in saved.parent.iterdir()), rel=0.5)
    out = ort.InferenceSession(saved, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    assert np.array_equal(out.astype(np.float32), mine.predict({"x": x})[0])


def test_weights_that_fit_one_file_in_int8_are_saved_in_one(tmp_path, monkeypatch):
    monkeypatch.setattr(external, "LIMITS", replace(external.LIMITS, model_bytes=1000, tensor_bytes=256))
    path = save_external(Model(), tmp_path, location="weights.bin")
    backend, space = check(path, tolerance=1e-4)
    saved = backend.save(space.default(), tmp_path / "saved")
    assert [file.name for file in saved.parent.iterdir()] == ["model.onnx"]
    assert not any(external.is_external(i) for i in onnx.load(saved).graph.initializer)


def test_files_of_weights_are_removed_with_the_backend(tmp_path, everything_is_large):
    backend, _, _ = opened(Model().save(tmp_path))
    folder = backend.graph.files.folder
    assert folder.is_dir()
    del backend
    assert not folder.exists()


@pytest.mark.parametrize("damage", ["missing", "short", "outside", "length"])
def test_external_data_that_is_wrong_is_refused_in_one_line(tmp_path, damage):
    path = save_external(Model(), tmp_path, location="weights.bin")
    if damage == "missing":
        (tmp_path / "weights.bin").unlink()
    elif damage == "short":
        os.truncate(tmp_path / "weights.bin", 100)
    else:
        model = onnx.load(path, load_external_data=False)
        entries = {e.key: e for e in model.graph.initializer[0].external_data}
        if damage == "outside":
            entries["location"].value = "../weights.bin"
        else:
            entries["length"].value = "4"
        path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"external data cannot be read \(.*'w0'") as refused:
        OnnxRuntimeBackend(OnnxRuntimeSettings()).load(ModelSource("model", {"onnx": path}))
    assert "\n" not in str(refused.value)


def test_external_data_behind_links_is_read_as_onnxruntime_reads_it(tmp_path):
    store, view = tmp_path / "blobs", tmp_path / "snapshot"
    store.mkdir()
    view.mkdir()
    path = save_external(Model(), store, location="weights.bin")
    for file in (path, store / "weights.bin"):
        (view / file.name).symlink_to(file)
    ort.InferenceSession(view / "model.onnx", providers=["CPUExecutionProvider"])
    check(view / "model.onnx", tolerance=1e-5)
    backend = OnnxRuntimeBackend(OnnxRuntimeSettings())
    assert backend.companions(view / "model.onnx") == (view / "weights.bin",)


def test_the_export_of_a_large_model_takes_its_weights_along(tmp_path, everything_is_large):
    from nc_strategies.app.export import export

    path = Model().save(tmp_path)
    x = samples(200)
    y = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0].argmax(1)
    run = nc_strategies.tune(
        path, (x, y), run_dir=tmp_path / "run", max_trials=1, latency_runs=20, final_runs=20, tolerable_loss=0.5
    ).run_dir
    expected = ort.InferenceSession(run / "model/model.onnx").run(None, {"x": x})[0]
    copy = export(run, tmp_path / "copies" / "mine.onnx")
    with pytest.raises(InputError, match=r"model.onnx.data exists"):
        export(run, tmp_path / "copies" / "other.onnx")
    shutil.rmtree(run)
    assert np.array_equal(ort.InferenceSession(copy).run(None, {"x": x})[0], expected)


# Models that onnxruntime opens


def with_function():
    model = Model()
    product = helper.make_node("MatMul", ["a", "w"], ["b"], "product")
    model.functions = [
        helper.make_function("mine", "Linear", ["a", "w"], ["b"], [product], [helper.make_opsetid("", 17)])
    ]
    model.domains["mine"] = 1
    weight = model.constant("last_weight", model.rng.normal(size=(CLASSES, CLASSES)))
    model.add("Linear", [model.add("Linear", [model.last, weight], domain="mine"), weight], domain="mine")
    return model.proto()


def with_sparse_weight(rows):
    proto = Model().proto()
    index = next(i for i, w in enumerate(proto.graph.initializer) if w.name == "w1")
    values = numpy_helper.to_array(proto.graph.initializer[index])
    places = np.argwhere(np.abs(values) > 0.05)
    flat = np.ravel_multi_index(tuple(places.T), values.shape)
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(values[tuple(places.T)], "w1"),
        numpy_helper.from_array(places if rows else flat, "w1_places"),
        list(values.shape),
    )
    del proto.graph.initializer[index]
    proto.graph.sparse_initializer.append(sparse)
    return proto


def with_sparse_constant():
    model = Model()
    scores, values = model.last, numpy_helper.from_array(np.array([1, 2], np.float32), "values")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([0, 3]), "places"), [CLASSES])
    model.add("Add", [scores, model.add("Constant", [], sparse_value=sparse)])
    return model.proto()


def with_optional():
    model = Model()
    model.add("OptionalGetElement", [model.add("Optional", [model.last])])
    return model.proto()


def with_normalizer():
    model = Model()
    model.domains["ai.onnx.ml"] = 3
    model.add("Normalizer", [model.last], domain="ai.onnx.ml", norm="L2")
    return model.proto()


def in_the_long_domain():
    proto = Model().proto()
    proto.opset_import[0].domain = "ai.onnx"
    return proto


@pytest.mark.parametrize(
    ("make", "int8"),
    [
        (with_function, 5),
        (lambda: with_sparse_weight(rows=True), 3),
        (lambda: with_sparse_weight(rows=False), 3),
        (with_sparse_constant, 4),
        (with_optional, 3),
        (with_normalizer, 3),
        (in_the_long_domain, 3),
    ],
    ids=["function", "sparse rows", "sparse", "sparse constant", "optional", "ai.onnx.ml", "ai.onnx"],
)
def test_what_onnxruntime_opens_runs_in_int8(tmp_path, make, int8):
    path = tmp_path / "model.onnx"
    path.write_bytes(make().SerializeToString())
    ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    backend, space = check(path, tolerance=1e-5, int8=int8)
    saved = backend.save(space.default(), tmp_path / "saved")
    ort.InferenceSession(saved, providers=["CPUExecutionProvider"])


def test_outputs_that_are_no_arrays_and_inputs_of_no_shape_are_tuned(tmp_path):
    model = Model()
    model.domains["ai.onnx.ml"] = 3
    proto = model.proto()
    classes = list(range(CLASSES))
    proto.graph.node.extend(
        [
            helper.make_node("ZipMap", ["scores"], ["map"], domain="ai.onnx.ml", classlabels_int64s=classes),
            helper.make_node("SequenceConstruct", ["scores"], ["list"]),
            helper.make_node("Cast", ["scores"], ["text"], to=TensorProto.STRING),
        ]
    )
    maps = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    proto.graph.output.append(helper.make_value_info("map", helper.make_sequence_type_proto(maps)))
    proto.graph.output.append(helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, None))
    proto.graph.output.append(helper.make_tensor_value_info("text", TensorProto.STRING, None))
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.ClearField("shape")
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    x = samples(200)
    y = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(["scores"], {"x": x})[0].argmax(1)
    study = nc_strategies.tune(
        path,
        (x, y),
        output="scores",  # the map fits the labels too
        run_dir=tmp_path / "run",
        max_trials=1,
        latency_runs=20,
        final_runs=20,
        tolerable_loss=0.5,
    )
    assert study.result["baseline"]["accuracy"] == 1.0
    assert study.result["tuned"]["int8_ops"] == 3
    outputs = ort.InferenceSession(study.model_path).get_outputs()
    assert [o.name for o in outputs] == ["scores", "map", "list", "text"]


def test_text_inputs_and_missing_inputs_are_refused_by_their_type(tmp_path):
    proto = Model().proto()
    proto.graph.input.append(helper.make_tensor_value_info("text", TensorProto.STRING, ["N"]))
    proto.graph.node.append(helper.make_node("Identity", ["text"], ["echo"]))
    proto.graph.output.append(helper.make_tensor_value_info("echo", TensorProto.STRING, ["N"]))
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match=r"input 'text' is of type tensor\(string\)"):
        opened(path)
    nodes = [helper.make_node("RandomNormal", [], ["r"], shape=[4, 4]), helper.make_node("MatMul", ["r", "r"], ["y"])]
    graph = helper.make_graph(nodes, "g", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 4])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="has no inputs"):
        opened(path)


def test_onnxruntimes_own_format_is_refused_by_name(tmp_path):
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(Model().save(tmp_path), options, providers=["CPUExecutionProvider"])
    with pytest.raises(InputError, match="onnxruntime's own format"):
        opened(tmp_path / "model.ort")
