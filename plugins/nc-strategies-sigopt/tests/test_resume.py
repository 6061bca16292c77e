"""A run that is cut anywhere goes on where it was: one experiment, one observation a suggestion."""

import json

import pytest
from driving import BUDGET, Run, assert_whole, http
from nc_strategies_sigopt import SigOptSettings
from nc_strategies_sigopt.lines import Lines

from nc_strategies.api import InputError

LOCAL = SigOptSettings(driver="local")


class Killed(BaseException):
    pass


def cut(monkeypatch, count, after):
    """Die at a write of a state file, before or after it reaches the disk."""
    left = [count]
    append = Lines.append

    def dying(self, record):
        left[0] -= 1
        if left[0] == 0 and not after:
            raise Killed
        append(self, record)
        if left[0] == 0:
            raise Killed

    monkeypatch.setattr(Lines, "append", dying)


@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after the write"])
@pytest.mark.parametrize("count", range(1, 24))
def test_a_run_on_a_server_cut_at_any_write_goes_on(server, tmp_path, monkeypatch, count, after):
    run = Run(tmp_path, http(server), failing=(3,))
    with monkeypatch.context() as patch:
        cut(patch, count, after)
        with pytest.raises(Killed):
            run.go()
    assert len(run.go()) == BUDGET
    assert len(run.measured) == BUDGET
    assert run.strategy.engine == "http"
    assert_whole(server)
    assert not [s for s in server.suggestions.values() if s["state"] == "open"]


@pytest.mark.parametrize("count", range(1, 40, 3))
def test_a_local_run_cut_at_any_write_ends_as_if_it_had_not_been(tmp_path, monkeypatch, count):
    whole = Run(tmp_path / "whole", LOCAL)
    whole.folder.mkdir()
    whole.go()
    run = Run(tmp_path / "cut", LOCAL)
    run.folder.mkdir()
    with monkeypatch.context() as patch:
        cut(patch, count, True)
        with pytest.raises(Killed):
            run.go()
    assert [t.config.fingerprint for t in run.go()] == list(whole.journal)
    assert run.measured == whole.measured
    lines = [json.loads(line) for line in (run.folder / "sigopt_local.jsonl").read_text().splitlines()]
    marks = [r["item"]["metadata"]["nc_key"] for r in lines if r["kind"] == "observation"]
    assert len(marks) == len(set(marks))


def test_a_larger_budget_continues_the_same_experiment(server, tmp_path):
    run = Run(tmp_path, http(server))
    first = run.go(trials=7)
    assert [t.number for t in run.go()][:7] == [t.number for t in first]
    assert_whole(server)


def test_a_run_on_a_server_is_not_resumed_without_its_token(server, tmp_path):
    Run(tmp_path, http(server)).go(trials=4)
    with pytest.raises(InputError, match="sigopt_api_token: is missing"):
        Run(tmp_path, http(server, driver="auto", sigopt_api_token=None)).go()


@pytest.mark.parametrize(("first", "second"), [(4, 16), (16, 4)], ids=["larger", "smaller"])
@pytest.mark.parametrize("driver", ["http", "local"])
def test_another_budget_goes_on_with_the_stored_experiment(server, tmp_path, driver, first, second):
    settings = http(server) if driver == "http" else LOCAL
    before = Run(tmp_path, settings, budget=first)
    done = before.go()
    after = Run(tmp_path, settings, budget=second)
    after.journal.update(before.journal)
    trials = after.go()
    assert [t.config for t in trials][:4] == [t.config for t in done][:4]
    assert len(trials) == second
    assert len(after.measured) == max(second - first, 0)
    assert after.strategy.engine == driver
    if driver == "http":
        assert_whole(server)
        assert server.experiments["1"]["observation_budget"] >= max(first, second) + 1
        assert not [s for s in server.suggestions.values() if s["state"] == "open"]


def test_the_stored_parameters_count_where_a_later_run_estimates_otherwise(tmp_path):
    """Another order of the operators would make other configurations of the same assignments."""
    before = Run(tmp_path, LOCAL, budget=6, sensitivity=lambda: {f"op{i}": 0.001 * (i + 1) for i in range(8)})
    done = before.go()
    after = Run(tmp_path, LOCAL, budget=16, sensitivity=lambda: {f"op{i}": 0.001 * (8 - i) for i in range(8)})
    after.journal.update(before.journal)
    assert [t.config for t in after.go()][:6] == [t.config for t in done]
    assert len(after.measured) == 10


def test_an_experiment_whose_parameters_are_not_stored_is_refused(tmp_path):
    (tmp_path / "sigopt.jsonl").write_text('{"event": "engine", "engine": "local", "owner": "a"}\n')
    with pytest.raises(InputError, match="earlier version"):
        Run(tmp_path, LOCAL).go(trials=3)
