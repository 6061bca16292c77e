"""The integer-programming strategy: when it asks for what, what it learns, when it stops, what it leaves."""

import itertools
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from nc_strategies.api import (
    FLOAT,
    Capabilities,
    ConversionEdge,
    Evaluation,
    Goal,
    InputError,
    LatencyTerms,
    Objective,
    OpCapability,
    OpScheme,
    Problem,
    Space,
    TensorScheme,
    Trial,
    TrialState,
)
from nc_strategies.strategies.ilp import program, search
from nc_strategies.strategies.ilp import strategy as strategy_module
from nc_strategies.strategies.ilp.columns import Columns
from nc_strategies.strategies.ilp.models import MODEL_RULES, CostModel, Seen
from nc_strategies.strategies.ilp.priors import losses, shrink
from nc_strategies.strategies.ilp.program import Budgeted, Cut, quiet, solve
from nc_strategies.strategies.ilp.regression import Regression
from nc_strategies.strategies.ilp.settings import IlpSettings
from nc_strategies.strategies.ilp.strategy import IlpStrategy
from nc_strategies.testing import ToyOp, toy_problem
from nc_strategies.testing.toy import toy_evaluation, toy_loss

OPS = [
    ToyOp("a", loss=0.001, time_us=60),
    ToyOp("b", loss=0.02, time_us=40),
    ToyOp("c", loss=0.004, time_us=100),
    ToyOp("d", loss=0.012, time_us=90),
]


def exact(ops, **kwargs):
    """A toy problem with exact estimates of both kinds; the list says what was asked for, in order."""
    asked = []
    problem = toy_problem(ops, **kwargs)
    full = sum(op.time_us for op in ops)

    def sensitivity():
        asked.append("sensitivity")
        return {op.name: op.loss for op in ops}

    def terms():
        asked.append("terms")
        return LatencyTerms(
            0.0,
            {
                op.name: {
                    s: (op.time_us if s.is_float else op.int8_time_us) / full
                    for s in problem.space.ops[op.name].schemes
                }
                for op in ops
            },
        )

    return replace(problem, sensitivity=sensitivity, latency_terms=terms), asked


def measured(ops, config, samples=10**9):
    return replace(toy_evaluation(ops, config), samples=samples)


def drive(strategy, evaluate, budget=10):
    trials = []
    while len(trials) < budget and (config := strategy.propose()) is not None:
        evaluation = evaluate(config)
        state = TrialState.OK if evaluation is not None else TrialState.FAILED
        trials.append(Trial(len(trials) + 1, config, state, evaluation))
        strategy.observe(trials[-1])
    return trials


def optimum(problem, ops):
    """By enumeration, over int8 in the default scheme or fp32."""
    default, found = problem.space.default(), []
    for names in itertools.chain.from_iterable(itertools.combinations([o.name for o in ops], n) for n in range(4)):
        config = default.with_op(*names) if names else default
        done = toy_evaluation(ops, config)
        if problem.goal.feasible(done):
            found.append(problem.goal.cost(done))
    return min(found)


def test_nothing_is_estimated_while_the_default_may_end_the_run():
    problem, asked = exact(OPS)
    strategy = IlpStrategy(None, problem)
    config = strategy.propose()
    assert config == problem.space.default()
    assert strategy.propose() is None
    strategy.observe(Trial(1, config, TrialState.OK, measured(OPS, config)))
    strategy.close()
    assert asked == []
    strategy.propose()
    assert asked == ["sensitivity"]


def test_latency_terms_are_asked_for_at_once_where_int8_everywhere_is_slower_than_fp32():
    ops = [replace(op, int8_time_us=200) for op in OPS]
    problem, asked = exact(ops, tolerable_loss=1e-9)
    drive(IlpStrategy(None, problem), lambda config: measured(ops, config), 2)
    assert asked == ["terms", "sensitivity"]


