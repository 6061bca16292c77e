"""What int8 does to each operator, in words, as a table and on the page."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest
from rich.console import Console

from nc_strategies.calibration.layers import ActivationRange, TensorStatistics, weight_facts
from nc_strategies.errors import InputError
from nc_strategies.measuring.diagnosis import Diagnosis, LayerDiagnosis
from nc_strategies.report import diagnosis, page
from nc_strategies.report.result import write, write_json
from nc_strategies.report.run_files import RunFiles
from nc_strategies.testing import ToyOp
from nc_strategies.testing.toy import toy_space

HOSTILE = "</script><img src=x onerror=\"document.title='taken'\">'&\u2028"
RANGE = ActivationRange(-4.0, 4.0, 254)


def activation(change=lambda values: values, span=RANGE, role="output", name="t"):
    values = change(np.random.default_rng(0).normal(size=(64, 20)).astype(np.float32))
    statistics = TensorStatistics(-1, span)
    statistics.update(values)
    return statistics.facts(name, role)


def layer(name="a", alone=20.0, tensors=None, weight=None, granularity="per_channel"):
    tensors = (activation(),) if tensors is None else tensors
    scheme = "activation uint8 asym per_tensor minmax; weight int8 sym per_channel minmax"
    return LayerDiagnosis(name, "Conv", scheme, granularity, alone, alone - 1, alone - 5, tensors, weight)


def content(*layers, backend=None, floats=()):
    space = toy_space([ToyOp(one.name) for one in layers])
    config = space.fall_back(space.default(), *floats)
    backend = backend or {"name": "onnxruntime", "equalize": "never", "recovery": "none"}
    found = diagnosis.as_dict(Diagnosis(layers, 100, "evaluation"), config, space, "int8", backend, {})
    return json.loads(json.dumps(found, allow_nan=False))


WEIGHT = weight_facts(np.eye(20), np.eye(20) * 0.99999, 0, "per_channel")


def test_an_operator_without_a_weight_is_not_to_be_equalized():
    sum_of_two = layer(tensors=(activation(larger, ActivationRange(-200.0, 200.0, 254), "input"),))
    text = told(content(sum_of_two))
    assert "(channel 7) reaches" in text
    assert "equalize" not in text
    assert "Keep it in fp32" in text


def told(found):
    return f"{found['look_at'][0]['why']} {found['look_at'][0]['suggestion']}"


def larger(values):
    values[:, 7] *= 60
    return values


def test_the_lowest_ratio_comes_first_and_float_operators_last():
    found = content(layer("a", 30), layer("b", 10), layer("c", 5), layer("d", 20), layer("e", 40), floats=["c"])
    assert found["worst_first"] == ["b", "d", "a", "e", "c"]
    assert [one["operator"] for one in found["look_at"]] == ["b", "d", "a"]
    assert [one["position"] for one in found["layers"]] == [1, 2, 3, 4, 5]


def test_an_operator_with_a_small_error_asks_for_nothing():
    found = content(layer(alone=45.0))
    assert found["look_at"][0]["suggestion"] == "None: its error is small."


@pytest.mark.parametrize(
    ("one", "says", "tries"),
    [
        (
            layer(tensors=(activation(larger, ActivationRange(-200.0, 200.0, 254), "input"),), weight=WEIGHT),
            "1 of 20 channels of its input 't' (channel 7) reaches",
            "backend.equalize=auto",
        ),
        (
            layer(tensors=(activation(span=ActivationRange(-1.0, 1.0, 254)),)),
            "of the values of its output 't' lie outside its range",
            "data.calibration_samples",
        ),
        (
            layer(tensors=(activation(span=ActivationRange(-300.0, 300.0, 254)),)),
            "99 % of the values of its output 't' share 2 of 255 steps",
            "activation algorithm [percentile]",
        ),
        (
            layer(tensors=(activation(span=ActivationRange(-20.0, 20.0, 254)),)),
            "of the range of its output 't' is unused: it goes from -20 to 20",
            "data.calibration_path",
        ),
        (
            layer(tensors=(activation(lambda v: v * (np.arange(20) > 2)),)),
            "3 of 20 channels of its output 't' are constant",
            "remove the constant channels",
        ),
    ],
)
def test_each_cause_is_told_with_what_to_try(one, says, tries):
    text = told(content(one))
    assert says in text
    assert tries.lower() in text.lower()
    assert "eep it in fp32" in text


def test_one_scale_for_channels_far_apart_suggests_one_for_each():
    weight = np.random.default_rng(1).normal(size=(20, 9)).astype(np.float32)
    weight[4] *= 100
    step = np.abs(weight).max() / 127
    facts = weight_facts(weight, np.round(weight / step) * step, 0, "per_tensor")
    text = told(content(layer(weight=facts, granularity="per_tensor")))
    assert "its largest output channel is" in text
    assert "one scale per channel" in text.lower()
    assert "one scale per channel" not in told(content(layer(weight=facts))).lower()


def test_where_nothing_stands_out_it_is_said():
    assert "No range, channel or weight stands out" in told(content(layer()))


def test_the_terminal_shows_the_worst_first_and_how_many_more():
    found = content(*(layer(f"op{i}", 10.0 + i) for i in range(25)))
    stream = io.StringIO()
    Console(file=stream, width=200).print(diagnosis.render(found))
    text = stream.getvalue()
    assert "on 100 evaluation samples" in text
    assert text.index("op0 ") < text.index("op19 ")
    assert "op20" not in text
    assert "and 5 more in diagnosis.json" in text


def test_the_table_names_the_largest_outlier_channels():
    outlier = activation(larger, ActivationRange(-200.0, 200.0, 254), "input")
    cells = diagnosis.row(content(layer(tensors=(outlier, activation())))["layers"][0])
    assert re.fullmatch(r"input 7 \(\d\d times\)", cells[-1])


def test_ratios_without_a_number_have_words():
    words = ["-", "exact", "not finite", "12.3", "0.0"]
    assert [diagnosis.decibels(value) for value in (None, 200.0, -200.0, 12.34, -0.02)] == words


@pytest.fixture
def run_dir(finished):
    study, setup = finished(ops=(ToyOp("a"), ToyOp(HOSTILE)))
    write(study, setup)
    return study.run_dir


def test_the_page_has_the_section_only_with_a_diagnosis(run_dir):
    assert "h-diagnosis" not in page.write(run_dir).read_text()
    outlier = activation(larger, ActivationRange(-200.0, 200.0, 254), "input", HOSTILE)
    found = content(layer("a", 41.5), layer(HOSTILE, 12.5, (outlier,)))
    write_json(run_dir / diagnosis.FILE, found)
    text = page.write(run_dir).read_text()
    assert "h-diagnosis" in text
    assert HOSTILE not in text
    assert "chart-sqnr" in text
    assert "Look at these first" in text
    drawn = diagnosis.charts_of(RunFiles.read(run_dir).diagnosis)
    points = drawn["chart-sqnr"]["data"]["values"]
    assert [(p["position"], p["db"]) for p in points] == [(1, 41.5), (1, 36.5), (2, 12.5), (2, 7.5)]
    ends = drawn["chart-histogram"]["layer"][1]["data"]["values"]
    assert [one["end"] for one in ends] == [-200.0, 200.0]
    write_json(run_dir / diagnosis.FILE, {**found, "schema_version": 99})
    assert "h-diagnosis" not in page.write(run_dir).read_text()


def test_a_damaged_diagnosis_is_said_in_one_line(run_dir):
    (run_dir / diagnosis.FILE).write_text("{")
    with pytest.raises(InputError, match=r"diagnosis\.json"):
        page.write(run_dir)


def test_a_backend_without_the_method_is_refused(finished):
    _, setup = finished()
    config = toy_space([ToyOp("a")]).default()
    with pytest.raises(InputError, match="toy cannot read the outputs of single operators"):
        setup.target.diagnose(config, config, 10)
