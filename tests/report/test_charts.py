"""What the charts show of operators."""

import pytest

from nc_strategies.report import charts
from nc_strategies.report.operators import Operator, Price


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["net/a/Conv", "net/b/Conv", "net/b_1/Conv", "stem"], ["a", "b", "b_1", "stem"]),
        (["net/a/Conv", "net/a/Add"], ["a/Conv", "a/Add"]),
        (["a", "a/b"], ["a", "a/b"]),
        (["x/a", "a"], ["x", "a"]),
        (["one"], ["one"]),
        ([], []),
    ],
)
def test_names_on_an_axis_are_as_short_as_tells_them_apart(names, expected):
    assert list(charts.labels(names).values()) == expected


def operator(position, **known):
    return Operator(position, f"net/op{position}/Conv", "Conv", "int8", "int8", **known)


def title(spec):
    return spec["layer"][0]["encoding"]["x"]["title"]


def test_the_price_in_accuracy_is_that_which_tells_of_more_operators():
    few = [operator(1, loss=Price(0.1, 0.01), noise=0.5), operator(2, noise=0.2), operator(3, noise=0.1)]
    assert title(charts.price(few, "top1")[0]) == "noise to signal"
    assert len(charts.price(few, "top1")[0]["data"]["values"]) == 3
    both = [operator(k, loss=Price(0.1, 0.01), noise=0.5) for k in (1, 2)]
    assert title(charts.price(both, "top1")[0]) == "loss of top1"
    assert charts.price([operator(1)], "top1")[0] is None
