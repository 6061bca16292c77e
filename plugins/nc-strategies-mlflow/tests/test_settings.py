"""What may be set, and what is refused before anything is written."""

import pytest
from nc_strategies_mlflow import MlflowSettings
from nc_strategies_mlflow.client import masked, without_password

from nc_strategies.api import InputError


@pytest.mark.parametrize(
    "uri",
    ["http://127.0.0.1:5000", "https://h/path", "sqlite:///mlflow.db", "databricks", "postgresql+psycopg://host/db"],
)
def test_addresses_of_stores_are_taken(uri):
    assert MlflowSettings(uri=uri).uri == uri


@pytest.mark.parametrize("uri", ["", "mlruns", "ftp://h", "http://", "http://[h"])
def test_other_texts_are_input_errors(uri):
    with pytest.raises(InputError, match=r"^tracker\.uri: "):
        MlflowSettings(uri=uri)


@pytest.mark.parametrize("uri", ["http://me:hush-hush@h", "https://hush-hush@h", "postgresql://me:hush-hush@h/db"])
def test_a_secret_in_the_address_is_refused_and_not_repeated(uri):
    with pytest.raises(InputError, match=r"MLFLOW_TRACKING_PASSWORD") as caught:
        MlflowSettings(uri=uri)
    assert "hush-hush" not in str(caught.value)


@pytest.mark.parametrize(("key", "value"), [("timeout", 0), ("wait", -1), ("experiment", " ")])
def test_values_that_make_no_sense_are_input_errors(key, value):
    with pytest.raises(InputError, match=rf"^tracker\.{key}: "):
        MlflowSettings(**{key: value})


def test_user_and_password_of_an_address_go_where_the_client_looks(monkeypatch):
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    import os

    assert without_password("https://me:a%2Fb@h:1/p") == "https://h:1/p"
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("me", "a/b")


def test_passwords_are_masked_in_what_is_said():
    assert masked("no route to postgresql://me:pw@h/db, http://h") == "no route to postgresql://me:***@h/db, http://h"


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("tracker.uri=http://me:hush-hush@h", "error: tracker.uri: "),
        ("tracker.uri=mlruns", "error: tracker.uri: is 'mlruns'"),
        ("+tracker.urll=http://h", "error: tracker.urll: is not a setting of tracker 'mlflow'"),
    ],
)
def test_a_bad_setting_is_one_line_and_leaves_nothing(tool, argument, said):
    code, text = tool.run("tracker=mlflow", argument, "run_dir=out")
    assert code == 2
    assert text.startswith(said)
    assert len(text.splitlines()) == 1
    assert "hush-hush" not in text
    assert not (tool.here / "out").exists()
