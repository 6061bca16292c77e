"""Models are tuned without labels: fp32's own outputs are the reference."""

import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

import nc_strategies
from nc_strategies.errors import InputError

QUICK = {"max_trials": 2, "latency_runs": 20, "final_runs": 20, "calibration_samples": 40}
WIDTH = 24


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def network(outputs=("z",), tail=(), shapes=None, constants=(), batch="N"):
    """Two Gemm with outputs ``z`` of shape (batch, 6), and what follows."""
    rng = np.random.default_rng(0)
    weights = {"w0": rng.normal(size=(WIDTH, 48)) / 5, "w1": rng.normal(size=(48, 6)) / 7}
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["g0"], "product0"),
        helper.make_node("Relu", ["g0"], ["r0"], "relu0"),
        helper.make_node("MatMul", ["r0", "w1"], ["z"], "product1"),
        *tail,
    ]
    initializers = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    initializers += [numpy_helper.from_array(np.asarray(array), name) for name, array in constants]
    known = {"z": value("z", [batch, 6]), **(shapes or {})}
    graph = helper.make_graph(nodes, "g", [value("x", [batch, WIDTH])], [known[name] for name in outputs], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(1).normal(size=(200, WIDTH)).astype(np.float32)


def outputs_of(model, x):
    given = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    session = onnxruntime.InferenceSession(given, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def cosine(one, other):
    return (one * other).sum(1) / np.sqrt((one**2).sum(1) * (other**2).sum(1))


def tuned(model, data, tmp_path, **options):
    return nc_strategies.tune(model, data, run_dir=tmp_path / "run", **{**QUICK, **options})


def test_data_without_labels_is_compared_with_fp32_and_the_run_says_so(tmp_path, x):
    model = network()
    study = tuned(model, x, tmp_path)
    result = study.result
    assert result["goal"]["metric"] == "cosine"
    assert result["metrics"] == "fidelity"
    assert result["baseline"]["accuracy"] == 1.0
    assert result["goal"]["threshold"] == pytest.approx(0.99)
    want = cosine(*(outputs_of(m, x[40:])[0].astype(float) for m in (model, study.model_path)))
    assert result["tuned"]["accuracy"] == pytest.approx(want.mean(), abs=1e-5)
    low, high = result["tuned"]["accuracy_loss_ci95"]
    assert 0 < low < 1 - want.mean() < high < 0.01
    said = [text for text in result["notices"] if "no labels" in text]
    assert len(said) == 1
    assert "metrics=fidelity" in said[0]
    assert said[0] in (study.run_dir / "nc_strategies.log").read_text()
    assert said[0] in json.dumps(result["notices"])
    told = yaml.safe_load((study.run_dir / "config.yaml").read_text())
    assert (told["metrics"]["name"], told["metrics"]["accuracy"]["name"]) == ("fidelity", "cosine")


def test_data_with_labels_has_its_accuracy_by_default(tmp_path, x):
    model = network()
    result = tuned(model, (x, outputs_of(model, x)[0].argmax(1)), tmp_path, max_trials=1).result
    assert (result["goal"]["metric"], result["metrics"], result["notices"]) == ("top1", "accuracy_latency", [])


@pytest.mark.parametrize(
    ("name", "perfect", "threshold"),
    [
        ("cosine", 1.0, 0.99),
        ("top1_agreement", 1.0, 0.99),
        ("sqnr", 100.0, 30.0),
        ("kl_divergence", 0.0, 0.01),
        ("max_abs_error", 0.0, 0.05),
    ],
)
@pytest.mark.parametrize("labelled", [False, True])
def test_each_fidelity_has_a_goal_and_an_interval(tmp_path, x, name, perfect, threshold, labelled):
    data = (x, np.zeros(len(x), np.int64)) if labelled else x
    result = tuned(network(), data, tmp_path, metric=name, max_trials=1).result
    assert result["baseline"]["accuracy"] == perfect
    assert result["goal"]["threshold"] == pytest.approx(threshold)
    loss = abs(result["tuned"]["accuracy"] - perfect)
    low, high = result["tuned"]["accuracy_loss_ci95"]
    assert low <= loss <= high
    assert loss > 0 or name == "top1_agreement"


@pytest.mark.parametrize("name", ["sqnr", "kl_divergence", "max_abs_error"])
def test_a_relative_loss_of_such_a_metric_is_refused(tmp_path, x, name):
    with pytest.raises(InputError, match=r"tuning\.criterion: is relative") as error:
        tuned(network(), x, tmp_path, metric=name, criterion="relative", tolerable_loss=0.1)
    assert "absolute" in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_loss_without_a_criterion_is_absolute_for_such_a_metric(tmp_path, x):
    result = tuned(network(), x, tmp_path, metric="max_abs_error", tolerable_loss=0.7, max_trials=1).result
    assert (result["goal"]["criterion"], result["goal"]["threshold"]) == ("absolute", 0.7)


def test_a_metric_of_labels_without_labels_names_fidelity(tmp_path, x):
    with pytest.raises(InputError, match=r"has no labels.*metrics=fidelity"):
        tuned(network(), x, tmp_path, metric="top1")
    assert not (tmp_path / "run").exists()


def several_outputs():
    """Scores, a hidden state of other scale, a class number and a constant scale."""
    tail = [
        helper.make_node("Mul", ["r0", "hundred"], ["hidden"], "scale"),
        helper.make_node("ArgMax", ["z"], ["class"], "class", axis=1, keepdims=0),
    ]
    shapes = {"hidden": value("hidden", ["N", 48]), "class": value("class", ["N"], TensorProto.INT64)}
    return network(("hidden", "class", "z"), tail, shapes, [("hundred", np.float32(100))])


def test_all_outputs_with_fractions_are_compared_together(tmp_path, x):
    model = several_outputs()
    study = tuned(model, x, tmp_path, max_trials=1)
    pairs = list(zip(outputs_of(model, x[40:]), outputs_of(study.model_path, x[40:]), strict=True))
    each = [cosine(one.astype(float), other.astype(float)).mean() for one, other in (pairs[0], pairs[2])]
    assert study.result["tuned"]["accuracy"] == pytest.approx(np.mean(each), abs=1e-5)
    assert study.result["outputs"]["cosine"]["output"] == ["hidden", "z"]


@pytest.mark.parametrize(("output", "read"), [("z", "z"), (["z", "hidden"], ["z", "hidden"])])
def test_outputs_can_be_named(tmp_path, x, output, read):
    result = tuned(several_outputs(), x, tmp_path, max_trials=1, output=output).result
    assert result["outputs"]["cosine"]["output"] == read


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"output": "nothing"}, "metrics.accuracy.output: is 'nothing'"),
        ({"output": ["z", "nothing"]}, "metrics.accuracy.output: is 'nothing'"),
        ({"output": "class"}, "metrics.accuracy.output: names class.*top1_agreement"),
        ({"output": ["z"], "metric": "mae"}, "metrics.accuracy.output: is .'z'.*one output"),
    ],
)
def test_outputs_that_cannot_be_compared_are_refused(tmp_path, x, options, problem):
    with pytest.raises(InputError, match=problem):
        tuned(several_outputs(), (x, np.zeros((len(x), 6))), tmp_path, **{"metric": "cosine", **options})


