"""The suite every strategy must pass."""

from nc_strategies_optuna import CmaEsSettings, Nsga2Settings, TpeSettings
from nc_strategies_optuna.strategy import OptunaStrategy

from nc_strategies.testing import StrategySuite


class TestTpe(StrategySuite):
    strategy, settings = OptunaStrategy, TpeSettings()


class TestNsga2(StrategySuite):
    strategy, settings = OptunaStrategy, Nsga2Settings()


class TestCmaEs(StrategySuite):
    strategy, settings = OptunaStrategy, CmaEsSettings()
