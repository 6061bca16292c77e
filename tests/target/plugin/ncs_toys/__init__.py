"""A plugin for tests: the toy backend, which on another machine is another one."""

from dataclasses import dataclass

from nc_strategies.api import Component, hookimpl


@dataclass
class ToysSettings:
    """Settings of the backend.

    Args:
        simulated: See `ToySettings`.
        there: What is different on the other machine beside its speed: ``saturates`` (int8 loses more there), ``slow``
            (a run takes real time, and leaves a file), ``dies`` (its process ends when it runs int8 beside fp32).
        mark: The file that a slow run on the other machine leaves.
    """

    name: str = "toys"
    simulated: bool = True
    there: str = ""
    mark: str = ""


@dataclass
class ToyModelSettings:
    """Settings of the model."""

    name: str = "toy"
    path: str = "???"


@hookimpl
def ncs_components():
    """Components of this package."""
    return [
        Component("backend", "toys", "ncs_toys.parts:Toys", ToysSettings),
        Component("model", "toy", "ncs_toys.parts:ToyModel", ToyModelSettings),
    ]


@hookimpl
def ncs_config_paths():
    """Configuration of this package."""
    return ["pkg://ncs_toys.conf"]
