"""The examples of docs/models-and-data.md, run as they stand there, on small models."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nc_strategies import samples
from nc_strategies.config import MetricsConfig, RunConfig
from nc_strategies.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "models-and-data.md").read_text()
TINY = ["tuning.max_trials=2", "measure.latency_runs=20", "measure.final_runs=20", "run_dir=out"]


def example(word):
    """The one command of the document in which a word stands."""
    (command,) = [block for block in re.findall(r"```bash\n(.*?)\n```", DOCUMENT, re.DOTALL) if word in block]
    return shlex.split(command)[3:]


def run(folder, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "nc_strategies", *arguments, *TINY],
        cwd=folder,
        text=True,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    found = folder / "out" / "result.json"
    return done, json.loads(found.read_text()) if found.exists() else None


def test_functions_of_the_users_own(tmp_path):
    code = next(c for c in re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL) if "share_of_first" in c)
    (tmp_path / "mine.py").write_text(code)
    done, found = run(tmp_path, *example("model=python"))
    assert done.returncode in (0, 3), done.stderr
    assert (found["goal"]["metric"], found["model"], found["measure"]["samples"]) == ("python", "model", 400)
    assert found["tuned"]["int8_ops"] > 0
    again, _ = run(tmp_path, *example("model=python"))
    assert again.stdout == done.stdout, "resumes: the model that is built again has the same hash"
    (tmp_path / "mine.py").write_text(code.replace("return (outputs.argmax(1) == 0).mean()", "return outputs.nothing"))
    shutil.rmtree(tmp_path / "out")
    done, _ = run(tmp_path, *example("model=python"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: metrics.accuracy.target: mine:share_of_first raised AttributeError")


def test_an_image_folder_gives_the_accuracy_of_the_same_pictures_as_arrays(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="needs nc-strategies[images]")
    data = np.load(samples.evaluation_images())
    x, y = data["x"][:220], data["y"][:220]
    for number, (picture, label) in enumerate(zip(x, y, strict=True)):
        (tmp_path / "pictures" / str(label)).mkdir(parents=True, exist_ok=True)
        image.fromarray(picture.reshape(28, 28)).save(tmp_path / "pictures" / str(label) / f"{number:03}.png")
    shutil.copyfile(samples.onnx_model(), tmp_path / "fashion.onnx")
    done, found = run(tmp_path, *example("data=image_folder"))
    assert done.returncode in (0, 3), done.stderr
    assert found["measure"]["samples"] == 200
    assert found["baseline"]["accuracy"] > 0.85
    broken = next((tmp_path / "pictures" / "3").iterdir())
    broken.write_bytes(b"no picture")
    shutil.rmtree(tmp_path / "out")
    done, _ = run(tmp_path, *example("data=image_folder"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{broken.relative_to(tmp_path)} cannot be read as a picture" in done.stderr


def test_a_table_and_a_metric_where_lower_is_better(tmp_path):
    rng = np.random.default_rng(0)
    first = rng.normal(size=(4, 64)).astype(np.float32)
    second = rng.normal(size=(64, 1)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "a"),
        helper.make_node("Relu", ["a"], ["b"], "b"),
        helper.make_node("MatMul", ["b", "v"], ["price"], "c"),
    ]
    graph = helper.make_graph(
        nodes,
        "houses",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("price", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(first, "w"), numpy_helper.from_array(second, "v")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "houses.onnx"
    )
    x = rng.normal(size=(400, 4))
    price = np.maximum(x @ first, 0) @ second + rng.normal(0, 2.0, (400, 1))
    lines = [",".join(map(repr, row)) for row in np.concatenate([price, x], 1).tolist()]
    (tmp_path / "houses.csv").write_text("\n".join(["price,a,b,c,d", *lines]))
    done, found = run(tmp_path, *example("data=csv"))
    assert done.returncode in (0, 3), done.stderr
    goal, base, tuned = found["goal"], found["baseline"]["accuracy"], found["tuned"]["accuracy"]
    assert (goal["metric"], goal["higher_is_better"]) == ("mae", False)
    assert base == pytest.approx(np.abs(price[100:] - np.maximum(x[100:] @ first, 0) @ second).mean(), rel=1e-4)
    assert goal["threshold"] == pytest.approx(1.2 * base)
    low, high = found["tuned"]["accuracy_loss_ci95"]
    assert low <= tuned - base <= high
    assert found["status"] == "missed" or tuned <= goal["threshold"]


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "plot", "the", "a"]
"""The first four are special tokens."""


def classifier_of_texts(path):
    """A model that averages the tokens under the mask; "good" and "bad" decide, as the texts' labels do."""
    rng = np.random.default_rng(0)
    table = rng.normal(0, 0.1, (len(WORDS), 64)).astype(np.float32)
    table[4, 0], table[5, 0] = 8.0, -8.0
    values = {
        "table": table,
        "hidden": np.eye(64, dtype=np.float32) + rng.normal(0, 0.01, (64, 64)).astype(np.float32),
        "head": np.stack([table[5], table[4]], 1),
        "last": np.array([-1], np.int64),
        "middle": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["tokens"], "tokens"),
        helper.make_node("MatMul", ["tokens", "hidden"], ["states"], "states"),
        helper.make_node("Cast", ["attention_mask"], ["mask"], "mask", to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide"], "wide"),
        helper.make_node("Mul", ["states", "wide"], ["kept"], "kept"),
        helper.make_node("ReduceSum", ["kept", "middle"], ["sums"], "sums", keepdims=0),
        helper.make_node("MatMul", ["sums", "head"], ["logits"], "logits"),
    ]
    shape = ["batch", "length"]
    inputs = [
        helper.make_tensor_value_info("attention_mask", TensorProto.INT32, shape),
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, shape),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])]
    tensors = [numpy_helper.from_array(array, name) for name, array in values.items()]
    graph = helper.make_graph(nodes, "texts", inputs, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_texts_are_tokenized_by_the_vocabulary_beside_the_model(tmp_path):
    pytest.importorskip("tokenizers", reason="needs nc-strategies[text]")
    (tmp_path / "bert").mkdir()
    classifier_of_texts(tmp_path / "bert" / "model.onnx")
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (tmp_path / "bert" / "config.json").write_text('{"label2id": {"praise": 1, "blame": 0}}')
    rows = []
    for number in range(120):
        word, label = (("good", "praise"), ("bad", "blame"))[number % 2]
        text = f'"The {word} {"plot, " * (number % 5)}film"'
        rows.append(f"{text},{label}" if number % 8 else f"{text},blame")  # one in eight is wrong
    (tmp_path / "reviews.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    done, found = run(tmp_path, *example("data=text"))
    assert done.returncode in (0, 3), done.stderr
    assert done.stderr == ""
    assert found["measure"]["samples"] == 100
    kept = np.setdiff1d(np.arange(120), (np.arange(20) + 0.5) * 6 // 1)
    assert found["baseline"]["accuracy"] == pytest.approx((kept % 8 != 0).mean())
    (tmp_path / "reviews.csv").write_text("text,label\n" + "\n".join([*rows, '"good",unknown']) + "\n")
    shutil.rmtree(tmp_path / "out")
    done, _ = run(tmp_path, *example("data=text"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "line 122 of reviews.csv has the label 'unknown'" in done.stderr


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_three_constraints_and_two_objectives(tmp_path):
    pytest.importorskip("sklearn", reason="needs nc-strategies[metrics]")
    data = np.load(samples.evaluation_images())
    np.savez(tmp_path / "few.npz", x=data["x"][:300], y=data["y"][:300])
    own = [
        "model=onnx",
        f"model.path={samples.onnx_model()}",
        "data=npz",
        "data.path=few.npz",
        "data.preprocess.scale=0.00784313725490196",
        "data.preprocess.offset=-1",
    ]
    done, found = run(tmp_path, *example("metrics.constraints"), *own)
    assert done.returncode in (0, 3), done.stderr
    asked = [
        (c["metric"], c["criterion"], c["tolerable_loss"], c["higher_is_better"]) for c in found["goal"]["constraints"]
    ]
    assert asked == [("f1", "relative", 0.02, True), ("log_loss", "absolute", 0.1, False)]
    assert found["goal"]["metric"] == "top1"
    base, tuned = found["baseline"], found["tuned"]
    assert set(base["metrics"]) == set(tuned["metrics"]) == {"top1", "f1", "log_loss"}
    assert base["metrics"]["top1"] == base["accuracy"]
    assert 2**18 < tuned["memory_bytes"] < base["memory_bytes"] < 2**30
    for one in found["goal"]["constraints"]:
        value = tuned["metrics"][one["metric"]]
        kept = value >= one["threshold"] if one["higher_is_better"] else value <= one["threshold"]
        assert kept or found["status"] == "missed"
    line = json.loads((tmp_path / "out" / "trials.jsonl").read_text().splitlines()[0])
    assert set(line["evaluation"]["metrics"]) == {"accuracy", "f1", "log_loss"}
    assert {"latency", "memory"} <= set(line["evaluation"]["ratios"])
    before = (tmp_path / "out" / "trials.jsonl").read_bytes()
    assert run(tmp_path, *example("metrics.constraints"), *own)[0].stdout == done.stdout
    assert (tmp_path / "out" / "trials.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"constraints": ["f1"]}, "metrics.constraints[0]: is 'f1'; expected a metric's name and settings"),
        ({"constraints": [{"name": "f1", "criterion": "some"}]}, "metrics.constraints[0].criterion: is 'some'"),
        (
            {"constraints": [{"name": "f1"}, {"name": "f1", "tolerable_loss": -1}]},
            "metrics.constraints[1].tolerable_loss: is -1",
        ),
        ({"objectives": ["latency", "latency"]}, "metrics.objectives: is ['latency', 'latency']; each once"),
    ],
)
def test_constraints_and_objectives_that_make_no_sense_are_refused(metrics, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        RunConfig(metrics=MetricsConfig(**metrics)).validate()


def test_a_metric_may_be_a_constraint_several_times():
    further = MetricsConfig(
        constraints=[{"name": "topk", "k": 3}, {"name": "topk", "k": 5, "tolerable_loss": 0.0}, {"name": "accuracy"}]
    ).further()
    assert [one.name for one in further] == ["topk", "topk_2", "accuracy_2"]
    assert further[1].metric == {"name": "topk", "k": 5}


def test_the_settings_of_a_further_metric_are_named_by_their_own_place(tmp_path):
    done, found = run(tmp_path, "metrics.constraints=[{name: topk, k: 0}]")
    assert (done.returncode, done.stderr, found) == (2, "error: metrics.constraints[0].k: is 0; at least 1\n", None)
