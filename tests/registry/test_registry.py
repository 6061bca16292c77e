"""Components by name: found, checked, imported late, and never the end of the tool when a plugin is broken."""

import dataclasses
import itertools
import logging
from importlib.metadata import EntryPoint

import pytest
from omegaconf import OmegaConf

from nc_strategies.errors import InputError
from nc_strategies.metrics.classification import Top1, TopK
from nc_strategies.registry import Component
from nc_strategies.registry.hookspecs import GROUP
from nc_strategies.registry.registry import Registry

COUNTER = itertools.count()

PLUGIN = """
from dataclasses import dataclass, field
from nc_strategies.api import (Component, hookimpl)

@dataclass
class Inner:
    depth: int = 1

@dataclass
class Settings:
    name: str = "mine"
    path: str = "???"
    steps: int = 3
    share: float = 0.5
    inner: Inner = field(default_factory=Inner)

class Mine:
    def __init__(self, settings, *args, **kwargs):
        self.settings, self.args, self.kwargs = settings, args, kwargs

@hookimpl
def ncs_components():
    return [Component("strategy", "mine", __name__ + ":Mine", Settings),
            Component("strategy", "plain", __name__ + ":Mine"),
            Component("strategy", "lacking", "a_module_that_is_not_there:Mine", extra="nc-strategies[lacking]"),
            Component("strategy", "lacking_late", __name__ + ":needs_more", extra="nc-strategies[late]"),
            Component("strategy", "unnamed_lack", "a_module_that_is_not_there:Mine")]

def needs_more(settings):
    import another_module_that_is_not_there
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Writes real modules and gives entry points to them."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(source, name=None):
        number = next(COUNTER)
        module = f"ncs_test_plugin_{number}"
        (tmp_path / f"{module}.py").write_text(source)
        return EntryPoint(name or module, module, GROUP)

    return make


@pytest.fixture
def found(plugin):
    return Registry([plugin(PLUGIN, "mine")])


def offering(kind, name, hook="@hookimpl"):
    return (
        "from nc_strategies.api import Component, hookimpl\n"
        f"{hook}\ndef ncs_components():\n    return [Component({kind!r}, {name!r}, 'json:loads')]\n"
    )


class TestBuiltIn:
    def test_every_component_can_be_imported_and_has_a_summary(self):
        registry = Registry([])
        assert registry.broken == {}
        for component in registry.components.values():
            assert callable(registry.target(component))
            assert component.summary

    def test_every_schema_takes_the_component_s_name_and_what_must_be_given(self):
        registry = Registry([])
        for (kind, name), component in registry.components.items():
            must = {f.name: "given" for f in dataclasses.fields(component.schema) if f.default == "???"}
            assert registry.settings(kind, {"name": name, **must}).name == name

    def test_components_are_made_with_their_settings(self):
        registry = Registry([])
        assert isinstance(registry.create("metric", {"name": "top1"}), Top1)
        made = registry.create("metric", OmegaConf.create({"name": "topk", "k": 3}))
        assert isinstance(made, TopK)
        assert made.settings.k == 3

    def test_installed_plugins_are_found_without_being_named(self):
        assert ("strategy", "basic") in Registry().components


class TestGet:
    def test_an_unknown_name_lists_those_there_are_and_the_closest(self, found):
        with pytest.raises(
            InputError,
            match=r"^strategy: no strategy 'bassic'; did you mean 'basic'\? available: "
            r".*basic, .*lacking, .*mine, .*plain, .*random, unnamed_lack$",
        ):
            found.get("strategy", "bassic")

    def test_a_name_close_to_none_is_no_guess(self, found):
        with pytest.raises(InputError, match=r"^backend\.name: no backend 'zzz'; available: "):
            found.get("backend", "zzz", "backend.name")

    def test_kinds_are_kept_apart(self, found):
        assert "mine" in found.names("strategy")
        assert "mine" not in found.names("metric")
        with pytest.raises(InputError, match="no metric 'mine'"):
            found.get("metric", "mine")


class TestSettings:
    def test_defaults_are_filled_in_and_values_converted(self, found):
        settings = found.settings("strategy", {"name": "mine", "path": "p", "steps": "7", "inner": {"depth": 4}})
        assert type(settings).__name__ == "Settings"
        assert (settings.path, settings.steps, settings.share, settings.inner.depth) == ("p", 7, 0.5, 4)

    def test_settings_may_come_from_hydra(self, found):
        config = OmegaConf.create({"where": "p", "strategy": {"name": "mine", "path": "${where}"}})
        assert found.settings("strategy", config.strategy).path == "p"

    @pytest.mark.parametrize(
        ("values", "key", "said"),
        [
            ({"path": "p", "stepz": 1}, "tuner.stepz", "allowed: inner, name, path, share, steps"),
            ({"path": "p", "steps": "many"}, "tuner.steps", "many"),
            ({"path": "p", "steps": 1.5}, "tuner.steps", "1.5"),
            ({"path": "p", "share": "half"}, "tuner.share", "half"),
            ({"path": "p", "inner": {"depht": 1}}, "tuner.inner.depht", "depht"),
            ({"path": "p", "inner": {"depth": "deep"}}, "tuner.inner.depth", "deep"),
            ({}, "tuner.path", "missing"),
            ({"path": "???"}, "tuner.path", "is missing"),
        ],
        ids=[
            "unknown key",
            "no integer",
            "a fraction",
            "no number",
            "unknown inner key",
            "no inner integer",
            "left out",
            "question marks",
        ],
    )
    def test_settings_that_do_not_fit_name_their_key_in_one_line(self, found, values, key, said):
        with pytest.raises(InputError) as caught:
            found.create("strategy", {"name": "mine", **values}, key="tuner")
        message = str(caught.value)
        assert message.startswith(f"{key}: ")
        assert said in message
        assert "\n" not in message

    def test_a_name_left_out_lists_what_there_is(self, found):
        with pytest.raises(InputError, match=r"^strategy\.name: .*available: auto, basic"):
            found.settings("strategy", {})

    def test_keys_without_a_value_are_no_settings(self, found):
        assert found.settings("strategy", {"name": "mine", "path": "p", "foreign": None}).path == "p"

    def test_a_component_without_schema_has_no_settings(self, found):
        assert found.settings("strategy", {"name": "plain"}) is None
        assert found.create("strategy", {"name": "plain"}).settings is None

    @pytest.mark.parametrize("config", ["basic", None])
    def test_a_group_that_is_no_mapping_is_an_input_error(self, found, config):
        with pytest.raises(InputError, match=r"^strategy"):
            found.settings("strategy", config)

    def test_a_component_without_schema_refuses_settings(self, found):
        with pytest.raises(InputError, match=r"^strategy\.steps"):
            found.settings("strategy", {"name": "plain", "steps": 3})


class TestCreate:
    def test_arguments_follow_the_settings(self, found):
        made = found.create("strategy", {"name": "mine", "path": "p"}, "problem", more=1)
        assert (made.settings.path, made.args, made.kwargs) == ("p", ("problem",), {"more": 1})

    def test_the_target_is_imported_only_when_it_is_chosen(self, plugin):
        point = plugin(offering("strategy", "late").replace("json:loads", "a_module_that_is_not_there:X"))
        assert "late" in Registry([point]).names("strategy")

    @pytest.mark.parametrize(
        ("name", "module", "extra"),
        [
            ("lacking", "a_module_that_is_not_there", "lacking"),
            ("lacking_late", "another_module_that_is_not_there", "late"),
        ],
    )
    def test_a_missing_package_is_told_with_the_line_that_installs_it(self, found, name, module, extra):
        with pytest.raises(InputError) as caught:
            found.create("strategy", {"name": name})
        assert str(caught.value) == (
            f"strategy={name}: a package is missing (No module named '{module}'); pip install 'nc-strategies[{extra}]'"
        )

    def test_a_missing_package_without_an_extra_keeps_its_own_error(self, found):
        with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
            found.create("strategy", {"name": "unnamed_lack"})


class TestBrokenPlugins:
    @pytest.mark.parametrize(
        ("source", "why"),
        [
            ("import a_module_that_is_not_there", "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"),
            ("1 / 0", "ZeroDivisionError: division by zero"),
            ("def broken(:", "SyntaxError"),
            (
                "from nc_strategies.api import hookimpl\n@hookimpl\ndef ncs_komponents():\n    return []\n",
                "PluginValidationError",
            ),
            (
                "from nc_strategies.api import hookimpl\n@hookimpl\n"
                "def ncs_components():\n    raise OSError('no disk')\n",
                "OSError: no disk",
            ),
            (
                "from nc_strategies.api import hookimpl\n@hookimpl\ndef ncs_components():\n    return ['basic']\n",
                "TypeError: ncs_components returned 'basic', not a Component",
            ),
            (
                "from nc_strategies.api import hookimpl\n@hookimpl\ndef ncs_components():\n    return None\n",
                "TypeError",
            ),
            (offering("gadget", "x"), "ValueError: component 'x' is of unknown kind 'gadget'"),
            (offering("strategy", "basic"), "ValueError: strategy 'basic' is already registered by nc_strategies"),
        ],
        ids=["import", "raises", "syntax", "unknown hook", "hook raises", "no component", "none", "kind", "taken name"],
    )
    def test_a_broken_plugin_is_left_out_by_name_and_the_others_work(self, plugin, source, why):
        points = [plugin(PLUGIN, "good"), plugin(source, "bad"), plugin(offering("metric", "z"), "zz-good")]
        registry = Registry(points)
        assert list(registry.broken) == ["bad"]
        assert registry.broken["bad"].startswith(why)
        assert "\n" not in registry.broken["bad"]
        assert registry.create("strategy", {"name": "mine", "path": "p"})
        assert "z" in registry.names("metric")
        assert "basic" in registry.names("strategy")

    def test_a_module_that_is_not_there_is_left_out(self):
        registry = Registry([EntryPoint("gone", "ncs_module_that_is_gone", GROUP)])
        assert registry.broken == {"gone": "ModuleNotFoundError: No module named 'ncs_module_that_is_gone'"}

    def test_of_two_plugins_with_one_component_the_first_by_name_keeps_it(self, plugin):
        registry = Registry([plugin(offering("metric", "same"), "b"), plugin(offering("metric", "same"), "a")])
        assert registry.owners["metric", "same"] == "a"
        assert registry.broken == {"b": "ValueError: metric 'same' is already registered by a"}

    def test_a_plugin_that_is_left_out_is_asked_nothing_more(self, plugin):
        source = offering("strategy", "basic") + "\n@hookimpl\ndef ncs_config_paths():\n    return ['pkg://bad']\n"
        assert Registry([plugin(source, "bad")]).config_paths() == []

    def test_of_two_plugins_with_one_name_the_first_stays(self, plugin):
        hooks = "\n@hookimpl\ndef ncs_config_paths():\n    return ['pkg://first']\n"
        registry = Registry(
            [plugin(offering("metric", "first") + hooks, "twin"), plugin(offering("metric", "second"), "twin")]
        )
        assert "first" in registry.names("metric")
        assert registry.config_paths() == [("twin", "pkg://first")]

    def test_a_plugin_that_leaves_python_when_imported_is_left_out(self, plugin):
        assert "bad" in Registry([plugin("raise SystemExit(7)", "bad")]).broken

    def test_a_plugin_cannot_push_a_built_in_out(self, plugin):
        registry = Registry([plugin(offering("strategy", "basic", "@hookimpl(trylast=True)"), "pushy")])
        assert registry.owners["strategy", "basic"] == "nc_strategies"
        assert "random" in registry.names("strategy")

    def test_one_plugin_cannot_offer_a_name_twice(self, plugin):
        source = offering("metric", "twice").replace("return [", "return 2 * [")
        assert "bad" in Registry([plugin(source, "bad")]).broken


OBSERVER = """
from nc_strategies.api import hookimpl
seen = []

