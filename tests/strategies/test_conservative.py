"""The conservative strategy: what is kept, and in which order it is tried."""

import dataclasses

from nc_strategies.strategies.conservative import ConservativeSettings, ConservativeStrategy
from nc_strategies.testing import ToyOp, toy_problem
from nc_strategies.testing.toy import toy_evaluation

OPS = [
    ToyOp("a", "Conv", loss=0.001),
    ToyOp("b", "MatMul", loss=0.02),
    ToyOp("c", "Conv", loss=0.001),
    ToyOp("d", "MatMul", loss=0.002),
    ToyOp("e", "Conv", loss=0.001),
]


def int8(item):
    return set(item.config.int8_ops)


def test_types_are_added_one_after_the_other_and_kept_if_they_hold(toy):
    problem, found = toy(ConservativeStrategy, ConservativeSettings(split=False), OPS, tolerable_loss=0.01)
    assert [int(item.trial.number) for item in found] == [1, 2]
    assert int8(found[0]) == set("ace")
    assert int8(found[1]) == set("abcde")
    assert problem.goal.best([item.trial for item in found]).config == found[0].config


def test_the_halves_of_a_type_that_loses_too_much_are_tried(toy):
    problem, found = toy(ConservativeStrategy, ConservativeSettings(), OPS, tolerable_loss=0.01)
    assert [int8(item) for item in found] == [set("ace"), set("abcde"), set("abce"), set("acde")]
    assert int8(max(found, key=lambda item: problem.goal.feasible(item.trial.evaluation) * item.trial.number)) == set(
        "acde"
    )


def test_the_type_with_the_most_work_comes_first(drive):
    problem = toy_problem(OPS)
    for op in problem.space.ops.values():
        if op.type == "MatMul":
            problem.space.ops[op.name] = dataclasses.replace(op, parameters=10_000, elements=100)
    found = drive(
        ConservativeStrategy(ConservativeSettings(split=False), problem), problem, lambda c: toy_evaluation(OPS, c)
    )
    assert int8(found[0]) == set("bd")


def test_a_type_that_fails_in_its_default_is_tried_in_other_modes(drive, modes):
    problem, evaluate = modes
    problem = problem()
    found = drive(ConservativeStrategy(ConservativeSettings(), problem), problem, evaluate)
    assert found[0].config.int8_ops == ("conv",)
    assert [item.note for item in found][:3] == [
        "only what may not run in fp32 is quantized",
        "all MatMul in the default scheme",
        "all MatMul in dynamic",
    ]
    last = [item for item in found if problem.goal.feasible(item.trial.evaluation)][-1]
    assert {last.config.schemes[f"product{i}"].mode for i in range(4)} == {"dynamic"}
    assert last.config.schemes["add"].mode == "static"


def test_a_step_that_fails_to_run_is_not_kept(drive):
    problem = toy_problem(OPS)
    found = drive(
        ConservativeStrategy(ConservativeSettings(), problem),
        problem,
        lambda c: None if "c" in c.int8_ops else toy_evaluation(OPS, c),
    )
    kept = [item for item in found if item.trial.ok and problem.goal.feasible(item.trial.evaluation)]
    assert int8(kept[-1]) == set("ade")
