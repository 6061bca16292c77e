"""The basic strategy: which stage comes when, and from where each one starts."""

import math
from dataclasses import replace
from itertools import groupby

import pytest

from nc_strategies.api import (
    FLOAT,
    Capabilities,
    EngineError,
    OpCapability,
    OpScheme,
    Space,
    TensorScheme,
    Trial,
    TrialState,
)
from nc_strategies.problem import Problem
from nc_strategies.strategies.basic import BasicSettings, BasicStrategy
from nc_strategies.testing import ToyOp, toy_problem
from nc_strategies.testing.toy import toy_evaluation


def drive(problem, evaluate, settings=None, budget=500):
    """All trials of a strategy, each with the stage that proposed it."""
    strategy = BasicStrategy(settings or BasicSettings(), problem)
    found = []
    while (config := strategy.propose()) is not None and len(found) < budget:
        assert problem.space.contains(config)
        stage, note = strategy.stage, strategy.note
        evaluation = evaluate(config)
        state = TrialState.OK if evaluation is not None else TrialState.FAILED
        trial = Trial(len(found) + 1, config, state, evaluation, note=note)
        found.append((stage, trial))
        strategy.observe(trial)
    return found


def toy(ops, settings=None, **kwargs):
    problem = toy_problem(ops, **kwargs)
    return problem, drive(problem, lambda config: toy_evaluation(ops, config), settings)


def of(found, stage):
    return [trial for name, trial in found if name == stage]


# Together they cost 0.06; the goal leaves 0.01, so that both of the dear ones have to stay in fp32.
HARD = [
    ToyOp("first", loss=0.001, time_us=50),
    ToyOp("dear", "MatMul", loss=0.03, time_us=40),
    ToyOp("middle", loss=0.002, time_us=60),
    ToyOp("dearest", "MatMul", loss=0.04, time_us=50),
    ToyOp("last", loss=0.001, time_us=50),
]


def test_the_stages_come_in_order():
    problem, found = toy(
        [*HARD, ToyOp("dear too", "MatMul", loss=0.035), ToyOp("end", loss=0.001)], tolerable_loss=0.01
    )
    assert [stage for stage, _ in groupby(found, key=lambda pair: pair[0])] == [
        "default int8",
        "combinations",
        "recipes",
        "fallback",
        "accumulate",
        "give back",
    ]
    assert found[0][1].config == problem.space.default()


def test_every_trial_says_why_it_was_tried():
    _, found = toy(HARD, tolerable_loss=0.01)
    assert all(trial.note for _, trial in found)
    assert found[0][1].note == "default int8 everywhere"


def test_each_configuration_is_proposed_once():
    for ops in (HARD, HARD[:1], [ToyOp("a"), ToyOp("b")]):
        _, found = toy(ops, tolerable_loss=0.01)
        prints = [trial.config.fingerprint for _, trial in found]
        assert len(set(prints)) == len(prints)


def test_operators_fall_back_in_the_order_of_their_effect_until_the_goal_is_met():
    problem, found = toy(HARD, BasicSettings(recipes=False), tolerable_loss=0.01)
    assert not any(
        problem.goal.feasible(t.evaluation) for stage, t in found if stage != "accumulate" and stage != "give back"
    )
    steps = of(found, "accumulate")
    assert [set(t.config.float_ops) for t in steps] == [{"dearest", "dear"}]
    assert problem.goal.met(steps[-1].evaluation)


def test_accumulating_stops_as_soon_as_the_goal_is_met():
    ops = [ToyOp(f"op{i}", loss=0.01 * (i + 1), time_us=100) for i in range(6)]
    problem, found = toy(ops, BasicSettings(recipes=False), tolerable_loss=0.035)
    steps = of(found, "accumulate")
    assert [sorted(t.config.float_ops) for t in steps] == [
        ["op4", "op5"],
        ["op3", "op4", "op5"],
        ["op2", "op3", "op4", "op5"],
    ]
    assert [problem.goal.feasible(t.evaluation) for t in steps] == [False, False, True]


