"""The integer program: what bounds decide and what the solver finds, beside trying everything."""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest

from nc_strategies.problem import ConversionEdge
from nc_strategies.strategies.ilp import program, reduction
from nc_strategies.strategies.ilp.constraints import Budgeted, Cut
from nc_strategies.strategies.ilp.elimination import MAX_SCOPE_VARIABLES, Sum, plan
from nc_strategies.strategies.ilp.program import RELATIVE_GAP, solve
from nc_strategies.strategies.ilp.reduction import REDUCTION_RULES, Reduction


def brute(terms, single, count):
    """Each choice's sum."""
    return {
        x: sum(single[v, x[v]] for v in range(count))
        + sum(float(values[tuple(x[v] for v in group)]) for group, values in terms)
        for x in itertools.product((0, 1), repeat=count)
    }


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_eliminating_variables_finds_the_least_sum_and_that_with_each_variable_held(count):
    rng = np.random.default_rng(count)
    for _ in range(30):
        groups = [
            tuple(rng.choice(count, size=min(count, int(rng.integers(1, 4))), replace=False).tolist())
            for _ in range(int(rng.integers(0, 2 * count)))
        ]
        terms = [(group, rng.normal(size=(2,) * len(group))) for group in groups]
        single = rng.normal(size=(count, 2))
        values = brute(terms, single, count)
        order = plan(count, frozenset(map(frozenset, groups)))
        summed = Sum(order, terms)
        least, found = summed.least(single)
        assert least == pytest.approx(min(values.values()))
        assert values[tuple(found.astype(int).tolist())] == pytest.approx(least)
        for v, held in itertools.product(range(count), (0, 1)):
            assert summed.marginals(single)[v, held] == pytest.approx(min(s for x, s in values.items() if x[v] == held))
        # The tables of one question are not those of the next.
        assert summed.least(single)[0] == least


def test_a_chain_is_eliminated_from_its_ends_and_a_dense_part_not_at_all():
    chain = frozenset(frozenset((k, k + 1)) for k in range(200))
    assert max(map(len, plan(201, chain).scopes)) == 2
    ring = chain | {frozenset((0, 200))}
    assert max(map(len, plan(201, ring).scopes)) == 3
    assert plan(MAX_SCOPE_VARIABLES, frozenset({frozenset(range(MAX_SCOPE_VARIABLES))})) is not None
    assert plan(MAX_SCOPE_VARIABLES + 1, frozenset({frozenset(range(MAX_SCOPE_VARIABLES + 1))})) is None


