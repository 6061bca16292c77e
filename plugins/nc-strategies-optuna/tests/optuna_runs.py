"""Runs a strategy as the core does, in memory: trials on toy operators, a journal that survives."""

from dataclasses import replace

import optuna
from nc_strategies_optuna.strategy import OptunaStrategy

from nc_strategies.api import Trial, TrialState
from nc_strategies.testing.strategies import toy_ops
from nc_strategies.testing.toy import toy_evaluation, toy_problem

OPS = toy_ops(0, 12)
LOSS = {op.name: op.loss for op in OPS}


class Run:
    """One run folder's worth: journal and state."""

    def __init__(self, folder, settings, budget=12, failing=(), pruning=False, ops=OPS, **problem):
        self.folder, self.settings, self.budget, self.failing, self.pruning = folder, settings, budget, failing, pruning
        self.ops, self.more = ops, {"sensitivity": lambda: LOSS, "tolerable_loss": 0.01, **problem}
        self.journal, self.measured, self.notices, self.asked = {}, [], [], []
        self.strategy = None

    def problem(self):
        return toy_problem(
            self.ops,
            budget=self.budget,
            state_dir=self.folder,
            metadata={"model": "toy", "data": "d", "space": "s"},
            notice=self.notices.append,
            **self.more,
        )

    def go(self):
        """Run, or resume, until the budget; the trials of this process in order."""
        problem = self.problem()
        self.strategy = OptunaStrategy(self.settings, problem)
        seen = {}
        try:
            while len(seen) < self.budget:
                config = self.strategy.propose()
                if config is None:
                    break
                key = config.fingerprint
                assert key not in seen, "a configuration was proposed twice"
                if key not in self.journal:
                    self.measured.append(key)
                    self.journal[key] = self.trial(problem, len(self.journal) + 1, config)
                seen[key] = self.journal[key]
                self.strategy.observe(seen[key])
        finally:
            self.strategy.close()
        return list(seen.values())

    def trial(self, problem, number, config):
        if number in self.failing:
            return Trial(number, config, TrialState.FAILED, error="made to fail")
        done = toy_evaluation(self.ops, config)
        if self.pruning and not problem.goal.feasible(done):
            return Trial(number, config, TrialState.PRUNED, replace(done, samples=done.samples // 10))
        return Trial(number, config, TrialState.OK, done)

    def study(self, url=None):
        """The study as Optuna itself opens it."""
        url = url or f"sqlite:///{self.folder / 'optuna.db'}"
        (name,) = optuna.get_all_study_names(url)
        return optuna.load_study(study_name=name, storage=url)