def test_each_operator_alone_is_priced_from_the_best_configuration_so_far():
    problem, found = toy(HARD, BasicSettings(recipes=False), tolerable_loss=0.01)
    alone = of(found, "fallback")
    assert [t.config.float_ops for t in alone] == [(op.name,) for op in HARD]
    best = problem.goal.best([t for stage, t in found if stage in ("default int8", "combinations")])
    assert all(len(best.config.diff(t.config)) == 1 for t in alone)


def test_an_operator_goes_back_to_int8_when_the_goal_holds_without_it():
    # "x" hurts only beside "y" or "z": alone it has the largest effect, once those two are in fp32 it has none.
    ops = [ToyOp(name, time_us=60) for name in "xyzu"]
    problem = toy_problem(ops, tolerable_loss=0.01)

    def evaluate(config):
        base, int8 = toy_evaluation(ops, config), set(config.int8_ops)
        loss = 0.02 * ("y" in int8) + 0.02 * ("z" in int8) + 0.03 * ("x" in int8 and bool({"y", "z"} & int8))
        return replace(base, metrics=(("accuracy", 0.9 - loss),))

    found = drive(problem, evaluate, BasicSettings(recipes=False))
    assert of(found, "accumulate")[-1].config.float_ops == ("x", "y", "z")
    assert next(t.config.float_ops for t in of(found, "give back")) == ("y", "z")
    assert problem.goal.best([trial for _, trial in found]).config.float_ops == ("y", "z")


def test_operators_of_recipes_go_back_to_int8_too():
    problem, found = toy(HARD, tolerable_loss=0.01)
    assert problem.goal.best([trial for _, trial in found]).config.float_ops == ("dear", "dearest")


def test_once_the_goal_is_met_operators_that_are_faster_in_fp32_fall_back():
    ops = [
        ToyOp("a", time_us=60),
        ToyOp("slow in int8", time_us=20, int8_time_us=60),
        ToyOp("b", time_us=60),
        ToyOp("slower in int8", time_us=20, int8_time_us=90),
    ]
    problem, found = toy(ops, BasicSettings(recipes=False), tolerable_loss=0.01)
    steps = of(found, "accumulate")
    assert steps[-1].config.float_ops == ("slow in int8", "slower in int8")
    assert problem.goal.best([t for _, t in found]) is steps[-1]


def test_recipes_take_the_first_and_last_weighted_operator_and_their_surroundings():
    scheme = OpScheme(TensorScheme("uint8", "asym"), TensorScheme("int8", "sym", "per_channel"))
    names = ["pre", "first", "inner", "last", "post"]
    space = Space(
        Capabilities(
            tuple(OpCapability(n, "Any", (scheme, FLOAT), parameters=n in ("first", "inner", "last")) for n in names)
        )
    )
    plain = toy_problem(HARD)
    problem = Problem(space, plain.goal, plain.baseline, plain.rng)
    ops = [ToyOp(n, loss=0.001, time_us=100) for n in names]
    found = drive(problem, lambda config: toy_evaluation(ops, config))
    assert [t.config.float_ops for t in of(found, "recipes")] == [
        ("first",),
        ("last",),
        ("first", "last"),
        ("pre", "post"),
    ]


def test_recipes_start_from_the_best_so_far():
    _, found = toy(HARD, tolerable_loss=0.01)
    assert [t.config.float_ops for t in of(found, "recipes")] == [("first",), ("first", "last")]


def test_stages_can_be_left_out():
    _, found = toy(HARD, BasicSettings(recipes=False, fallback=False), tolerable_loss=0.01)
    assert {stage for stage, _ in found} == {"default int8", "combinations"}


@pytest.mark.parametrize(
    ("budget", "order"),
    [
        (10, ["dearest", "dear", "middle", "first", "last"]),
        (100, [op.name for op in HARD]),
        (0, [op.name for op in HARD]),
    ],
)
def test_sensitivity_orders_the_operators_where_trials_are_too_few_for_all(budget, order):
    asked = []

    def sensitivity():
        asked.append(True)
        return {"first": 0.1, "dear": 0.5, "middle": 0.2, "dearest": 0.9, "last": 0.0}

    _, found = toy(HARD, BasicSettings(recipes=False), tolerable_loss=0.01, budget=budget, sensitivity=sensitivity)
    assert [t.config.float_ops[0] for t in of(found, "fallback")] == order
    assert len(asked) == (budget == 10)


