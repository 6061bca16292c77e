"""The engine in this process and the stand-in server answer as a real server did, request by request."""

import json

import pytest
from nc_strategies_sigopt import client
from nc_strategies_sigopt.local import LocalDriver
from server_answers import ROWS, SAME_FORM


@pytest.fixture(params=["local", "server"])
def ask(request):
    """Asks for something; gives the status and the answer."""
    if request.param == "local":
        driver = LocalDriver()
    else:
        stand_in = request.getfixturevalue("server")
        driver = client.part("request_driver").RequestDriver("secret-token-123456", api_url=stand_in.url, timeout=5)
    refused = client.part("exception").ApiException

    def send(method, path, body):
        client.part("ratelimit").failed_status_rate_limit.clear()
        try:
            return 200, driver.request(method, path.split("/"), body, None)
        except refused as error:
            return error.status_code, error.to_json()

    yield send
    client.part("ratelimit").failed_status_rate_limit.clear()


@pytest.fixture
def answers(ask):
    """Status and answer of each row, in order."""
    known, found = {}, {}

    def fill(value):
        text = json.dumps(value)
        for mark, number in known.items():
            text = text.replace(f"{{{mark}}}", number)
        return json.loads(text)

    for row in ROWS:
        status, answer = ask(row.method, fill(row.path), fill(row.body))
        found[row.name] = (status, answer, fill(row.message))
        for mark, name in (("e", "create experiment"), ("s", "suggest")):
            if row.name == name:
                known[mark] = str(answer["id"])
    return found


def test_every_answer_has_the_servers_status_and_message(answers):
    assert len(answers) == len(ROWS) > 100
    wanted = {row.name: row.status for row in ROWS}
    assert {name: status for name, (status, _, _) in answers.items()} == wanted
    for name, (status, answer, message) in answers.items():
        if status != 200:
            assert message in answer["message"], (name, answer)


def test_answers_have_the_servers_keys(answers):
    for name, keys in SAME_FORM.items():
        assert set(answers[name][1]) == keys, name


def test_a_suggestion_is_not_yet_deleted_or_kept_when_it_is_made(answers):
    assert answers["suggest"][1]["deleted"] is None
    assert [s["deleted"] for s in answers["list open"][1]["data"]] == [False]
    assert answers["list open after"][1]["data"] == []


def test_pages_name_what_comes_before_and_after(answers):
    page = answers["page 1"][1]
    assert len(page["data"]) == 1
    assert page["paging"]["before"] == page["paging"]["after"] is not None
    whole = answers["list observations"][1]["paging"]
    assert (whole["before"], whole["after"] is not None) == (None, True)


def test_a_projects_experiments_come_with_their_progress(answers):
    found = answers["project's experiments"][1]
    assert found["paging"]["before"] is None
    assert all("observation_count" in one["progress"] for one in found["data"])


def test_the_best_is_found_among_extreme_values(answers):
    (best,) = answers["best"][1]["data"]
    assert best["values"][1]["value"] == 0.5
    progress = answers["get experiment later"][1]["progress"]
    assert progress["best_observation"]["metadata"] is None


def test_an_experiment_of_constraints_alone_is_searched(ask):
    body = {
        "name": "n",
        "parameters": [{"name": "k", "type": "int", "bounds": {"min": 0, "max": 9}}],
        "metrics": [{"name": "acc", "strategy": "constraint", "threshold": 0.9}],
        "observation_budget": 9,
    }
    _, made = ask("POST", "experiments", body)
    for place in range(8):
        status, found = ask("POST", f"experiments/{made['id']}/suggestions", {})
        assert (status, 0 <= found["assignments"]["k"] <= 9) == (200, True)
        values = [{"name": "acc", "value": 0.85 + 0.02 * (place % 4)}]
        assert (
            ask("POST", f"experiments/{made['id']}/observations", {"suggestion": found["id"], "values": values})[0]
            == 200
        )


def test_an_integer_outside_its_bounds_does_not_stop_the_suggestions(ask):
    body = {"name": "n", "parameters": [{"name": "k", "type": "int", "bounds": {"min": 0, "max": 3}}]}
    _, made = ask("POST", "experiments", body)
    for value in (-5, 9, 1, 2, 0, 3):
        observation = {"assignments": {"k": value}, "values": [{"value": float(value)}]}
        assert ask("POST", f"experiments/{made['id']}/observations", observation)[0] == 200
        status, found = ask("POST", f"experiments/{made['id']}/suggestions", {})
        assert (status, 0 <= found["assignments"]["k"] <= 3) == (200, True)
