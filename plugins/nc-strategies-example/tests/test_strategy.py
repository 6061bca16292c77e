"""The strategy: the suite every strategy must pass, and what is its own."""

from nc_strategies_example.settings import BisectSettings
from nc_strategies_example.strategy import BisectStrategy

from nc_strategies.testing import StrategySuite, ToyOp, toy_problem


class TestBisect(StrategySuite):
    strategy = BisectStrategy
    settings = BisectSettings()

    def test_it_halves_and_begins_with_the_most_sensitive(self):
        ops = [ToyOp(f"op{i}", loss=0.1 if i == 13 else 0.0) for i in range(16)]
        problem = toy_problem(ops, tolerable_loss=0.01, sensitivity=lambda: {"op13": 1.0})
        trials = self.drive(problem, ops, 40)
        assert len(trials) == 5
        assert trials[-1].config.float_ops == ("op13",)

    def test_it_stops_when_int8_everywhere_will_do(self):
        ops = [ToyOp(f"op{i}") for i in range(16)]
        assert len(self.drive(toy_problem(ops), ops, 40)) == 1
