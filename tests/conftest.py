"""Shared by all tests."""

import gc
import logging
import os
import signal

import pytest

# Engines and thread pools must not take all processors from the other tests.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Timings of two test processes would wait for each other, and runs with a time limit would get less done.
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    os.environ["XDG_CACHE_HOME"] = os.path.join(home, "nc_strategies-tests", worker)

# A shell starts what it puts in the background with interrupts ignored, and so would every process that a test starts
# be: those that are to be interrupted would not notice.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Frozen:
    """Takes what is there when a file's tests begin out of garbage collection.

    Every run collects several times, and would look at all that the tests before have imported: half a million objects,
    which took more than half of the time of all tests.
    """

    file = None

    def pytest_runtest_logstart(self, location):
        if location[0] != self.file:
            self.file = location[0]
            gc.collect()
            gc.freeze()


def pytest_configure(config):
    config.pluginmanager.register(Frozen())


@pytest.fixture(autouse=True)
def every_log_record():
    """What a test or a package before has made of logging does not keep a test from seeing its log."""
    logging.disable(logging.NOTSET)
    for name in ("nc_strategies", *logging.root.manager.loggerDict):
        if name.partition(".")[0] == "nc_strategies":
            logger = logging.getLogger(name)
            logger.disabled, logger.propagate = False, True
            logger.setLevel(logging.NOTSET)


@pytest.fixture
def simulated_onnxruntime():
    """Latency of models in this process is what their operators say: what follows from it is the same anywhere."""
    from nc_strategies.backends.onnxruntime.backend import OnnxRuntimeBackend
    from nc_strategies.testing import simulated_time

    with simulated_time(OnnxRuntimeBackend):
        yield


FEW_TIMINGS = {"runs": 5, "most_runs": 5, "pairs": 1, "most_pairs": 1, "least_random": 1, "profiled_runs": 3}
"""Of a fit of latencies whose errors do not matter: the whole fit takes most of the time of a run on a small model."""


@pytest.fixture
def few_timings(monkeypatch):
    """Fits of latencies in this process rest on few timings."""
    from dataclasses import replace

    from nc_strategies.measuring import latency_model

    monkeypatch.setattr(latency_model, "PLAN", replace(latency_model.PLAN, **FEW_TIMINGS))
