"""One reader of the configuration, for what Hydra, a Python call and a run's ``config.yaml`` hand over."""

from dataclasses import asdict

import pytest

from nc_strategies.app import python, replay
from nc_strategies.app import run as runs
from nc_strategies.app import settings as readers
from nc_strategies.app.settings import run_config, section
from nc_strategies.config import MeasureConfig, RunConfig, SpaceConfig, TuningConfig
from nc_strategies.defaults import CRITERION, TOLERABLE_LOSS
from nc_strategies.errors import InputError

GROUPS = {name: {"name": "some"} for name in readers.GROUPS}


def test_what_a_run_writes_down_is_read_back_as_it_was():
    config = RunConfig(
        **GROUPS,
        tuning=TuningConfig("relative", 0.5, trial_timeout=None),
        isolation="process",
        space=SpaceConfig({"Conv": {}}, {"a${b}.*": {}}, ["int8"]),
        measure=MeasureConfig(threads=2),
    )
    again = run_config({**asdict(config), "identity": {}, "versions": {}})
    assert again == config


def test_what_is_left_out_has_its_default():
    expected = RunConfig(**GROUPS, tuning=TuningConfig(CRITERION, TOLERABLE_LOSS))
    expected.validate()
    assert run_config(GROUPS) == expected
    assert section("tuning", None) == TuningConfig()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"tuning": {"max_trails": 3}}, r"^tuning\.max_trails: "),
        ({"measure": {"threads": "two"}}, r"^measure\.threads: "),
        ({"space": {"op_typ_dict": {}}}, "^space: .*op_typ_dict"),
        ({"strategy": {}}, "^strategy: is {}"),
        ({"tuning": {"tolerable_loss": 2.0}}, r"^tuning\.tolerable_loss: is 2"),
        ({"data": None}, "^data: is None"),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_its_key(values, says):
    with pytest.raises(InputError, match=says) as caught:
        run_config({**GROUPS, **values})
    assert "\n" not in str(caught.value)


def test_every_way_into_a_run_reads_by_it():
    assert runs.run_config is replay.run_config is run_config
    assert python.section is section
