"""Settings, and what is refused before a model is opened."""

import importlib.util
import os
import subprocess
import sys

import pytest
from nc_strategies_optuna import GpSettings, OptunaSettings, TpeSettings
from nc_strategies_optuna.strategy import OptunaStrategy

from nc_strategies.api import InputError

PASSWORD = "s3cret-word"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"groups": 65}, "strategy.groups: is 65; 0 to 64"),
        ({"groups": -1}, "strategy.groups: is -1; 0 to 64"),
        ({"refine": 1.0}, "strategy.refine: is 1.0; 0 or more, below 1"),
        ({"storage": "studies.db"}, "strategy.storage: 'studies.db' is no URL; such as sqlite:///studies.db"),
        ({"study_name": ""}, "strategy.study_name: has 0 characters; 1 to 512"),
        ({"sampler_options": {"seed": 1}}, "strategy.sampler_options.seed: is set by the run; use tuning.seed"),
    ],
)
def test_values_that_are_not_allowed_are_refused(values, message):
    with pytest.raises(InputError) as caught:
        TpeSettings(**values)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "url", [f"postgresql://me:{PASSWORD}@db/x", f"postgresql://:{PASSWORD}@db/x", f"mysql://db/x?password={PASSWORD}"]
)
def test_a_password_is_refused_without_being_shown(url):
    with pytest.raises(InputError, match="OPTUNA_STORAGE") as caught:
        TpeSettings(storage=url)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [f"postgresql+nothing://me:{PASSWORD}@db/x", f"mysql://db/x?password={PASSWORD}", "sqlite:////no/such/folder/x.db"],
)
def test_a_storage_that_cannot_be_opened_is_one_line_without_its_password(monkeypatch, url):
    monkeypatch.setenv("OPTUNA_STORAGE", url)
    with pytest.raises(InputError, match=r"^strategy\.storage: .* cannot be opened: ") as caught:
        OptunaStrategy.check(TpeSettings(storage="environment"))
    assert PASSWORD not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_an_environment_without_a_storage_is_refused():
    with pytest.raises(InputError, match="OPTUNA_STORAGE holds no URL"):
        OptunaStrategy.check(TpeSettings(storage="environment"))


def test_an_unknown_sampler_is_refused_with_those_there_are():
    with pytest.raises(InputError, match=r"^strategy\.sampler: Optuna has no sampler 'Magic'; one of .*TPESampler"):
        OptunaStrategy.check(OptunaSettings(sampler="Magic"))


@pytest.mark.parametrize(
    "options", [{"nothing": 1}, {"n_startup_trials": "many", "multivariate": 3, "group": True, "x": 1}]
)
def test_options_that_a_sampler_does_not_take_are_refused(options):
    with pytest.raises(InputError, match=r"^strategy\.sampler_options: TPESampler does not take them"):
        OptunaStrategy.check(TpeSettings(sampler_options=options))


@pytest.mark.parametrize("settings", [GpSettings(), OptunaSettings(sampler="GPSampler")], ids=["gp", "by name"])
def test_gp_is_refused_where_torch_is_missing(monkeypatch, settings):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "torch" else find(name, *more))
    with pytest.raises(InputError) as caught:
        OptunaStrategy.check(settings)
    assert str(caught.value) == "strategy: Optuna's GPSampler needs torch, which is not installed; pip install torch"


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("strategy.sampler_options={nothing: 1}", "unexpected keyword argument 'nothing'"),
        ("strategy.storage=environment", "postgresql+nothing://db/x cannot be opened"),
    ],
)
def test_the_command_line_refuses_before_anything_is_written(tmp_path, key, wanted):
    done = subprocess.run(
        [sys.executable, "-m", "nc_strategies", "strategy=tpe", key, "run_dir=out"],
        cwd=tmp_path,
        env={**os.environ, "OPTUNA_STORAGE": f"postgresql+nothing://me:{PASSWORD}@db/x"},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert wanted in line
    assert PASSWORD not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
