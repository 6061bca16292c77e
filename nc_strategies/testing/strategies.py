"""Test suite for strategies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from nc_strategies.problem import Problem, Trial, TrialState
from nc_strategies.space import Config
from nc_strategies.strategies.base import Strategy
from nc_strategies.testing.toy import ToyOp, toy_evaluation, toy_problem


def toy_ops(seed: int = 0, count: int = 8) -> list[ToyOp]:
    """Operators with uneven costs: a few cause most of the accuracy loss, others most of the latency."""
    rng = np.random.default_rng(seed)
    loss = rng.lognormal(0, 1.5, count)
    saved = rng.lognormal(0, 0.8, count)
    loss, saved = loss / loss.sum() * 0.05, saved / saved.sum() * 60
    return [
        ToyOp(f"op{i}", "Conv" if i % 2 else "MatMul", float(loss[i]), float(saved[i] + 5), 5.0) for i in range(count)
    ]


class StrategySuite:
    """Tests that every strategy must pass: inherit, and set `strategy` and `settings`."""

    strategy: type[Strategy]
    settings: Any = None
    budget = 40
    finds_goal = True
    """Whether it should find a model that meets an easy goal within the budget."""

    def make(self, problem: Problem) -> Strategy:
        """The strategy under test."""
        return self.strategy(self.settings, problem)

    def drive(
        self,
        problem: Problem,
        ops: list[ToyOp],
        budget: int,
        failing: frozenset[int] = frozenset(),
        pruning: bool = False,
    ) -> list[Trial]:
        """Run a strategy on a toy problem without measurement noise.

        Args:
            problem: The tuning problem.
            ops: Operators of the toy model.
            budget: Number of trials.
            failing: Numbers of the trials that fail.
            pruning: Whether trials that miss the goal are pruned.

        Returns:
            The trials, in order.
        """
        strategy = self.make(problem)
        trials: list[Trial] = []
        known: dict[str, Trial] = {}
        for _ in range(budget * 20):
            config = strategy.propose()
            if config is None or len(trials) >= budget:
                break
            assert problem.space.contains(config), "proposed a configuration outside the space"
            if config.fingerprint not in known:
                number = len(trials) + 1
                if number in failing:
                    trial = Trial(number, config, TrialState.FAILED, error="made to fail")
                else:
                    evaluation = toy_evaluation(ops, config)
                    pruned = pruning and not problem.goal.feasible(evaluation)
                    trial = (
                        Trial(number, config, TrialState.PRUNED, replace(evaluation, samples=evaluation.samples // 10))
                        if pruned
                        else Trial(number, config, TrialState.OK, evaluation)
                    )
                known[config.fingerprint] = trial
                trials.append(trial)
            strategy.observe(known[config.fingerprint])
        strategy.close()
        return trials

    def test_it_finds_a_model_that_meets_an_easy_goal(self) -> None:
        ops = toy_ops()
        problem = toy_problem(ops, tolerable_loss=0.02, budget=self.budget)
        trials = self.drive(problem, ops, self.budget)
        best = problem.goal.best(trials)
        assert best is not None
        assert best.evaluation is not None
        assert problem.goal.met(best.evaluation) or not self.finds_goal

    def test_the_same_seed_gives_the_same_proposals(self) -> None:
        ops = toy_ops(1)
        first, second = (
            [t.config.fingerprint for t in self.drive(toy_problem(ops, seed=3, budget=15), ops, 15)] for _ in range(2)
        )
        assert first == second

    def test_it_survives_failed_trials(self) -> None:
        ops = toy_ops(2)
        trials = self.drive(toy_problem(ops, budget=20), ops, 20, frozenset(range(1, 20, 3)))
        assert any(t.ok for t in trials)

    def test_it_survives_a_run_in_which_every_trial_fails(self) -> None:
        ops = toy_ops(2)
        self.drive(toy_problem(ops, budget=20), ops, 20, frozenset(range(100)))

    def test_it_copes_with_trials_that_are_stopped_early(self) -> None:
        ops = toy_ops(2)
        problem = toy_problem(ops, budget=20)
        trials = self.drive(problem, ops, 20, pruning=True)
        assert all(t.state is not TrialState.PRUNED or t.evaluation is not None for t in trials)
        assert any(t.state is TrialState.PRUNED for t in trials)

    def test_it_copes_with_a_single_operator(self) -> None:
        ops = [ToyOp("only", loss=0.001)]
        trials = self.drive(toy_problem(ops, budget=10), ops, 10)
        assert trials

    def test_it_takes_trials_in_any_order(self) -> None:
        ops, most, budget = toy_ops(3, 6), 3, 12
        problem = toy_problem(ops, budget=budget, workers=most)
        strategy, rng = self.make(problem), np.random.default_rng(0)
        pending: list[Config] = []
        known: dict[str, Trial] = {}
        for _ in range(budget * 20):
            room = len(pending) < most and len({*known, *(c.fingerprint for c in pending)}) < budget
            config = strategy.propose() if room else None
            if config is not None and config.fingerprint in known:
                strategy.observe(known[config.fingerprint])
            elif config is not None:
                assert problem.space.contains(config), "proposed a configuration outside the space"
                pending.append(config)
            elif pending:
                ended = pending[int(rng.integers(len(pending)))]
                trial = Trial(len(known) + 1, ended, TrialState.OK, toy_evaluation(ops, ended))
                known[ended.fingerprint] = trial
                for _ in range(pending.count(ended)):
                    pending.remove(ended)
                    strategy.observe(trial)
            else:
                break
        strategy.close()
        assert not pending
        assert 1 <= len(known) <= budget

    def test_it_never_proposes_what_the_space_forbids(self) -> None:
        ops = toy_ops(4)
        problem = toy_problem(ops, tolerable_loss=0.0, budget=self.budget)
        for trial in self.drive(problem, ops, self.budget):
            assert isinstance(trial.config, Config)
            assert problem.space.contains(trial.config)
