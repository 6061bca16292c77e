"""The strategy `auto`: which strategy goes on, and why."""

import json
from dataclasses import replace

import pytest

from nc_strategies.api import LatencyTerms
from nc_strategies.strategies import auto
from nc_strategies.strategies.auto import DECISION_FILE, AutoSettings, AutoStrategy
from nc_strategies.strategies.basic import BasicStrategy
from nc_strategies.strategies.ilp.settings import IlpSettings
from nc_strategies.strategies.ilp.strategy import IlpStrategy
from nc_strategies.testing import ToyOp, toy_problem
from nc_strategies.testing.toy import toy_evaluation

OPS = [ToyOp(f"op{i}", loss=0.04 if i == 3 else 0.001, time_us=40 + i) for i in range(8)]
EASY = [ToyOp(f"op{i}", loss=0.001, time_us=40 + i) for i in range(8)]


def test_a_kept_goal_goes_to_ilp_for_a_faster_model(toy):
    _, found = toy(AutoStrategy, AutoSettings(), EASY, budget=6, tolerable_loss=0.02)
    assert found[0].note == "step 1: default int8 everywhere"
    assert found[1].note.startswith("step 5: the goal is kept, a faster model is sought, ilp: predicted cost")


def test_a_missed_goal_goes_to_ilp_which_recovers_it(drive):
    problem = toy_problem(OPS, budget=12, tolerable_loss=0.01)
    found = drive(AutoStrategy(AutoSettings(), problem), problem, lambda c: toy_evaluation(OPS, c), 3)
    assert found[1].note.startswith("step 5: the goal is missed, ilp: ")
    assert problem.goal.met(problem.goal.best([item.trial for item in found]).evaluation)


def test_it_proposes_what_ilp_alone_would(drive):
    def run(kind, settings):
        problem = toy_problem(OPS, budget=8, tolerable_loss=0.01)
        return [i.config.fingerprint for i in drive(kind(settings, problem), problem, evaluate, 5)]

    def evaluate(config):
        return toy_evaluation(OPS, config)

    assert run(AutoStrategy, AutoSettings()) == run(IlpStrategy, IlpSettings())


def test_a_space_that_the_budget_covers_is_enumerated(toy):
    problem, found = toy(AutoStrategy, AutoSettings(), [ToyOp("a", loss=0.5), ToyOp("b")], budget=30)
    assert len(found) == problem.space.size() - 1
    assert found[1].note.startswith("step 3: all of 25 configurations, exhaustive: 1 choice differs")


def test_a_space_larger_than_the_budget_is_not_enumerated(toy):
    _, found = toy(AutoStrategy, AutoSettings(), [ToyOp("a", loss=0.5), ToyOp("b")], budget=10)
    assert not any("exhaustive" in item.note for item in found)


def test_other_modes_are_tried_where_products_do_most_of_the_work(drive, modes):
    problem, evaluate = modes
    problem = problem(budget=20)
    found = drive(AutoStrategy(AutoSettings(), problem), problem, evaluate, 4)
    assert [item.note.split(" quantization")[0] for item in found[1:3]] == [
        "step 2: dynamic",
        "step 2: weight_only int4",
    ]
    assert found[1].note.endswith("which operators with 91% of the work offer")
    assert found[3].note.startswith("step 5: the goal is kept")


@pytest.mark.parametrize(("used", "engine"), [(0.3, "basic"), (0.05, "ilp"), (0.0, "ilp")])
def test_the_time_left_decides_who_recovers_a_missed_goal(drive, tmp_path, used, engine):
    problem = toy_problem(OPS, budget=12, tolerable_loss=0.01, time_used=lambda: used, state_dir=tmp_path)
    strategy = AutoStrategy(AutoSettings(), problem)
    found = drive(strategy, problem, lambda c: toy_evaluation(OPS, c), 2)
    assert found[1].note.partition(", ")[2].startswith(engine)
    kept = json.loads((tmp_path / DECISION_FILE).read_text()) if (tmp_path / DECISION_FILE).exists() else {}
    assert ("trials_of_basic" in kept) == (used > 0)
    assert ("12" in kept) == (engine == "ilp")


@pytest.mark.parametrize("ops", [OPS, EASY])
def test_a_budget_of_few_trials_is_left_to_basic(toy, ops):
    def never(*_):
        raise AssertionError("estimated")

    _, found = toy(AutoStrategy, AutoSettings(), ops, budget=5, tolerable_loss=0.02, latency_terms=never)
    assert [item.note.partition(": ")[0] for item in found] == ["step 1", *["step 4"] * 4]
    assert found[1].note == "step 4: few trials are left, basic: per_tensor weights for all operators"