def tied_problem(tied):
    int8 = [
        OpScheme(TensorScheme("uint8", "asym", "per_tensor", a), TensorScheme("int8", "sym", "per_channel"))
        for a in ("minmax", "kl")
    ]
    space = Space(
        Capabilities(
            tuple(
                OpCapability(n, t, (*int8, FLOAT), parameters=1)
                for n, t in (("conv", "Conv"), ("add", "Add"), ("more", "Conv"))
            ),
            tied=tied,
            options=(("fold", (True, False)),),
        )
    )
    plain = toy_problem([ToyOp("conv")])
    return Problem(space, plain.goal, plain.baseline, plain.rng)


def price(config):
    ops = [ToyOp("conv", loss=0.02), ToyOp("add", "Add", loss=0.02), ToyOp("more", loss=0.001)]
    return toy_evaluation(ops, config)


def test_options_are_tried_before_combinations():
    found = drive(tied_problem(()), price)
    assert [stage for stage, _ in found][:3] == ["default int8", "options", "combinations"]
    assert found[1][1].config.option("fold") is False


@pytest.mark.parametrize("tied", [(("conv", "more"),)])
def test_tied_operators_of_one_type_move_together(tied):
    found = drive(tied_problem(tied), price)
    assert all(t.config.schemes["conv"] == t.config.schemes["more"] for _, t in found)
    assert any(t.config.schemes["conv"].is_float for _, t in found)


def test_tied_operators_of_several_types_move_together():
    found = drive(tied_problem((("conv", "add"),)), price)
    assert all(t.config.schemes["conv"] == t.config.schemes["add"] for _, t in found)


def test_a_failed_default_does_not_end_the_search():
    problem = toy_problem(HARD, tolerable_loss=0.01)
    default = problem.space.default()
    found = drive(problem, lambda c: None if c == default else toy_evaluation(HARD, c))
    assert not found[0][1].ok
    assert problem.goal.met(problem.goal.best([t for _, t in found]).evaluation)


def estimated(ops, **kwargs):
    """A problem with exact estimates; the list says which were asked for."""
    asked, problem = [], toy_problem(ops, **kwargs)

    def sensitivity():
        asked.append("sensitivity")
        return {op.name: op.loss for op in ops}

    def latency_model(config):
        asked.append("latency")
        return toy_evaluation(ops, config).ratio("latency")

    return replace(problem, sensitivity=sensitivity, latency_model=latency_model), asked


def test_two_estimates_rank_operators_without_a_trial_for_each():
    # "slow" loses most, but "dear" loses more for the time it saves.
    ops = [
        ToyOp("a", loss=0.001),
        ToyOp("slow", loss=0.02, time_us=400),
        ToyOp("dear", loss=0.015, time_us=20),
        ToyOp("b", loss=0.001),
        ToyOp("c", loss=0.001),
        ToyOp("d", loss=0.001),
    ]
    problem, asked = estimated(ops, tolerable_loss=0.025)
    found = drive(problem, lambda config: toy_evaluation(ops, config), BasicSettings(recipes=False))
    assert of(found, "fallback") == []
    assert [t.config.float_ops for t in of(found, "accumulate")] == [("slow", "dear"), ("dear",)]
    assert problem.goal.met(problem.goal.best([t for _, t in found]).evaluation)
    assert asked.count("sensitivity") == 1


@pytest.mark.parametrize(
    ("tolerable", "numbers"),
    [
        (0.151, [2, 1]),  # the noise of 2 operators is 1 - (0.151 / 0.16)^2 of all
        (0.101, [8, 4, 6, 5]),
        (0.041, [8, 12, 10, 11]),
    ],
)
def test_the_number_in_fp32_is_guessed_then_doubled_then_bisected(tolerable, numbers):
    ops = [ToyOp(f"op{i}", loss=0.01, time_us=40 + 10 * i) for i in range(16)]
    problem, _ = estimated(ops, tolerable_loss=tolerable)
    found = drive(problem, lambda config: toy_evaluation(ops, config), BasicSettings(recipes=False))
    assert [len(t.config.float_ops) for t in of(found, "accumulate")] == numbers


