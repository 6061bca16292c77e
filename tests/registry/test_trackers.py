"""A chosen tracker gets the observer hooks for its run, and whatever it does the run goes on."""

from __future__ import annotations

import logging

import pytest

from nc_strategies.api import Tracker, hookimpl
from nc_strategies.config import RunConfig
from nc_strategies.errors import InputError
from nc_strategies.registry.registry import Registry


class Noting(Tracker):
    def __init__(self, settings=None):
        super().__init__(settings)
        self.seen = []

    @hookimpl
    def ncs_study_started(self, config, notice):
        notice(f"told {config['strategy']}")

    @hookimpl
    def ncs_trial_finished(self, trial):
        self.seen.append(trial)

    def close(self):
        self.seen.append("closed")


class Failing(Tracker):
    @hookimpl
    def ncs_trial_finished(self, study, trial):
        raise OSError("the server is gone")

    def close(self):
        raise OSError("the server is still gone")


def notify(registry, trial):
    registry.notify("ncs_trial_finished", study=None, trial=trial)


def test_its_hooks_are_called_while_it_observes_and_not_after():
    registry, tracker, said = Registry([]), Noting(), []
    notify(registry, 1)
    with registry.observing("noting", tracker):
        registry.notify("ncs_study_started", study=None, config={"strategy": "basic"}, notice=said.append)
        notify(registry, 2)
    notify(registry, 3)
    assert tracker.seen == [2, "closed"]
    assert said == ["told basic"]


def test_it_is_closed_when_the_run_fails():
    registry, tracker = Registry([]), Noting()
    with pytest.raises(KeyboardInterrupt), registry.observing("noting", tracker):
        raise KeyboardInterrupt
    assert tracker.seen == ["closed"]


def test_one_that_fails_in_every_call_is_logged_and_breaks_nothing(caplog):
    registry = Registry([])
    with caplog.at_level(logging.ERROR), registry.observing("failing", Failing(None)):
        notify(registry, 1)
    assert "plugin tracker=failing failed in ncs_trial_finished; the run goes on" in caplog.text
    assert "tracker=failing failed to close" in caplog.text


def test_one_after_the_other_can_observe():
    registry = Registry([])
    for _ in range(2):
        tracker = Noting()
        with registry.observing("noting", tracker):
            notify(registry, 1)
        assert tracker.seen == [1, "closed"]


def test_none_is_the_default_and_an_unknown_one_lists_what_there_is():
    registry = Registry([])
    assert isinstance(registry.create("tracker", RunConfig().tracker), Tracker)
    with pytest.raises(InputError, match=r"no tracker 'wandb'; available: none$"):
        registry.settings("tracker", {"name": "wandb"})