def test_few_trials_are_not_left_to_basic_where_int8_everywhere_is_slower_than_fp32(drive):
    slow = [ToyOp("slow", int8_time_us=400.0), *(ToyOp(f"fast{i}") for i in range(7))]
    base, full = toy_problem(slow, budget=4, tolerable_loss=0.02), sum(op.time_us for op in slow)
    costs = {op.name: (op.int8_time_us / full, op.time_us / full) for op in slow}
    terms = {n: {s: costs[n][s.is_float] for s in base.space.ops[n].schemes} for n in costs}
    problem = replace(base, latency_terms=lambda: LatencyTerms(0.0, terms))
    found = drive(AutoStrategy(AutoSettings(), problem), problem, lambda c: toy_evaluation(slow, c), 3)
    assert found[1].note.startswith("step 5: the goal is kept, a faster model is sought, ilp: ")
    assert [op for op, scheme in found[1].config.ops if scheme.is_float] == ["slow"]


def test_a_resumed_run_with_more_trials_goes_from_basic_to_ilp(drive, tmp_path):
    def run(budget, measured):
        problem = toy_problem(OPS, budget=budget, tolerable_loss=0.01, state_dir=tmp_path)
        return drive(AutoStrategy(AutoSettings(), problem), problem, lambda c: toy_evaluation(OPS, c), measured)

    first, again = run(4, 4), run(12, 5)
    assert [item.config for item in again[:4]] == [item.config for item in first]
    assert "basic" in again[3].note
    assert again[4].note.startswith("step 5: the goal is missed, ilp: ")


@pytest.mark.parametrize("text", [json.dumps({"trials_of_basic": 4, "true": 1}), "no json"])
def test_a_resumed_run_decides_as_before(drive, tmp_path, text):
    (tmp_path / DECISION_FILE).write_text(text)
    problem = toy_problem(OPS, budget=12, tolerable_loss=0.01, time_used=lambda: 0.01, state_dir=tmp_path)
    found = drive(AutoStrategy(AutoSettings(), problem), problem, lambda c: toy_evaluation(OPS, c), 2)
    assert ("basic" in found[1].note) == ("true" in text)


def test_basic_goes_on_where_ilp_ends_without_a_model(drive, monkeypatch):
    monkeypatch.setattr(IlpStrategy, "propose", lambda self: None)
    problem = toy_problem(OPS, budget=200, tolerable_loss=0.01)
    strategy = AutoStrategy(AutoSettings(), problem)
    found = drive(strategy, problem, lambda c: toy_evaluation(OPS, c), 200)
    assert found[1].note.startswith("step 6: ilp has ended without a model that keeps the goal, basic: ")
    assert any(problem.goal.feasible(item.trial.evaluation) for item in found)
    assert strategy.engine == "basic"


def test_basic_takes_the_trials_that_ilp_leaves_although_the_goal_is_kept(drive):
    problem = toy_problem(EASY, budget=80, tolerable_loss=0.02)
    found = drive(AutoStrategy(AutoSettings(), problem), problem, lambda c: toy_evaluation(EASY, c), 80)
    steps = [item.note.partition(":")[0] for item in found]
    assert "step 5" in steps
    assert found[steps.index("step 6")].note.startswith("step 6: ilp expects nothing faster, basic: ")


def steps_of(found):
    return [item.note.partition(":")[0] for item in found]


def test_ilp_gets_half_of_the_trials_and_half_of_those_that_a_resumed_run_adds(drive, tmp_path):
    def run(budget, measured):
        problem = toy_problem(OPS, budget=budget, tolerable_loss=0.01, state_dir=tmp_path)
        return drive(AutoStrategy(AutoSettings(), problem), problem, lambda c: toy_evaluation(OPS, c), measured)

    first, again, once_more = run(9, 9), run(17, 17), run(17, 17)
    assert steps_of(first) == ["step 1", *["step 5"] * 4, *["step 6"] * 4]
    assert first[5].note.startswith("step 6: ilp has had half of the trials, basic: ")
    assert [item.config for item in again[:9]] == [item.config for item in first]
    assert steps_of(again[9:]) == [*["step 5"] * 4, *["step 6"] * 4]
    assert [item.config for item in once_more] == [item.config for item in again]


def test_ilp_goes_on_where_basic_ends_before_the_trials_do(drive, monkeypatch):
    class Short(BasicStrategy):
        def steps(self):
            yield from self._try(self.problem.space.default(), "default int8", "int8 everywhere")

    monkeypatch.setattr(auto, "BasicStrategy", Short)
    problem = toy_problem(OPS, budget=13, tolerable_loss=0.01)
    found = drive(AutoStrategy(AutoSettings(), problem), problem, lambda c: toy_evaluation(OPS, c), 13)
    assert steps_of(found) == ["step 1", *["step 5"] * 6, *["step 7"] * 6]


def test_the_strategy_that_it_follows_leaves_its_files(drive, tmp_path):
    problem = toy_problem(EASY, budget=8, tolerable_loss=0.02, state_dir=tmp_path)
    strategy = AutoStrategy(AutoSettings(), problem)
    drive(strategy, problem, lambda c: toy_evaluation(EASY, c), 3)
    strategy.close()
    assert json.loads((tmp_path / "pareto.json").read_text())["points"]
