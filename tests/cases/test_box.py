"""Real models in small time limits, from one of a hundred operators to one that fits in no limit."""

import json
import time

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import nc_strategies
from nc_strategies.api import InputError

SECONDS = 3.0
"""Time limit; the machine may be slow, so a refusal that says how much time is needed is an accepted outcome."""


def classifier(blocks, width=64, length=24, classes=6, seed=0):
    """MatMul, Add and Tanh-like steps in a chain; one block has 4 operators."""
    rng = np.random.default_rng(seed)
    nodes, weights, last = [], [], "x"

    def weight(name, *shape):
        values = rng.normal(size=shape) * (1.2 / np.sqrt(shape[0]))
        weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    for i in range(blocks):
        nodes += [
            helper.make_node("MatMul", [last, weight(f"w{i}", width, width)], [f"m{i}"]),
            helper.make_node("Add", [f"m{i}", weight(f"b{i}", width)], [f"a{i}"]),
            helper.make_node("Relu", [f"a{i}"], [f"r{i}"]),
            helper.make_node("Add", [f"r{i}", last], [f"s{i}"]),
        ]
        last = f"s{i}"
    nodes += [
        helper.make_node("ReduceMean", [last], ["mean"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["mean", weight("head", width, classes)], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", length, width])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", classes])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def samples(model, count, length=24, width=64, seed=1):
    """Samples, and the model's own classes as labels."""
    x = np.random.default_rng(seed).normal(size=(count, length, width)).astype(np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return x, session.run(None, {"x": x})[0].argmax(1)


def attempt(model, data, **options):
    """A run within `SECONDS`, or why it was refused."""
    try:
        return nc_strategies.tune(model, data, timeout=SECONDS, tolerable_loss=0.05, **options), ""
    except InputError as error:
        return None, str(error)


@pytest.fixture(scope="module")
def hundred():
    model = classifier(25)
    assert len(model.graph.node) > 100
    return model, samples(model, 1500)


@pytest.mark.parametrize(
    "strategy", ["basic", "ilp", {"name": "sigopt", "driver": "local"}], ids=["basic", "ilp", "sigopt"]
)
def test_a_hundred_operators_get_trials_in_a_small_limit(hundred, tmp_path, strategy):
    model, data = hundred
    begin = time.monotonic()
    study, refused = attempt(model, data, strategy=strategy, max_trials=0, run_dir=tmp_path / "run")
    if study is None:
        assert refused.startswith("tuning.timeout")
        assert "give the run more than" in refused
        # A machine that is busy from one moment to the next has its time end in the trial: the folder says so.
        assert (tmp_path / "run").exists() == ("during the first trial" in refused)
        return
    result = study.result
    assert result["status"] in ("met", "missed")
    assert result["trials"]["total"] >= 1
    measure = result["measure"]
    assert 2 <= measure["samples"] <= measure["samples_given"] == 1400
    assert measure["calibration_samples"] <= measure["calibration_samples_given"] == 100
    assert study.model_path.is_file()
    assert result["seconds"]["total"] <= time.monotonic() - begin
    reduced = [text for text in result["notices"] if "samples are used" in text]
    assert bool(reduced) == (
        measure["samples"] < measure["samples_given"]
        or measure["calibration_samples"] < measure["calibration_samples_given"]
    )


def test_the_same_limit_goes_on_with_the_same_samples(hundred, tmp_path):
    model, data = hundred
    first, refused = attempt(model, data, max_trials=1, run_dir=tmp_path / "run")
    if first is None:
        assert refused.startswith("tuning.timeout")
        return
    before = first.result
    more = nc_strategies.tune(model, data, max_trials=2, tolerable_loss=0.05, run_dir=tmp_path / "run").result
    assert more["trials"]["resumed"] == before["trials"]["total"]
    for key in ("samples", "calibration_samples"):
        assert more["measure"][key] == before["measure"][key]


def test_a_limit_that_cannot_hold_fp32_is_refused_with_what_is_needed(hundred, tmp_path):
    model, data = hundred
    with pytest.raises(InputError) as caught:
        nc_strategies.tune(model, data, timeout=0.05, run_dir=tmp_path / "run")
    assert caught.value.key == "tuning.timeout"
    assert "give the run more than" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_limit_without_need_uses_every_sample(tmp_path):
    model = classifier(1)
    x, y = samples(model, 60)
    study = nc_strategies.tune(
        model, (x, y), calibration=x[:10], timeout=600, max_trials=1, tolerable_loss=0.5, run_dir=tmp_path / "run"
    )
    measure = study.result["measure"]
    assert (measure["samples"], measure["samples_given"]) == (60, 60)
    assert (measure["calibration_samples"], measure["calibration_samples_given"]) == (10, 10)
    lines = (tmp_path / "run" / "trials.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["samples"] == 60
