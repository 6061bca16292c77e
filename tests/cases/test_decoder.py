"""Language models with past keys and values as inputs: opened, quantized to 4 bits, timed per token."""

from __future__ import annotations

import io
import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from rich.console import Console

import nc_strategies
from nc_strategies.data.dataset import Raw
from nc_strategies.data.matching import match
from nc_strategies.data.settings import InputRules, Preprocess
from nc_strategies.errors import InputError
from nc_strategies.models import decoder
from nc_strategies.models.info import ModelInfo, TensorSpec
from nc_strategies.report import table
from nc_strategies.testing import decoder as made

SIZE = made.DecoderSize(layers=1, positions=96)
QUICK = {"max_trials": 1, "latency_runs": 20, "final_runs": 20, "metric": "perplexity", "tolerable_loss": 0.2}
FOUR_BITS = {".*weight/MatMul": {"activation": {"dtype": ["fp32"]}, "weight": {"dtype": ["int4"]}}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained decoder, and text that it was not trained on."""
    place = tmp_path_factory.mktemp("decoder")
    made.write_trained(place, SIZE)
    text = made.markov_text(SIZE.vocabulary, 60, 24, seed=5)
    np.savez(place / "text.npz", input_ids=text[:40], y=text[:40])
    np.savez(place / "calibration.npz", input_ids=text[40:])
    return place


def tuned(folder, run_dir, **options):
    return nc_strategies.tune(
        folder / made.FILE,
        folder / "text.npz",
        calibration=folder / "calibration.npz",
        run_dir=run_dir,
        **{**QUICK, **options},
    )


def result_of(study):
    return json.loads((study.run_dir / "result.json").read_text())


def test_a_decoder_keeps_its_perplexity_in_4_bits_and_continues_its_past(folder, tmp_path):
    study = tuned(folder, tmp_path / "run", op_name_dict=FOUR_BITS, backend={"name": "onnxruntime", "modes": "all"})
    result = result_of(study)
    assert 2 < result["baseline"]["accuracy"] < 4 < SIZE.vocabulary  # the chain's own is 2.2
    assert result["tuned"]["accuracy"] == pytest.approx(result["baseline"]["accuracy"], rel=0.2)
    assert result["tuned"]["accuracy"] != result["baseline"]["accuracy"]
    assert result["tuned"]["ops"]["MatMul"]["weight_only"] == 7
    session = ort.InferenceSession(study.model_path, providers=["CPUExecutionProvider"])
    text = made.markov_text(SIZE.vocabulary, 1, 12, seed=9)
    whole = session.run(None, {**made.prompt(text), **made.empty_past(SIZE, 1)})
    first = session.run(None, {**made.prompt(text[:, :8]), **made.empty_past(SIZE, 1)})
    past = {f"past_key_values.0.{part}": first[1 + place] for place, part in enumerate(("key", "value"))}
    rest = {
        "input_ids": text[:, 8:],
        "attention_mask": np.ones((1, 12), np.int64),
        "position_ids": np.arange(8, 12)[None],
    }
    np.testing.assert_allclose(session.run(None, {**rest, **past})[0], whole[0][:, 8:], atol=0.02)


def test_time_per_token_is_measured_by_phase_at_each_context(folder, tmp_path):
    study = tuned(folder, tmp_path / "run", context_lengths=[64, 8])
    result = result_of(study)
    found = result["tuned"]["latency_by_phase"]
    assert [(one["phase"], one["length"]) for one in found] == [
        ("prefill", 8),
        ("decode", 8),
        ("prefill", 64),
        ("decode", 64),
    ]
    assert "latency_by_length" not in result["tuned"]
    assert sum(one["weight"] for one in found) == pytest.approx(1)
    # A token of a long prompt costs a fraction of one that is written alone.
    assert found[2]["fp32_ms"] < found[3]["fp32_ms"] / 2
    own = sum(one["weight"] * one["fp32_ms"] for one in found)
    assert result["baseline"]["latency_ms"] == pytest.approx(own, rel=0.5)
    runs = [one["fp32_ms"] * (one["length"] if one["phase"] == "prefill" else 1) for one in found]
    trial = json.loads((study.run_dir / "trials.jsonl").read_text().splitlines()[-1])
    assert trial["evaluation"]["latency_by_phase"][0]["phase"] == "prefill"
    assert min(runs) / 3 < trial["evaluation"]["values"]["run_ms"] < 3 * max(runs)


def test_a_run_is_not_resumed_with_other_context_lengths(folder, tmp_path):
    tuned(folder, tmp_path / "run", context_lengths=[8])
    with pytest.raises(InputError, match=r"context_lengths was \[8\], is \[16\]"):
        tuned(folder, tmp_path / "run", context_lengths=[16])


def test_phases_are_shown_beside_each_other(folder, tmp_path):
    study = tuned(folder, tmp_path / "run", context_lengths=[8])
    shown = io.StringIO()
    Console(file=shown, width=200).print(table.render(result_of(study), "run"))
    (row,) = (line for line in shown.getvalue().splitlines() if "decode" in line)
    assert "ms/token" in shown.getvalue()
    assert "prefill" in shown.getvalue()
    assert row.split()[2] == "8"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"context_lengths": [0]}, "positive"),
        ({"context_lengths": []}, "positive"),
        ({"context_lengths": [8], "lengths": [8]}, "both given"),
        ({"context_lengths": [96]}, "decode"),
        ({"context_lengths": [200]}, "prefill"),
    ],
)
def test_context_lengths_that_cannot_be_run_are_one_line(folder, tmp_path, options, words):
    with pytest.raises(InputError, match=words) as caught:
        tuned(folder, tmp_path / "run", **options)
    assert caught.value.key == "measure.context_lengths"
    assert "\n" not in str(caught.value)


def test_context_lengths_need_a_model_with_a_past(tmp_path):
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    weight = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4])] for name in "xy"]
    graph = helper.make_graph([node], "g", *ends, [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data = (np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32), np.arange(20) % 4)
    with pytest.raises(InputError, match="no past") as caught:
        nc_strategies.tune(model, data, run_dir=tmp_path / "run", context_lengths=[8], calibration_samples=4)
    assert caught.value.key == "measure.context_lengths"


# Which inputs belong to a decoder


def spec(name, *shape, dtype=np.float32):
    return TensorSpec(name, tuple(shape), np.dtype(dtype))


def info(past, present, *more):
    ids = spec("input_ids", None, None, dtype=np.int64)
    pasts = [spec(name, None, 4, None, 16) for name in past]
    presents = [spec(name, None, 4, None, 16) for name in present]
    return ModelInfo((ids, *more, *pasts), (spec("logits", None, None, 32), *presents))


@pytest.mark.parametrize(
    ("past", "present"),
    [
        ("past_key_values.0.key", "present.0.key"),
        ("past_key_values.11.value", "present_key_values.11.value"),
        ("past.0.key", "present.0.key"),
        ("past_key_0", "present_key_0"),
        ("past_0", "present_0"),
    ],
)
def test_a_past_input_belongs_to_the_present_output_of_its_name(past, present):
    found = decoder.find(info([past], [present]), ())
    assert found is not None
    assert dict(found.past) == {past: present}


@pytest.mark.parametrize(
    ("inputs", "given"),
    [
        (info(["past_key_values.0.key"], ["present.1.key"]), ()),
        (info(["cache.0.key"], ["present.0.key"]), ()),
        (info(["past_0"], ["present_0"]), ("past_0",)),
        (ModelInfo((spec("past_0", None, 4, None, 16),), (spec("present_0", None, 4, None, 16),)), ()),
        (
            ModelInfo(
                (spec("input_ids", None, None), spec("past_0", None, 4, 8, 16)), (spec("present_0", 1, 4, 8, 16),)
            ),
            (),
        ),
    ],
)
def test_other_inputs_are_no_past(inputs, given):
    assert decoder.find(inputs, given) is None


def test_the_past_is_empty_and_mask_and_positions_follow_from_the_tokens():
    flag = TensorSpec("use_cache_branch", (1,), np.dtype(bool), None)
    more = [spec(name, None, None, dtype=np.int64) for name in ("attention_mask", "position_ids")]
    tokens = np.arange(6).reshape(2, 3)
    raw = Raw("data.path", {"input_ids": tokens})
    feeds = match(info(["past_0"], ["present_0"], *more, flag), raw, Preprocess(), InputRules()).feeds
    feed = feeds.engine({"input_ids": tokens})
    assert feed["past_0"].shape == (2, 4, 0, 16)
    assert feed["attention_mask"].tolist() == [[1, 1, 1]] * 2
    assert feed["position_ids"].tolist() == [[0, 1, 2]] * 2
    assert feed["use_cache_branch"].tolist() == [False]
    masked = {"input_ids": tokens, "attention_mask": np.array([[0, 1, 1], [1, 1, 1]])}
    given = match(
        info(["past_0"], ["present_0"], *more, flag), Raw("data.path", masked), Preprocess(), InputRules()
    ).feeds
    assert given.engine(masked)["position_ids"].tolist() == [[0, 0, 1], [0, 1, 2]]


def test_operators_that_read_the_empty_past_stay_in_floating_point(folder, tmp_path):
    study = tuned(folder, tmp_path / "run", backend={"name": "onnxruntime", "modes": "static"})
    assert study.result["tuned"]["ops"]["Concat"]["int8"] == 0
    remarks = json.loads((study.run_dir / "analysis.json").read_text())["remarks"]
    assert any("empty on the calibration data" in text for text in remarks)
    assert any("past of a decoder" in text for text in remarks)