def test_class_numbers_are_compared_by_their_agreement(tmp_path, x):
    tail = [helper.make_node("ArgMax", ["z"], ["class"], "class", axis=1, keepdims=0)]
    model = network(("class",), tail, {"class": value("class", ["N"], TensorProto.INT64)})
    with pytest.raises(InputError, match=r"finds nothing to compare.*top1_agreement"):
        tuned(model, x, tmp_path)
    study = tuned(model, x, tmp_path, metric="top1_agreement", max_trials=1)
    same = outputs_of(model, x[40:])[0] == outputs_of(study.model_path, x[40:])[0]
    assert study.result["tuned"]["accuracy"] == pytest.approx(same.mean())


def test_an_output_with_a_row_for_each_find_is_compared_sample_by_sample(tmp_path, x):
    tail = [
        helper.make_node("Flatten", ["z"], ["flat"], "flatten", axis=0),
        helper.make_node("Greater", ["flat", "cut"], ["found"], "greater"),
        helper.make_node("NonZero", ["found"], ["places"], "nonzero"),
        helper.make_node("GatherND", ["flat", "turned"], ["finds"], "finds"),
        helper.make_node("Transpose", ["places"], ["turned"], "turn", perm=[1, 0]),
    ]
    tail = [tail[0], tail[1], tail[2], tail[4], tail[3]]
    model = network(("finds",), tail, {"finds": value("finds", ["M"])}, [("cut", np.float32(0.2))])
    result = tuned(model, x[:120], tmp_path, max_trials=1, tolerable_loss=0.5).result
    assert result["baseline"]["accuracy"] == 1.0
    assert result["outputs"]["cosine"]["one_by_one"]
    assert 0.4 < result["tuned"]["accuracy"] < 1


def test_minus_infinity_of_a_mask_is_left_out(tmp_path, x):
    tail = [helper.make_node("Where", ["mask", "z", "low"], ["masked"], "where")]
    constants = [("mask", np.array([[True] * 5 + [False]])), ("low", np.float32(-np.inf))]
    model = network(("masked",), tail, {"masked": value("masked", ["N", 6])}, constants)
    for name, perfect in (("cosine", 1.0), ("kl_divergence", 0.0)):
        result = tuned(model, x, tmp_path / name, metric=name, max_trials=1).result
        assert result["baseline"]["accuracy"] == perfect
        assert "infinite" in result["outputs"][name]["read_as"]


