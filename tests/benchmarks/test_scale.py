"""The tuner at scale, on simulated workers: idle share, processor time and memory per trial, and a resume."""

import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def _benchmarks_on_path():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))
    for name in [name for name in sys.modules if name.split(".")[0] == "simulation"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    from simulation.cells import Cell, measured

    return measured(Cell("random", 40, 120, 300), tmp_path_factory.mktemp("cell"))


def test_simulated_workers_are_kept_busy(figures):
    assert (figures.trials, figures.open) == (120, 40)
    assert figures.idle < 0.05
    assert 0.5 < figures.throughput <= 1.0


def test_the_tuner_takes_little_of_the_processor(figures):
    """Ten times what is said in the documentation, so that a slow machine passes and a quadratic loop does not."""
    assert figures.tuner_ms < 20
    assert figures.resume_read_s + figures.resume_replay_s < 120 * 10e-3


def test_a_trial_of_300_operators_takes_a_short_line(figures):
    assert figures.journal_bytes < 120 * 3000 + 20_000
    assert figures.page_bytes < 5_000_000


def test_a_simulated_trial_measures_what_the_toy_model_has():
    from types import SimpleNamespace

    from simulation.cells import model_of
    from simulation.workers import SimulatedClock, SimulatedTarget

    from nc_strategies.testing import toy_space
    from nc_strategies.testing.toy import toy_evaluation

    class Target(SimulatedTarget):
        measurer = SimpleNamespace(samples=1000)

        def __init__(self):
            pass

    ops, target, rng = model_of(20), Target(), np.random.default_rng(0)
    target.simulate(ops, SimulatedClock(), 0.0)
    space = toy_space(ops)
    for config in (space.default(), space.all_float(), *(space.sample(rng) for _ in range(5))):
        found, true = target.measure(config), toy_evaluation(ops, config)
        assert found.metric("accuracy") == pytest.approx(true.metric("accuracy"))
        assert found.value("latency_ms") == pytest.approx(true.value("latency_ms"))
        assert found.ratio("latency") == pytest.approx(true.ratio("latency"))
        assert (found.int8_ops, found.fp32_ops) == (true.int8_ops, true.fp32_ops)


def test_the_clock_counts_the_tuner_and_not_the_workers():
    from simulation.workers import SimulatedClock

    def work():
        return sum(i * i for i in range(300_000))

    clock = SimulatedClock()
    with clock.held():
        work()
    begin = clock()
    assert begin < 5e-3
    work()
    assert clock() > begin + 5e-3
    clock.move_to(60.0)
    assert clock() == pytest.approx(60.0, abs=0.1)
    clock.move_to(10.0)
    assert clock() >= 60.0


def test_trials_end_in_the_order_of_the_clock_and_idle_time_is_seen():
    from queue import SimpleQueue

    from simulation.workers import SimulatedClock, SimulatedWorkers

    clock, ended = SimulatedClock(), SimpleQueue()
    workers = SimulatedWorkers(2, clock, 60.0)
    futures = [workers.submit(lambda number=number: number) for number in range(2)]
    for future in futures:
        future.add_done_callback(ended.put)
    with pytest.raises(RuntimeError, match="busy"):
        workers.submit(print)
    assert {workers.next_ended(ended).result(), workers.next_ended(ended).result()} == {0, 1}
    ends = [end for _, end in workers.spans]
    assert clock() >= max(ends)
    clock.move_to(200.0)
    workers.submit(print)
    assert workers.idle == pytest.approx(1 - sum(ends) / (2 * 200.0), abs=0.02)


def test_memory_grows_by_less_than_twenty_kilobytes_a_trial(tmp_path):
    """Of the trials, their configurations and evaluations, the journal's and the loop's bookkeeping."""
    from nc_strategies.config import TuningConfig
    from nc_strategies.problem import Goal
    from nc_strategies.strategies.random import RandomSettings, RandomStrategy
    from nc_strategies.study.executor import SerialExecutor
    from nc_strategies.study.journal import Journal
    from nc_strategies.study.loop import TrialLoop
    from nc_strategies.study.study import Study, StudyListener
    from nc_strategies.testing import ToyOp, toy_problem
    from nc_strategies.testing.toy import toy_evaluation

    ops = [ToyOp(f"features/block_{i}/conv", loss=1e-6 * i) for i in range(2000)]
    problem = toy_problem(ops)
    goal: Goal = problem.goal
    study = Study(tmp_path, problem.space, goal, problem.baseline, (1.0, 1.0))
    held: list[int] = []

    class Watch(StudyListener):
        def trial_finished(self, study, trial):
            assert study.best is not None
            held.append(tracemalloc.get_traced_memory()[0])

    loop = TrialLoop(
        study,
        RandomStrategy(RandomSettings(), problem),
        lambda config: toy_evaluation(ops, config),
        Journal(tmp_path, "accuracy"),
        SerialExecutor(),
        1,
        TuningConfig(max_trials=90),
        Watch(),
        [],
    )
    tracemalloc.start()
    try:
        assert loop.run() == "budget"
    finally:
        tracemalloc.stop()
    per_trial = np.diff(np.array(held)[[29, 59, 89]]) / 30
    assert per_trial.max() < 20_000
