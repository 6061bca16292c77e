"""Runs a strategy as the core does, in memory: trials on toy operators, a journal that survives."""

from nc_strategies_sigopt import SigOptSettings
from nc_strategies_sigopt.strategy import SigOptStrategy

from nc_strategies.api import Trial, TrialState
from nc_strategies.testing.strategies import toy_ops
from nc_strategies.testing.toy import toy_evaluation, toy_problem

OPS = toy_ops(0, 8)
BUDGET = 18


class Run:
    """One run folder's worth: journal and state."""

    def __init__(self, folder, settings, budget=BUDGET, failing=(), **problem):
        self.folder, self.settings, self.budget, self.failing = folder, settings, budget, failing
        self.more = problem
        self.journal = {}
        self.measured = []
        self.strategy = None
        self.notices = []
        self.at = {}
        """What to do when so many trials are measured."""

    def problem(self):
        return toy_problem(
            OPS,
            tolerable_loss=0.02,
            budget=self.budget,
            state_dir=self.folder,
            metadata={"model": "toy", "data": "d", "space": "s"},
            notice=self.notices.append,
            **self.more,
        )

    def go(self, trials=None):
        """Run, or resume, until the budget or so many trials; the trials of this process in order."""
        self.strategy = SigOptStrategy(self.settings, self.problem())
        seen = {}
        try:
            while len(seen) < min(self.budget, trials or self.budget):
                config = self.strategy.propose()
                if config is None:
                    break
                key = config.fingerprint
                if key in seen:
                    self.strategy.observe(seen[key])
                    continue
                if key not in self.journal:
                    number = len(self.journal) + 1
                    self.measured.append(key)
                    self.at.get(number, lambda: None)()
                    bad = number in self.failing
                    self.journal[key] = Trial(
                        number,
                        config,
                        TrialState.FAILED if bad else TrialState.OK,
                        None if bad else toy_evaluation(OPS, config),
                        "made to fail" if bad else None,
                    )
                seen[key] = self.journal[key]
                self.strategy.observe(seen[key])
        finally:
            self.strategy.close()
        return list(seen.values())


def http(server, **more):
    """Settings for a stand-in server: few attempts, each with more time than a busy machine takes."""
    return SigOptSettings(
        **{
            "driver": "http",
            "sigopt_project_id": "nc-demo",
            "sigopt_api_url": server.url,
            "sigopt_api_token": "secret-token-123456",
            "request_timeout": 30.0,
            "request_attempts": 2,
            "request_patience": 0.0,
            **more,
        }
    )


def created(server):
    """Requests that made an experiment; the one that asks whether it may is refused for its missing name."""
    return [r for r in server.sent("POST", "/v1/experiments$") if r.body]


def assert_whole(server):
    """One experiment; one observation for each suggestion that was taken; none twice."""
    assert len(server.experiments) == 1
    answered = [o["suggestion"] for o in server.observations.values() if o["suggestion"] is not None]
    assert len(answered) == len(set(answered))
    marks = [o["metadata"]["nc_key"] for o in server.observations.values()]
    assert len(marks) == len(set(marks))
