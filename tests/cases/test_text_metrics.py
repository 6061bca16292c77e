"""Text models are tuned on metrics of text."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import nc_strategies

QUICK = {"max_trials": 1, "latency_runs": 20, "final_runs": 20, "calibration_samples": 20}
WORDS = 24


def language_model():
    """A bigram model whose logits are exactly ``scale * (next == previous + 1)``."""
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(WORDS, WORDS)))
    weights = {"embedding": basis, "head": 4 * basis.T @ np.roll(np.eye(WORDS), 1, 1)}
    nodes = [
        helper.make_node("Gather", ["embedding", "ids"], ["state"], "gather"),
        helper.make_node("MatMul", ["state", "head"], ["logits"], "head_product"),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", "T", WORDS]) for name in ("logits",)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "T"])],
        outputs,
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def counting(count=60, length=9, right=0.9):
    """Texts that count on from a random word, and jump at random now and then."""
    rng = np.random.default_rng(1)
    ids = np.empty((count, length), np.int64)
    ids[:, 0] = rng.integers(WORDS, size=count)
    for place in range(1, length):
        jump = rng.integers(WORDS, size=count)
        ids[:, place] = np.where(rng.random(count) < right, (ids[:, place - 1] + 1) % WORDS, jump)
    return ids


def expected_perplexity(ids, counted):
    following = ids[:, 1:] == (ids[:, :-1] + 1) % WORDS
    total = np.log(WORDS - 1 + np.exp(4.0))
    losses = np.where(following, total - 4, total)
    return float(np.exp(losses[counted[:, 1:]].mean()))


def test_a_language_model_is_tuned_on_its_perplexity_with_an_interval(tmp_path):
    ids = counting()
    labels = ids.copy()
    labels[::2, 6:] = -100
    study = nc_strategies.tune(
        language_model(), ({"ids": ids}, labels), metric="perplexity", run_dir=tmp_path / "run", **QUICK
    )
    used = slice(20, None)
    want = expected_perplexity(ids[used], labels[used] != -100)
    result = study.result
    assert abs(result["baseline"]["accuracy"] - want) < 1e-3
    assert result["goal"]["higher_is_better"] is False
    low, high = result["tuned"]["accuracy_loss_ci95"]
    assert low <= result["tuned"]["accuracy"] - result["baseline"]["accuracy"] <= high


def test_the_logits_are_read_whichever_output_they_are(tmp_path):
    ids = counting(40)
    model = language_model()
    state = helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["N", 1, WORDS])
    model.graph.node.append(helper.make_node("ReduceMean", ["state"], ["mean"], "mean_state", axes=[1]))
    del model.graph.output[:]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", "T", WORDS])
    model.graph.output.extend([state, logits])
    study = nc_strategies.tune(
        model, ({"ids": ids}, ids), metric={"name": "perplexity"}, run_dir=tmp_path / "run", **QUICK
    )
    assert study.result["outputs"]["perplexity"]["output"] == "logits"
