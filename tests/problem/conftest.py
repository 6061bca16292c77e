"""Evaluations that differ in what the goal looks at."""

import pytest

from nc_strategies.problem import Evaluation


@pytest.fixture
def evaluation():
    def make(accuracy, latency=1.0, size=1.0):
        return Evaluation((("accuracy", accuracy),), ratios=(("latency", latency), ("size", size)))

    return make