@dataclass
class Program:
    """A random program, small enough to try everything."""

    owner: np.ndarray
    is_int8: np.ndarray
    cost: np.ndarray
    losses: list
    conversions: list
    cuts: list

    @staticmethod
    def random(seed, decisions=7, limits=1, widest=3):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(1, 4, decisions)
        owner = np.repeat(np.arange(decisions) * 3.0, sizes)  # names of decisions, not their places
        is_int8 = rng.random(len(owner)) < 0.6
        for decision in np.unique(owner):
            if rng.random() < 0.8:
                is_int8[np.flatnonzero(owner == decision)[-1]] = False
        conversions = []
        for _ in range(int(rng.integers(0, 3 * decisions))):
            made = int(rng.integers(decisions)) * 3 if rng.random() < 0.8 else None
            taken = (rng.choice(decisions, size=int(rng.integers(0, widest + 1)), replace=False) * 3).tolist()
            quantize, dequantize = rng.normal(0.02, 0.1, 2).tolist()
            floats = bool(rng.random() < 0.3)
            conversions.append(
                ConversionEdge(made, tuple(taken), float_consumer=floats, quantize=quantize, dequantize=dequantize)
            )
        losses = []
        for _ in range(limits):
            prices = np.where(is_int8, rng.lognormal(0, 1, len(owner)), rng.normal(0, 0.1, len(owner)))
            pairs = tuple(
                (*sorted(rng.choice(len(owner), 2, replace=False).tolist()), float(rng.normal()))
                for _ in range(int(rng.integers(0, 3)))
            )
            losses.append(Budgeted(prices, float(rng.uniform(-0.2, 0.9) * prices[is_int8].sum()), pairs))
        found = Program(owner, is_int8, np.where(is_int8, -1.0, 0.0) * rng.random(len(owner)), losses, conversions, [])
        rows = found.rows()
        tried = rows[rng.choice(len(rows), size=min(3, len(rows)), replace=False)]
        found.cuts = [Cut(tuple(np.flatnonzero(row).tolist()), float(row.sum()) - 1) for row in tried]
        found.cuts.append(Cut(tuple(rng.choice(len(owner), 3, replace=False).tolist()), 2.0))
        return found

    def rows(self):
        """All choices of columns that no other column of the same decision beats."""
        worth = self.worth()
        choices = [np.flatnonzero((self.owner == decision) & worth) for decision in np.unique(self.owner)]
        rows = np.zeros((int(np.prod([len(c) for c in choices])), len(self.owner)))
        for row, chosen in zip(rows, itertools.product(*choices), strict=True):
            row[list(chosen)] = 1.0
        return rows

    def fits(self, row):
        within = all(
            b.prices @ row + sum(p * row[i] * row[j] for i, j, p in b.pairs) <= b.limit + 1e-9 for b in self.losses
        )
        return within and all(row[list(cut.columns)].sum() <= cut.most for cut in self.cuts)

    def total(self, row):
        on = set(self.owner[(row > 0.5) & self.is_int8].astype(int).tolist())
        total = float(self.cost @ row)
        for c in self.conversions:
            if c.producer in on:
                total += c.dequantize * (c.float_consumer or any(u not in on for u in c.consumers))
            else:
                total += c.quantize * any(u in on for u in c.consumers)
        return total

    def best(self):
        return min((self.total(row) for row in self.rows() if self.fits(row)), default=None)

    def solve(self):
        return solve(self.owner, self.is_int8, self.cost, self.losses, self.conversions, self.cuts)

    def reduction(self):
        return Reduction(self.owner, self.is_int8, self.cost, self.worth(), self.losses, self.conversions, self.cuts)

    def reduce(self):
        return self.reduction().run()

    def worth(self):
        return program._undominated(self.owner, self.is_int8, self.cost, self.losses, self.cuts)


def same(row, one, best):
    """Whether an answer is the best that trying everything found, to the solver's gap."""
    if row is None or best is None:
        return row is None and best is None
    return one.fits(row) and abs(one.total(row) - best) <= RELATIVE_GAP * abs(best) + 1e-6


KINDS = [{"limits": 1}, {"limits": 2}, {"limits": 0}, {"decisions": 3, "widest": 2}]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("seed", range(25))
def test_the_solution_is_the_best_that_trying_everything_finds(kind, seed):
    one = Program.random(seed, **kind)
    assert same(one.solve(), one, one.best())


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("seed", range(25))
def test_bounds_hold_and_rule_out_nothing_that_is_best(kind, seed):
    one = Program.random(seed, **kind)
    reduced, best = one.reduce(), one.best()
    if best is None:
        assert reduced.found is None
        return
    assert reduced.bound <= best + 1e-9
    assert reduced.found is None or (one.fits(reduced.found) and reduced.cost >= best - 1e-9)
    if reduced.found is not None:
        assert one.total(reduced.found) == pytest.approx(reduced.cost)
    rows = [row for row in one.rows() if one.fits(row) and one.total(row) <= best + 1e-12]
    assert any(not (row.astype(bool) & ~reduced.allowed).any() for row in rows)


@pytest.mark.parametrize("seed", range(20))
def test_conversions_written_as_products_cost_what_they_cost(seed):
    one = Program.random(seed, decisions=3, widest=1)
    added, products, wider = program._expanded(one.conversions)
    for row in one.rows():
        on = set(one.owner[(row > 0.5) & one.is_int8].astype(int).tolist())
        cost = sum(v for decision, v in added.items() if decision in on)
        cost += sum(v for both, v in products.items() if on >= {*both})
        rest = Program(one.owner, one.is_int8, one.cost, [], wider, [])
        assert cost + rest.total(row) == pytest.approx(one.total(row))
    assert not any(len(conversion.consumers) == 1 for conversion in wider)


