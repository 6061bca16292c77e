"""Exhaustive search: everything once, the default first, and no space that is too large."""

import pytest

from nc_strategies.errors import InputError
from nc_strategies.strategies.exhaustive import ExhaustiveSettings, ExhaustiveStrategy
from nc_strategies.testing import ToyOp, toy_problem
from nc_strategies.testing.toy import toy_space


def test_every_configuration_but_fp32_is_proposed_once(toy):
    problem, found = toy(ExhaustiveStrategy, ExhaustiveSettings(), [ToyOp(name) for name in "abc"])
    assert len(found) == problem.space.size() - 1


def test_configurations_come_by_the_number_of_changes_from_the_default(toy):
    problem, found = toy(ExhaustiveStrategy, ExhaustiveSettings(), [ToyOp(name) for name in "abc"])
    changes = [len(problem.space.default().diff(item.config)) for item in found]
    assert changes == sorted(changes)
    assert changes[:2] == [0, 1]
    assert found[0].note == "0 choices differ from the default"


def test_modes_options_and_tied_operators_are_enumerated(drive, modes):
    problem, evaluate = modes
    problem = problem()
    found = drive(ExhaustiveStrategy(ExhaustiveSettings(), problem), problem, evaluate, 1000)
    assert len(found) == problem.space.size()  # the convolution is never in fp32
    best = problem.goal.best([item.trial for item in found])
    assert all(best.config.schemes[f"product{i}"].mode == "dynamic" for i in range(4))


def test_a_space_above_the_limit_is_refused_with_its_size():
    ops = [ToyOp(f"op{i}") for i in range(6)]
    with pytest.raises(InputError, match=r"^strategy.limit: is 10,000, but the space has 15,625 configurations; "):
        ExhaustiveStrategy.check_model(ExhaustiveSettings(), toy_space(ops), lambda: False)
    with pytest.raises(InputError, match="15,625"):
        ExhaustiveStrategy(ExhaustiveSettings(), toy_problem(ops))
    ExhaustiveStrategy.check_model(ExhaustiveSettings(limit=15_625), toy_space(ops), lambda: False)


def test_a_space_of_any_size_is_enumerated_without_being_held():
    problem = toy_problem([ToyOp(f"op{i}") for i in range(200)])
    strategy = ExhaustiveStrategy(ExhaustiveSettings(limit=10**200), problem)
    assert len({strategy.propose().fingerprint for _ in range(50)}) == 50


def test_the_size_of_a_huge_space_is_rounded():
    with pytest.raises(InputError, match=r"about 10\^139 configurations"):
        ExhaustiveStrategy.check_model(
            ExhaustiveSettings(), toy_space([ToyOp(f"op{i}") for i in range(200)]), lambda: False
        )


def test_a_limit_below_one_is_refused():
    with pytest.raises(InputError, match=r"strategy.limit: is 0"):
        ExhaustiveSettings(limit=0)
