"""What the charts show of operators."""

from dataclasses import replace

import pytest

from nc_strategies.problem.objective import Objective
from nc_strategies.report import charts
from nc_strategies.report.operators import Operator, Price
from nc_strategies.report.result import write
from nc_strategies.report.run_files import RunFiles


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


def test_the_bar_of_a_trial_is_the_interval_of_the_objective(finished):
    study, setup = finished()
    write(study, setup)
    run = RunFiles.read(study.run_dir)
    trials = tuple(
        replace(
            t,
            evaluation=replace(t.evaluation, ratios=(("latency", 0.5), ("size", 0.25)), spread=(("latency", 0.1),)),
        )
        for t in run.trials
        if t.evaluation
    )

    def bars(*objectives):
        goal = replace(run.goal, objectives=objectives)
        other = replace(run, trials=trials)
        other.__dict__["goal"] = goal
        points = [charts._timed(other, trial) for trial in other.shown]
        return {(p["low"], p["gain"], p["high"]) for p in points}

    latency, size = Objective("latency"), Objective("size")
    assert bars(latency) == {(round(2 / 1.1, 4), 2.0, 2.2)}
    assert bars(size) == {(4.0, 4.0, 4.0)}
    # (0.5 + 0.25) / 2, and (0.55 + 0.25) / 2 at its worse end
    ((low, gain, high),) = bars(latency, size)
    assert (gain, low) == (round(1 / 0.375, 4), 2.5)
    assert high == pytest.approx(gain * 0.4 / 0.375, abs=1e-3)
