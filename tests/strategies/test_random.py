"""Random search: uniform, the default first, any number at a time."""

import numpy as np

from nc_strategies.strategies.random import RandomSettings, RandomStrategy
from nc_strategies.testing import ToyOp, toy_problem

OPS = [ToyOp(f"op{i}") for i in range(6)]


def test_the_default_comes_first_unless_it_is_not_wanted():
    problem = toy_problem(OPS)
    assert RandomStrategy(RandomSettings(), problem).propose() == problem.space.default()
    assert RandomStrategy(RandomSettings(default_first=False), toy_problem(OPS)).propose() != problem.space.default()


def test_proposals_need_no_observations_and_differ():
    strategy = RandomStrategy(RandomSettings(), toy_problem(OPS))
    assert len({strategy.propose().fingerprint for _ in range(30)}) > 25


def test_the_seed_decides():
    def draw(seed):
        strategy = RandomStrategy(RandomSettings(), toy_problem(OPS, seed=seed))
        return [strategy.propose().fingerprint for _ in range(10)]

    assert draw(1) == draw(1)
    assert draw(1)[1:] != draw(2)[1:]


def test_a_space_of_few_configurations_comes_to_an_end():
    strategy = RandomStrategy(RandomSettings(), toy_problem(OPS[:1]))
    proposals = list(iter(strategy.propose, None))
    assert 1 <= len(proposals) < 1000


def test_a_space_of_few_configurations_is_searched_whole():
    problem = toy_problem(OPS[:2], seed=0)
    strategy = RandomStrategy(RandomSettings(), problem)
    assert len({c.fingerprint for c in iter(strategy.propose, None)}) == problem.space.size()


def test_every_scheme_of_every_operator_is_drawn_equally_often():
    problem = toy_problem(OPS[:3])
    strategy = RandomStrategy(RandomSettings(), problem)
    draws = [strategy.propose() for _ in range(120)][1:]
    for name, op in problem.space.ops.items():
        counts = [sum(c.schemes[name] == s for c in draws) for s in op.schemes]
        assert np.abs(np.array(counts) - len(draws) / 5).max() < 4 * np.sqrt(len(draws) * 0.2 * 0.8)
