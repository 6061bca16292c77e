"""What was estimated is kept, and comes back as it was."""

import json
import logging
import math

import pytest

from nc_strategies.errors import EngineError, OutOfTimeError
from nc_strategies.problem import ConversionEdge, LatencyTerms
from nc_strategies.space import FLOAT
from nc_strategies.study.estimates import FILE, Estimates, ask, one_by_one
from nc_strategies.testing import ToyOp
from nc_strategies.testing.toy import SCHEMES, toy_space

SPACE = toy_space([ToyOp("a"), ToyOp("b", "MatMul")])
TERMS = LatencyTerms(
    0.1,
    {"a": {FLOAT: 1 / 3, **dict.fromkeys(SCHEMES, 0.1 + 0.2)}, "b": {FLOAT: 0.5, SCHEMES[0]: 1e-17}},
    (
        ConversionEdge(
            "a",
            ("b",),
            float_consumer=True,
            clipped=frozenset({("int8", "sym"), ("uint8", "asym")}),
            quantize=0.01,
            dequantize=0.02,
            requantize=0.03,
            clip=0.04,
        ),
        ConversionEdge(None, ("a", "b"), quantize=0.05, dequantize=0.0),
    ),
    {("fuse", True): 0.01, ("level", 3): -0.02, ("mode", "fast"): 0.0},
    0.07,
    -0.01,
)


def kept(folder):
    one = Estimates(folder, SPACE, False)
    one.sensitivity = {"a": 0.1 + 0.2, "b": math.inf}
    one.terms = TERMS
    one.add_divergence(SPACE.default(), 1 / 7)
    return one


def test_all_comes_back_exactly(tmp_path):
    kept(tmp_path)
    again = Estimates(tmp_path, SPACE, True)
    assert again.sensitivity == {"a": 0.1 + 0.2, "b": math.inf}
    assert again.terms == TERMS
    assert again.divergence(SPACE.default()) == 1 / 7
    assert again.divergence(SPACE.all_float()) is None
    assert [p.name for p in tmp_path.iterdir()] == [FILE]


def test_a_new_run_reads_nothing(tmp_path):
    kept(tmp_path)
    assert Estimates(tmp_path, SPACE, False).sensitivity is None


def damaged(**changes):
    def change(text):
        return json.dumps({**json.loads(text), **changes})

    return change


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "\0" * 100,
        lambda text: "[" * 100_000,
        damaged(schema=99),
        damaged(sensitivity={"a": "much"}),
        damaged(sensitivity=[1]),
        damaged(sensitivity={"z": 1.0}),
        damaged(divergence=None),
        damaged(latency_terms={"base": 1}),
        damaged(latency_terms=3),
        lambda text: text.replace('"a": [[', '"z": [['),
        lambda text: text.replace('"quantize"', '"other"'),
    ],
)
def test_a_damaged_file_is_estimated_again_with_a_warning(tmp_path, caplog, damage):
    kept(tmp_path)
    path = tmp_path / FILE
    path.write_text(damage(path.read_text()))
    with caplog.at_level(logging.WARNING):
        again = Estimates(tmp_path, SPACE, True)
    assert "is estimated again" in caplog.text
    assert (again.sensitivity, again.terms, again.divergence(SPACE.default())) == (None, None, None)
    again.sensitivity = {"a": 1.0}
    assert Estimates(tmp_path, SPACE, True).sensitivity == {"a": 1.0}


def test_an_engines_error_in_an_estimate_is_the_engines_and_the_runs_end_is_not():
    def fail():
        raise ZeroDivisionError("by zero")

    def end():
        raise OutOfTimeError("over")

    assert ask(lambda: 3) == 3
    with pytest.raises(EngineError, match="ZeroDivisionError: by zero"):
        ask(fail)
    with pytest.raises(OutOfTimeError):
        ask(end)


def test_an_operator_that_takes_the_engine_down_is_infinitely_sensitive():
    def divergence(config):
        if "b" in config.int8_ops:
            raise EngineError("crashed")
        return 0.5

    assert one_by_one(divergence, SPACE, 10) == {"a": 0.5, "b": math.inf}


def test_after_too_many_failures_in_a_row_no_further_operator_is_asked_for():
    space, asked = toy_space([ToyOp(name) for name in "abcdef"]), []

    def divergence(config):
        asked.extend(config.int8_ops)
        raise EngineError("crashed")

    assert set(one_by_one(divergence, space, 2).values()) == {math.inf}
    assert asked == ["a", "b"]
