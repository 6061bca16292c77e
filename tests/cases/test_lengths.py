"""Samples of different lengths: ragged arrays, padded arrays with a mask, pictures of different widths."""

from __future__ import annotations

import io

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

import nc_strategies
from nc_strategies.api import MeanMetric, Metric
from nc_strategies.errors import InputError
from nc_strategies.report import page, table

QUICK = {"max_trials": 1, "latency_runs": 20, "final_runs": 20, "calibration_samples": 20, "tolerable_loss": 0.5}
WORDS, WIDTH = 40, 16


class Net:
    """Builds small ONNX models node by node."""

    def __init__(self) -> None:
        self.nodes, self.weights, self.rng = [], [], np.random.default_rng(1)

    def const(self, value) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value), f"c{len(self.weights)}"))
        return self.weights[-1].name

    def op(self, kind, inputs, output, **attributes) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], f"n_{output}", **attributes))
        return output

    def random(self, *shape) -> str:
        return self.const((self.rng.normal(size=shape) / np.sqrt(shape[-2])).astype(np.float32))

    def model(self, inputs, outputs) -> onnx.ModelProto:
        infos = [[helper.make_tensor_value_info(*info) for info in listed] for listed in (inputs, outputs)]
        graph = helper.make_graph(self.nodes, "net", *infos, self.weights)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(made)
        return made


def reader(length="L", batch="N", mask="attention_mask", mask_type=TensorProto.INT64, tokens_first=False):
    """One layer of attention over words, classes of the text and of each word."""
    net = Net()
    words = net.op("Gather", [net.random(WORDS, WIDTH), "input_ids"], "words")
    ones = net.op("Cast", [mask], "ones", to=1)
    keys_seen = net.op("Unsqueeze", [ones, net.const(np.array([1]))], "keys_seen")
    hidden = net.op(
        "Mul", [net.op("Sub", [keys_seen, net.const(np.float32(1))], "less"), net.const(np.float32(1e4))], "hidden"
    )
    query, key, value = (net.op("MatMul", [words, net.random(WIDTH, WIDTH)], name) for name in ("q", "k", "v"))
    raw = net.op("MatMul", [query, net.op("Transpose", [key], "kt", perm=[0, 2, 1])], "raw")
    weights = net.op("Softmax", [net.op("Add", [raw, hidden], "seen")], "weights", axis=-1)
    mixed = net.op("Relu", [net.op("MatMul", [weights, value], "mixed")], "active")
    net.op("MatMul", [mixed, net.random(WIDTH, 4)], "tokens")
    rows_seen = net.op("Unsqueeze", [ones, net.const(np.array([2]))], "rows_seen")
    total = net.op(
        "ReduceSum", [net.op("Mul", [mixed, rows_seen], "own"), net.const(np.array([1]))], "total", keepdims=0
    )
    count = net.op("ReduceSum", [ones, net.const(np.array([1]))], "count", keepdims=1)
    net.op("MatMul", [net.op("Div", [total, count], "mean"), net.random(WIDTH, 3)], "text")
    outputs = [("text", 1, [batch, 3]), ("tokens", 1, [batch, length, 4])]
    inputs = [("input_ids", TensorProto.INT64, [batch, length]), (mask, mask_type, [batch, length])]
    return net.model(inputs, outputs[::-1] if tokens_first else outputs)


def recognizer(batch="N"):
    """Scores of characters along pictures of height 8 and any width."""
    net = Net()
    first = net.op("Relu", [net.op("Conv", ["x", net.random(8, 1, 3, 3)], "m0", pads=[1, 1, 1, 1])], "r0")
    second = net.op(
        "Relu", [net.op("Conv", [first, net.random(8, 8, 3, 3)], "m1", strides=[2, 2], pads=[1, 1, 1, 1])], "r1"
    )
    flat = net.op("ReduceMean", [second], "flat", axes=[2], keepdims=0)
    net.op("MatMul", [net.op("Transpose", [flat], "steps", perm=[0, 2, 1]), net.random(8, 5)], "scores")
    return net.model([("x", 1, [batch, 1, 8, "W"])], [("scores", 1, [batch, "T", 5])])


def texts(count=120, longest=40, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, WORDS, int(size)) for size in rng.integers(2, longest + 1, count)]


def filled(samples, value=0, width=None):
    whole = np.full((len(samples), width or max(map(len, samples))), value, np.int64)
    for row, sample in zip(whole, samples, strict=True):
        row[: len(sample)] = sample
    return whole


def one_by_one(model, samples, mask="attention_mask"):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [session.run(None, {"input_ids": s[None], mask: np.ones((1, len(s)), np.int64)}) for s in samples]


