"""A plugin for tests: the toy backend, on a clock of its own and with faults on demand."""

from dataclasses import dataclass

from nc_strategies.api import Component, hookimpl
from nc_strategies.strategies.random import RandomSettings


@dataclass
class FaultySettings:
    """Settings of the backend.

    Args:
        faults: Comma-separated kinds of fault; a configuration gets one of them, or none, by its fingerprint.
        stage: Where the first of them happens always, instead: load, calibrate, int8 (in calibrate,
            unless that is to be cautious), reference, ceiling, save.
        share: Of 100 configurations, how many are faulty.
        in_turn: Instead, the first configuration is built without a fault, each one after it with the next kind, and so
            on again, in the order in which they are first asked for.
        later: Fault of every configuration with int8, beside that of the stage.
        trial_seconds: Real time that each predict of a whole batch takes.
    """

    name: str = "faulty"
    faults: str = ""
    stage: str = ""
    share: int = 50
    trial_seconds: float = 0.0
    later: str = ""
    in_turn: bool = False


@dataclass
class ToyModelSettings:
    """Settings of the model."""

    name: str = "toy"
    path: str = "???"


@hookimpl
def ncs_components():
    """Components of this package."""
    return [
        Component("backend", "faulty", "ncs_faulty.parts:Faulty", FaultySettings),
        Component("strategy", "leaky", "ncs_faulty.parts:Leaky", RandomSettings),
        Component("model", "toy", "ncs_faulty.parts:ToyModel", ToyModelSettings),
    ]


@hookimpl
def ncs_config_paths():
    """Configuration of this package."""
    return ["pkg://ncs_faulty.conf"]
