"""One suite for the driver in this process and for the stand-in server: both answer as the recorded server did."""

import json
from pathlib import Path

import pytest
from nc_strategies_sigopt import client
from nc_strategies_sigopt.local import LocalDriver

RECORDED = {entry["name"]: entry for entry in json.loads((Path(__file__).parent / "recorded.json").read_text())}
EXPERIMENT = RECORDED["experiment create"]["request"]
SERVER_ONLY = ("bad token", "other client's token")
GOOD = [{"name": "accuracy", "value": 0.75}, {"name": "latency", "value": 3.0}]


@pytest.fixture(params=["local", "server"])
def driver(request):
    """Something that answers ``request(method, path, data, headers)``."""
    if request.param == "local":
        yield LocalDriver()
        return
    stand_in = request.getfixturevalue("server")
    stand_in.projects["1"].clear()
    yield client.part("request_driver").RequestDriver("secret-token-123456", api_url=stand_in.url, timeout=60)


@pytest.fixture
def connection(driver):
    driver.request("POST", ["clients", "1", "projects"], {"id": "nc-demo", "name": "nc-demo"}, None)
    return client.in_process(driver)


@pytest.fixture
def experiment(connection):
    return connection.experiments(connection.experiments().create(**EXPERIMENT).id)


def form(value):
    if isinstance(value, dict):
        return {key: form(item) for key, item in value.items()}
    if isinstance(value, list):
        return [form(value[0])] if value else []
    return type(value).__name__


