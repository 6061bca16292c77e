"""The metric: the suite every metric must pass, and what is its own."""

import numpy as np
import pytest
from nc_strategies_example.metric import Brier
from nc_strategies_example.settings import BrierSettings

from nc_strategies.api import InputError
from nc_strategies.testing import MetricSuite


class TestBrier(MetricSuite):
    def metric(self):
        return Brier(BrierSettings())


def test_its_values_by_hand():
    outputs = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.0, 0.0]])
    np.testing.assert_allclose(Brier().scores(outputs, np.zeros(4)), [0.0, 2.0, 0.5, 0.5])


@pytest.mark.parametrize("labels", [[0, 2], [0, -1], [[0], [1]], [0]])
def test_labels_that_do_not_fit_are_an_input_error(labels):
    with pytest.raises(InputError, match=r"^data: "):
        Brier().scores(np.eye(2), np.array(labels))
