"""Every command and every Python block of the documentation: run where it can be, else composed against the schema."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
from dataclasses import fields, replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

import nc_strategies
from nc_strategies import samples
from nc_strategies.app.entry import COMMANDS
from nc_strategies.app.hydra_app import conf_dir, publish, translate
from nc_strategies.app.target import metric_settings
from nc_strategies.config import RunConfig
from nc_strategies.registry import registry

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = {distribution.name for distribution in metadata.distributions()}
PLUGINS = [folder for folder in ROOT.glob("plugins/*") if folder.name in INSTALLED]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *ROOT.glob("docs/**/*.md"),
        *(plugin / "README.md" for plugin in PLUGINS),
    )
)
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
QUICK = ["measure.latency_runs=20", "measure.final_runs=20", "data.calibration_samples=50"]
START = """
from dataclasses import replace
from nc_strategies.app.entry import main
from nc_strategies.measuring import latency_model
latency_model.PLAN = replace(latency_model.PLAN, runs=5, most_runs=5, pairs=1, most_pairs=1, least_random=1)
main()
"""
"""The command, with few timings for its latency model: no figure of these runs matters. In one process, as a worker
process would take seconds to import the engine."""
FEW = 300
"""Of the sample's 3,000 pictures, how many the commands are tried with: what is run here has no data of its own."""
SHELLS = ("console", "bash", "sh", "")
FLAGS = ("--cfg", "--help", "--info", "-sc")
NEEDS_MORE = (
    "model=",
    "model.",
    "data=",
    "data.path",
    "strategy.sigopt_project_id",
    "strategy.driver=lite",
    "tracker=",
    "backend.provider=cuda",
    "executor.address=",
    "hydra/launcher=",
)
"""What marks a command that needs the user's files, a server, or a package that is not among the tests'."""
ELSEWHERE = {"--target", "--point"}
"""What marks a command that needs another machine (run by tests/target), or a front (tests/app/test_front.py)."""
TUTORIAL = "docs/plugin-tutorial.md"
"""Its commands use plugins that only its own test makes."""
RUN_ELSEWHERE = {
    "docs/models-and-data.md": "tests/app/test_models_and_data.py",
    TUTORIAL: "tests/packaging/test_plugins.py",
}
"""Pages whose commands and Python blocks a test of their own runs."""
SERVING = "docs/serving.md"
PYTHON = {
    "README.md",
    "docs/plugins.md",
    "docs/python.md",
    "docs/coming-from-neural-compressor.md",
    SERVING,
    "docs/coming-from-optuna.md",
    "docs/coming-from-quantize-static.md",
    "docs/tasks/python.md",
    *RUN_ELSEWHERE,
}
"""Pages with Python blocks that are run: here, in test_pages.py, in tests/test_docs.py, or elsewhere."""


def fences(page):
    """Pairs (language, text) of a page's blocks."""
    for _, language, text in FENCE.findall((ROOT / page).read_text()):
        yield language, textwrap.dedent(text)


def commands(page):
    """Every command of a page's shell blocks as a list of words, those between ``&&`` apart."""
    for language, text in fences(page):
        if language not in SHELLS:
            continue
        for line in text.replace("\\\n", " ").splitlines():
            if language == "console":
                if not line.startswith("$ "):
                    continue
                line = line[2:]
            elif language == "" and not re.match(r"(python -m nc_strategies|nc-strategies) ", line):
                continue
            words = shlex.split(line, comments=True)
            for last, part in itertools.groupby(words, lambda word: word == "&&"):
                if not last:
                    yield list(part)


def ours(words):
    """The arguments of a command of this package, or None."""
    if words[:1] == ["eval"]:
        words = shlex.split(words[1].strip("$()"))
    if words[:1] == ["nc-strategies"]:
        return words[1:]
    return words[3:] if words[:3] == ["python", "-m", "nc_strategies"] else None


