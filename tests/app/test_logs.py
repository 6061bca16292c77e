"""Secrets are masked in one place."""

import os
import subprocess
import sys
import traceback

import pytest

from nc_strategies.app import logs
from nc_strategies.errors import InputError
from nc_strategies.runtime import secrets
from nc_strategies.runtime.process import child_environment
from nc_strategies.runtime.secrets import Secret, hide, split

GIVEN, FOUND = "given-by-python-12", "found-in-environment-34"


@pytest.fixture(autouse=True)
def given(monkeypatch):
    monkeypatch.setattr(secrets, "_registered", set())
    monkeypatch.setenv("SOME_API_TOKEN", FOUND)
    logs.register_secret(GIVEN)


def test_registered_and_environment_secrets_are_masked():
    assert logs.redact(f"a {GIVEN} b {FOUND} c") == "a *** b *** c"


def test_a_secret_that_holds_another_is_masked_whole():
    logs.register_secret(f"{GIVEN}-and-more")
    assert logs.redact(f"x {GIVEN}-and-more y") == "x *** y"


def test_an_error_is_masked_with_all_that_led_to_it():
    def fail():
        try:
            raise OSError(5, f"url with {GIVEN}")
        except OSError as error:
            raise InputError("key", f"told {FOUND}") from error

    with pytest.raises(InputError) as caught:
        fail()
    logs.redact_error(caught.value)
    shown = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    assert GIVEN not in shown
    assert FOUND not in shown
    assert caught.value.problem == "told ***"


def test_secrets_are_told_by_their_keys():
    plain, secret = split({"sigopt_api_token": GIVEN, "name": "sigopt", "password": None})
    assert (plain, secret) == ({"name": "sigopt"}, {"sigopt_api_token": GIVEN})
    assert repr(hide({"sigopt_api_token": GIVEN})) == "{'sigopt_api_token': '***'}"
    assert (Secret(GIVEN) == GIVEN, str(Secret(GIVEN)) == GIVEN, repr(Secret(GIVEN))) == (True, True, "'***'")


def test_processes_that_need_no_secret_are_started_without_it():
    code = "import os; print('SOME_API_TOKEN' in os.environ, 'PATH' in os.environ)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=child_environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", str("PATH" in os.environ)]