def test_latency_terms_are_asked_for_once_the_goal_is_met_or_missed_twice():
    for loss, before in ((0.018, 1), (1e-9, 2)):
        problem, asked = exact(OPS, tolerable_loss=loss)
        strategy = IlpStrategy(None, problem)
        asked_at = []

        def measure(config, asked=asked, asked_at=asked_at):
            asked_at.append("terms" in asked)
            return measured(OPS, config)

        drive(strategy, measure, 5)
        assert asked_at[: 1 + before] == [False] * (1 + before)
        assert "terms" in asked


def test_the_optimum_is_found_in_few_trials_and_proved():
    problem, _ = exact(OPS, tolerable_loss=0.018)
    strategy = IlpStrategy(None, problem)
    trials = drive(strategy, lambda config: measured(OPS, config), 25)
    assert len({t.config.fingerprint for t in trials}) == len(trials) < 25
    best = problem.goal.best(trials)
    assert problem.goal.cost(best.evaluation) == pytest.approx(optimum(problem, OPS), rel=0.02)
    assert strategy.note.startswith("proved")
    assert strategy.stage == "proved"


def test_int8_everywhere_that_meets_the_goal_is_proved_without_more_trials():
    problem, _ = exact(OPS, tolerable_loss=0.5)
    strategy = IlpStrategy(None, problem)
    assert len(drive(strategy, lambda config: measured(OPS, config))) == 1
    assert strategy.note.startswith("proved")


def test_the_front_is_left_in_the_runs_folder(tmp_path):
    problem, _ = exact(OPS, tolerable_loss=0.018)
    strategy = IlpStrategy(None, replace(problem, state_dir=tmp_path))
    drive(strategy, lambda config: measured(OPS, config), 4)
    strategy.close()
    assert [p.name for p in tmp_path.iterdir()] == ["pareto.json"]
    points = json.loads((tmp_path / "pareto.json").read_text())["points"]
    assert len(points) > 2
    assert [p["cost"] for p in points] == sorted(p["cost"] for p in points)
    assert [p["loss"] for p in points] == sorted((p["loss"] for p in points), reverse=True)
    assert all(problem.space.contains(config) for config in strategy.front())


