"""Test suites that plugin authors inherit, and a backend without an engine. Needs pytest.

Example:
    The complete tests of a strategy::

        from nc_strategies.testing import StrategySuite

        class TestMine(StrategySuite):
            strategy = MyStrategy
            settings = MySettings()
"""

from nc_strategies.testing.backends import BackendSuite
from nc_strategies.testing.data import DataSuite
from nc_strategies.testing.metrics import MetricSuite
from nc_strategies.testing.simulated import simulated_time
from nc_strategies.testing.strategies import StrategySuite
from nc_strategies.testing.toy import ToyBackend, ToyOp, ToySettings, toy_problem, toy_space

__all__ = [
    "BackendSuite",
    "DataSuite",
    "MetricSuite",
    "StrategySuite",
    "ToyBackend",
    "ToyOp",
    "ToySettings",
    "simulated_time",
    "toy_problem",
    "toy_space",
]