def padded_file(path, samples, labels, width=None, mask="attention_mask", dtype=np.int64):
    ones = [np.ones(len(s), np.int64) for s in samples]
    np.savez(path, input_ids=filled(samples, width=width), y=labels, **{mask: filled(ones, width=width).astype(dtype)})


def ragged_file(path, samples, labels, **more):
    offsets = np.cumsum([0, *map(len, samples)])
    np.savez(path, **{"input_ids.values": np.concatenate(samples), "input_ids.offsets": offsets}, y=labels, **more)


def tuned(model, data, tmp_path, name="run", **options):
    onnx.save(model, tmp_path / "model.onnx")
    return nc_strategies.tune(
        tmp_path / "model.onnx", data, run_dir=tmp_path / name, **{**QUICK, "allow_poor_baseline": True, **options}
    )


@pytest.fixture
def answers():
    model, samples = reader(), texts()
    outputs = one_by_one(model, samples)
    labels = np.array([text[0].argmax() for text, _ in outputs])
    labels[::5] = (labels[::5] + 1) % 3
    return model, samples, labels


def test_ragged_and_padded_give_the_accuracy_of_single_samples(tmp_path, answers):
    model, samples, labels = answers
    padded_file(tmp_path / "padded.npz", samples, labels)
    ragged_file(tmp_path / "ragged.npz", samples, labels)
    expected = float(np.mean([i % 5 != 0 for i in range(20, len(samples))]))
    found = []
    for name in ("padded", "ragged"):
        study = tuned(model, tmp_path / f"{name}.npz", tmp_path, name, output="text")
        result = study.result
        assert result["baseline"]["accuracy"] == pytest.approx(expected)
        found.append(result)
    assert found[0]["tuned"]["accuracy"] == found[1]["tuned"]["accuracy"]
    assert found[0]["tuned"]["accuracy_loss_ci95"] == found[1]["tuned"]["accuracy_loss_ci95"]
    lengths = [one["length"] for one in found[0]["tuned"]["latency_by_length"]]
    assert lengths == np.quantile(list(map(len, samples[20:])), [0.1, 0.5, 0.9], method="inverted_cdf").tolist()


@pytest.mark.parametrize(("mask", "kind"), [("input_mask", np.int64), ("attention_mask", np.bool_)])
def test_every_sample_has_the_outputs_of_a_run_of_its_own(tmp_path, mask, kind):
    model, samples = reader(mask=mask, mask_type=TensorProto.BOOL if kind is np.bool_ else TensorProto.INT64), texts(60)
    ones = [np.ones(len(s), kind) for s in samples]
    data = {"input_ids": filled(samples), mask: filled(ones).astype(kind), "y": np.zeros(60)}
    seen = {}

    class Kept(Metric):
        def compute(self, outputs, labels):
            seen.setdefault("first", outputs)
            return 1.0

    tuned(model, data, tmp_path, metric=Kept(), output="tokens")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    order = np.random.default_rng([0, 2]).permutation(40)
    for got, place in zip(seen["first"], order, strict=True):
        own = samples[20 + place]
        _, expected = session.run(None, {"input_ids": own[None], mask: np.ones((1, len(own)), kind)})
        np.testing.assert_allclose(got[: len(own)], expected[0], atol=1e-4)
        assert not got[len(own) :].any()


def test_ragged_token_labels_are_filled_up_with_what_metrics_ignore(tmp_path):
    model, samples = reader(tokens_first=True), texts(60)
    seen = []

    class Tokens(MeanMetric):
        score_range = (0.0, 1.0)

        def scores(self, outputs, labels):
            seen.append(labels)
            valid = labels >= 0
            return ((outputs.argmax(2) == labels) & valid).sum(1) / valid.sum(1)

    labels = [tokens[0].argmax(1) for tokens, _ in one_by_one(model, samples)]
    for labels_, name in ((labels, "ragged"), (filled(labels, -100), "padded")):
        data = {"input_ids": samples, "y": labels_}
        result = tuned(model, data, tmp_path, name, metric=Tokens(), output="tokens").result
        assert result["baseline"]["accuracy"] == 1.0
    assert seen[0].min() == -100