def unique(choose):
    found = {}
    for page in PAGES:
        for words in commands(page):
            arguments = ours(words)
            if arguments is not None and not ELSEWHERE.intersection(arguments) and choose(page, arguments):
                found.setdefault(tuple(arguments), page)
    return list(found)


def is_run(arguments):
    return not (arguments and arguments[0] in COMMANDS) and not any(flag in arguments for flag in FLAGS)


def is_executed(page, arguments):
    return (
        page not in RUN_ELSEWHERE
        and is_run(arguments)
        and not any(argument.startswith(NEEDS_MORE) for argument in arguments)
    )


def parameters(chosen):
    """Those that take long, because TensorFlow or several jobs are started, are marked."""

    def slow(arguments):
        return [pytest.mark.slow] if (is_run(arguments) and arguments != FIRST) or "sweep" in arguments else []

    return [pytest.param(a, id=" ".join(a), marks=slow(a)) for a in chosen]


FIRST = ("backend=onnxruntime", "run_dir=out")


# --- composed


def jobs(arguments):
    """The overrides of each job of a run or a sweep."""
    given = [a for a in translate(list(arguments)) if a not in ("-m", "--multirun")]
    choices = []
    for text, override in zip(given, OverridesParser.create().parse_overrides(given), strict=True):
        if override.is_sweep_override():
            choices.append([f"{override.get_key_element()}={v}" for v in override.sweep_string_iterator()])
        else:
            choices.append([text])
    return [list(job) for job in itertools.product(*choices)]


@pytest.fixture(scope="module")
def composer():
    publish()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield lambda overrides: compose("config", overrides=overrides)


def check(config):
    """What a run checks of its configuration before it opens anything."""
    plain = OmegaConf.to_container(config, resolve=True)
    sections = {name: OmegaConf.to_object(config[name]) for name in ("metrics", "tuning", "space", "measure")}
    settings = RunConfig(**{**plain, **sections})
    settings.validate()
    for kind in {field.name for field in fields(RunConfig)} & {kind for kind, _ in registry().components}:
        registry().settings(kind, plain[kind])
    settings = replace(settings, metrics=settings.metrics.choose(labelled=True))
    if not settings.metrics.constraints:
        registry().settings("metric", metric_settings(settings), "metrics.accuracy")


@pytest.mark.parametrize(
    "arguments", [pytest.param(a, id=" ".join(a)) for a in unique(lambda page, a: page != TUTORIAL and is_run(a))]
)
def test_a_run_of_the_documentation_fits_the_schema(composer, arguments):
    for overrides in jobs(arguments):
        check(composer(overrides))


def test_a_key_that_does_not_exist_would_be_found(composer):
    with pytest.raises(Exception, match="tolerable_los"):
        check(composer(["tuning.tolerable_los=0.1"]))
    with pytest.raises(Exception, match="no model"):
        check(composer(["model.name=onyx"]))


# --- run


NO_RESULT = ("list", "machine", "compare", "serve", "init", "check", "completion")
"""Commands that are not run on what a run has left: they need none, or a test of their own runs them."""


class Desk:
    """A folder in which the documentation's commands are run in turn, each once."""

    def __init__(self, folder):
        self.folder, self.done = folder, {}
        # What `nc-strategies inspect model.onnx` looks at.
        (folder / "model.onnx").write_bytes(samples.onnx_model().read_bytes())
        with np.load(samples.evaluation_images()) as data:
            np.savez(folder / "few.npz", x=data["x"][:FEW], y=data["y"][:FEW])
        self.data = [
            "data=npz",
            f"data.path={folder / 'few.npz'}",
            f"data.calibration_path={samples.calibration_images()}",
            f"data.preprocess.scale={samples.SCALE}",
            f"data.preprocess.offset={samples.OFFSET}",
        ]

    def run(self, arguments):
        if arguments not in self.done:
            self.done[arguments] = self._start(arguments)
        return self.done[arguments]

    def _start(self, arguments):
        more = []
        if is_run(arguments):
            # A command that goes on from another, with a larger budget, has one more trial than that.
            trials = 1 if "-m" in arguments else 3 if any("max_trials" in a for a in arguments) else 2
            more = [*QUICK, *self.data, f"tuning.max_trials={trials}"]
            if not any(argument.startswith(("isolation", "executor", "tuning.timeout")) for argument in arguments):
                more.append("isolation=none")
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        return subprocess.run(
            [sys.executable, "-c", START, *arguments, *more],
            cwd=self.folder,
            text=True,
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "BROWSER": "true"},
        )

    def needed(self, name):
        """Run the first command of the documentation that leaves this folder, or the first of all under its name."""
        if not (self.folder / name).exists():
            makers = [a for a in unique(is_executed) if f"run_dir={name}" in a]
            assert makers, f"no command of the documentation leaves {name}"
            assert self.run(makers[0]).returncode in (0, 3), self.run(makers[0]).stderr


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    return Desk(tmp_path_factory.mktemp("desk"))


