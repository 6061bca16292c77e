"""No key, choice or link of the documentation names what does not exist."""

from __future__ import annotations

import dataclasses
import re
import typing
from importlib import metadata
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nc_strategies.config import MeasureConfig, MetricsConfig, RunConfig, SpaceConfig, TuningConfig
from nc_strategies.registry import registry

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = {distribution.name for distribution in metadata.distributions()}
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *ROOT.glob("docs/**/*.md"),
        *(folder / "README.md" for folder in ROOT.glob("plugins/*") if folder.name in INSTALLED),
    )
)
SECTIONS = {"tuning": TuningConfig, "measure": MeasureConfig, "metrics": MetricsConfig, "space": SpaceConfig}
PLAIN = {"isolation", "run_dir", "plan"}
KINDS = sorted({field.name for field in dataclasses.fields(RunConfig)} - PLAIN - set(SECTIONS))
KEY = re.compile(rf"(?<![\w./-])\+?((?:{'|'.join([*SECTIONS, *KINDS])})(?:\.[a-z]\w*)+)(?![\w.(/])")
FILES = (".onnx", ".keras", ".h5", ".pb", ".npz", ".py", ".toy", ".zip", ".yaml", ".save", ".csv")


def schemas(section):
    """The dataclasses that may hold a section's keys."""
    if section in SECTIONS:
        return [SECTIONS[section]]
    found = registry().components
    return [c.schema for (kind, _), c in found.items() if kind == section and c.schema is not None]


def metric_schemas():
    return [c.schema for (kind, _), c in registry().components.items() if kind == "metric" and c.schema is not None]


def exists(schemas, names):
    """Whether a path of names leads to a field, through dataclasses that are fields."""
    first, *rest = names
    for schema in schemas:
        fields = {field.name: field for field in dataclasses.fields(schema)}
        if first not in fields:
            continue
        if not rest:
            return True
        kind = typing.get_type_hints(schema)[first]
        inner = [k for k in (kind, *typing.get_args(kind)) if dataclasses.is_dataclass(k)]
        if inner and exists(inner, rest):
            return True
    return False


def known(key):
    section, *names = key.split(".")
    if section == "metrics" and names[0] == "accuracy" and len(names) > 1:
        return names[1] in ("higher_is_better", "output") or exists(metric_schemas(), names[1:])
    return exists(schemas(section), names)


def keys(text):
    """Keys in code: in-line, or in blocks that are not Python."""
    blocks = re.findall(r"^ *```(?!python)\w*\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    for code in (*blocks, *re.findall(r"`([^`\n]+)`", prose)):
        for key in KEY.findall(code):
            if not key.endswith(FILES):
                yield key


@pytest.mark.parametrize("page", PAGES)
def test_every_key_that_is_named_exists(page):
    assert [key for key in keys((ROOT / page).read_text()) if not known(key)] == []


def test_keys_are_found_and_told_apart():
    text = (
        "`tuning.seed`, `+data.preprocess.scale=2`\n\n```console\n$ x measure.treads=1 model.path=a\n```\n`model.onnx`"
    )
    assert set(keys(text)) == {"tuning.seed", "data.preprocess.scale", "measure.treads", "model.path"}
    assert known("data.preprocess.scale")
    assert not known("data.preprocess.scales")
    assert not known("measure.treads")


def test_every_group_has_components_whose_keys_are_known():
    assert [kind for kind in KINDS if not schemas(kind)] == []


PLACEHOLDER = re.compile(r"=(?:N|NAME|\[NAME.*|\[START.*)$")
"""What stands for a value that the user has."""


def overrides(text):
    """Overrides `section.key=value` of the sections with a schema of their own, in sentences and tables."""
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    for code in re.findall(r"`([^`\n]+)`", prose):
        for part in re.split(r"[\s'\"]+(?=[\w./]+=)", code):
            override = part.strip("'\"")
            if re.match(rf"(?:{'|'.join(SECTIONS)})\.[\w.]+=.", override) and not PLACEHOLDER.search(override):
                yield override


def fits(override):
    """Whether the key exists and takes the value, or each of several values of a sweep."""
    parsed = OverridesParser.create().parse_override(override)
    if parsed.is_sweep_override():
        return all(fits(f"{parsed.key_or_group}={value}") for value in parsed.sweep_string_iterator())
    section, _, key = parsed.key_or_group.partition(".")
    if section == "metrics" and key.startswith("accuracy.") and key != "accuracy.name":
        return known(parsed.key_or_group)  # a metric's own settings, whose values the metric checks
    try:
        OmegaConf.update(OmegaConf.structured(SECTIONS[section]), key, parsed.value())
    except OmegaConfBaseException:
        return False
    return True


@pytest.mark.parametrize("page", PAGES)
def test_every_value_that_is_named_fits_its_key(page):
    assert [override for override in overrides((ROOT / page).read_text()) if not fits(override)] == []


def test_values_are_found_and_told_apart():
    text = "`tuning.seed=many`, `-m measure.threads=4 space.op_type_dict={a: 1}`, `tuning.front=N`"
    assert list(overrides(text)) == ["tuning.seed=many", "measure.threads=4", "space.op_type_dict={a: 1}"]
    assert not fits("tuning.seed=many")
    assert not fits("tuning.seeds=4")
    assert fits("measure.threads=4,2")
    assert not fits("measure.threads=4,few")


@pytest.mark.parametrize("name", ["sigopt"])
def test_a_plugins_settings_stand_on_its_page(name):
    text = (ROOT / "docs" / f"{name}.md").read_text()
    for field in dataclasses.fields(registry().get("strategy", name).schema):
        if field.name not in ("name", "sigopt_api_token"):
            assert f"`strategy.{field.name}`" in text, field.name


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), target
