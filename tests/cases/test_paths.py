"""Names of files that Hydra's grammar reads as something else, given on the command line."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from nc_strategies import samples
from nc_strategies.app.hydra_app import conf_dir, publish, translate
from nc_strategies.registry import registry

NAMES = (
    "epoch=9.onnx",
    "model (1).onnx",
    "a#b.onnx",
    "a,b.onnx",
    "modèle 漢.onnx",
    "it's.onnx",
    'a "b".onnx',
    "[x].onnx",
    "{x}.onnx",
    "a$b;c&d!.onnx",
    "${x}.onnx",
    "\\${x}.onnx",
    "back\\",
    "1_0",
    "null",
    "choice(a,b)",
)
ALPHABET = "ab1 =,#()[]{}'\"\\$&;!~%@+-.:|<>*?éß漢`^"


@pytest.fixture(scope="module")
def composer():
    publish()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield lambda arguments: compose("config", overrides=arguments)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(composer, *arguments):
    """The path that a component gets."""
    plain = composer([a for a in translate(["model=onnx", *arguments]) if a != "-m"]).model
    return registry().settings("model", plain).path


def parsed(*arguments):
    """The path that Hydra's grammar and OmegaConf read from the only override."""
    (text,) = [a for a in translate(list(arguments)) if a != "-m"]
    return str(OmegaConf.create({"path": OverridesParser.create().parse_override(text).value()}).path)


def jobs(argument):
    """The values of a sweep."""
    _, text = translate(["-m", argument])
    override = OverridesParser.create().parse_override(text)
    return [OverridesParser.create().parse_override(f"k={value}").value() for value in override.sweep_string_iterator()]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_any_name_is_found(composer, here, name):
    Path(name).touch()
    assert read(composer, f"model.path={name}") == name
    for mark in ("", "+", "++"):
        assert parsed(f"{mark}model.path={name}") == name
        assert parsed("-m", f"{mark}model.path={name}") == name


def test_a_file_of_random_name_is_found(here):
    rng = random.Random(0)
    for _ in range(200):
        name = "".join(rng.choice(ALPHABET) for _ in range(rng.randint(1, 9))).strip(" .") or "x"
        Path(name).touch()
        assert parsed(f"model.path={name}") == name
        assert parsed("-m", f"model.path={name}") == name


def test_a_name_that_hydra_cannot_read_needs_no_file(composer, here):
    """The component says that the file is missing, and not the grammar that it cannot be read."""
    assert read(composer, "model.path=no (1)=2.onnx") == "no (1)=2.onnx"
    assert translate(["run_dir=out=1"]) == ["run_dir='out=1'"]
    assert translate(["-m", "run_dir=a,b"]) == ["-m", "hydra.sweep.dir='a,b'"]
    assert translate(["metrics.accuracy.target=my=file.py:f"]) == ["++metrics.accuracy.target='my=file.py:f'"]


def test_what_hydra_understands_stays_as_it_is():
    for argument in (
        "model.path=a.onnx",
        "model.path='a=b.onnx'",
        "run_dir=null",
        "model.path=${oc.env:HOME}/a.onnx",
        "tuning.seed=0,1",
        "metrics.weights=[2, 1]",
    ):
        assert translate([argument]) == [argument]


def test_a_sweep_over_odd_names_has_a_job_each(here):
    for name in ("a,b.onnx", "epoch=9.onnx", "c.onnx"):
        Path(name).touch()
    assert jobs("model.path=epoch=9.onnx,a,b.onnx,c.onnx") == ["epoch=9.onnx", "a,b.onnx", "c.onnx"]
    assert jobs("model.path=x=1.onnx,x=2.onnx") == ["x=1.onnx", "x=2.onnx"]
    assert jobs("model.path='a,b.onnx','c d'") == ["a,b.onnx", "c d"]
    assert jobs("model.path=choice(a,b)") == ["a", "b"]


@pytest.mark.parametrize(
    ("argument", "answer"),
    [
        ("model.path=${x}.onnx", "error: model.path: Interpolation key 'x' not found"),
        ("model.path=epoch=9.onnx", "error: model.path: no such file: epoch=9.onnx"),
        ("model.path=a=1.onnx,b=2.onnx", "error: model.path: holds several values, separated by commas; -m"),
        ("space.op_type_dict=(", """in quotes of its own: "space.op_type_dict='('"""),
    ],
)
def test_what_cannot_be_read_is_one_line_and_status_2(here, argument, answer):
    for name in ("a=1.onnx", "b=2.onnx"):
        Path(name).write_bytes(samples.onnx_model().read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "nc_strategies", "model=onnx", argument, "run_dir=out"],
        cwd=here,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert answer in done.stderr
    assert not (here / "out" / "result.json").exists()
