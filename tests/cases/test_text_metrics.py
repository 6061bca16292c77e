"""Text models are tuned on metrics of text."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import nc_strategies
from nc_strategies.errors import InputError

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


def test_a_hopeless_trial_of_a_language_model_is_stopped_early(tmp_path):
    ids, goal = counting(800, 12), {"criterion": "absolute", "tolerable_loss": -1.0}
    study = nc_strategies.tune(
        language_model(), ({"ids": ids}, ids), metric="perplexity", run_dir=tmp_path / "run", **goal, **QUICK
    )
    assert study.result["trials"]["pruned"] == 1


def encoder(outputs, tail=(), shapes=None, constants=()):
    """Words to a hidden state (N, T, 8), whose first values are the bits of the word's number as -1 or 1."""
    rng = np.random.default_rng(0)
    table = rng.normal(0, 0.1, (8, 8))
    table[:, :3] = 2 * ((np.arange(8)[:, None] >> np.arange(3)) & 1) - 1
    weights = {"table": table, "mix": np.eye(8) + rng.normal(0, 0.02, (8, 8))}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["embedded"], "gather"),
        helper.make_node("MatMul", ["embedded", "mix"], ["hidden"], "mix_product"),
        *tail,
    ]
    initializers = [numpy_helper.from_array(a.astype(np.float32), name) for name, a in weights.items()]
    initializers += [numpy_helper.from_array(np.asarray(a), name) for name, a in constants]
    known = {"hidden": ["N", "T", 8], **(shapes or {})}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "T"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, known[name]) for name in outputs],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def product(name, source, columns, target):
    """A MatMul of the hidden state with constant columns, shape (8, columns)."""
    node = helper.make_node("MatMul", [source, f"{name}_weight"], [target], f"{name}_product")
    return node, (f"{name}_weight", np.asarray(columns, np.float32))


def words(count=60, length=6, low=0):
    return np.random.default_rng(2).integers(low, 8, size=(count, length))


def run(model, ids, labels, metric, tmp_path, **options):
    return nc_strategies.tune(
        model, ({"ids": ids}, labels), metric=metric, run_dir=tmp_path / "run", **{**QUICK, "max_trials": 1, **options}
    ).result


def checked(result, want):
    """fp32 has the expected value, and the loss of the int8 model an interval that holds it."""
    sign = 1 if result["goal"]["higher_is_better"] else -1
    low, high = result["tuned"]["accuracy_loss_ci95"]
    assert result["baseline"]["accuracy"] == pytest.approx(want, abs=1e-6)
    assert low <= sign * (result["baseline"]["accuracy"] - result["tuned"]["accuracy"]) <= high


def test_a_tagger_is_tuned_on_the_f1_of_its_entities(tmp_path):
    # The tag of a word is its number modulo 4: 1 is B, 2 is I of the same type, 3 is B of another type.
    columns = np.zeros((8, 4))
    columns[:2] = [[-1, 1, -1, 1], [-1, -1, 1, 1]]
    node, weight = product("tagger", "hidden", columns, "tags")
    ids = words()
    labels = ids % 4
    labels[:, -1] = -100
    labels[::7, 0] = 0
    result = run(encoder(["tags"], [node], {"tags": ["N", "T", 4]}, [weight]), ids, labels, "token_f1", tmp_path)
    assert 0.7 < result["baseline"]["accuracy"] < 1
    checked(result, result["baseline"]["accuracy"])


@pytest.mark.parametrize("names", [("start_logits", "end_logits"), ("b", "a")])
def test_a_reader_is_tuned_on_its_answers(tmp_path, names):
    # Word 1 starts an answer, word 2 ends it.
    columns = np.zeros((8, 2))
    columns[:3] = [[4, -4], [-4, 4], [-9, -9]]
    node, weight = product("reader", "hidden", columns, "both")
    tail = [node, helper.make_node("Split", ["both", "one"], ["s", "e"], "split", axis=2)]
    tail += [helper.make_node("Squeeze", [part, "two"], [name], name) for part, name in zip("se", names, strict=True)]
    constants = [weight, ("one", np.int64([1, 1])), ("two", np.int64([2]))]
    model = encoder(names, tail, {name: ["N", "T"] for name in names}, constants)
    ids = np.full((60, 6), 4)
    first = np.random.default_rng(0).integers(3, size=60)
    last = first + np.random.default_rng(1).integers(1, 3, size=60)
    ids[np.arange(60), first], ids[np.arange(60), last] = 1, 2
    labels = np.stack([first, last], 1)
    labels[::10] = 0
    checked(run(model, ids, labels, "answer_exact_match", tmp_path), float((labels[20:, 1] > 0).mean()))


@pytest.mark.parametrize("metric", ["cer", "wer"])
def test_a_recognizer_with_time_first_is_tuned_on_its_errors(tmp_path, metric):
    columns = np.stack([[2 * ((word >> bit) & 1) - 1 for bit in range(3)] + [0] * 5 for word in range(8)], 1)
    node, weight = product("recognizer", "hidden", columns, "scores")
    tail = [node, helper.make_node("Transpose", ["scores"], ["steps"], "turn", perm=[1, 0, 2])]
    model = encoder(["steps"], tail, {"steps": ["T", "N", 8]}, [weight])
    ids = words(60, 9, 1)
    ids[:, 1::2] = 0
    labels = np.full((60, 6), -100)
    labels[:, :5] = ids[:, ::2]
    labels[::5, 0] = labels[::5, 0] % 7 + 1
    checked(run(model, ids, labels, metric, tmp_path), 8 / 40 / 5)


@pytest.mark.parametrize("metric", ["spearman", "pearson"])
def test_embeddings_of_single_texts_are_paired_by_their_labels(tmp_path, metric):
    tail = [helper.make_node("ReduceMean", ["hidden"], ["embedding"], "pool", axes=[1], keepdims=0)]
    model = encoder(["embedding"], tail, {"embedding": ["N", 8]})
    ids = words(120)
    ids[1::4, 3:] = ids[::4, 3:]
    truth = np.repeat(np.tile([3.0, 1.0], 30) + np.random.default_rng(0).random(60), 2)
    labels = np.stack([np.repeat(np.arange(60), 2), truth], 1)
    result = run(model, ids, labels, metric, tmp_path)
    assert 0.1 < result["baseline"]["accuracy"] < 1
    checked(result, result["baseline"]["accuracy"])


def test_labels_that_name_no_pairs_are_refused(tmp_path):
    tail = [helper.make_node("ReduceMean", ["hidden"], ["embedding"], "pool", axes=[1], keepdims=0)]
    model = encoder(["embedding"], tail, {"embedding": ["N", 8]})
    with pytest.raises(InputError, match="which embeddings are pairs"):
        run(model, words(), np.random.default_rng(0).random(60), "spearman", tmp_path)
    assert not (tmp_path / "run").exists()
