"""Samples of different lengths: ragged arrays, padded arrays with a mask, pictures of different widths."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import nc_strategies
from nc_strategies.errors import InputError

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
    hidden = net.op("Mul", [net.op("Sub", [keys_seen, net.const(np.float32(1))], "less"), net.const(np.float32(1e4))], "hidden")
    query, key, value = (net.op("MatMul", [words, net.random(WIDTH, WIDTH)], name) for name in ("q", "k", "v"))
    raw = net.op("MatMul", [query, net.op("Transpose", [key], "kt", perm=[0, 2, 1])], "raw")
    weights = net.op("Softmax", [net.op("Add", [raw, hidden], "seen")], "weights", axis=-1)
    mixed = net.op("Relu", [net.op("MatMul", [weights, value], "mixed")], "active")
    net.op("MatMul", [mixed, net.random(WIDTH, 4)], "tokens")
    rows_seen = net.op("Unsqueeze", [ones, net.const(np.array([2]))], "rows_seen")
    total = net.op("ReduceSum", [net.op("Mul", [mixed, rows_seen], "own"), net.const(np.array([1]))], "total", keepdims=0)
    count = net.op("ReduceSum", [ones, net.const(np.array([1]))], "count", keepdims=1)
    net.op("MatMul", [net.op("Div", [total, count], "mean"), net.random(WIDTH, 3)], "text")
    outputs = [("text", 1, [batch, 3]), ("tokens", 1, [batch, length, 4])]
    inputs = [("input_ids", TensorProto.INT64, [batch, length]), (mask, mask_type, [batch, length])]
    return net.model(inputs, outputs[::-1] if tokens_first else outputs)


def recognizer(batch="N"):
    """Scores of characters along pictures of height 8 and any width."""
    net = Net()
    first = net.op("Relu", [net.op("Conv", ["x", net.random(8, 1, 3, 3)], "c0", pads=[1, 1, 1, 1])], "r0")
    second = net.op("Relu", [net.op("Conv", [first, net.random(8, 8, 3, 3)], "c1", strides=[2, 2], pads=[1, 1, 1, 1])], "r1")
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


def result_of(study):
    return json.loads((study.path / "result.json").read_text())


def test_ragged_and_padded_give_the_accuracy_of_single_samples(tmp_path, answers):
    model, samples, labels = answers
    padded_file(tmp_path / "padded.npz", samples, labels)
    ragged_file(tmp_path / "ragged.npz", samples, labels)
    expected = float(np.mean([i % 5 != 0 for i in range(20, len(samples))]))
    found = []
    for name in ("padded", "ragged"):
        study = tuned(model, tmp_path / f"{name}.npz", tmp_path, name, output="text")
        result = result_of(study)
        assert result["baseline"]["accuracy"] == pytest.approx(expected)
        found.append(result)
    assert found[0]["tuned"]["accuracy"] == found[1]["tuned"]["accuracy"]
    assert found[0]["tuned"]["accuracy_loss_ci95"] == found[1]["tuned"]["accuracy_loss_ci95"]
    lengths = [one["length"] for one in found[0]["tuned"]["latency_by_length"]]
    assert lengths == np.quantile(list(map(len, samples[20:])), [0.1, 0.5, 0.9], method="inverted_cdf").tolist()
