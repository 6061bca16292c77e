"""The examples of the documentation run, and name keys and choices that exist."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import sys
import types
from pathlib import Path

import pytest

from nc_strategies import config
from nc_strategies.config import MeasureConfig, TuningConfig
from nc_strategies.registry import registry

ROOT = Path(__file__).resolve().parents[1]


def blocks(name, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


def test_the_plugin_tutorials_code_is_a_strategy_that_passes_its_suite(tmp_path, monkeypatch):
    hooks, strategy, tests = blocks("docs/plugins.md", "python")
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text(hooks)
    (package / "strategy.py").write_text(strategy)
    (tmp_path / "suite.py").write_text(tests)
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = importlib.util.spec_from_file_location("suite", tmp_path / "suite.py")
    suite = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(suite)
    case = suite.TestMine()
    case.test_it_finds_a_model_that_meets_an_easy_goal()
    case.test_the_same_seed_gives_the_same_proposals()
    components = sys.modules["my_package"].ncs_components()
    assert [(c.kind, c.name) for c in components] == [("strategy", "mine")]
    assert isinstance(sys.modules["my_package"], types.ModuleType)
    for name in ("my_package", "my_package.strategy"):
        sys.modules.pop(name, None)


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
