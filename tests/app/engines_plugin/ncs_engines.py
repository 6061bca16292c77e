"""A plugin with engines for comparisons: the toy engine at other speeds, and with models that it cannot open again."""

from dataclasses import dataclass, replace
from pathlib import Path

from nc_strategies.api import Component, EngineError, ModelSource, hookimpl
from nc_strategies.testing import ToyBackend
from nc_strategies.testing.toy import ToyExecutable

ncs_contract = 1


@dataclass
class ToyModelSettings:
    """Settings of the model."""

    name: str = "toy"
    path: str = "???"


class ToyModel:
    """A ``.toy`` file."""

    def __init__(self, settings):
        self.settings = settings

    def load(self):
        return ModelSource("toy", {"toy": Path(self.settings.path)})


@dataclass
class EngineSettings:
    """Settings of `ScaledBackend`.

    Args:
        simulated: See `nc_strategies.testing.ToySettings`.
        scale: Time of a run relative to the toy engine's.
        opens: Whether it opens its saved models.
    """

    name: str = "quick"
    simulated: bool = True
    scale: float = 1.0
    opens: bool = True


@dataclass
class SlowSettings(EngineSettings):
    """An engine that takes twice as long."""

    name: str = "slow"
    scale: float = 2.0


@dataclass
class ShutSettings(EngineSettings):
    """An engine that does not open what it saved."""

    name: str = "shut"
    opens: bool = False


class ScaledBackend(ToyBackend):
    """The toy engine at another speed."""

    def _scaled(self, model):
        ops = [
            replace(op, time_us=op.time_us * self.settings.scale, int8_time_us=op.int8_time_us * self.settings.scale)
            for op in model._ops
        ]
        return ToyExecutable(ops, model._config, self.settings.simulated)

    def reference(self):
        return self._scaled(super().reference())

    def build(self, config):
        return self._scaled(super().build(config))

    def open(self, path):
        return self._scaled(super().open(path))

    def open_to_time(self, path):
        if not self.settings.opens:
            raise EngineError("this file is from another version")
        return super().open_to_time(path)


@hookimpl
def ncs_components():
    return [
        Component("model", "toy", f"{__name__}:ToyModel", ToyModelSettings),
        Component("backend", "quick", f"{__name__}:ScaledBackend", EngineSettings),
        Component("backend", "slow", f"{__name__}:ScaledBackend", SlowSettings),
        Component("backend", "shut", f"{__name__}:ScaledBackend", ShutSettings),
    ]