@pytest.fixture
def slow(monkeypatch):
    """Every program takes all of the time that it is given, on a clock of its own; what the programs were given."""
    given, clock, solve = [], SimpleNamespace(now=0.0), search.solve

    def slowly(*arguments):
        given.append(max(0.0, arguments[-1]))
        clock.now += given[-1]
        return solve(*arguments)

    monkeypatch.setattr(search, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(search, "solve", slowly)
    return given


@pytest.mark.parametrize(("left", "most"), [(math.inf, 60.0), (100.0, 25.0), (0.0, 1.0)])
def test_a_proposal_stops_at_its_limit_of_time(left, most, slow):
    problem = replace(exact(OPS, tolerable_loss=0.018)[0], seconds_left=lambda: left)
    strategy, trials = IlpStrategy(None, problem), []
    for number in range(1, 6):
        slow.clear()
        config = strategy.propose()
        assert sum(slow) <= most
        assert config not in [trial.config for trial in trials]
        assert not strategy.note.startswith("proved")
        trials.append(Trial(number, config, TrialState.OK, measured(OPS, config)))
        strategy.observe(trials[-1])
    assert problem.goal.best(trials) is not None
    slow.clear()
    assert strategy.front()
    assert sum(slow) <= most


def test_a_search_that_has_no_time_left_says_so(slow, monkeypatch):
    monkeypatch.setattr(search, "solve", lambda *arguments: slow.append(arguments[-1]))
    monkeypatch.setattr(search, "time", SimpleNamespace(monotonic=lambda: 30.0 * len(slow)))
    problem, _ = exact(OPS, tolerable_loss=0.018)
    strategy = IlpStrategy(None, problem)
    drive(strategy, lambda config: measured(OPS, config))
    assert strategy.note == "finished: no time is left to find another configuration"


def test_the_front_of_a_finished_run_has_a_limit_of_its_own(tmp_path, slow):
    problem, _ = exact(OPS, tolerable_loss=0.018)
    strategy = IlpStrategy(None, replace(problem, state_dir=tmp_path, seconds_left=lambda: 0.0))
    drive(strategy, lambda config: measured(OPS, config), 4)
    slow.clear()
    strategy.close()
    assert sum(slow) == strategy_module.FRONT_SECONDS
    assert json.loads((tmp_path / "pareto.json").read_text())["points"]


def test_the_solver_gets_the_limit_of_time(monkeypatch):
    given, solver = [], program.milp

    def seen(*arguments, **options):
        given.append(options["options"]["time_limit"])
        return solver(*arguments, **options)

    monkeypatch.setattr(program, "milp", seen)
    monkeypatch.setattr(program.Reduction, "run", lambda self: None)
    owner, is_int8 = np.array([0, 0, 1, 1]), np.array([True, False, True, False])
    for seconds in (3.0, program.SOLVE_SECONDS):
        found = solve(owner, is_int8, np.array([1.0, 2.0, 2.0, 1.0]), [], seconds=seconds)
        assert found.tolist() == [1, 0, 0, 1]
    assert given == [3.0, program.SOLVE_SECONDS]


def test_a_run_that_ends_with_the_default_leaves_no_front(tmp_path):
    problem, asked = exact(OPS)
    strategy = IlpStrategy(None, replace(problem, state_dir=tmp_path))
    drive(strategy, lambda config: measured(OPS, config), 1)
    strategy.close()
    assert list(tmp_path.iterdir()) == []
    assert asked == []


def test_an_operator_that_cannot_run_in_int8_is_found_and_left_in_fp32():
    problem, _ = exact(OPS, tolerable_loss=0.03)
    strategy = IlpStrategy(None, problem)
    trials = drive(strategy, lambda c: None if not c.schemes["c"].is_float else measured(OPS, c), 12)
    best = problem.goal.best(trials)
    assert best is not None
    assert problem.goal.met(best.evaluation)
    assert best.config.schemes["c"].is_float


def test_trials_stopped_early_are_learnt_from_but_never_the_best():
    problem, _ = exact(OPS, tolerable_loss=0.018)
    strategy = IlpStrategy(None, problem)
    for number in range(1, 6):
        config = strategy.propose()
        if config is None:
            break
        over = toy_loss(OPS, config) > 0.018
        state = TrialState.PRUNED if over else TrialState.OK
        strategy.observe(Trial(number, config, state, measured(OPS, config, 100 if over else 10**9)))
    assert strategy._search.incumbent < 1.0


@pytest.mark.parametrize("objective", ["latency", "throughput", "size"])
def test_every_objective_is_solved_without_estimates(objective):
    def evaluate(config):
        return replace(
            measured(OPS, config), ratios=((objective, 1 - 0.15 * len(config.int8_ops)),), spread=((objective, 0.0),)
        )

    problem = toy_problem(OPS, tolerable_loss=0.03)
    goal = Goal(problem.goal.constraints, (Objective(objective),))
    problem = replace(problem, goal=goal, baseline=evaluate(problem.space.all_float()))
    best = goal.best(drive(IlpStrategy(None, problem), evaluate, 8))
    assert goal.met(best.evaluation)


def test_tied_operators_and_options_stay_within_the_space():
    int8 = [
        OpScheme(TensorScheme("uint8", "asym", "per_tensor", a), TensorScheme("int8", "sym", "per_channel"))
        for a in ("minmax", "kl")
    ]
    space = Space(
        Capabilities(
            tuple(OpCapability(n, "Conv", (*int8, FLOAT), parameters=5, elements=9) for n in "xyz"),
            tied=(("x", "z"),),
            options=(("fold", (True, False)),),
        )
    )
    plain = toy_problem([ToyOp("x")], tolerable_loss=0.01)
    noisy = []

    def divergence(config):
        noisy.append(config)
        return 0.5 if all(s.is_float or s.activation.algorithm == "kl" for _, s in config.ops) else 1.0

    def evaluate(config):
        loss = sum(0.012 if s.activation.algorithm == "minmax" else 0.004 for _, s in config.ops if not s.is_float)
        return Evaluation(
            (("accuracy", 0.9 - loss),), (), (("latency", 1 - 0.2 * len(config.int8_ops)),), (("latency", 0.01),), 10**9
        )

    problem = Problem(space, plain.goal, plain.baseline, plain.rng, divergence=divergence)
    trials = drive(IlpStrategy(IlpSettings(probes=5), problem), evaluate, 6)
    assert all(space.contains(t.config) for t in trials)
    assert 0 < len(noisy) <= 5
    assert trials[1].config.schemes["x"].is_float or trials[1].config.schemes["x"].activation.algorithm == "kl"


def test_activations_of_one_form_only_stand_beside_the_default_and_float():
    forms = [("uint8", "asym", "minmax"), ("uint8", "asym", "kl"), ("int8", "sym", "minmax"), ("int8", "sym", "kl")]
    int8 = [
        OpScheme(TensorScheme(d, s, "per_tensor", a), TensorScheme("int8", "sym", g))
        for d, s, a in forms
        for g in ("per_channel", "per_tensor")
    ]
    space = Space(Capabilities(tuple(OpCapability(n, "Conv", (*int8, FLOAT)) for n in "xyzuvw")))
    cost = {
        scheme: 0.16 if scheme.is_float else 0.1 if scheme.activation.dtype == "int8" else 0.05
        for scheme in (*int8, FLOAT)
    }
    terms = LatencyTerms(0.04, dict.fromkeys("xyzuvw", cost))
    plain = toy_problem([ToyOp("x")], tolerable_loss=0.01)

    def divergence(config):  # int8 with zero at the middle is the least noisy, and the slowest
        noise = {"int8": 0.2, "uint8": 0.5}
        return sum(
            noise[s.activation.dtype] * (0.5 if s.activation.algorithm == "kl" else 1.0)
            for _, s in config.ops
            if not s.is_float
        )

    problem = Problem(
        space,
        plain.goal,
        plain.baseline,
        plain.rng,
        sensitivity=lambda: {n: float(k) for k, n in enumerate("xyzuvw")},
        latency_terms=lambda: terms,
        divergence=divergence,
    )
    columns, _ = losses(problem, 16, terms, {})
    assert {str(c.scheme) for c in columns.all} == {str(int8[0]), str(int8[2]), str(FLOAT)}


def test_replaying_the_same_trials_gives_the_same_proposals():
    def once():
        problem, _ = exact(OPS, tolerable_loss=0.018)
        return [t.config.fingerprint for t in drive(IlpStrategy(None, problem), lambda c: measured(OPS, c, 500), 5)]

    assert once() == once()


@pytest.mark.parametrize("signs", [np.ones(10), *np.random.default_rng(1).choice([-1.0, 1.0], (8, 10))])
def test_conversions_are_charged_as_the_latency_terms_charge_them(signs):
    """Those that save time too: operators may be faster where one is in int8 and the other is not."""
    names = "abcd"
    scheme = OpScheme(TensorScheme("uint8"), TensorScheme("int8"))
    space = Space(Capabilities(tuple(OpCapability(n, "Conv", (scheme, FLOAT)) for n in names)))
    rng = np.random.default_rng(0)
    conversion_edges = (
        ConversionEdge(None, ("a",), quantize=0.05, dequantize=0.0),
        ConversionEdge("a", ("b", "c"), quantize=0.04, dequantize=0.06),
        ConversionEdge("b", ("d",), quantize=0.03, dequantize=0.03),
        ConversionEdge("c", ("d",), quantize=0.02, dequantize=0.01),
        ConversionEdge("d", (), float_consumer=True, quantize=0.0, dequantize=0.08),
    )
    conversion_edges = tuple(
        replace(b, quantize=q * b.quantize, dequantize=d * b.dequantize)
        for b, (q, d) in zip(conversion_edges, signs.reshape(5, 2).tolist(), strict=True)
    )
    terms = LatencyTerms(0.1, {n: {scheme: 0.1, FLOAT: float(rng.uniform(0.1, 0.25))} for n in names}, conversion_edges)
    columns = Columns(space)
    conversions, prices = columns.conversions(terms), columns.costs(terms)
    configs = [
        space.default().with_op(*[n for n, f in zip(names, flags, strict=True) if f])
        for flags in itertools.product([False, True], repeat=4)
    ]
    for config in configs:
        row = columns.row(config)
        assert columns.config(row) == config
        assert terms.base + prices @ row + columns.converting(row, conversions) == pytest.approx(terms(config))
    loss = columns.each(lambda c: float(c.is_int8))
    for limit in range(5):
        found = columns.config(solve(columns.owner, columns.is_static, prices, [Budgeted(loss, limit)], conversions))
        assert terms(found) == pytest.approx(min(terms(c) for c in configs if len(c.int8_ops) <= limit))


def test_products_count_when_both_are_chosen():
    owner, int8 = np.repeat(np.arange(3.0), 2), np.tile([True, False], 3)
    cost, loss = np.array([-3.0, 0, -2.9, 0, -1, 0]), np.array([1.0, 0, 1, 0, 1, 0])
    assert solve(owner, int8, cost, [Budgeted(loss, 2.0)])[::2].tolist() == [1, 1, 0]
    assert solve(owner, int8, cost, [Budgeted(loss, 2.0, ((0, 2, 0.5),))])[::2].tolist() == [1, 0, 1]
    assert solve(owner, int8, cost, [Budgeted(loss, 2.0)], (), [Cut((0, 2, 5), 2.0)])[::2].tolist() == [1, 0, 1]
    assert solve(owner, int8, cost, [Budgeted(loss, -1.0)]) is None
    assert solve(owner, int8, cost, [Budgeted(loss, 3.0)], [ConversionEdge(0, (1,), quantize=5.0, dequantize=5.0)])[
        ::2
    ].tolist() == [
        1,
        1,
        1,
    ]


def test_a_pair_that_loses_together_is_found():
    rng, count = np.random.default_rng(0), 8
    rows = (rng.random((40, count)) < 0.5).astype(float)
    values = rows.sum(1) + 3 * rows[:, 2] * rows[:, 5]
    model = Regression(np.ones(count), np.eye(count) * 0.5, np.ones(count))
    model.fit(rows, values, np.full(40, 0.01))
    pairs = np.triu(model.pairs(), 1)
    assert np.unravel_index(pairs.argmax(), pairs.shape) == (2, 5)
    assert pairs.max() > 1.0
    assert model.misfit > 0.02


def test_observations_with_less_noise_count_more_and_uncertainty_shrinks():
    rows = np.eye(2)
    model = Regression(np.ones(2), np.eye(2))
    model.fit(rows, np.array([2.0, 2.0]), np.array([0.1, 3.0]))
    assert model.prices[0] > 1.9
    assert model.prices[1] < 1.2
    _, sd = model.predict(rows)
    assert sd[0] < 0.2 < sd[1]


def test_estimates_are_shrunk_towards_each_other():
    raw = np.exp(np.random.default_rng(0).normal(0, 1.5, 50))
    shape, error = shrink(raw, 0.7)
    assert np.all(np.argsort(shape) == np.argsort(raw))
    assert np.log(shape).std() < np.log(raw).std()
    assert 0 < error < 1


def test_estimates_are_shrunk_towards_those_of_their_kind():
    rng = np.random.default_rng(0)
    kinds = ["up", "down"] * 20
    truth = np.where(np.array(kinds) == "down", 10.0, 1.0)
    raw = truth * np.exp(rng.normal(0, 0.7, 40))
    alone, together = (np.log(shrink(raw, 0.7, k)[0] / truth) for k in ([], kinds))
    assert together.std() < 0.6 * alone.std()
    few = shrink(raw, 0.7, ["rare", "rare"] + [""] * 38)[0]
    assert few == pytest.approx(shrink(raw, 0.7)[0])


def test_the_same_role_in_every_layer_has_one_prior_where_nothing_is_estimated():
    scheme = OpScheme(TensorScheme("uint8", "asym"), TensorScheme("int8", "sym", "per_channel"))
    parts = ("query", "key", "value", "attention/output", "up", "down")
    names = [f"layer.{i}/{part}" for i in range(12) for part in parts]
    ops = [OpCapability(name, "MatMul", (scheme, FLOAT), parameters=64) for name in names]
    problem = replace(toy_problem([ToyOp("a"), ToyOp("b")]), space=Space(Capabilities(tuple(ops))), sensitivity=None)
    _, found = losses(problem, 0, None, {})
    inner = dict(zip(names[1:-1], found.shape[1:-1], strict=True))
    by_part = {part: {round(float(v), 6) for n, v in inner.items() if n.endswith(f"/{part}")} for part in parts}
    assert all(len(values) == 1 for values in by_part.values())
    assert max(by_part["down"]) > max(by_part["up"])


def test_without_latency_terms_modes_and_embeddings_are_guessed_to_save_what_they_can():
    activation = TensorScheme("uint8", "asym")
    weight = TensorScheme("int8", "sym", "per_channel")
    static, dynamic = OpScheme(activation, weight), OpScheme(replace(activation, algorithm="dynamic"), weight)
    few = OpScheme(FLOAT.activation, TensorScheme("int4", "sym", "per_block_32"))
    ops = (
        OpCapability("embedding", "Gather", (FLOAT, few), parameters=10**6, elements=64),
        OpCapability("product", "MatMul", (static, dynamic, few, FLOAT), parameters=64, elements=8),
        OpCapability("other", "MatMul", (static, dynamic, few, FLOAT), parameters=64, elements=8),
    )
    base = toy_problem([ToyOp("a"), ToyOp("b")])
    problem = replace(base, space=Space(Capabilities(ops)), latency_model=None, latency_terms=None)
    model = CostModel(problem, Columns(problem.space), None)
    model.fit([])
    rest = problem.space.all_float()
    row = model._columns.row

    def cost(name, scheme):
        return float(model.predict([row(rest.with_op(name, scheme=scheme))])[0][0])

    assert cost("product", static) < cost("product", dynamic) < cost("product", few) < cost("product", FLOAT)
    assert cost("embedding", few) == pytest.approx(cost("embedding", FLOAT))


def test_what_the_solver_prints_stays_off_the_terminal(capfd):
    import os

    with quiet():
        os.write(1, b"stray\n")
    os.write(1, b"kept\n")
    assert capfd.readouterr().out == "kept\n"


@pytest.mark.parametrize(("key", "value"), [("risk", 0.0), ("risk", 1.5), ("probes", -1)])
def test_settings_that_mean_nothing_are_refused(key, value):
    with pytest.raises(InputError, match=f"strategy.{key}"):
        IlpSettings(**{key: value})


def test_by_size_alone_an_operator_is_never_worth_next_to_nothing():
    """Its neighbours would pay for the conversions; and what it costs in accuracy would always be dearer."""
    scheme = OpScheme(TensorScheme("uint8", "asym"), TensorScheme("int8", "sym", "per_channel"))
    large = [OpCapability(f"conv{i}", "Conv", (scheme, FLOAT), parameters=10**6, elements=10**5) for i in range(3)]
    small = OpCapability("add", "Add", (scheme, FLOAT), parameters=0, elements=10)
    base = toy_problem(OPS)
    problem = replace(base, space=Space(Capabilities((*large, small))))
    columns = Columns(problem.space)
    costs = CostModel(problem, columns, None)
    costs.fit([])
    prices = dict(zip([c.names[0] for c in columns.all if c.is_int8], costs.prices[0][columns.is_static], strict=True))
    saved = -np.array([prices[op.name] for op in large])
    assert saved == pytest.approx(saved[0])
    mean = (3 * np.sqrt(10**11) + np.sqrt(10)) / 4
    assert -prices["add"] / saved[0] == pytest.approx(MODEL_RULES.min_sized_saving * mean / np.sqrt(10**11), rel=1e-6)


def test_operators_that_only_seem_faster_in_fp32_are_found_out_together():
    """Solutions take what terms have faster in fp32, wrongly or not: what two of them show holds for the third."""
    ops = [ToyOp(name, loss=0.0, time_us=100.0, int8_time_us=60.0) for name in "abcdefgh"]
    problem, _ = exact(ops)
    believed = LatencyTerms(
        0.01,
        {
            name: {
                s: 0.125 if s.is_float else 0.16 if name in "abc" else 0.075 for s in problem.space.ops[name].schemes
            }
            for name in "abcdefgh"
        },
    )
    columns = Columns(problem.space)
    costs = CostModel(problem, columns, believed)
    default = problem.space.default()

    def savings():
        """What the program takes each operator to save in fp32."""
        price = costs.prices[0]
        single = {
            (c.names[0], c.is_int8): x for c, x in zip(columns.all, price, strict=True) if c.first or not c.is_int8
        }
        return {name: single[name, True] - single[name, False] for name in "abcdefgh"}

    costs.fit([])
    assert savings()["c"] == pytest.approx(0.035)
    costs.fit([Seen(columns.row(config), measured(ops, config)) for config in (default, default.with_op("a", "b"))])
    learnt = savings()
    assert learnt["c"] < 0.0
    assert all(learnt[name] < -0.03 for name in "defgh")


LOSING = [ToyOp(f"op{i}", loss=0.004, time_us=100, int8_time_us=96) for i in range(12)]
"""Each saves 0.3 % of the time alone, which is less than a tie with fp32."""
GAINING = [replace(op, loss=-0.002) if i % 5 == 3 else op for i, op in enumerate(LOSING)]
"""Some gain accuracy in int8."""
NOT_PREDICTED = "no model is predicted to keep the goal, this one is likely the closest: "


def test_a_required_gain_that_no_estimate_predicts_is_found():
    def search(**options):
        problem, _ = exact(GAINING, tolerable_loss=-0.001)
        problem = replace(problem, sensitivity=lambda: {op.name: 0.02 if op.loss < 0 else op.loss for op in GAINING})
        strategy, notes = IlpStrategy(None, problem, **options), []

        def evaluate(config):
            notes.append(strategy.note)
            return measured(GAINING, config)

        return drive(strategy, evaluate, 36), notes, strategy

    trials, notes, strategy = search()
    goal = strategy.problem.goal
    assert goal.met(goal.best(trials).evaluation)
    assert any(note.startswith(NOT_PREDICTED) for note in notes)
    ended, notes, strategy = search(closest=False)
    assert not any(note.startswith(NOT_PREDICTED) for note in notes)
    assert [t.config for t in trials[: len(ended)]] == [t.config for t in ended]
    assert strategy.ended.startswith("no other configuration is predicted below")


@pytest.mark.parametrize("limit", [-0.001, 0.001])
def test_a_goal_out_of_reach_is_sought_to_the_end_of_the_budget(limit):
    """Its configurations are new, and faster than fp32; the program alone ends long before."""
    problem, _ = exact(LOSING, tolerable_loss=limit)
    strategy = IlpStrategy(None, problem)
    trials = drive(strategy, lambda config: measured(LOSING, config), 30)
    assert len({t.config.fingerprint for t in trials}) == 30
    assert strategy.note.startswith(NOT_PREDICTED)
    assert strategy.predicted.cost < 1 - problem.goal.tie / 4 + 1e-6
    assert all(problem.goal.cost(t.evaluation) < 1.0 for t in trials)
    assert strategy.ended == ""
