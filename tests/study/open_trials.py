"""A loop with several trials open, whose executor ends them in an order that a seed gives."""

import multiprocessing
import os
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from dataclasses import replace
from queue import SimpleQueue

import numpy as np

from nc_strategies.config import TuningConfig
from nc_strategies.study import loop
from nc_strategies.study.journal import Journal
from nc_strategies.study.study import Study, StudyListener
from nc_strategies.testing.toy import toy_evaluation


class Shuffled(Executor):
    """Runs a trial when the loop waits: one of those that are open, at random.

    Args:
        workers: Number of trials that may be open.
        seed: Seed of the order.
        stop_after: Number of trials after which the run is interrupted; 0 for never.
    """

    def __init__(self, workers, seed=0, stop_after=0):
        self.workers, self.stop_after = workers, stop_after
        self.rng, self.calls, self.most, self.done = np.random.default_rng(seed), {}, 0, 0

    def submit(self, fn, /, *args):
        future = Future()
        self.calls[future] = fn, args
        self.most = max(self.most, len(self.calls))
        assert len(self.calls) <= self.workers
        return future

    def next_ended(self, ended):
        """See `TrialLoop`."""
        if self.stop_after and self.done >= self.stop_after:
            raise KeyboardInterrupt
        future = list(self.calls)[int(self.rng.integers(len(self.calls)))]
        fn, args = self.calls.pop(future)
        self.done += 1
        try:
            future.set_result(fn(*args))
        except Exception as error:  # noqa: BLE001 - as executors do
            future.set_exception(error)
        return ended.get()


def run_open(folder, problem, strategy, measure, executor, **tuning):
    """Run a loop in a folder, on from what it holds; return the study and the reason of its end."""
    folder.mkdir(exist_ok=True)
    journal = Journal(folder, "accuracy")
    study = Study(folder, problem.space, problem.goal, problem.baseline, (1.0, 1.0))
    budget = TuningConfig(**{"max_trials": problem.budget, "max_consecutive_failures": 0, **tuning})
    run = loop.TrialLoop(
        study,
        strategy,
        measure,
        journal,
        executor,
        executor.workers,
        budget,
        StudyListener(),
        journal.read(),
        "it",
        wait=getattr(executor, "next_ended", SimpleQueue.get),
    )
    try:
        reason = run.run()
    finally:
        strategy.close()
    return study, reason


def measure_elsewhere(config, ops, crash):
    """Runs in a process of `Farm`: measure a trial; the first one that finds no file ends its process."""
    try:
        crash.open("x").close()
    except FileExistsError:
        done = toy_evaluation(ops, config)
        return replace(done, values=(*done.values, ("duration_s", 0.1), ("size_bytes", 100.0)))
    os._exit(1)


class Farm(Executor):
    """Measures whole trials in processes of its own, as an executor that has machines of its own would."""

    workers = 2

    def __init__(self, ops, crash):
        self.ops, self.crash, self.pools = ops, crash, []

    def start(self):
        self.pools.append(ProcessPoolExecutor(self.workers, multiprocessing.get_context("fork")))

    def submit(self, measure, config, /):
        if not self.pools:
            self.start()
        try:
            return self.pools[-1].submit(measure_elsewhere, config, self.ops, self.crash)
        except BrokenExecutor:
            self.start()
            return self.pools[-1].submit(measure_elsewhere, config, self.ops, self.crash)

    def close(self):
        for pool in self.pools:
            pool.shutdown()
