"""Goals are judged on the outputs that belong to each sample, and never against a worthless fp32."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import nc_strategies
from nc_strategies.errors import InputError
from nc_strategies.metrics.base import Metric
from nc_strategies.metrics.chance import shuffled_hits
from nc_strategies.metrics.classification import Top1
from nc_strategies.registry import registry

QUICK = {"max_trials": 1, "latency_runs": 20, "final_runs": 20, "tolerable_loss": 0.3, "calibration_samples": 40}
WIDTH = 32


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def network(outputs, tail=(), classes=5, batch="N", constants=(), domains=()):
    """Two Gemm with outputs ``z`` of shape (batch, classes), and what follows."""
    rng = np.random.default_rng(0)
    hidden = 64
    weights = {
        "w0": rng.normal(size=(WIDTH, hidden)) / np.sqrt(WIDTH),
        "b0": np.zeros(hidden),
        "w1": rng.normal(size=(hidden, classes)) / np.sqrt(hidden),
        "b1": np.zeros(classes),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w0", "b0"], ["g0"], "gemm0"),
        helper.make_node("Relu", ["g0"], ["r0"], "relu0"),
        helper.make_node("Gemm", ["r0", "w1", "b1"], ["z"], "gemm1"),
        *tail,
    ]
    initializers = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    initializers += [numpy_helper.from_array(np.asarray(array), name) for name, array in constants]
    graph = helper.make_graph(nodes, "g", [value("x", [batch, WIDTH])], list(outputs), initializers)
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(*domain) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    return model


def inputs(count=240):
    return np.random.default_rng(1).normal(size=(count, WIDTH)).astype(np.float32)


def run_each(model, x, output=None):
    """One output for each sample, in runs of their own."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [session.run(output and [output], {"x": sample[None]})[0] for sample in x]


def tuned(model, x, y, tmp_path, **options):
    study = nc_strategies.tune(model, (x, y), run_dir=tmp_path / "run", **{**QUICK, **options})
    return study.result


@pytest.mark.parametrize("classes", [2, 5, 10])
def test_a_squeezed_output_of_a_batch_of_one_is_that_of_its_sample(tmp_path, classes):
    squeeze = helper.make_node("Squeeze", ["z", "axes"], ["scores"], "squeeze")
    model = network([value("scores", [classes])], [squeeze], classes, 1, [("axes", np.int64([0]))])
    x = inputs()
    result = tuned(model, x, np.array([output.argmax() for output in run_each(model, x)]), tmp_path)
    assert result["baseline"]["accuracy"] == 1.0
    assert result["outputs"]["top1"]["one_by_one"]


def test_a_scalar_output_of_a_batch_of_one_is_the_logit_of_its_sample(tmp_path):
    squeeze = helper.make_node("Squeeze", ["z"], ["logit"], "squeeze")
    model = network([value("logit", [])], [squeeze], 1, 1)
    x = inputs()
    labels = np.array([int(output > 0) for output in run_each(model, x)])
    result = tuned(model, x, labels, tmp_path, metric={"name": "f1"})
    assert result["baseline"]["accuracy"] == 1.0
    assert result["outputs"]["f1"]["read_as"] == "one logit, cut at 0"