@pytest.mark.parametrize("most", [1, 2])
@pytest.mark.parametrize("seed", range(15))
def test_conversions_of_too_many_decisions_only_make_bounds_looser(monkeypatch, seed, most):
    monkeypatch.setattr(reduction, "REDUCTION_RULES", replace(REDUCTION_RULES, max_conversion_decisions=most))
    one = Program.random(seed)
    reduction_, best = one.reduction(), one.best()
    reduced = reduction_.run()
    at_hand = [one.total(row) for row in reduction_._at_hand.values() if one.fits(row)]
    assert reduced.cost <= min(at_hand, default=np.inf) + 1e-9
    assert best is None or reduced.bound <= best + 1e-9
    assert reduced.found is None or one.total(reduced.found) == pytest.approx(reduced.cost)
    assert same(one.solve(), one, best)


@pytest.mark.parametrize("kind", [{}, {"decisions": 3, "widest": 1}], ids=str)
@pytest.mark.parametrize("seed", range(30))
def test_the_solver_alone_finds_the_same(monkeypatch, kind, seed):
    one = Program.random(seed, **kind)
    monkeypatch.setattr(program.Reduction, "run", lambda _: None)
    assert same(one.solve(), one, one.best())


def test_a_conversion_of_many_decisions_counts_with_its_least_value_only():
    decisions = REDUCTION_RULES.max_conversion_decisions + 2
    owner, is_int8 = np.repeat(np.arange(decisions, dtype=float), 2), np.tile([True, False], decisions)
    cost = np.tile([-0.1, 0.0], decisions)
    conversions = [ConversionEdge(0, tuple(range(1, decisions)), quantize=0.3, dequantize=0.3)]
    one = Program(owner, is_int8, cost, [Budgeted(is_int8 * 1.0, decisions / 2)], conversions, [])
    reduced = one.reduce()
    assert reduced.bound == pytest.approx(one.best() - 0.3)
    assert same(one.solve(), one, one.best())


MOST_LEFT, MOST_APART = 40, 0.0056


def test_a_choice_at_hand_is_never_made_worse(monkeypatch):
    monkeypatch.setattr(reduction, "REDUCTION_RULES", replace(REDUCTION_RULES, max_conversion_decisions=1))
    owner, is_int8 = np.repeat(np.arange(2.0), 2), np.tile([True, False], 2)
    one = Program(
        owner,
        is_int8,
        np.tile([-0.1, 0.0], 2),
        [Budgeted(is_int8 * 1.0, 1.5)],
        [ConversionEdge(0, (1,), quantize=0.5, dequantize=0.5)],
        [],
    )
    assert one.best() == 0.0
    reduced = one.reduce()
    assert (reduced.cost, reduced.found.tolist()) == (0.0, [0, 1, 0, 1])
    assert one.solve().tolist() == [0, 1, 0, 1]


def long_chain(decisions, seed=0):
    """A network as latency models see one: neighbours, and those two apart, save together."""
    rng = np.random.default_rng(seed)
    owner, is_int8 = np.repeat(np.arange(decisions, dtype=float), 2), np.tile([True, False], decisions)
    cost = np.where(is_int8, rng.normal(-0.5, 0.4, 2 * decisions), 0.0) / decisions
    loss = np.where(is_int8, rng.lognormal(0, 1.5, 2 * decisions), 0.0)
    conversions = [
        ConversionEdge(
            k, taken, **dict(zip(("quantize", "dequantize"), rng.normal(0.15, 0.2, 2) / decisions, strict=True))
        )
        for k in range(decisions - 3)
        for taken in ((k + 1,), (k + 2,), (k + 1, k + 3))
    ]
    return Program(owner, is_int8, cost, [Budgeted(loss, 0.2 * float(loss.sum()))], conversions, [])


def test_bounds_leave_few_decisions_of_a_long_network_to_the_solver(monkeypatch):
    left, solved, given, apart = [], [], [], []
    alone = program._solved
    monkeypatch.setattr(program, "_solved", lambda *what: given.append(what[3]) or alone(*what))
    for seed in range(5):
        one = long_chain(150, seed)
        reduced = one.reduce()
        pairs = reduced.allowed.reshape(-1, 2)
        left.append(int(pairs.all(1).sum()))
        assert pairs.any(1).all()
        found = one.solve()
        solved.append(one.total(found))
        assert one.fits(found)
        assert reduced.bound <= solved[-1] <= reduced.cost + 1e-9
        assert solved[-1] - reduced.bound <= 0.01 * abs(solved[-1])
        apart.append((reduced.cost - reduced.bound) / abs(solved[-1]))
        assert (given.pop() == reduced.allowed).all()
    assert np.mean(left) < MOST_LEFT
    assert np.mean(apart) < MOST_APART