@pytest.mark.parametrize("arguments", parameters(unique(is_executed)))
def test_a_run_of_the_documentation_ends_with_a_result(desk, arguments):
    if any("max_trials" in a for a in arguments):
        desk.needed("out")
    done = desk.run(arguments)
    assert done.returncode in (0, 3), done.stderr
    folder = next((a.partition("=")[2] for a in arguments if a.startswith("run_dir=")), None)
    if "-m" in arguments:
        rows = json.loads((desk.folder / folder / "comparison.json").read_text())
        assert len(rows) == len(jobs(arguments))
        assert {row["status"] for row in rows} <= {"met", "missed"}
    else:
        assert ("trials: at most" if "plan=true" in arguments else "model: ") in done.stdout
    if folder and "-m" not in arguments:
        found = json.loads((desk.folder / folder / "result.json").read_text())
        assert found["status"] in ("met", "missed")


@pytest.mark.parametrize(
    "arguments",
    parameters([a for a in unique(lambda page, a: a and a[0] in COMMANDS) if a[0] not in NO_RESULT]),
)
def test_a_command_beside_the_run_works_on_what_a_run_left(desk, arguments):
    # tests/app/test_compare.py runs `compare`, whose status depends on how fast int8 is here;
    # tests/report/test_serve.py `serve`, which has no end; tests/start `init`, `check` and `completion`.
    desk.needed(arguments[1])
    done = desk.run(arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def programs():
    """The programs of the page on serving: name to text."""
    return dict(re.findall(r"^`([\w.]+)`\n\n```\w+\n(.*?)```$", (ROOT / SERVING).read_text(), re.DOTALL | re.MULTILINE))


@pytest.fixture
def served(desk, tmp_path):
    """Makes a folder in which the pages' programs find a run's model and data; returns it and the run's result."""

    def make(name):
        desk.needed(name)
        (tmp_path / "evaluation.npz").symlink_to(desk.folder / "few.npz")
        (tmp_path / name).symlink_to(desk.folder / name)
        return tmp_path, json.loads((desk.folder / name / "result.json").read_text())

    return make


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "name"), [("onnxruntime", "out"), ("tensorflow", "out-tensorflow")])
def test_a_served_model_is_as_accurate_as_it_was_measured(desk, served, engine, name):
    folder, result = served(name)
    if engine == "tensorflow":
        done = desk.run(("export", name, "--to", "models/fashion/1"))
        assert done.returncode == 0, done.stderr
        (folder / "models").symlink_to(desk.folder / "models")
    program = programs()[f"serve_{engine}.py"]
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        text=True,
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    # One sample more or less: a tie of two classes may be broken by the batch that a sample is in.
    assert float(done.stdout) == pytest.approx(result["tuned"]["accuracy"], abs=1.5 / FEW)


