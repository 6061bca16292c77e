"""The built-in strategies do what every strategy must do."""

from dataclasses import replace

from nc_strategies.strategies.auto import AutoSettings, AutoStrategy
from nc_strategies.strategies.basic import BasicSettings, BasicStrategy
from nc_strategies.strategies.conservative import ConservativeSettings, ConservativeStrategy
from nc_strategies.strategies.exhaustive import ExhaustiveSettings, ExhaustiveStrategy
from nc_strategies.strategies.hawq_v2 import HawqV2Settings, HawqV2Strategy
from nc_strategies.strategies.ilp.settings import IlpSettings
from nc_strategies.strategies.ilp.strategy import IlpStrategy
from nc_strategies.strategies.mse import MseSettings, MseStrategy
from nc_strategies.strategies.mse_v2 import MseV2Settings, MseV2Strategy
from nc_strategies.strategies.random import RandomSettings, RandomStrategy
from nc_strategies.testing import StrategySuite


class TestBasic(StrategySuite):
    strategy, settings = BasicStrategy, BasicSettings()


class TestBasicWithoutRecipesAndFallback(StrategySuite):
    strategy, settings, finds_goal = BasicStrategy, BasicSettings(recipes=False, fallback=False), False


class TestIlp(StrategySuite):
    strategy, settings, budget = IlpStrategy, IlpSettings(), 20


class TestRandom(StrategySuite):
    strategy, settings = RandomStrategy, RandomSettings()


class TestRandomWithoutDefault(StrategySuite):
    strategy, settings = RandomStrategy, RandomSettings(default_first=False)


class TestConservative(StrategySuite):
    strategy, settings = ConservativeStrategy, ConservativeSettings()


class TestExhaustive(StrategySuite):
    strategy, settings, finds_goal = ExhaustiveStrategy, ExhaustiveSettings(limit=10**6), False


class TestMse(StrategySuite):
    strategy, settings = MseStrategy, MseSettings()


class TestMseV2(StrategySuite):
    strategy, settings = MseV2Strategy, MseV2Settings()


class TestHawqV2(StrategySuite):
    strategy, settings = HawqV2Strategy, HawqV2Settings()

    def make(self, problem):
        return super().make(replace(problem, hessian=lambda draws: dict.fromkeys(problem.space.ops, 1.0)))


class TestAuto(StrategySuite):
    strategy, settings, budget = AutoStrategy, AutoSettings(), 20
