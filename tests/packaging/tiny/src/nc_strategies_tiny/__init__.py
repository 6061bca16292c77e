"""A third party's package: a strategy, a backend and a model format."""

from dataclasses import dataclass
from pathlib import Path

from nc_strategies.api import Component, hookimpl


@dataclass
class TinySettings:
    """Settings of the strategy."""

    name: str = "tiny"
    patience: int = 3


@dataclass
class ToySettings:
    """Settings of the backend."""

    name: str = "toy"
    simulated: bool = False


@dataclass
class ToyModelSettings:
    """Settings of the model."""

    name: str = "toy"
    path: str = "???"


@hookimpl
def ncs_components():
    """Components of this package."""
    return [
        Component("strategy", "tiny", "nc_strategies_tiny.parts:Tiny", TinySettings),
        Component("backend", "toy", "nc_strategies_tiny.parts:Toy", ToySettings),
        Component("model", "toy", "nc_strategies_tiny.parts:ToyModel", ToyModelSettings),
    ]


@hookimpl
def ncs_config_paths():
    """Configuration of this package."""
    return ["pkg://nc_strategies_tiny.conf"]


@hookimpl
def ncs_trial_finished(study, trial):
    """A tracker with a bug: it must not break the run."""
    with Path("tracked.txt").open("a") as stream:
        stream.write(f"{trial.number}\n")
    raise RuntimeError("the tracker's server is gone")