def test_pictures_of_different_widths_are_never_filled_up(tmp_path):
    rng, model = np.random.default_rng(3), recognizer()
    widths = rng.choice([8, 12, 13, 20, 31], 80)
    pictures = [rng.normal(size=(1, 8, width)).astype(np.float32) for width in widths]
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = [session.run(None, {"x": picture[None]})[0][0] for picture in pictures]

    class Same(MeanMetric):
        score_range = (0.0, 1.0)

        def scores(self, outputs, labels):
            return np.array(
                [
                    output.shape == expected[place].shape and np.allclose(output, expected[place], atol=1e-4)
                    for output, place in zip(outputs, labels.astype(int), strict=True)
                ],
                np.float64,
            )

    data = (pictures, np.arange(80))
    result = tuned(model, data, tmp_path, metric=Same(), tolerable_loss=0.99).result
    assert result["baseline"]["accuracy"] == 1.0
    assert {one["length"] for one in result["tuned"]["latency_by_length"]} <= {8, 12, 13, 20, 31}
    offsets = np.cumsum([0, *widths])
    stored = {"x.values": np.concatenate(pictures, 2), "x.offsets": offsets, "x.axis": 2, "y": np.arange(80)}
    np.savez(tmp_path / "lines.npz", **stored)
    assert (
        tuned(model, tmp_path / "lines.npz", tmp_path, "npz", metric=Same(), tolerable_loss=0.99).result["baseline"][
            "accuracy"
        ]
        == 1.0
    )
    whole = np.zeros((80, 1, 8, 31), np.float32)
    for row, picture in zip(whole, pictures, strict=True):
        row[..., : picture.shape[2]] = picture
    padded = {"x": whole, "width": widths, "y": np.arange(80)}
    cut = tuned(model, padded, tmp_path, "cut", metric=Same(), tolerable_loss=0.99, data_lengths={"x": "width"}).result
    assert cut["baseline"]["accuracy"] == 1.0
    for lengths, problem in (
        ({"x": "height"}, "names 'height'; the data holds x, width"),
        ({"x": "x"}, "names 'x', an array of shape"),
        ({"x": "long"}, "holds lengths up to 32 for samples of shape"),
    ):
        more = {**padded, **({"long": widths + 1} if "long" in lengths.values() else {})}
        with pytest.raises(InputError, match=rf"^data\.lengths: {problem}"):
            tuned(model, more, tmp_path, "refused", metric=Same(), data_lengths=lengths)


def test_named_lengths_are_timed_with_equal_weights(tmp_path, answers):
    model, samples, labels = answers
    ragged_file(tmp_path / "ragged.npz", samples, labels)
    study = tuned(model, tmp_path / "ragged.npz", tmp_path, output="text", lengths=[32, 8])
    result = study.result
    found = result["tuned"]["latency_by_length"]
    assert [(one["length"], one["weight"]) for one in found] == [(8, 0.5), (32, 0.5)]
    page_text, stream = page.write(study.run_dir).read_text(), io.StringIO()
    Console(width=200, file=stream).print(table.render(result, str(study.run_dir)))
    for cells in table.length_rows(result):
        assert "".join(f"<td>{cell}</td>" for cell in cells) in page_text
        assert any(line.replace("│", " ").split() == list(cells) for line in stream.getvalue().splitlines())


@pytest.mark.parametrize(
    ("lengths", "message"),
    [([0, 4], "measure.lengths: is [0, 4]; positive whole numbers, each once"), ([], "measure.lengths: is []")],
)
def test_lengths_that_are_none_are_refused(tmp_path, answers, lengths, message):
    with pytest.raises(InputError) as caught:
        tuned(answers[0], answers[1], tmp_path, lengths=lengths)
    assert str(caught.value).startswith(message)


def test_a_fixed_length_is_filled_up_to_and_longer_samples_are_refused(tmp_path, answers):
    _, samples, labels = answers
    fixed = reader(length=48)
    for name, data in (
        ("ragged", {"input_ids": samples}),
        ("padded", {"input_ids": filled(samples), "attention_mask": filled([np.ones(len(s)) for s in samples])}),
    ):
        result = tuned(fixed, {**data, "y": labels}, tmp_path, name, output="text").result
        assert result["baseline"]["accuracy"] == pytest.approx(0.8)
        assert [one["length"] for one in result["tuned"]["latency_by_length"]] == [48]
    with pytest.raises(
        InputError, match=r"data: has samples of up to 40 entries; inputs of the model have a fixed length of 24"
    ):
        tuned(reader(length=24), {"input_ids": samples, "y": labels}, tmp_path, "short")
    with pytest.raises(InputError, match=r"measure\.lengths: is \[16\]; the model takes a length of 48 only"):
        tuned(fixed, {"input_ids": samples, "y": labels}, tmp_path, "other", lengths=[16])


