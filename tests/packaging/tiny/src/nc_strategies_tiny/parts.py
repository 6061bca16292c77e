"""Imported when chosen."""

from pathlib import Path

from nc_strategies.api import InputError, ModelSource, Steps, StepwiseStrategy
from nc_strategies.testing.toy import ToyBackend


class Tiny(StepwiseStrategy):
    """Default int8, then one operator after the other in fp32."""

    def steps(self) -> Steps:
        """Yield configurations."""
        config = self.problem.space.default()
        yield config
        for name in list(self.problem.space.ops)[: self.settings.patience]:
            yield self.problem.space.fall_back(config, name)


class Toy(ToyBackend):
    """The toy backend under a third party's name."""


class ToyModel:
    """A toy model file."""

    def __init__(self, settings):
        self.settings = settings

    def load(self) -> ModelSource:
        """Its place."""
        path = Path(self.settings.path)
        if not path.exists():
            raise InputError("model.path", f"no such file: {path}")
        return ModelSource(path.stem, {"toy": path})