def check_form(found, wanted, where):
    """What was recorded is there, of the same type unless one of the two is null."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key, item in wanted.items():
            assert key in found, f"{where}.{key} is missing"
            check_form(found[key], item, f"{where}.{key}")
    elif isinstance(wanted, list) and isinstance(found, list):
        if wanted and found:
            check_form(found[0], wanted[0], where)
    elif "NoneType" not in (wanted, found):
        assert found == wanted, where


def test_it_answers_the_recorded_requests_as_the_recorded_server_did(driver):
    error = client.part("exception").ApiException
    client.part("ratelimit").failed_status_rate_limit.clear()
    for name, entry in RECORDED.items():
        if name in SERVER_ONLY:
            continue
        if name == "obs missing metric":
            driver.request("POST", ["experiments", "1", "suggestions"], {}, None)
        path = entry["path"].replace("/v1/", "").replace("experiments/2", "experiments/1").split("/")
        data = entry["request"] if entry["method"] in ("POST", "PUT") else entry.get("params", {})
        try:
            status, answer = 200, driver.request(entry["method"], path, data, None)
        except error as refused:
            status, answer = refused.status_code, refused.to_json()
        client.part("ratelimit").failed_status_rate_limit.clear()
        assert status == entry["status"], (name, answer)
        if entry["message"]:
            assert answer["message"] == entry["message"], name
        if entry["form"] is not None and name != "token self":
            check_form(form(answer), entry["form"], name)


def test_parameters_come_back_sorted_and_bounds_as_floats(connection):
    made = connection.experiments().create(**EXPERIMENT)
    assert [p.name for p in made.parameters] == ["calib", "op0/dtype", "op1/dtype"]
    assert json.loads(json.dumps(made.to_json()))["parameters"][0]["bounds"]["max"] == 4.0


def test_a_suggestion_is_open_until_it_is_observed(experiment):
    suggestion = experiment.suggestions().create()
    assert suggestion.state == "open"
    assert [s.id for s in experiment.suggestions().fetch(state="open").iterate_pages()] == [suggestion.id]
    experiment.observations().create(suggestion=suggestion.id, values=GOOD)
    assert not list(experiment.suggestions().fetch(state="open").iterate_pages())


def test_posting_an_observation_again_makes_a_second_one(experiment):
    suggestion = experiment.suggestions().create()
    for _ in range(2):
        experiment.observations().create(suggestion=suggestion.id, values=GOOD)
    assert experiment.fetch().progress.observation_count == 2


def test_failed_observations_have_no_values(experiment):
    made = experiment.observations().create(suggestion=experiment.suggestions().create().id, failed=True)
    assert (made.failed, made.values) == (True, [])


def test_the_best_is_the_best_of_those_that_hold_the_constraint(experiment):
    for calib, accuracy, latency in ((1, 0.75, 3.0), (2, 0.72, 2.0), (3, 0.6, 1.0)):
        experiment.observations().create(
            assignments={"op0/dtype": "fp32", "op1/dtype": "int8", "calib": calib},
            values=[{"name": "accuracy", "value": accuracy}, {"name": "latency", "value": latency}],
        )
    best = list(experiment.best_assignments().fetch().iterate_pages())
    assert [b.assignments["calib"] for b in best] == [2]


def test_long_lists_come_in_pages_without_loss(experiment):
    for calib in [1, 2, 3, 4] * 8:
        experiment.observations().create(
            assignments={"op0/dtype": "fp32", "op1/dtype": "int8", "calib": calib}, values=GOOD
        )
    assert len({o.id for o in experiment.observations().fetch(limit=10).iterate_pages()}) == 32


def test_suggestions_are_within_the_space(experiment):
    for _ in range(8):
        suggestion = experiment.suggestions().create()
        assert suggestion.assignments["op0/dtype"] in ("fp32", "int8")
        assert type(suggestion.assignments["calib"]) is int
        assert 1 <= suggestion.assignments["calib"] <= 4
        experiment.observations().create(suggestion=suggestion.id, values=GOOD)


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": [{"name": "x" * 101, "type": "int", "bounds": {"min": 0, "max": 1}}]},
        {"parameters": [{"name": "x", "type": "int", "bounds": {"min": 1, "max": 1}}]},
        {"parameters": [{"name": "x", "type": "categorical", "categorical_values": ["one"]}]},
        {"parameters": [{"name": "x", "type": "categorical", "categorical_values": ["one", "y" * 51]}]},
        {"metrics": [{"name": n, "strategy": "optimize"} for n in "abc"]},
        {"metadata": {str(i): "" for i in range(101)}},
        {"metadata": {"long": "x" * 501}},
    ],
    ids=["name", "bounds", "one category", "long category", "three optimized", "many keys", "long value"],
)
def test_limits_are_kept(connection, change):
    with pytest.raises(client.part("exception").ApiException) as refused:
        connection.experiments().create(**{**EXPERIMENT, **change})
    assert refused.value.status_code == 400


def test_a_restarted_local_driver_goes_on_as_if_it_had_not_stopped(tmp_path):
    courses = []
    for restarts in (False, True):
        path = tmp_path / f"{restarts}.jsonl"
        driver, course = LocalDriver(path, seed=3), []
        experiment = client.in_process(driver).experiments(
            client.in_process(driver).experiments().create(**{**EXPERIMENT, "project": None}).id
        )
        for i in range(14):
            if restarts and i % 3 == 0:
                path.write_bytes(path.read_bytes() + b'{"torn')
                experiment = client.in_process(LocalDriver(path)).experiments("1")
            suggestion = experiment.suggestions().create()
            course.append(dict(suggestion.assignments))
            experiment.observations().create(
                suggestion=suggestion.id,
                values=[{"name": "accuracy", "value": 0.75 - 0.01 * i}, {"name": "latency", "value": float(i % 4)}],
            )
        courses.append(course)
    assert courses[0] == courses[1]


def test_nan_is_refused_in_process():
    driver = LocalDriver()
    experiment = client.in_process(driver).experiments(
        client.in_process(driver).experiments().create(**{**EXPERIMENT, "project": None}).id
    )
    with pytest.raises(client.part("exception").ApiException):
        experiment.observations().create(
            suggestion=experiment.suggestions().create().id,
            values=[{"name": "accuracy", "value": float("nan")}, {"name": "latency", "value": 1.0}],
        )


def test_the_stand_in_tells_tokens_apart(server):
    def ask(token):
        driver = client.part("request_driver").RequestDriver(token, api_url=server.url, timeout=60)
        return driver.request("GET", ["experiments", "1"], {}, None)

    owner = client.part("request_driver").RequestDriver("secret-token-123456", api_url=server.url, timeout=60)
    owner.request("POST", ["experiments"], EXPERIMENT, None)
    for token, status in (("wrong", 403), ("other-token-654321", 404)):
        with pytest.raises(client.part("exception").ApiException) as refused:
            ask(token)
        assert refused.value.status_code == status