class Rows(Metric):
    """Share of samples with as many rows as the label says."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def compute(self, outputs, labels):
        self.seen.append([np.shape(output) for output in outputs])
        return float(np.mean([len(output) == label for output, label in zip(outputs, labels, strict=True)]))


def detector(batch, rows="rows"):
    """As many rows of (score, index) as there are positive scores in a whole batch."""
    tail = [
        helper.make_node("Reshape", ["z", "flat"], ["scores"], "flatten"),
        helper.make_node("Greater", ["scores", "zero"], ["picked"], "greater"),
        helper.make_node("NonZero", ["picked"], ["places"], "places"),
        helper.make_node("Transpose", ["places"], ["index"], "turn", perm=[1, 0]),
        helper.make_node("GatherND", ["scores", "index"], ["values"], "gather"),
        helper.make_node("Cast", ["index"], ["numbers"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["values", "one"], ["column"], "column"),
        helper.make_node("Concat", ["column", "numbers"], ["detections"], "concat", axis=1),
    ]
    constants = [("flat", np.int64([-1])), ("zero", np.float32(0)), ("one", np.int64([1]))]
    return network([value("detections", [rows, 2])], tail, 6, batch, constants)


@pytest.mark.parametrize("batch", [1, "N"])
def test_detections_are_handed_over_whole_for_each_sample(tmp_path, batch):
    model, metric, x = detector(batch), Rows(), inputs(120)
    counts = np.array([len(output) for output in run_each(model, x)])
    assert len(set(counts)) > 2
    result = tuned(model, x, counts, tmp_path, metric=metric)
    assert result["baseline"]["accuracy"] == 1.0
    assert {shape[1:] for shape in metric.seen[0]} == {(2,)}
    assert result["outputs"]["Rows"]["whole_outputs"]


def test_ragged_outputs_are_judged_in_another_process_too(tmp_path):
    (tmp_path / "metric.py").write_text(
        "def rows(outputs, labels):\n    return sum(len(o) == n for o, n in zip(outputs, labels)) / len(labels)\n"
    )
    model, x = detector(1), inputs(100)
    counts = np.array([len(output) for output in run_each(model, x)])
    metric = {"name": "python", "target": f"{tmp_path / 'metric.py'}:rows"}
    assert tuned(model, x, counts, tmp_path, metric=metric, isolation="process")["baseline"]["accuracy"] == 1.0


def test_outputs_of_variable_length_do_not_fit_a_metric_of_classes(tmp_path):
    model, x = detector(1), inputs(100)
    with pytest.raises(InputError, match=r"metrics.accuracy.output: the output holds arrays of different shapes"):
        tuned(model, x, np.zeros(100, int), tmp_path)


def test_a_time_major_output_is_turned_so_that_samples_come_first(tmp_path):
    class Steps(Metric):
        def compute(self, outputs, labels):
            assert outputs.shape[1:] == (3, 5)
            return float((outputs.argmax(2) == labels).mean())

    turn = [
        helper.make_node("Unsqueeze", ["z", "axis"], ["one"], "unsqueeze"),
        helper.make_node("Mul", ["one", "steps"], ["sequence"], "steps"),
    ]
    constants = [("axis", np.int64([0])), ("steps", np.float32([1, -1, 2]).reshape(3, 1, 1))]
    model, x = network([value("sequence", [3, "N", 5])], turn, constants=constants), inputs()
    labels = np.stack([output[:, 0].argmax(1) for output in run_each(model, x)])
    result = tuned(model, x, labels, tmp_path, metric=Steps())
    assert result["baseline"]["accuracy"] == 1.0
    assert result["outputs"]["Steps"]["shapes"] == [["N", 3, 5]]


def test_an_output_as_long_as_the_batch_by_chance_is_not_taken_for_samples(tmp_path):
    mean = helper.make_node("ReduceMean", ["z"], ["scores"], "mean", axes=[0], keepdims=0)
    model, x = network([value("scores", [2])], [mean], 2), inputs()
    labels = np.array([output.argmax() for output in run_each(model, x)])
    result = tuned(model, x, labels, tmp_path, evaluation_batch_size=2)
    assert result["baseline"]["accuracy"] == 1.0


def test_a_whole_output_of_a_larger_fixed_batch_is_refused_with_its_shape(tmp_path):
    mean = helper.make_node("ReduceMean", ["z"], ["scores"], "mean", axes=[0], keepdims=0)
    model, x = network([value("scores", [2])], [mean], 2, batch=2), inputs()
    with pytest.raises(InputError, match=r"scores \(2\) has no axis that follows the model's batches of 2.*data.axes"):
        tuned(model, x, np.zeros(len(x), int), tmp_path, batch_size=2)


def test_a_model_that_squeezes_a_batch_of_one_keeps_its_last_sample(tmp_path):
    squeeze = helper.make_node("Squeeze", ["z"], ["scores"], "squeeze")
    model, x = network([value("scores", ["rows", 5])], [squeeze]), inputs(241)
    labels = np.array([output.argmax() for output in run_each(model, x)])
    assert tuned(model, x, labels, tmp_path, evaluation_batch_size=100)["baseline"]["accuracy"] == 1.0


def two_outputs(first="aux"):
    """A map of shape (N, 4, 4, 4) and scores (N, 5)."""
    reshape = helper.make_node("Reshape", ["r0", "map"], [first], "reshape")
    outputs = [value(first, ["N", 4, 4, 4]), value("z", ["N", 5])]
    return network(outputs, [reshape], constants=[("map", np.int64([-1, 4, 4, 4]))])


@pytest.mark.parametrize(("options", "choice"), [({}, "fits"), ({"output": "z"}, "named")])
def test_the_scores_are_read_wherever_they_come_among_the_outputs(tmp_path, options, choice):
    model, x = two_outputs(), inputs()
    labels = np.array([output.argmax() for output in run_each(model, x, "z")])
    result = tuned(model, x, labels, tmp_path, **options)
    assert result["baseline"]["accuracy"] == 1.0
    assert (result["outputs"]["top1"]["output"], result["outputs"]["top1"]["choice"]) == ("z", choice)
    assert "top1 reads z (N, 5)" in (tmp_path / "run" / "nc_strategies.log").read_text()


def test_the_output_can_be_named_beside_the_settings_of_the_metric(tmp_path):
    model, x = two_outputs(), inputs()
    labels = np.array([output.argmax() for output in run_each(model, x, "z")])
    study = nc_strategies.tune(
        model, (x, labels), metric={"name": "topk", "k": 2, "output": "z"}, run_dir=tmp_path / "run", **QUICK
    )
    assert study.result["outputs"]["topk"]["choice"] == "named"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("other", r"metrics.accuracy.output: is 'other'; the model's outputs: aux \(N, 4, 4, 4\), z \(N, 5\)"),
        ("aux", r"metrics.accuracy.output: the output has shape \(N, 4, 4, 4\)"),
    ],
)
def test_an_output_that_does_not_exist_or_fit_is_refused(tmp_path, output, message):
    with pytest.raises(InputError, match=message):
        tuned(two_outputs(), inputs(), np.zeros(240, int), tmp_path, output=output)
    assert not (tmp_path / "run").exists()


def test_a_map_as_the_only_output_is_not_flattened_to_classes(tmp_path):
    reshape = helper.make_node("Reshape", ["r0", "map"], ["aux"], "reshape")
    constants = [("map", np.int64([-1, 4, 4, 4]))]
    model = network([value("aux", ["N", 4, 4, 4]), value("z", ["N", 5])], [reshape], constants=constants)
    del model.graph.output[1]
    with pytest.raises(InputError, match=r"the output has shape \(N, 4, 4, 4\)"):
        tuned(model, inputs(), np.zeros(240, int), tmp_path)


def test_two_outputs_that_both_fit_are_named_in_the_refusal(tmp_path):
    double = helper.make_node("Mul", ["z", "minus"], ["w"], "minus")
    outputs = [value("z", ["N", 5]), value("w", ["N", 5])]
    model = network(outputs, [double], constants=[("minus", np.float32(-1))])
    labels = np.arange(240) % 5
    with pytest.raises(InputError, match=r"outputs z \(N, 5\), w \(N, 5\) all fit.*z, w"):
        tuned(model, inputs(), labels, tmp_path)


def classifier(kind):
    """Class numbers first, probabilities second, as converters of scikit-learn write them."""
    tail = [
        helper.make_node("Softmax", ["z"], ["p"], "softmax", axis=1),
        helper.make_node("ArgMax", ["p"], ["label"], "argmax", axis=1, keepdims=0),
    ]
    first, second = value("label", ["N"], TensorProto.INT64), value("p", ["N", 5])
    domains = []
    if kind != "arrays":
        domains = [("ai.onnx.ml", 3)]
        key, names = (TensorProto.INT64, [0, 1, 2, 3, 4]) if kind == "maps" else (TensorProto.STRING, list("abcde"))
        attribute = "classlabels_int64s" if kind == "maps" else "classlabels_strings"
        tail.append(helper.make_node("ZipMap", ["p"], ["maps"], "zip", domain="ai.onnx.ml", **{attribute: names}))
        inner = helper.make_map_type_proto(key, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        second = helper.make_value_info("maps", helper.make_sequence_type_proto(inner))
    if kind == "text":
        encoder = {"keys_int64s": [0, 1, 2, 3, 4], "values_strings": list("abcde")}
        tail.append(helper.make_node("LabelEncoder", ["label"], ["text"], "encode", domain="ai.onnx.ml", **encoder))
        first = value("text", ["N"], TensorProto.STRING)
    return network([first, second], tail, domains=domains)


@pytest.mark.parametrize("kind", ["arrays", "maps", "text"])
def test_the_probabilities_of_a_classifier_with_class_numbers_are_read(tmp_path, kind):
    model, x = classifier(kind), inputs()
    labels = np.array([output.argmax() for output in run_each(classifier("arrays"), x, "p")])
    result = tuned(model, x, labels, tmp_path)
    assert result["baseline"]["accuracy"] == 1.0
    assert result["outputs"]["top1"]["output"] == {"arrays": "p"}.get(kind, "maps")


@pytest.mark.parametrize("name", ["top1", "f1"])
def test_class_numbers_are_compared_as_such(tmp_path, name):
    model, x = classifier("arrays"), inputs()
    labels = np.concatenate(run_each(model, x, "label"))
    result = tuned(model, x, labels, tmp_path, metric=name, output="label")
    assert result["baseline"]["accuracy"] == 1.0
    assert result["outputs"][name]["read_as"] == "class numbers"


@pytest.mark.parametrize("name", ["top1", "f1", "precision", "recall"])
def test_a_single_logit_is_cut_at_zero(tmp_path, name):
    model, x = network([value("z", ["N", 1])], classes=1), inputs()
    labels = (np.concatenate(run_each(model, x))[:, 0] > 0).astype(int)
    assert tuned(model, x, labels, tmp_path, metric=name)["baseline"]["accuracy"] == 1.0


def test_the_threshold_of_a_single_output_can_be_set(tmp_path):
    model, x = network([value("z", ["N", 1])], classes=1), inputs()
    labels = (np.concatenate(run_each(model, x))[:, 0] > 0.3).astype(int)
    result = tuned(model, x, labels, tmp_path, metric={"name": "top1", "threshold": 0.3})
    assert result["baseline"]["accuracy"] == 1.0
    with pytest.raises(InputError, match=r"metrics.accuracy.threshold: is 0.3, but the output holds scores"):
        tuned(two_outputs(), x, labels, tmp_path / "b", metric={"name": "top1", "threshold": 0.3})


def worthless(kind):
    rng, x = np.random.default_rng(3), inputs(400)
    if kind == "mae":
        return network([value("z", ["N", 1])], classes=1), x, rng.normal(size=(400, 1)) + 5
    model = network([value("z", ["N", 5])])
    right = np.array([output.argmax() for output in run_each(model, x)])
    return model, x, {"wrong": (right + 1) % 5, "chance": rng.permutation(right)}[kind]


@pytest.mark.parametrize(("kind", "got"), [("wrong", "top1 0.0000"), ("chance", "top1 0."), ("mae", "mae ")])
def test_a_worthless_baseline_is_refused_before_any_trial(tmp_path, kind, got):
    model, x, labels = worthless(kind)
    metric = "mae" if kind == "mae" else "top1"
    with pytest.raises(InputError, match=rf"metrics.accuracy: fp32 has {got}.*no better than.*allow_poor_baseline"):
        tuned(model, x, labels, tmp_path, metric=metric)
    assert not (tmp_path / "run").exists()


def test_a_worthless_baseline_can_be_allowed(tmp_path):
    model, x, labels = worthless("wrong")
    assert tuned(model, x, labels, tmp_path, allow_poor_baseline=True)["baseline"]["accuracy"] == 0


@pytest.mark.parametrize("evaluate", [lambda model: 0.0, lambda model: 0])
def test_a_function_that_gives_zero_is_refused(tmp_path, evaluate):
    model, x, _ = worthless("wrong")
    with pytest.raises(InputError, match=r"fp32 has eval_func 0\.0000"):
        nc_strategies.tune(model, eval_func=evaluate, calibration=x, run_dir=tmp_path / "run", **QUICK)


@pytest.mark.parametrize("first", ["aux", "zzz"])
def test_dictionary_outputs_of_a_keras_model_are_found_or_named(tmp_path, first):
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    x = keras.Input((WIDTH,), name="x")
    hidden = keras.layers.Dense(64, activation="relu")(x)
    scores, more = keras.layers.Dense(5)(hidden), keras.layers.Reshape((4, 4, 4))(hidden)
    model, data = keras.Model(x, {"scores": scores, first: more}), inputs()
    labels = model(data)["scores"].numpy().argmax(1)
    named = {"output": "scores"} if first == "zzz" else {}
    result = tuned(model, data, labels, tmp_path, **named)
    assert (result["backend"], result["baseline"]["accuracy"]) == ("tensorflow", 1.0)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["outputs"]["top1"]["output"] == "scores"


def labelled(*, right, classes, wrong):
    """One-hot outputs and labels: `right` correct answers per class, `wrong` answers of the next class."""
    truth, said = [], []
    for number, (hits, misses) in enumerate(zip(right, wrong, strict=True)):
        truth += [number] * (hits + misses)
        said += [number] * hits + [(number + 1) % classes] * misses
    return np.eye(classes, dtype=np.float32)[said], np.array(truth)


@pytest.mark.parametrize(
    ("case", "poor"),
    [
        ({"right": [4, 3], "classes": 2, "wrong": [1, 2]}, False),  # 7 of 10, two balanced classes
        ({"right": [3, 2], "classes": 2, "wrong": [2, 3]}, True),  # 5 of 10
        ({"right": [1, 1, 1, 0, 0], "classes": 5, "wrong": [1, 1, 1, 2, 2]}, False),  # 3 of 10, five classes
        ({"right": [280, 280], "classes": 2, "wrong": [220, 220]}, False),  # 56 % of many
        ({"right": [250, 250], "classes": 2, "wrong": [250, 250]}, True),  # chance
        ({"right": [255, 255], "classes": 2, "wrong": [245, 245]}, True),  # chance, within its sampling error
        ({"right": [25, 5], "classes": 2, "wrong": [5, 5]}, False),  # equal to the most frequent class of few samples
        ({"right": [900, 0], "classes": 2, "wrong": [0, 100]}, True),  # one answer for all samples
        ({"right": [850, 50], "classes": 2, "wrong": [50, 50]}, True),  # equal to the most frequent class
        ({"right": [10, 0], "classes": 2, "wrong": [0, 0]}, False),  # all of one class, all right
        ({"right": [3, 0], "classes": 2, "wrong": [7, 0]}, True),  # all of one class, worse than guessing
    ],
)
def test_an_accuracy_is_poor_if_a_constant_answer_or_chance_has_it(case, poor):
    outputs, labels = labelled(**case)
    metric = Top1()
    metric.prepare(outputs, labels)
    assert bool(metric.no_better(outputs, labels)) is poor


def test_the_moments_of_hits_in_random_order_are_those_of_drawn_orders():
    rng = np.random.default_rng(0)
    answers, classes = np.argsort(rng.random((50, 4)) * [4, 3, 2, 1])[:, :2], rng.choice(4, 50, p=[0.4, 0.3, 0.2, 0.1])
    drawn = [np.any(answers == classes[rng.permutation(50)][:, None], 1).mean() for _ in range(20000)]
    found = shuffled_hits(answers, classes)
    assert found.mean == pytest.approx(np.mean(drawn), abs=0.002)
    assert found.deviation == pytest.approx(np.std(drawn), rel=0.03)


@pytest.mark.parametrize("name", ["mae", "mse", "rmse", "r2"])
@pytest.mark.parametrize(("noise", "poor"), [(0.7, False), (2.5, True)])
@pytest.mark.parametrize("count", [12, 400])
def test_an_error_is_poor_if_one_number_for_all_samples_has_it(name, noise, poor, count):
    rng = np.random.default_rng(0)
    labels = rng.normal(size=(count, 1))
    metric = registry().create("metric", {"name": name})
    assert bool(metric.no_better(labels + noise * rng.normal(size=labels.shape), labels)) is poor


@pytest.mark.parametrize("name", ["f1", "precision", "recall", "roc_auc", "log_loss"])
@pytest.mark.parametrize("poor", [False, True])
def test_scores_of_classes_are_poor_if_they_do_not_depend_on_the_sample(name, poor):
    rng = np.random.default_rng(1)
    labels = rng.choice(3, 300, p=[0.5, 0.3, 0.2])
    weight = np.where(poor, 0.0, 2.0)
    logits = rng.normal(size=(300, 3)) + weight * np.eye(3)[labels]
    outputs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert bool(registry().create("metric", {"name": name}).no_better(outputs, labels)) is poor


def test_a_mask_of_one_class_is_poor_and_most_of_the_right_pixels_are_not():
    rng = np.random.default_rng(0)
    masks = (rng.random((20, 8, 8)) < 0.3).astype(int)
    metric = registry().create("metric", {"name": "mean_iou", "num_classes": 2})
    assert "class 0 for all pixels" in metric.no_better(np.zeros_like(masks), masks)
    assert not metric.no_better(np.where(rng.random(masks.shape) < 0.2, 1 - masks, masks), masks)


def test_a_negated_error_of_zero_is_a_good_value():
    class NegatedError(Metric):
        def compute(self, outputs, labels):
            return -float(np.abs(outputs - labels).sum())

    labels = np.arange(5.0)
    assert NegatedError().zero_is_good(labels, labels)
    assert not NegatedError().zero_is_good(np.zeros(5), np.zeros(5))
