"""Settings, the token's places, and the client's traps."""

import json
import os
import subprocess
import sys

import pytest
from nc_strategies_sigopt import SigOptSettings, client
from nc_strategies_sigopt.access import chosen_driver
from nc_strategies_sigopt.calls import Calls, Denied, Exhausted, Refusal, Unavailable, checked

from nc_strategies.api import InputError
from nc_strategies.registry import registry

TOKEN = "secret-token-123456"


def test_the_older_name_of_the_experiments_name_is_taken():
    assert SigOptSettings().experiment_name == "nc-tune"
    assert SigOptSettings(sigopt_experiment_id="old").experiment_name == "old"
    assert SigOptSettings(sigopt_experiment_id="old", sigopt_experiment_name="new").experiment_name == "new"


@pytest.mark.parametrize(
    "bad",
    [
        {"driver": "zzz"},
        {"on_server_failure": "zzz"},
        {"sigopt_project_id": "x" * 33},
        {"sigopt_project_id": "No Good"},
        {"request_timeout": 0.0},
        {"request_attempts": 0},
        {"sigopt_experiment_name": ""},
    ],
)
def test_a_bad_value_names_its_key(bad):
    with pytest.raises(InputError, match=rf"strategy\.{next(iter(bad))}"):
        SigOptSettings(**bad)


def test_a_token_in_the_configuration_is_refused_without_showing_it():
    with pytest.raises(InputError, match="refused") as error:
        registry().settings("strategy", {"name": "sigopt", "sigopt_api_token": TOKEN})
    assert TOKEN not in str(error.value)


def test_the_token_is_in_no_representation():
    assert TOKEN not in repr(SigOptSettings(sigopt_api_token=TOKEN))


def test_the_token_comes_from_python_the_environment_or_the_clients_configuration(monkeypatch, tmp_path):
    assert client.token(SigOptSettings()) is None
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "config.json").write_text(json.dumps({"api_token": "from-the-client"}))
    monkeypatch.setenv("SIGOPT_HOME", str(tmp_path))
    assert client.token(SigOptSettings()) == "from-the-client"
    monkeypatch.setenv("SIGOPT_API_TOKEN", "from-the-environment")
    assert client.token(SigOptSettings()) == "from-the-environment"
    assert client.token(SigOptSettings(sigopt_api_token="from-python")) == "from-python"


def test_auto_is_the_server_where_there_is_a_token():
    assert chosen_driver(SigOptSettings()) == "local"
    assert chosen_driver(SigOptSettings(sigopt_api_token=TOKEN)) == "http"


@pytest.mark.parametrize("address", ["ftp://x", "nonsense", "http://user:hidden@host"])
def test_an_address_that_is_none_is_refused_without_showing_it(address):
    with pytest.raises(InputError) as error:
        client.url(SigOptSettings(sigopt_api_url=address))
    assert "hidden" not in str(error.value)


def python(code, cwd, **env):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, text=True, capture_output=True, check=False, env={**os.environ, **env}
    )


def test_the_client_is_imported_in_a_folder_without_ascii_letters(tmp_path):
    folder = tmp_path / "日本"
    folder.mkdir()
    done = python(
        "import os; from nc_strategies_sigopt.client import client; client(); "
        "assert 'SIGOPT_PROJECT' not in os.environ",
        folder,
    )
    assert done.returncode == 0, done.stderr


def test_a_corrupt_client_configuration_stops_only_what_needs_it(tmp_path):
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "config.json").write_text("{bad")
    code = (
        "from nc_strategies_sigopt import SigOptSettings\nfrom nc_strategies_sigopt.access import check\n"
        "check(SigOptSettings(driver='local'))\n"
        "try:\n    check(SigOptSettings())\nexcept Exception as error:\n    print(type(error).__name__, error)\n"
    )
    done = python(code, tmp_path, SIGOPT_HOME=str(tmp_path))
    assert done.stdout.startswith("InputError SigOpt's client configuration: "), done.stderr


def test_the_plugin_is_loaded_without_the_client():
    code = (
        "import sys\nfrom nc_strategies.registry import registry\nassert 'sigopt' in registry().names('strategy')\n"
        "assert not {'sigopt', 'optuna', 'tenacity', 'requests'} & set(sys.modules), 'heavy'"
    )
    done = python(code, None)
    assert done.returncode == 0, done.stderr


def api_error(status):
    def send():
        raise client.part("exception").ApiException({"message": f"no, {TOKEN}"}, status)

    return send


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, Denied),
        (403, Denied),
        (404, Refusal),
        (400, Refusal),
        (429, Exhausted),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
def test_failures_are_told_apart_and_show_no_token(status, kind):
    with pytest.raises(kind) as error:
        Calls(1, TOKEN)("it", api_error(status))
    assert type(error.value) is kind
    assert TOKEN not in str(error.value)
    assert error.value.__cause__ is None


def test_attempts_are_bounded_and_only_of_what_may_succeed():
    count = {Unavailable: 0, Refusal: 0}
    for kind, status in ((Unavailable, 503), (Refusal, 400)):

        def send(kind=kind, status=status):
            count[kind] += 1
            api_error(status)()

        with pytest.raises(kind):
            Calls(3)("it", send)
    assert count == {Unavailable: 3, Refusal: 1}


def test_an_answer_without_what_it_must_have_is_none():
    with pytest.raises(Unavailable):
        checked(client.part("objects").Experiment({"message": "<html>"}), "id")