def test_a_model_that_does_not_heed_its_mask_gets_no_filled_up_samples(tmp_path, caplog):
    model, samples = reader(), texts()
    for node in model.graph.node:
        if node.output[0] == "less":
            node.input[0] = node.input[1]  # attention no longer sees the mask
    labels = np.array([text[0].argmax() for text, _ in one_by_one(model, samples)])
    study = tuned(model, {"input_ids": samples, "y": labels}, tmp_path, output="text")
    assert study.result["baseline"]["accuracy"] == 1.0
    assert "in spite of attention_mask, that changes the model's outputs" in caplog.text
    padded = {"input_ids": filled(samples), "attention_mask": filled([np.ones(len(s)) for s in samples]), "y": labels}
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    whole = session.run(["text"], {name: padded[name][20:] for name in ("input_ids", "attention_mask")})[0]
    given = tuned(model, padded, tmp_path, "padded", output="text").result
    assert given["baseline"]["accuracy"] == pytest.approx(np.mean(whole.argmax(1) == labels[20:]))
    assert "latency_by_length" not in given["tuned"]


def test_samples_of_one_shape_are_measured_as_before(tmp_path, answers):
    model, _, labels = answers
    ids = np.random.default_rng(0).integers(1, WORDS, (120, 12))
    result = tuned(
        model, {"input_ids": ids, "attention_mask": np.ones_like(ids), "y": labels}, tmp_path, output="text"
    ).result
    assert "latency_by_length" not in result["tuned"]


def test_a_fixed_batch_size_is_filled_up_in_every_length(tmp_path, answers):
    _, samples, labels = answers
    result = tuned(reader(batch=4), {"input_ids": samples, "y": labels}, tmp_path, output="text", batch_size=4).result
    assert result["baseline"]["accuracy"] == pytest.approx(0.8)


def test_the_engine_may_run_in_its_own_process(tmp_path, answers):
    model, samples, labels = answers
    result = tuned(model, {"input_ids": samples, "y": labels}, tmp_path, output="text", isolation="process").result
    assert result["baseline"]["accuracy"] == pytest.approx(0.8)
    assert len(result["tuned"]["latency_by_length"]) == 3


def test_a_hopeless_trial_stops_early_after_the_same_samples_ragged_and_padded(tmp_path):
    model, samples = reader(), texts(620)
    labels = np.array([text[0].argmax() for text, _ in one_by_one(model, samples)])
    ones = [np.ones(len(s)) for s in samples]
    found = []
    padded = {"input_ids": filled(samples), "attention_mask": filled(ones)}
    for name, inputs in (("ragged", {"input_ids": samples}), ("padded", padded)):
        strict = {"tolerable_loss": 0.0, "evaluation_batch_size": 20}
        study = tuned(model, {**inputs, "y": labels}, tmp_path, name, output="text", **strict)
        (trial,) = study.trials
        found.append((trial.state, trial.evaluation.samples, trial.evaluation.metrics))
    assert found[0] == found[1]
    state, read, _ = found[0]
    assert state == "pruned"
    assert read < 600


def test_effects_and_latency_terms_come_from_several_shapes(tmp_path):
    rng, model = np.random.default_rng(3), recognizer()
    pictures = [rng.normal(size=(1, 8, width)).astype(np.float32) for width in rng.integers(8, 32, 60)]

    class Mean(MeanMetric):
        def scores(self, outputs, labels):
            return np.array([1 + float(output.mean()) for output in outputs])

    study = tuned(model, (pictures, np.arange(60)), tmp_path, metric=Mean(), strategy="ilp", max_trials=2)
    assert study.result["trials"]["ok"] == 2
    assert len(study.result["tuned"]["latency_by_length"]) == 3


def test_tensorflow_runs_ragged_samples(tmp_path):
    keras = pytest.importorskip("keras")
    ids = keras.Input((None,), name="input_ids", dtype="int32")
    mask = keras.Input((None,), name="attention_mask", dtype="float32")
    words = keras.layers.Dense(16, activation="relu")(keras.layers.Embedding(WORDS, 16)(ids))
    ones = keras.layers.Reshape((-1, 1))(mask)
    summed = keras.layers.GlobalAveragePooling1D()(keras.layers.Multiply()([words, ones]))
    share = keras.layers.GlobalAveragePooling1D()(ones)
    hidden = keras.layers.Dense(16, activation="relu")(summed / share)
    model = keras.Model([ids, mask], keras.layers.Dense(3)(hidden))
    samples = texts(60)
    scores = [model([s[None], np.ones((1, len(s)), np.float32)]).numpy()[0] for s in samples]
    labels = np.array([score.argmax() for score in scores])
    data = {"input_ids": samples, "y": labels}
    result = nc_strategies.tune(model, data, run_dir=tmp_path / "run", allow_poor_baseline=True, **QUICK).result
    assert result["baseline"]["accuracy"] == 1.0
    assert len(result["tuned"]["latency_by_length"]) == 3
