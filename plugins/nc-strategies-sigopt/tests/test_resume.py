"""A run that is cut anywhere goes on where it was: one experiment, one observation a suggestion."""

import json

import pytest
from driving import BUDGET, Run, assert_whole, http
from nc_strategies_sigopt import SigOptSettings
from nc_strategies_sigopt.lines import Lines
from sigopt_standin_api import Refused

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


def bandwidths(server, folder, driver):
    """Changes of the experiment's parallel bandwidth, in their order."""
    if driver == "http":
        changes = [r.body for r in server.sent("PUT", "/v1/experiments/1$")]
    else:
        lines = [json.loads(line) for line in (folder / "sigopt_local.jsonl").read_text().splitlines()]
        changes = [r["item"]["changes"] for r in lines if r["kind"] == "update"]
    return [c["parallel_bandwidth"] for c in changes if "parallel_bandwidth" in c]


@pytest.mark.parametrize("driver", ["http", "local"])
def test_another_number_of_workers_changes_the_bandwidth_once(server, tmp_path, driver):
    run = Run(tmp_path, http(server) if driver == "http" else LOCAL)
    first = run.go(trials=4)
    run.go(trials=6)
    assert bandwidths(server, tmp_path, driver) == []
    for workers, changes in ((3, [3]), (3, [3]), (2, [3, 2])):
        run.more["workers"] = workers
        assert [t.config for t in run.go(trials=len(run.journal) + 2)][:4] == [t.config for t in first]
        assert bandwidths(server, tmp_path, driver) == changes
    if driver == "http":
        assert server.experiments["1"]["parallel_bandwidth"] == 2
        assert_whole(server)


def test_a_server_that_keeps_the_bandwidth_still_makes_suggestions(server, tmp_path, monkeypatch):
    run, route = Run(tmp_path, http(server)), server.route

    def refuse(request, authorization):
        if request.method == "PUT" and "parallel_bandwidth" in request.body:
            raise Refused(400, "it cannot be updated")
        return route(request, authorization)

    monkeypatch.setattr(server, "route", refuse)
    run.go(trials=5)
    run.more["workers"] = 3
    assert len(run.go()) == BUDGET
    assert run.strategy.engine == "http"
    assert server.experiments["1"]["parallel_bandwidth"] == 1
    assert_whole(server)
