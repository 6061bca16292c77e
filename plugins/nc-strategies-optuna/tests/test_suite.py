"""The suite every strategy must pass."""

import pytest
from nc_strategies_optuna import CmaEsSettings, GpSettings, Nsga2Settings, OptunaSettings, TpeSettings
from nc_strategies_optuna.strategy import OptunaStrategy

from nc_strategies.testing import StrategySuite


class TestTpe(StrategySuite):
    strategy, settings = OptunaStrategy, TpeSettings()


class TestNsga2(StrategySuite):
    strategy, settings = OptunaStrategy, Nsga2Settings()


class TestCmaEs(StrategySuite):
    strategy, settings = OptunaStrategy, CmaEsSettings()


class TestRandomSampler(StrategySuite):
    strategy, settings = OptunaStrategy, OptunaSettings(sampler="RandomSampler")


class TestGp(StrategySuite):
    strategy, settings, budget = OptunaStrategy, GpSettings(), 15

    @pytest.fixture(autouse=True)
    def torch(self):
        pytest.importorskip("torch")