def test_a_constant_output_does_not_make_the_baseline_poor(tmp_path, x):
    tail = [helper.make_node("Mul", ["z", "zero"], ["nothing"], "nothing")]
    model = network(("nothing", "z"), tail, {"nothing": value("nothing", ["N", 6])}, [("zero", np.float32(0))])
    result = tuned(model, x, tmp_path, max_trials=1).result
    assert result["baseline"]["accuracy"] == 1.0


@pytest.mark.parametrize("name", ["cosine", "sqnr", "kl_divergence", "max_abs_error"])
def test_a_hopeless_trial_is_stopped_early(tmp_path, name):
    many = np.random.default_rng(2).normal(size=(1500, WIDTH)).astype(np.float32)
    tolerable = {"cosine": 1e-9, "sqnr": 0.01, "kl_divergence": 1e-9, "max_abs_error": 1e-6}[name]
    study = tuned(network(), many, tmp_path, metric=name, tolerable_loss=tolerable, criterion="absolute", max_trials=1)
    assert study.result["trials"]["pruned"] == 1


def test_fidelity_and_a_metric_of_labels_are_two_constraints(tmp_path, x):
    model = network()
    path, data = tmp_path / "model.onnx", tmp_path / "data.npz"
    onnx.save(model, path)
    np.savez(data, x=x, y=outputs_of(model, x)[0].argmax(1))
    found = command(
        tmp_path,
        model,
        data,
        "metrics.accuracy.name=top1",
        "metrics.constraints=[{name: kl_divergence}, {name: cosine, tolerable_loss: 0.5}]",
        "isolation=none",
    )
    assert found.returncode in (0, 3), found.stderr
    goal = json.loads((tmp_path / "run/result.json").read_text())["goal"]["constraints"]
    assert [(c["metric"], c["criterion"], c["threshold"]) for c in goal] == [
        ("kl_divergence", "absolute", 0.01),
        ("cosine", "relative", 0.5),
    ]


def command(tmp_path, model, data, *more):
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    arguments = [f"model.path={path}", f"data.path={data}", f"run_dir={tmp_path / 'run'}"]
    budget = ["tuning.max_trials=1", "measure.latency_runs=20", "measure.final_runs=20", "data.calibration_samples=40"]
    return subprocess.run(
        [sys.executable, "-m", "nc_strategies", "model=onnx", "data=npz", *arguments, *budget, *more],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("chosen", [(), ("metrics=fidelity", "metrics.accuracy.name=kl_divergence")])
def test_the_command_line_needs_no_labels(tmp_path, x, chosen):
    np.savez(tmp_path / "data.npz", x=x)
    found = command(tmp_path, network(), tmp_path / "data.npz", *chosen)
    assert found.returncode in (0, 3), found.stderr
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["metrics"] == "fidelity"
    assert result["goal"]["metric"] == ("kl_divergence" if chosen else "cosine")
    assert ("no labels" in found.stderr) == (not chosen)
    assert ("no labels" in (tmp_path / "run/report.html").read_text()) == (not chosen)
    again = command(tmp_path, network(), tmp_path / "data.npz", *chosen)
    assert again.returncode == found.returncode, again.stderr


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["metrics.accuracy.name=top1"], ["has no labels", "metrics=fidelity"]),
        (["metrics=f1_latency"], ["has no labels", "metrics=fidelity"]),
        (["metrics.accuracy.name=sqnr", "tuning.criterion=relative"], ["tuning.criterion", "absolute"]),
        (["metrics.constraints=[{name: max_abs_error, criterion: relative}]"], ["metrics.constraints[0].criterion"]),
    ],
)
def test_what_cannot_be_done_without_labels_is_one_line(tmp_path, x, more, words):
    np.savez(tmp_path / "data.npz", x=x)
    found = command(tmp_path, network(), tmp_path / "data.npz", *more)
    assert found.returncode == 2
    (line,) = found.stderr.strip().splitlines()
    assert all(word in line for word in words), line
    assert not (tmp_path / "run").exists()


def test_a_keras_model_is_tuned_without_labels(tmp_path):
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((WIDTH,))
    hidden = keras.layers.Dense(48, activation="relu")(inputs)
    model = keras.Model(inputs, [keras.layers.Dense(5)(hidden), hidden])
    data = np.random.default_rng(1).normal(size=(120, WIDTH)).astype(np.float32)
    result = tuned(model, data, tmp_path, max_trials=1).result
    assert (result["backend"], result["goal"]["metric"]) == ("tensorflow", "cosine")
    assert result["baseline"]["accuracy"] == 1.0
    assert len(result["outputs"]["cosine"]["output"]) == 2
    low, high = result["tuned"]["accuracy_loss_ci95"]
    assert low <= 1 - result["tuned"]["accuracy"] <= high
