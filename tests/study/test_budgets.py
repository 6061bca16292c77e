"""A run goes on with another budget in the same folder, whatever its strategy."""

import importlib.util

import pytest

from nc_strategies.registry import registry
from nc_strategies.testing.strategies import toy_ops

OPS = tuple(toy_ops(3, 8))
FEW, MANY = 4, 16


SETTINGS = {"sigopt": {"driver": "local"}, "exhaustive": {"limit": 10**12}}
ON_GRADIENTS = "hawq_v2"
"""Refuses the toy backend, which gives none: its own tests give it a backend that does."""
REFUSED = {ON_GRADIENTS} | ({"gp"} if importlib.util.find_spec("torch") is None else set())
"""And without torch ``gp`` is refused: its plugin's tests hold that."""


@pytest.mark.parametrize(("first", "second"), [(FEW, MANY), (MANY, FEW)], ids=["larger", "smaller"])
@pytest.mark.parametrize("name", sorted(set(registry().names("strategy")) - REFUSED))
def test_a_run_goes_on_with_another_budget(run, name, first, second):
    def make(problem):
        return registry().create("strategy", {"name": name, **SETTINGS.get(name, {})}, problem)

    before = run(ops=OPS, strategy=name, make=make, max_trials=first)
    done = before()
    numbers = [line["number"] for line in before.journal()]
    # As in a process of its own: the same folder, nothing else.
    later = run(ops=OPS, strategy=name, make=make, max_trials=second)
    study = later()
    kept = {trial.config.fingerprint for trial in done.trials}
    assert kept <= {trial.config.fingerprint for trial in study.trials}
    assert [line["number"] for line in later.journal()][: len(numbers)] == numbers
    assert study.stop_reason in ("budget", "finished")
    configs = [str(line["config"]) for line in later.journal()]
    assert len(configs) == len(set(configs)), "a trial was measured twice"
    assert sum(trial.resumed for trial in study.trials) >= len(numbers)
    if first < second and study.stop_reason == "budget":
        assert len(study.trials) >= second
