"""A server that fails: nothing measured is lost, and the run goes on or stops as it was told."""

import json
import time
import types

import pytest
from driving import BUDGET, Run, assert_whole, http
from nc_strategies_sigopt import client
from nc_strategies_sigopt.calls import Calls, Unavailable
from nc_strategies_sigopt.strategy import SigOptStrategy
from sigopt_standin import SLOW, StandIn

from nc_strategies.api import InputError

STAGES = {"create": r"/v1/experiments$", "suggest": r"/suggestions$", "observe": r"/observations$"}
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
    server.fail(kind, "POST", STAGES[stage], after=1 if stage == "create" else 3)
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
    server.fail(kind, "POST", STAGES[stage], after=1 if stage == "create" else 3)
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
    server.fail(kind, "POST", STAGES[stage], after=1 if stage == "create" else 3, times=1)
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


def down(server, after=0):
    for method in ("GET", "POST", "PUT"):
        server.fail("503", method, "/v1/", after=after)


def test_a_run_that_moved_stays_where_it_moved_while_the_server_is_away(server, tmp_path):
    server.fail("503", "POST", STAGES["suggest"], after=2)
    run = Run(tmp_path, http(server))
    run.go(trials=9)
    down(server)
    run.notices.clear()
    assert len(run.go()) == BUDGET
    assert len(run.measured) == BUDGET
    assert len(run.notices) == 1
    assert "still away" in run.notices[0]
    assert run.strategy.engine == "local"
    assert set(local_marks(tmp_path)) == reported(tmp_path)


def test_a_run_that_moved_tells_the_server_at_its_end_what_was_measured_without_it(server, tmp_path):
    server.fail("503", "POST", STAGES["suggest"], after=2)
    run = Run(tmp_path, http(server))
    run.go()
    assert run.strategy.engine == "local"
    assert_whole(server)
    assert {o["metadata"]["nc_key"] for o in server.observations.values()} == reported(tmp_path)
    assert "tuning.max_trials" in run.notices[0]
    assert "answers again" in run.notices[-1]


def test_a_run_that_moved_goes_back_to_the_server_when_it_is_resumed(server, tmp_path):
    server.fail("503", "POST", STAGES["suggest"], after=2)
    run = Run(tmp_path, http(server))
    run.go(trials=9)
    server.faults.clear()
    assert len(run.go()) == BUDGET
    assert len(run.measured) == BUDGET
    assert run.strategy.engine == "http"
    assert_whole(server)
    assert {o["metadata"]["nc_key"] for o in server.observations.values()} == reported(tmp_path)


def test_a_server_that_answers_again_during_the_run_suggests_again(server, tmp_path, monkeypatch):
    monkeypatch.setattr("nc_strategies_sigopt.session.LOOK_AFTER", 0.0)
    server.fail("503", "POST", STAGES["suggest"], after=2, times=2)
    run = Run(tmp_path, http(server))
    assert len(run.go()) == BUDGET
    assert run.strategy.engine == "http"
    assert len(run.notices) == 2
    assert "fails" in run.notices[0]
    assert "answers again" in run.notices[1]
    assert_whole(server)
    assert {o["metadata"]["nc_key"] for o in server.observations.values()} == reported(tmp_path)


def test_a_server_that_starts_again_keeps_its_run_when_the_patience_suffices(tmp_path, monkeypatch):
    """The stand-in is closed for a while in mid-run; the patience is longer than that."""
    monkeypatch.setattr("nc_strategies_sigopt.calls.SAID_AFTER", 0.2)
    monkeypatch.setattr("nc_strategies_sigopt.calls.LONGEST_WAIT", 0.1)
    with StandIn() as server:
        run = Run(tmp_path, http(server, request_patience=60.0))
        run.at[5] = lambda: server.restart(after=1.0)
        assert len(run.go()) == BUDGET
        assert run.strategy.engine == "http"
        assert "does not answer" in run.notices[0]
        assert "trying again for up to 60 s" in run.notices[0]
        assert "answers again" in run.notices[1]
        assert_whole(server)


def test_a_server_is_asked_again_for_as_long_as_the_patience(server, tmp_path, monkeypatch):
    monkeypatch.setattr("nc_strategies_sigopt.calls.LONGEST_WAIT", 0.05)
    calls = Calls(2, patience=0.6)
    begin = time.monotonic()

    def fails():
        raise Unavailable(503, "made to fail")

    with pytest.raises(Unavailable):
        calls("asking", fails)
    assert 0.6 <= time.monotonic() - begin < 10


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


@pytest.mark.parametrize("mode", ["local", "stop"])
def test_a_users_session_token_has_its_own_line(server, mode):
    server.tokens["session-token-1"] = None
    text = refused(http(server, sigopt_api_token="session-token-1", on_server_failure=mode))
    assert "sigopt_api_token: belongs to a user's session" in text


@pytest.mark.parametrize("mode", ["local", "stop"])
def test_a_token_that_may_only_read_is_found_out_before_anything_is_measured(server, mode):
    server.readers.add("secret-token-123456")
    text = refused(http(server, on_server_failure=mode))
    assert "sigopt_api_token: may read" in text
    assert "secret-token-123456" not in text
    assert not server.experiments


def test_a_development_token_is_said(server, tmp_path):
    server.developers.add("secret-token-123456")
    run = Run(tmp_path, http(server))
    run.go(trials=3)
    assert len(run.notices) == 1
    assert "development token" in run.notices[0]
    assert run.strategy.engine == "http"


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