def test_operators_that_fail_in_int8_are_in_the_first_guess():
    ops = [ToyOp(f"op{i}", loss=0.01, time_us=40 + 10 * i) for i in range(16)]
    problem, _ = estimated(ops, tolerable_loss=0.151)
    broken = {op.name: math.inf if op.name in ("op3", "op9", "op15") else op.loss for op in ops}
    problem = replace(problem, sensitivity=lambda: broken)
    found = drive(problem, lambda config: toy_evaluation(ops, config), BasicSettings(recipes=False))
    assert {"op3", "op9", "op15"} <= set(of(found, "accumulate")[0].config.float_ops)


def test_once_the_goal_is_met_only_what_should_be_faster_in_fp32_is_tried():
    ops = [ToyOp("a"), ToyOp("slow in int8", time_us=20, int8_time_us=60), ToyOp("b"), ToyOp("c")]
    problem, asked = estimated(ops, tolerable_loss=0.01)
    found = drive(problem, lambda config: toy_evaluation(ops, config), BasicSettings(recipes=False))
    assert [t.config.float_ops for t in of(found, "fallback")] == [("slow in int8",)]
    assert "sensitivity" not in asked


def test_nothing_is_estimated_before_the_trial_after_the_default_is_asked_for():
    problem, asked = estimated(HARD)
    strategy = BasicStrategy(BasicSettings(), problem)
    config = strategy.propose()
    strategy.observe(Trial(1, config, TrialState.OK, toy_evaluation(HARD, config)))
    assert asked == []


def test_a_trial_that_was_stopped_early_never_counts_as_one_that_met_the_goal():
    problem, _ = estimated(HARD, tolerable_loss=0.01)
    strategy, trials = BasicStrategy(BasicSettings(), problem), []
    while (config := strategy.propose()) is not None and len(trials) < 60:
        done = toy_evaluation(HARD, config)
        lucky = not problem.goal.feasible(done)
        if lucky:
            done = replace(done, metrics=(("accuracy", 0.9),), samples=10)
        trials.append(Trial(len(trials) + 1, config, TrialState.PRUNED if lucky else TrialState.OK, done))
        strategy.observe(trials[-1])
    assert problem.goal.best(trials).config.float_ops == ("dear", "dearest")


def test_with_both_estimates_the_goal_is_met_before_choices_by_type_are_tried():
    ops = [*HARD, ToyOp("dear too", "MatMul", loss=0.035), ToyOp("end", loss=0.001)]
    problem, _ = estimated(ops, tolerable_loss=0.01)
    found = drive(problem, lambda config: toy_evaluation(ops, config))
    assert [stage for stage, _ in groupby(found, key=lambda pair: pair[0])] == [
        "default int8",
        "combinations",
        "accumulate",
        "give back",
        "combinations",
    ]
    before = [trial for stage, trial in found[:-1] if not trial.note.endswith(("for Conv", "for MatMul"))]
    assert problem.goal.met(problem.goal.best(before).evaluation)


def test_estimates_that_do_not_lead_to_the_goal_leave_it_to_trials():
    # The first has to run in int8 and loses more than is tolerated.
    ops = [ToyOp(name, time_us=60) for name in "xyzuv"]
    plain, _ = estimated(ops, tolerable_loss=0.01)
    fixed = replace(plain.space.ops["x"], schemes=plain.space.ops["x"].schemes[:1])
    problem = replace(plain, space=Space(Capabilities((fixed, *(plain.space.ops[name] for name in "yzuv")))))
    found = drive(problem, lambda config: replace(toy_evaluation(ops, config), metrics=(("accuracy", 0.8),)))
    assert {"accumulate", "recipes", "fallback"} <= {stage for stage, _ in found}


