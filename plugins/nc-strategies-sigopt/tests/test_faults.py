"""A server that fails: nothing measured is lost, and the run goes on or stops as it was told."""

import json
import time
import types

import pytest
from driving import BUDGET, Run, assert_whole, http
from nc_strategies_sigopt import client
from nc_strategies_sigopt.strategy import SigOptStrategy
from sigopt_standin import SLOW, StandIn

from nc_strategies.api import InputError

STAGES = {"create": r"/experiments$", "suggest": r"/suggestions$", "observe": r"/observations$"}
KINDS = ("reset", "429", "503", "html", "list", "revoke")


def local_marks(folder):
    lines = [json.loads(line) for line in (folder / "sigopt_local.jsonl").read_text().splitlines()]
    return [r["item"]["metadata"]["nc_key"] for r in lines if r["kind"] == "observation"]


def reported(folder):
    """Marks of what the run had to report."""
    lines = [json.loads(line) for line in (folder / "sigopt.jsonl").read_text().splitlines()]
    return {"fp32"} | {r["mark"] for r in lines if r["event"] == "proposal" and r["assignments"] is not None}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_run_goes_on_in_this_process_with_all_observations(server, tmp_path, kind, stage):
    server.fail(kind, "POST", STAGES[stage], after=0 if stage == "create" else 3)
    # The client sends what is refused with 429 again for as long as a request may take.
    run = Run(tmp_path, http(server, **({"request_timeout": 1.0} if kind == "429" else {})))
    assert len(run.go()) == BUDGET
    assert run.strategy.engine == "local"
    marks = local_marks(tmp_path)
    assert len(marks) == len(set(marks))
    assert set(marks) == reported(tmp_path)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", ["reset", "503", "html", "revoke"])
def test_the_run_stops_when_told_so_and_a_later_one_goes_on(server, tmp_path, kind, stage):
    server.fail(kind, "POST", STAGES[stage], after=0 if stage == "create" else 3)
    run = Run(tmp_path, http(server, on_server_failure="stop"))
    trials = run.go()
    assert len(trials) < BUDGET
    assert run.strategy.engine == "http"
    assert run.strategy.stopped
    server.faults.clear()
    server.tokens["secret-token-123456"] = "1"
    assert len(run.go()) == BUDGET
    assert len(run.measured) == BUDGET
    assert_whole(server)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", ["reset", "slow", "429", "503", "html", "lost"])
def test_a_fault_that_passes_leaves_no_trace(server, tmp_path, kind, stage):
    server.fail(kind, "POST", STAGES[stage], after=0 if stage == "create" else 3, times=1)
    settings = http(server, request_attempts=4, **({"request_timeout": SLOW / 2} if kind == "slow" else {}))
    run = Run(tmp_path, settings)
    assert len(run.go()) == BUDGET
    assert run.strategy.engine == "http"
    end = time.monotonic() + 120
    while server.answering and time.monotonic() < end:
        time.sleep(0.01)
    assert_whole(server)
    assert not [s for s in server.suggestions.values() if s["state"] == "open"]


@pytest.mark.parametrize("stage", STAGES)
def test_answers_that_are_always_lost_are_found_again(server, tmp_path, stage):
    server.fail("lost", "POST", STAGES[stage])
    run = Run(tmp_path, http(server))
    assert len(run.go()) == BUDGET
    assert run.strategy.engine == "http"
    assert_whole(server)


def test_a_server_that_is_too_slow_is_replaced(server, tmp_path):
    server.fail("slow", "POST", STAGES["suggest"], after=3)
    run = Run(tmp_path, http(server, request_timeout=0.2))
    assert len(run.go()) == BUDGET
    assert run.strategy.engine == "local"
    assert set(local_marks(tmp_path)) == reported(tmp_path)


def test_a_server_that_goes_away_is_replaced(tmp_path):
    with StandIn() as server:
        run = Run(tmp_path, http(server))
        run.go(trials=6)
    assert len(run.go()) == BUDGET
    assert run.strategy.engine == "local"
    assert len(run.measured) == BUDGET


def test_a_run_that_moved_stays_where_it_moved_when_it_is_resumed(server, tmp_path):
    server.fail("503", "POST", STAGES["suggest"], after=2)
    run = Run(tmp_path, http(server))
    run.go(trials=9)
    before = len(server.requests)
    assert len(run.go()) == BUDGET
    assert len(run.measured) == BUDGET
    assert len(server.requests) == before
    assert set(local_marks(tmp_path)) == reported(tmp_path)


def test_errors_in_a_row_do_not_slow_the_process_down(server, tmp_path, monkeypatch):
    server.fail("503", "POST", STAGES["observe"])
    slept = []
    monkeypatch.setattr(client.part("ratelimit"), "time", types.SimpleNamespace(sleep=slept.append))
    Run(tmp_path, http(server, request_attempts=8)).go()
    assert slept == []


def refused(settings):
    with pytest.raises(InputError) as error:
        SigOptStrategy.check(settings)
    return str(error.value)


def test_a_missing_token_has_its_own_line(server):
    assert "sigopt_api_token: is missing" in refused(http(server, sigopt_api_token=None))


def test_a_rejected_token_has_its_own_line(server):
    text = refused(http(server, sigopt_api_token="a-wrong-token"))
    assert "sigopt_api_token: is rejected" in text
    assert "a-wrong-token" not in text


def test_an_unknown_project_has_its_own_line(server):
    assert "sigopt_project_id: 'nope' is not a project" in refused(http(server, sigopt_project_id="nope"))
    assert "nope" not in server.projects["1"]


def test_a_missing_project_id_has_its_own_line(server):
    assert "sigopt_project_id: is missing" in refused(http(server, sigopt_project_id=None))


def test_a_project_is_created_when_asked_for(server):
    SigOptStrategy.check(http(server, sigopt_project_id="new", create_project=True))
    assert "new" in server.projects["1"]


def test_a_server_that_does_not_answer_is_told_before_anything_is_done(server):
    server.fail("html", "GET", "tokens")
    assert "sigopt_api_url: " in refused(http(server, on_server_failure="stop"))
    SigOptStrategy.check(http(server))