@hookimpl
def ncs_trial_finished({arguments}):
    {body}
"""


class TestNotify:
    def test_every_observer_gets_the_arguments_it_names(self, plugin):
        both = OBSERVER.format(arguments="study, trial", body="seen.append((study, trial))")
        registry = Registry(
            [plugin(OBSERVER.format(arguments="trial", body="seen.append(trial)"), "a"), plugin(both, "b")]
        )
        registry.notify("ncs_trial_finished", study="study", trial=1)
        assert registry.manager.get_plugin("a").seen == [1]
        assert registry.manager.get_plugin("b").seen == [("study", 1)]

    def test_an_observer_that_fails_is_logged_and_the_others_are_told(self, plugin, caplog):
        registry = Registry(
            [
                plugin(OBSERVER.format(arguments="trial", body="seen.append(trial)"), "a"),
                plugin(OBSERVER.format(arguments="trial", body="1 / 0"), "failing"),
                plugin(OBSERVER.format(arguments="trial", body="seen.append(trial)"), "z"),
            ]
        )
        with caplog.at_level(logging.ERROR):
            for number in range(2):
                registry.notify("ncs_trial_finished", study=None, trial=number)
        assert registry.manager.get_plugin("a").seen == registry.manager.get_plugin("z").seen == [0, 1]
        assert caplog.text.count("plugin failing failed in ncs_trial_finished; the run goes on") == 2
        assert "ZeroDivisionError" in caplog.text


class TestConfigPaths:
    def test_paths_come_with_the_plugin_that_offers_them(self, plugin):
        source = (
            "from nc_strategies.api import hookimpl\n@hookimpl\ndef ncs_config_paths():\n"
            "    return ['pkg://one.conf', 'file:///two']\n"
        )
        assert Registry([plugin(source, "p")]).config_paths() == [("p", "pkg://one.conf"), ("p", "file:///two")]

    def test_a_plugin_that_fails_to_tell_is_named_and_the_others_count(self, plugin):
        good = "from nc_strategies.api import hookimpl\n@hookimpl\ndef ncs_config_paths():\n    return ['pkg://good']\n"
        bad = good.replace("return ['pkg://good']", "raise KeyError('path')")
        registry = Registry([plugin(bad, "bad"), plugin(good, "good")])
        assert registry.config_paths() == [("good", "pkg://good")]
        assert registry.broken == {"bad": "KeyError: 'path'"}

    def test_there_are_none_without_plugins(self):
        assert Registry([]).config_paths() == []


def test_a_component_checks_its_own_form():
    with pytest.raises(ValueError, match="unknown kind 'gadget'; there are: strategy, backend"):
        Component("gadget", "x", "a:b")
    with pytest.raises(ValueError, match="not of the form module:Class"):
        Component("strategy", "x", "a.b")
