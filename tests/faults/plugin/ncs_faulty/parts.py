"""Imported when chosen."""

import ctypes
import os
import sys
import time
from pathlib import Path

import numpy as np

from nc_strategies.api import Ceiling, InputError, ModelSource
from nc_strategies.backends.ceiling import kept_or_measured
from nc_strategies.strategies.random import RandomStrategy
from nc_strategies.testing.toy import SIMULATED, ToyBackend, ToyExecutable, toy_time

NONE, BLOCK = "", 64 * 2**20
HOLD = Path("hold")
"""Says a journal and a number: nothing is built while that has as many lines."""
STUCK, TURNS = Path("stuck"), Path("turns")
"""Made by a worker that is about to hang; the configurations that were asked for, one a line. In the folder of the
command, since a worker may die at any time."""


def abort():
    ctypes.CDLL(None).puts(b"toy engine: check failed: 1 == 2")
    ctypes.CDLL(None).fflush(None)
    os.abort()


def segfault():
    ctypes.string_at(0)


def hang():
    # Like native code that hangs for ever, gives Python's other threads no chance and hears no signal.
    STUCK.touch()
    library, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


def sleep():
    STUCK.touch()
    while True:
        time.sleep(0.1)


def drag():
    time.sleep(0.1)


def eat():
    kept = []
    while True:
        kept.append(np.ones(BLOCK, np.uint8))
        time.sleep(0.01)


def leave():
    os._exit(3)


def throw():
    raise ZeroDivisionError("the toy engine divides by zero")


def tell():
    # All that the process was given, by each way there is.
    sys.stderr.write(f"environment: {dict(os.environ)}\n")
    raise ValueError(f"environment: {Path('/proc/self/environ').read_bytes()!r}")


def held():
    try:
        journal, lines = HOLD.read_text().split()
        return Path(journal).read_text().count("\n") >= int(lines)
    except FileNotFoundError:
        return False


FAULTS = {
    "tell": tell,
    "abort": abort,
    "segfault": segfault,
    "hang": hang,
    "sleep": sleep,
    "drag": drag,
    "eat": eat,
    "exit": leave,
    "raise": throw,
    "nan": None,
}


class Faulty(ToyBackend):
    """The toy backend with a simulated clock, so that latencies are exact, and with faults."""

    def __init__(self, settings, threads=1):
        super().__init__(settings, threads)
        self.clock = SIMULATED
        self._kinds = [kind for kind in settings.faults.split(",") if kind]

    def _at(self, stage):
        if self.settings.stage == stage:
            FAULTS[self._kinds[0]]()

    def load(self, model):
        self._at("load")
        return super().load(model)

    def calibrate(self, batches):
        self._at("calibrate")
        if not self.cautious:
            self._at("int8")

    def reference(self):
        self._at("reference")
        return Exact(self.ops, super().reference()._config, self.settings.trial_seconds)

    def ceiling(self, again=False):
        def measure():
            self._at("ceiling")
            return Ceiling({"Conv": {"int8": 2.0}}, False)

        return kept_or_measured("ceiling-faulty.json", measure, again)

    def fault(self, config):
        number = int(config.fingerprint[:8], 16)
        if self.settings.later and config.int8_ops:
            return self.settings.later
        if self.settings.stage or not config.int8_ops or not self._kinds:
            return NONE
        if self.settings.in_turn:
            return [NONE, *self._kinds][self._turn(config.fingerprint) % (len(self._kinds) + 1)]
        return NONE if number % 100 >= self.settings.share else self._kinds[number // 100 % len(self._kinds)]

    @staticmethod
    def _turn(fingerprint):
        turns = TURNS.read_text().split() if TURNS.exists() else []
        if fingerprint not in turns:
            turns.append(fingerprint)
            TURNS.write_text("\n".join(turns))
        return turns.index(fingerprint)

    def build(self, config):
        while held():
            time.sleep(0.01)
        super().build(config)
        return Exact(self.ops, config, self.settings.trial_seconds, self.fault(config))

    def save(self, config, folder):
        self._at("save")
        return super().save(config, folder)

    def open(self, path):
        opened = super().open(path)
        return Exact(opened._ops, opened._config)


class Exact(ToyExecutable):
    """Takes just the time it should, by the clock that latency is measured with."""

    def __init__(self, ops, config, seconds=0.0, fault=NONE):
        super().__init__(ops, config)
        self._seconds, self._fault = seconds, fault

    def predict(self, batch):
        count = len(batch["x"])
        SIMULATED.advance(toy_time(self._ops, self._config))
        if count > 1:
            time.sleep(self._seconds)
            if FAULTS.get(self._fault):
                FAULTS[self._fault]()
        x = batch["x"].astype(np.float64).reshape(-1)
        right = np.floor(x).astype(int)
        loss = sum(op.loss for op in self._ops if not self._config.schemes[op.name].is_float)
        scores = np.zeros((count, 2), np.float32)
        scores[np.arange(count), np.where(x - right < 0.1 + loss, 1 - right, right)] = 1.0
        if self._fault == "nan" and count > 1:
            scores[0] = np.nan
        return [scores]


class ToyModel:
    """A toy model file."""

    def __init__(self, settings):
        self.settings = settings

    def load(self):
        path = Path(self.settings.path)
        if not path.exists():
            raise InputError("model.path", f"no such file: {path}")
        return ModelSource(path.stem, {"toy": path})


class Leaky(RandomStrategy):
    """Fails in the command's process, with its secrets in the error and in those that led to it."""

    def propose(self):
        if len(self._proposed) < 2:
            return super().propose()
        try:
            raise KeyError(os.environ["SIGOPT_API_TOKEN"])
        except KeyError as error:
            raise RuntimeError(f"environment: {dict(os.environ)}") from error
