"""How many processes an executor starts, and that a trial that fails does not end the run."""

from __future__ import annotations

import pytest

from nc_strategies.errors import InputError
from nc_strategies.study import executor
from nc_strategies.study.executor import ProcessesExecutor, ProcessesSettings, SerialExecutor


@pytest.mark.parametrize(("cores", "threads", "fit"), [(8, 1, 8), (8, 3, 2), (2, 4, 1), (4, 0, 4)])
def test_as_many_processes_fit_as_there_are_cores_for_their_threads(monkeypatch, cores, threads, fit):
    monkeypatch.setattr(executor, "cores", lambda: cores)
    assert SerialExecutor.processes_that_fit(threads) == fit


@pytest.mark.parametrize(("workers", "others"), [(0, 3), (3, 2)])
def test_the_process_that_measures_is_one_of_those_that_evaluate(monkeypatch, workers, others):
    monkeypatch.setattr(executor, "cores", lambda: 8)
    pool = ProcessesExecutor(ProcessesSettings(workers=workers)).evaluation_pool(2)
    assert pool.workers == others
    pool.close()


def test_without_a_processor_for_another_process_there_is_no_pool(monkeypatch):
    monkeypatch.setattr(executor, "cores", lambda: 1)
    assert ProcessesExecutor(ProcessesSettings()).evaluation_pool(1) is None
    assert ProcessesExecutor(ProcessesSettings(workers=1)).evaluation_pool(1) is None


def test_a_negative_number_of_workers_is_refused():
    with pytest.raises(InputError, match=r"executor\.workers: is -1"):
        ProcessesExecutor(ProcessesSettings(workers=-1))


def test_an_error_is_kept_in_the_future_and_an_interrupt_is_raised():
    def fails():
        raise OSError("the engine has gone")

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(OSError, match="has gone"):
        SerialExecutor().submit(fails).result()
    with pytest.raises(KeyboardInterrupt):
        SerialExecutor().submit(interrupted)
