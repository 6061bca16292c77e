"""What a tolerable loss means: in which direction, of what."""

import math

import pytest

from nc_strategies.problem import Constraint


@pytest.mark.parametrize(
    ("baseline", "higher", "criterion", "loss", "threshold"),
    [
        (0.8, True, "relative", 0.01, 0.792),
        (0.8, True, "absolute", 0.01, 0.79),
        (0.8, True, "relative", 0.0, 0.8),
        (0.8, True, "absolute", -0.01, 0.81),
        (2.0, False, "relative", 0.01, 2.02),
        (2.0, False, "absolute", 0.5, 2.5),
        (2.0, False, "absolute", -0.5, 1.5),
        (-4.0, True, "relative", 0.1, -4.4),
        (-4.0, False, "relative", 0.1, -3.6),
        (-4.0, True, "absolute", 0.1, -4.1),
        (0.0, True, "relative", 0.1, 0.0),
    ],
)
def test_the_threshold_lies_on_the_worse_side_of_fp32_by_the_loss(baseline, higher, criterion, loss, threshold):
    constraint = Constraint.from_baseline("accuracy", baseline, higher, criterion, loss)
    assert constraint.threshold == pytest.approx(threshold)
    assert (constraint.baseline, constraint.criterion, constraint.tolerable_loss) == (baseline, criterion, loss)


def test_the_threshold_itself_is_accepted_also_after_rounding():
    constraint = Constraint.from_baseline("accuracy", 0.9, True, "relative", 0.01)
    assert constraint.violation(constraint.threshold) == 0.0
    assert constraint.violation(0.9 * 0.99) == 0.0
    assert constraint.violation(0.9 - 0.009) == 0.0


@pytest.mark.parametrize("higher", [True, False])
def test_violation_is_the_distance_to_the_threshold_on_the_wrong_side_only(higher):
    constraint = Constraint.from_baseline("m", 10.0, higher, "absolute", 1.0)
    worse, better = (8.5, 11.0) if higher else (11.5, 9.0)
    assert constraint.violation(worse) == pytest.approx(0.5)
    assert constraint.violation(better) == 0.0


@pytest.mark.parametrize(("higher", "value", "loss"), [(True, 0.7, 0.1), (True, 0.9, -0.1), (False, 0.9, 0.1)])
def test_loss_is_positive_for_worse_than_fp32(higher, value, loss):
    assert Constraint("m", 0.0, 0.8, higher).loss(value) == pytest.approx(loss)


def test_nan_never_meets_a_constraint():
    assert Constraint.from_baseline("m", 0.9, True, "relative", 0.01).violation(math.nan) > 0
