"""The components."""

import os
import time
from dataclasses import replace
from pathlib import Path

from nc_strategies.backends.ceiling import Ceiling
from nc_strategies.models import ModelSource
from nc_strategies.testing import ToyBackend
from nc_strategies.testing.toy import ToyExecutable

BEHIND_SSH = "NCS_BEHIND_SSH"
"""Set by the tests' server for what it starts."""
FP32_FACTOR, INT8_FACTOR, LOSS, CEILING = 6.0, 2.0, 0.05, 7.0


class There(ToyExecutable):
    """A model on the other machine."""

    def __init__(self, inner, settings):
        ops = [
            replace(
                op,
                time_us=op.time_us * FP32_FACTOR,
                int8_time_us=op.int8_time_us * INT8_FACTOR,
                loss=op.loss + (LOSS if settings.there == "saturates" else 0.0),
            )
            for op in inner._ops
        ]
        super().__init__(ops, inner._config, True)
        self._settings = settings

    def predict(self, batch):
        """See `Executable.predict`."""
        if self._settings.there == "slow":
            Path(self._settings.mark).touch()
            time.sleep(0.004)
        if self._settings.there == "dies" and self._config.int8_ops and self._config.float_ops:
            os._exit(11)
        return super().predict(batch)


class Toys(ToyBackend):
    """The toy backend, which is slower on the other machine, and there gains more by int8."""

    def open(self, path):
        """See `Backend.open`."""
        opened = super().open(path)
        return There(opened, self.settings) if BEHIND_SSH in os.environ else opened

    def ceiling(self, again=False):
        """See `Backend.ceiling`."""
        there = BEHIND_SSH in os.environ
        saturates = there and self.settings.there == "saturates"
        return Ceiling({"Conv": {"uint8 asym": CEILING if there else 2.0}}, saturates, self.threads)

    def remarks(self):
        """See `Backend.remarks`."""
        return ("the target saturates",) if self.saturates_there else ()

    def versions(self):
        """See `Backend.versions`."""
        return {"toys": "there" if BEHIND_SSH in os.environ else "here"}


class ToyModel:
    """A toy model from a file."""

    def __init__(self, settings):
        self.settings = settings

    def load(self):
        """The model."""
        return ModelSource("toy", {"toy": Path(self.settings.path)})