@pytest.mark.slow
def test_a_served_model_answers_from_cpp_as_from_python(served):
    headers, compiler = os.environ.get("ONNXRUNTIME_INCLUDE"), shutil.which("g++")
    if not headers or compiler is None:
        pytest.skip("needs g++ and ONNXRUNTIME_INCLUDE, the folder of onnxruntime's C++ headers")
    import onnxruntime

    folder, _ = served("out")
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    (folder / "libonnxruntime.so.1").symlink_to(library)
    (folder / "serve.cpp").write_text(programs()["serve_onnxruntime.cpp"])
    build = [compiler, "-std=c++17", "serve.cpp", f"-I{headers}", "libonnxruntime.so.1", f"-Wl,-rpath,{folder}"]
    subprocess.run([*build, "-o", "serve"], cwd=folder, check=True)
    with np.load(folder / "evaluation.npz") as file:
        image = file["x"][:1].astype(np.float32) / np.float32(127.5) - 1
    (folder / "image.f32").write_bytes(image.tobytes())
    done = subprocess.run([str(folder / "serve")], cwd=folder, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    session = onnxruntime.InferenceSession(folder / "out" / "model" / "model.onnx", providers=["CPUExecutionProvider"])
    (scores,) = session.run(["probabilities"], {"image": image.reshape(1, 28, 28, 1)})
    assert int(done.stdout) == scores.argmax()


@pytest.mark.parametrize(
    "arguments",
    parameters(
        [a for a in unique(lambda page, a: a) if not is_run(a) and a[0] not in set(COMMANDS) - {"list", "machine"}]
    ),
)
def test_a_command_that_only_prints_does_so(desk, arguments):
    done = desk.run(arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) > 5


def test_every_kind_of_command_is_known_here():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for page in PAGES:
        for words in commands(page):
            if ours(words) is not None:
                continue
            assert words[0] in ("pip", "python", "export", "mkdocs", "grep", "optuna-dashboard", "docker", "dask"), (
                page,
                words,
            )
            if words[0] == "pip" and "-r" in words:
                assert (ROOT / words[words.index("-r") + 1]).is_file(), (page, words)
            if words[0] == "python" and words[1] != "-m":
                script = (ROOT / words[1]).read_text()
                assert all(f'"{word}"' in script for word in words if word.startswith("--")), (page, words)
        for named in re.findall(r"nc-strategies\[([\w,-]+)\]", (ROOT / page).read_text()):
            assert set(named.split(",")) <= set(extras), (page, named)


def test_commands_that_are_named_in_a_sentence_exist():
    for page in PAGES:
        prose = FENCE.sub("", (ROOT / page).read_text())
        named = re.findall(r"`nc-strategies ([a-z_]+)(?![\w./=-])[^`]*`", prose)
        assert set(named) <= set(COMMANDS), page


def test_the_two_commands_of_the_readme():
    lines = [line for language, text in fences("README.md") if language == "console" for line in text.splitlines()]
    assert "$ pip install -r requirements.txt && python -m nc_strategies strategy=sigopt backend=tensorflow" in lines
    assert "$ pip install -r requirements-dev.txt && python -m pytest" in lines


# --- Python


def test_every_page_with_python_is_run():
    assert {page for page in PAGES if any(language == "python" for language, _ in fences(page))} <= PYTHON
    assert all((ROOT / test).is_file() for page, test in RUN_ELSEWHERE.items() if page in PAGES)


def test_the_readmes_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes(samples.onnx_model().read_bytes())
    with np.load(samples.evaluation_images()) as file:
        x = file["x"][:400].astype(np.float32) * np.float32(samples.SCALE) + samples.OFFSET
        names = {"nc_strategies": nc_strategies, "x": x, "y": file["y"][:400]}
    tune = nc_strategies.tune
    monkeypatch.setattr(
        nc_strategies,
        "tune",
        lambda *args, **kwargs: tune(*args, **kwargs, max_trials=1, latency_runs=20, final_runs=20),
    )
    (text,) = [text for language, text in fences("README.md") if language == "python"]
    exec(compile(text, "README.md", "exec"), names)
    assert names["study"].status in ("met", "missed")
