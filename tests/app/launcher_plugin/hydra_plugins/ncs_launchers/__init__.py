"""Launchers that end a sweep as launchers of processes do when something is lost."""

import os
import signal
import sys

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher


class Lost(Launcher):
    """Raises what a launcher raises whose cluster does not answer."""

    def setup(self, *, hydra_context, task_function, config):
        pass

    def launch(self, job_overrides, initial_job_idx):
        raise ConnectionError("no cluster answers at 10.0.0.1:6379\nsecond line")


class Terminated(Lost):
    """Handles SIGTERM as Ray does, and gets one while jobs run."""

    def launch(self, job_overrides, initial_job_idx):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()


for launcher in (Lost, Terminated):
    node = {"_target_": f"{__name__}.{launcher.__name__}"}
    ConfigStore.instance().store(group="hydra/launcher", name=launcher.__name__.lower(), node=node)
