"""Which sampler of Optuna a strategy uses, and what is to be known about it."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler

from nc_strategies.api import InputError
from nc_strategies_optuna.ask import quiet
from nc_strategies_optuna.parameters import COUNT, Assignments, Parameters
from nc_strategies_optuna.settings import KEY, OptunaSettings, SamplerSettings

ENDING = "Sampler"
CLASSES = {"tpe": "TPESampler", "gp": "GPSampler", "nsga2": "NSGAIISampler", "cmaes": "CmaEsSampler"}


@dataclass(frozen=True)
class Traits:
    """What is to be known about a sampler.

    Args:
        options: Arguments it gets unless the user sets them.
        groups: Number of groups of operators that suits it, measured on ``benchmarks/synthetic_search.py``: one where
            it learns from any trial; several where it has to mix parameters.
        constrained: It reads a trial's constraints; otherwise what is missing is added to the cost.
        two_objectives: It searches loss against cost.
        categorical: It can choose between values without an order; otherwise choices are integers.
        generations: It learns only from trials of its generations, which those that it did not suggest have to join.
        one_seed: All suggestions of a run come from one sequence, hence one seed.
        needs: Module it cannot work without.
        package: What installs it.
    """

    options: dict[str, Any] = field(default_factory=dict)
    groups: int = 3
    constrained: bool = False
    two_objectives: bool = False
    categorical: bool = True
    generations: bool = False
    one_seed: bool = False
    needs: str = ""
    package: str = ""


TRAITS = {
    "TPESampler": Traits({"n_startup_trials": 4, "constant_liar": True}, groups=1, constrained=True),
    "GPSampler": Traits({"n_startup_trials": 4}, groups=1, constrained=True, needs="torch", package="torch"),
    "NSGAIISampler": Traits({"population_size": 8}, constrained=True, two_objectives=True, generations=True),
    "NSGAIIISampler": Traits({"population_size": 8}, constrained=True, two_objectives=True, generations=True),
    "CmaEsSampler": Traits({"warn_independent_sampling": False}, categorical=False, needs="cmaes", package="cmaes"),
    "QMCSampler": Traits({"warn_independent_sampling": False}, one_seed=True),
    "GridSampler": Traits(groups=1, one_seed=True),
    "BruteForceSampler": Traits(groups=1),
}


@dataclass(frozen=True)
class Choice:
    """The sampler of a strategy.

    Args:
        name: Name of its class.
        options: Arguments of the class, without the seed.
        traits: What is to be known about it.
    """

    name: str
    options: dict[str, Any]
    traits: Traits

    def make(self, seed: int, space: Mapping[str, BaseDistribution]) -> BaseSampler:
        """A new sampler.

        Args:
            seed: Its seed, where it has one.
            space: The parameters, which a grid has to know before it suggests.

        Raises:
            TypeError, ValueError: its class does not take the options.
        """
        kind = getattr(optuna.samplers, self.name)
        taken = inspect.signature(kind).parameters
        more: dict[str, Any] = {"seed": seed} if "seed" in taken else {}
        if "search_space" in taken and "search_space" not in self.options:
            more["search_space"] = {name: _values(one) for name, one in space.items()}
        with quiet():
            made: BaseSampler = kind(**self.options, **more)
        return made

    def directions(self) -> list[str]:
        """One direction an objective."""
        return ["minimize"] * (2 if self.traits.two_objectives else 1)

    def space(self, parameters: Parameters) -> dict[str, BaseDistribution]:
        """The sampler's parameters."""
        found: dict[str, BaseDistribution] = {}
        for name, top in parameters.tops().items():
            values = parameters.choices.get(name)
            if values is not None and self.traits.categorical:
                found[name] = CategoricalDistribution(values)
            elif top > 0:
                found[name] = IntDistribution(0, top)
        return found

    def params(self, parameters: Parameters, assignments: Assignments) -> dict[str, Any]:
        """Assignments as the sampler's values; the inverse of `assignments`."""
        choices = parameters.choices
        return {
            name: choices[name][assignments[name]] if isinstance(one, CategoricalDistribution) else assignments[name]
            for name, one in self.space(parameters).items()
        }

    def assignments(self, parameters: Parameters, params: Mapping[str, Any]) -> Assignments:
        """The sampler's values as assignments."""
        found = dict.fromkeys(parameters.tops(), 0)
        for name, value in params.items():
            found[name] = parameters.choices[name].index(value) if isinstance(value, str) else int(value)
        return found


def _values(one: BaseDistribution) -> list[Any]:
    if isinstance(one, CategoricalDistribution):
        return list(one.choices)
    assert isinstance(one, IntDistribution)
    return list(range(one.low, one.high + 1))


@cache
def names() -> tuple[str, ...]:
    """Names of the samplers that this version of Optuna has."""
    public = (getattr(optuna.samplers, name) for name in optuna.samplers.__all__)
    return tuple(
        sorted(
            kind.__name__
            for kind in public
            if inspect.isclass(kind) and issubclass(kind, BaseSampler) and not inspect.isabstract(kind)
        )
    )


def choose(settings: SamplerSettings) -> Choice:
    """The sampler that settings ask for.

    Raises:
        InputError: there is none of that name, it does not take the options, or a package it needs is missing.
    """
    wanted = settings.sampler if isinstance(settings, OptunaSettings) else CLASSES[settings.name]
    name = next((n for n in (wanted, wanted + ENDING) if n in names()), None)
    if name is None:
        raise InputError(f"{KEY}.sampler", f"Optuna has no sampler {wanted!r}", f"one of {', '.join(names())}")
    traits = TRAITS.get(name, Traits())
    if traits.needs and importlib.util.find_spec(traits.needs) is None:
        raise InputError(
            KEY, f"Optuna's {name} needs {traits.needs}, which is not installed", f"pip install {traits.package}"
        )
    found = Choice(name, {**traits.options, **settings.sampler_options}, traits)
    try:
        found.make(0, {COUNT: IntDistribution(0, 1)})
    except (TypeError, ValueError) as error:
        raise InputError(f"{KEY}.sampler_options", f"{name} does not take them: {error}") from None
    return found