class TestRankingWithoutAllEstimates:
    """In a run with a small time limit, there may be no time to estimate losses or to fit a latency model."""

    MANY = (
        *(ToyOp(f"small{i}", "Add", loss=0.001, time_us=5, int8_time_us=4) for i in range(12)),
        ToyOp("harmful", "Add", loss=0.2, time_us=5, int8_time_us=4),
        ToyOp("large", loss=0.001, time_us=400, int8_time_us=100),
    )

    def drive(self, loss):
        plain = toy_problem(self.MANY, tolerable_loss=0.005)
        sized = tuple(
            replace(op, parameters=10_000 if op.name == "large" else 10, elements=100)
            for op in plain.space.capabilities.ops
        )
        space = Space(replace(plain.space.capabilities, ops=sized))

        def no_time(config):
            raise EngineError("there is no time to estimate latency")

        problem = replace(plain, space=space, sensitivity=lambda: loss, latency_model=no_time)
        found = drive(problem, lambda config: toy_evaluation(self.MANY, config), budget=60)
        met = [t for _, t in found if problem.goal.feasible(t.evaluation)]
        return found, met

    def test_losses_alone_find_an_accurate_model_in_few_trials(self):
        found, met = self.drive({op.name: op.loss for op in self.MANY})
        assert "harmful" in of(found, "accumulate")[0].config.float_ops
        assert met
        assert not met[-1].config.schemes["large"].is_float

    def test_without_losses_small_operators_go_to_fp32_first(self):
        found, met = self.drive({})
        first = next(t for _, t in found if problem_met(t))
        assert met[0] is first
        assert first.number < len(self.MANY)
        assert not first.config.schemes["large"].is_float
        assert all(t.config.schemes["large"].is_float is False for t in of(found, "accumulate")[:4])


def problem_met(trial):
    return trial.evaluation is not None and trial.evaluation.metric("accuracy") >= 0.9 - 0.005


DYNAMIC = OpScheme(TensorScheme("uint8", "asym", algorithm="dynamic"), TensorScheme("int8", "sym", "per_channel"))
STATIC = OpScheme(TensorScheme("uint8", "asym"), TensorScheme("int8", "sym", "per_channel"))
PARTS = ("query", "key", "value", "attention/output", "up", "down")


def encoder_space(layers, schemes=(STATIC, DYNAMIC, FLOAT)):
    names = [f"layer.{i}/{part}" for i in range(layers) for part in PARTS]
    return Space(Capabilities(tuple(OpCapability(n, "MatMul", schemes, parameters=64) for n in names)))


def encoder_evaluation(ops, config):
    """Static int8 ruins the last product of every layer, dynamic int8 does not; it is slower for the others."""
    toy = toy_evaluation(ops, Space(encoder_space(1).capabilities).default())
    bad = sum(s.mode == "static" for n, s in config.ops if n.endswith("down"))
    time = sum({"static": 0.3, "dynamic": 0.6, "fp32": 1.0}[s.mode] for _, s in config.ops) / len(config.ops)
    return replace(
        toy,
        metrics=tuple((name, 0.9 - 0.02 * bad) for name, _ in toy.metrics),
        ratios=tuple((name, time) for name, _ in toy.ratios),
    )


def test_modes_are_tried_for_each_role_in_all_layers_at_once():
    space = encoder_space(12)
    base = toy_problem([ToyOp(n) for n in encoder_space(1).ops], tolerable_loss=0.01)
    problem = replace(base, space=space)
    ops = [ToyOp(n) for n in encoder_space(1).ops]
    found = drive(problem, lambda config: encoder_evaluation(ops, config), BasicSettings(recipes=False, fallback=False))
    tried = of(found, "blocks")
    assert 0 < len(tried) <= 3 * len(PARTS)
    best = problem.goal.best([trial for _, trial in found])
    assert {n.rpartition("/")[2] for n, s in best.config.ops if s.mode == "dynamic"} == {"down"}
    assert all(s.mode == "static" for n, s in best.config.ops if not n.endswith("down"))


def test_one_trial_takes_back_all_layers_where_there_are_fewer_trials_than_operators():
    space = encoder_space(24, (STATIC, FLOAT))
    ops = [ToyOp(n) for n in encoder_space(1).ops]
    problem = replace(
        toy_problem(ops, tolerable_loss=0.01), space=space, budget=40, sensitivity=None, latency_model=None
    )
    only = BasicSettings(recipes=False)
    found = drive(problem, lambda config: replace(encoder_evaluation(ops, config), metrics=(("accuracy", 0.5),)), only)
    fallback = of(found, "fallback")
    assert [trial.note.partition(" ")[0] for trial in fallback][: len(PARTS)] == [f"layer.0/{part}" for part in PARTS]
    assert all(len(trial.config.float_ops) >= 24 for trial in fallback)
