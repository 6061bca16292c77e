"""The built-in strategies do what every strategy must do."""

from nc_strategies.strategies.basic import BasicSettings, BasicStrategy
from nc_strategies.strategies.conservative import ConservativeSettings, ConservativeStrategy
from nc_strategies.strategies.exhaustive import ExhaustiveSettings, ExhaustiveStrategy
from nc_strategies.strategies.ilp.settings import IlpSettings
from nc_strategies.strategies.ilp.strategy import IlpStrategy
from nc_strategies.strategies.mse import MseSettings, MseStrategy
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
