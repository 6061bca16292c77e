"""The examples of the documentation run, and name keys and choices that exist."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nc_strategies import config
from nc_strategies.config import MeasureConfig, TuningConfig
from nc_strategies.registry import hookspecs, registry

ROOT = Path(__file__).resolve().parents[1]


def blocks(name, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


def example_package(folder):
    """The package and the test of docs/plugins.md, installed as far as its entry point is concerned."""
    text = (ROOT / "docs/plugins.md").read_text()
    files = {"my_package/conf/__init__.py": ""}
    for name, code in re.findall(r"^`([\w/]+\.py)`[^\n]*\n\n```python\n(.*?)```", text, re.DOTALL | re.MULTILINE):
        files[name] = f"{files[name]}\n\n{code}" if name in files else code
    (yaml,) = blocks("docs/plugins.md", "yaml")
    (points,) = blocks("docs/plugins.md", "toml")
    name, module = re.search(r'(\w+) = "(\w+)"', points).groups()
    files["my_package/conf/strategy/hasty.yaml"] = yaml
    files["my_package-1.0.dist-info/METADATA"] = "Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n"
    files["my_package-1.0.dist-info/entry_points.txt"] = f"[nc_strategies]\n{name} = {module}\n"
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)


def test_each_hook_has_a_heading_and_an_example():
    text = (ROOT / "docs/plugins.md").read_text()
    hooks = [name for name in vars(hookspecs) if name.startswith("ncs_")]
    assert len(hooks) >= 5
    for hook in hooks:
        section = text.partition(f"\n## `{hook}`\n")[2].partition("\n## ")[0]
        assert re.search(rf"```python\n[^`]*@hookimpl\ndef {hook}\(", section), hook


def test_the_strategy_of_the_plugin_page_passes_its_suite(tmp_path, monkeypatch):
    example_package(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = importlib.util.spec_from_file_location("suite", tmp_path / "tests" / "test_strategy.py")
    suite = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(suite)
    case = suite.TestMine()
    case.test_it_finds_a_model_that_meets_an_easy_goal()
    case.test_the_same_seed_gives_the_same_proposals()
    for name in ("my_package", "my_package.strategy"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_the_hooks_of_the_plugin_page_observe_a_run(tmp_path):
    example_package(tmp_path)
    path = os.pathsep.join(filter(None, (str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "nc_strategies",
            "strategy=hasty",
            "tracker=csv",
            "run_dir=out",
            "tracker.file=lines.csv",
            "tuning.max_trials=2",
            "measure.latency_runs=20",
            "measure.final_runs=20",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode in (0, 3), done.stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    trials = result["trials"]["total"]
    assert re.search(r"mine tunes fashion_cnn: \d+ operators", done.stderr)
    assert len((tmp_path / "out" / "states.txt").read_text().splitlines()) == trials
    assert (tmp_path / "out" / "verdict.txt").read_text().startswith(f"{result['status']}: ")
    assert len((tmp_path / "lines.csv").read_text().splitlines()) == trials


@pytest.mark.parametrize(("section", "schema"), [("tuning", TuningConfig), ("measure", MeasureConfig)])
def test_every_key_of_a_section_is_documented(section, schema):
    text = (ROOT / "docs/configuration.md").read_text()
    for key in schema.__dataclass_fields__:
        assert f"`{section}.{key}`" in text


@pytest.mark.parametrize("kind", ["strategy", "backend", "model", "data", "executor", "metric", "tracker"])
def test_every_built_in_component_is_documented(kind):
    text = (ROOT / "docs/configuration.md").read_text()
    found = registry()
    for name in found.names(kind):
        if found.owners[kind, name] == "nc_strategies":
            assert f"`{name}`" in text, f"{kind} {name}"


def test_the_python_examples_run_in_their_order(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks("docs/python.md", "python"):
        exec(compile(block, "docs/python.md", "exec"), names)
    assert names["again"].result["trials"]["total"] == len(names["frame"]) == 3
    assert (tmp_path / "study.png").exists()
    assert names["study"].result["goal"]["metric"] == "eval_func"


@pytest.mark.slow
@pytest.mark.usefixtures("simulated_onnxruntime")
def test_the_neural_compressor_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("docs/coming-from-neural-compressor.md", "python")
    names = {}
    exec(compile(block, "docs/coming-from-neural-compressor.md", "exec"), names)
    assert (tmp_path / "model_int8.onnx").exists()
    assert names["q_model"].study.status == "met"


@pytest.mark.parametrize("schema", ["PostTrainingQuantConfig", "TuningCriterion", "AccuracyCriterion"])
def test_every_option_of_neural_compressors_classes_is_documented(schema):
    text = (ROOT / "docs/coming-from-neural-compressor.md").read_text()
    for name in (field.name for field in dataclasses.fields(getattr(config, schema))):
        if name not in ("tuning_criterion", "accuracy_criterion", "model_name"):
            assert f"`{name}`" in text or f"{name}=" in text, name
