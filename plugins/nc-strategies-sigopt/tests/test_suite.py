"""The suite every strategy must pass."""

from nc_strategies_sigopt import SigOptSettings
from nc_strategies_sigopt.strategy import SigOptStrategy

from nc_strategies.testing import StrategySuite


class TestSigOptLocal(StrategySuite):
    strategy = SigOptStrategy
    settings = SigOptSettings(driver="local")
