"""Strategies with several proposals open: results in any order, lost workers, resumes with other workers."""

import hashlib
import importlib.util
import json
from concurrent.futures import BrokenExecutor, CancelledError
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from open_trials import Farm, Shuffled, run_open

from nc_strategies.api import EngineError, LostWorkerError, Several, StepwiseStrategy, Strategy, Trial, TrialState
from nc_strategies.errors import TargetError
from nc_strategies.registry import registry
from nc_strategies.study.executor import SerialExecutor
from nc_strategies.testing.strategies import toy_ops
from nc_strategies.testing.toy import toy_evaluation, toy_problem, toy_time

SETTINGS = {"sigopt": {"driver": "local"}, "exhaustive": {"limit": 10**12}}
NO_TORCH = importlib.util.find_spec("torch") is None
NAMES = [name for name in registry().names("strategy") if name not in ("gp", "nsga2", "cmaes", "optuna")]
"""The other strategies of Optuna's plugin differ from ``tpe`` in the sampler alone."""
ONE_AT_A_TIME = {"bisect", "conservative"}
"""Each step of these depends on the one before; ``conservative`` would try several modes at once, if operators had
them."""
WORKERS, BUDGET = 4, 24
BUDGETS = {"ilp": 8, "auto": 16, "sigopt": 14, "tpe": 14}
"""Fewer trials of strategies that take long to propose."""
OPS = toy_ops(2, 10)
GOLDEN = Path(__file__).parent / "data" / "proposals.json"


def problem_of(ops=OPS, budget=BUDGET, tolerable_loss=0.01, workers=1, **kwargs):
    """A problem with all estimates, whose losses are 10 % too high."""
    full = sum(op.time_us for op in ops) * 1e-6
    estimates = {
        "sensitivity": lambda way="": {op.name: op.loss * 1.1 for op in ops},
        "latency_model": lambda config: toy_time(ops, config) / full,
        "hessian": lambda draws: {op.name: op.loss for op in ops},
    }
    return toy_problem(ops, tolerable_loss, budget, workers=workers, **{**estimates, **kwargs})


def make(name, problem):
    chosen = {"name": name, **SETTINGS.get(name, {})}
    found = registry()
    return found.target(found.get("strategy", name))(found.settings("strategy", chosen), problem)


def measured(config):
    return toy_evaluation(OPS, config)


def prints(study):
    return [trial.config.fingerprint for trial in study.trials]


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    """Returns a function that runs a strategy with one worker, once."""
    known = {}

    def run(name):
        if name not in known:
            problem = problem_of(budget=BUDGETS.get(name, BUDGET))
            folder = tmp_path_factory.mktemp(name) / "run"
            known[name] = run_open(folder, problem, make(name, problem), measured, SerialExecutor())
        return known[name]

    return run


@pytest.mark.parametrize("name", NAMES)
def test_trials_that_end_in_any_order_give_a_valid_study(name, serial, tmp_path):
    budget = BUDGETS.get(name, BUDGET)
    problem, executor = problem_of(budget=budget, workers=WORKERS), Shuffled(WORKERS, seed=1)
    study, reason = run_open(tmp_path / "run", problem, make(name, problem), measured, executor)
    alone, _ = serial(name)
    assert reason in ("budget", "finished")
    assert (len(study.trials) == budget) == (reason == "budget")
    assert len(set(prints(study))) == len(study.trials)
    assert sorted(trial.number for trial in study.trials) == list(range(1, len(study.trials) + 1))
    assert executor.most == (1 if name in ONE_AT_A_TIME else WORKERS)
    best, before = problem.goal.best(study.trials), problem.goal.best(alone.trials)
    assert problem.goal.met(best.evaluation) == problem.goal.met(before.evaluation)
    assert problem.goal.cost(best.evaluation) <= problem.goal.cost(before.evaluation) * 1.1
    lines = [json.loads(line) for line in (tmp_path / "run" / "trials.jsonl").read_text().splitlines()]
    assert [line["fingerprint"] for line in lines] == prints(study)


@pytest.mark.parametrize("name", sorted(json.loads(GOLDEN.read_text())))
def test_one_worker_proposes_what_it_always_has(name, tmp_path):
    for label, wanted in json.loads(GOLDEN.read_text())[name].items():
        seed, count, loss, budget, known = json.loads(label)
        ops = toy_ops(seed, count)
        problem = problem_of(ops, budget, loss) if known else toy_problem(ops, loss, budget, hessian=lambda n: {})
        folder = tmp_path / f"{seed}-{known}"
        measure = lambda config, ops=ops: toy_evaluation(ops, config)  # noqa: E731
        study, _ = run_open(folder, problem, make(name, problem), measure, SerialExecutor())
        text = "\n".join(f"{t.config.fingerprint} {t.note}" for t in study.trials)
        assert hashlib.sha256(text.encode()).hexdigest()[:16] == wanted, label
        lines = (folder / "trials.jsonl").read_text().splitlines()
        assert all("proposed" not in json.loads(line) for line in lines)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        *(("random", before, after) for before, after in ((4, 1), (1, 4), (4, 4))),
        *(("basic", before, after) for before, after in ((4, 1), (1, 4), (4, 4))),
        *((name, 4, 1) for name in ("ilp", "auto", "sigopt", "tpe")),
        ("sigopt", 1, 4),
    ],
)
def test_a_run_resumes_with_another_number_of_workers(name, before, after, tmp_path):
    folder, calls, budget = tmp_path / "run", [], BUDGETS.get(name, BUDGET)

    def measure(config):
        calls.append(config.fingerprint)
        return measured(config)

    def start(workers, **executor):
        problem = problem_of(budget=budget, workers=workers, state_dir=folder)
        folder.mkdir(exist_ok=True)
        return run_open(folder, problem, make(name, problem), measure, Shuffled(workers, **executor))

    first, reason = start(before, seed=3, stop_after=6)
    assert (reason, len(first.trials)) == ("interrupted", 6)
    study, reason = start(after, seed=4)
    assert reason in ("budget", "finished")
    assert len(calls) == len(set(calls)) == len(study.trials) <= budget
    assert prints(study)[:6] == prints(first)
    assert [trial.resumed for trial in study.trials] == [place < 6 for place in range(len(study.trials))]
    assert len({trial.number for trial in study.trials}) == len(study.trials)
    again, _ = start(4)
    assert prints(again) == prints(study)
    assert len(calls) == len(study.trials), "a finished run measures nothing again"


class Failing(Shuffled):
    """Loses the worker of some trials, by the number of the call, from 1."""

    def __init__(self, errors, **kwargs):
        super().__init__(WORKERS, **kwargs)
        self.errors, self.number = errors, 0

    def submit(self, fn, /, *args):
        self.number += 1
        error = self.errors.get(self.number)
        if isinstance(error, str):
            raise BrokenExecutor(error)

        def call(*given):
            if error is not None:
                raise error
            return fn(*given)

        return super().submit(call, *args)


@pytest.mark.parametrize("error", [LostWorkerError("gone"), BrokenProcessPool("gone"), CancelledError("gone")])
def test_a_trial_whose_worker_is_lost_is_measured_again(error, tmp_path):
    problem, calls = problem_of(workers=WORKERS), []
    executor = Failing({2: error, 7: error})
    study, reason = run_open(
        tmp_path / "run",
        problem,
        make("random", problem),
        lambda config: calls.append(config) or measured(config),
        executor,
    )
    assert (reason, len(study.trials)) == ("budget", BUDGET)
    assert len(calls) == len(set(prints(study))) == BUDGET
    assert all(trial.ok for trial in study.trials)
    assert executor.number == BUDGET + 2


def test_a_trial_that_loses_two_workers_has_failed(tmp_path):
    problem, lost = problem_of(workers=WORKERS), {}

    def measure(config):
        if config == problem.space.default():
            lost[config] = lost.get(config, 0) + 1
            raise LostWorkerError("the worker has ended")
        return measured(config)

    study, reason = run_open(tmp_path / "run", problem, make("random", problem), measure, Shuffled(WORKERS))
    assert (reason, list(lost.values())) == ("budget", [2])
    (failed,) = [trial for trial in study.trials if trial.state is TrialState.FAILED]
    assert failed.error == "its worker was lost 2 times (the worker has ended)"
    assert failed.config == problem.space.default()


def test_an_engine_error_is_no_lost_worker(tmp_path):
    problem = problem_of(budget=6, workers=WORKERS)
    executor = Failing({3: EngineError("cannot build")})
    study, _ = run_open(tmp_path / "run", problem, make("random", problem), measured, executor)
    assert executor.number == 6
    assert [t.error for t in study.trials if t.state is TrialState.FAILED] == ["cannot build"]


def test_an_executor_without_workers_ends_the_run_in_one_line_and_it_resumes(tmp_path):
    problem = problem_of(workers=WORKERS)
    with pytest.raises(TargetError, match=r"^executor: has lost its workers \(all ended\); the same command"):
        run_open(tmp_path / "run", problem, make("random", problem), measured, Failing({9: "all ended"}))
    problem = problem_of()
    study, reason = run_open(tmp_path / "run", problem, make("random", problem), measured, SerialExecutor())
    assert (reason, len(study.trials)) == ("budget", BUDGET)
    assert sum(trial.resumed for trial in study.trials) == 5


class Recording(Strategy):
    """A strategy by whose proposals one can tell what it had seen before each."""

    def __init__(self, problem):
        super().__init__(None, problem)
        self.events = []
        self.configs = iter([problem.space.default(), *problem.space.neighbours(problem.space.default())])

    def propose(self):
        config = next(self.configs, None)
        self.events.append(("propose", config.fingerprint))
        return config

    def observe(self, trial):
        self.events.append(("observe", trial.config.fingerprint))


def test_a_resumed_strategy_sees_each_trial_between_the_same_proposals(tmp_path):
    problem, folder = problem_of(workers=WORKERS), tmp_path / "run"
    first, again = Recording(problem), Recording(problem)
    run_open(folder, problem, first, measured, Shuffled(WORKERS, seed=5, stop_after=12))
    run_open(folder, problem, again, measured, SerialExecutor())
    last = max(place for place, (what, _) in enumerate(first.events) if what == "observe")
    assert again.events[: last + 1] == first.events[: last + 1]
    assert first.events[last + 1 :] != [], "proposals were open at the end"


def test_a_stepwise_strategy_opens_what_it_says_and_waits_for_the_rest(tmp_path):
    class TwoStages(StepwiseStrategy):
        def steps(self):
            space, seen = self.problem.space, []
            first = yield space.default()
            yield Several(iter([space.fall_back(space.default(), op.name) for op in OPS[:5]]), seen.append)
            assert len(seen) == 5
            last = yield space.fall_back(space.default(), *(op.name for op in OPS[:5]))
            self.ended = f"{first.number} {last.number}"

    problem = problem_of(workers=3)
    strategy, executor = TwoStages(None, problem), Shuffled(3, seed=2)
    study, reason = run_open(tmp_path / "run", problem, strategy, measured, executor)
    assert (reason, len(study.trials), strategy.ended, executor.most) == ("finished", 7, "1 7", 3)


def test_open_solutions_of_the_program_are_assumed_to_be_as_predicted():
    problem = problem_of(workers=WORKERS)
    strategy = make("ilp", problem)
    first = strategy.propose()
    assert strategy.propose() is None, "everything depends on the first trial"
    strategy.observe(Trial(1, first, TrialState.OK, measured(first)))
    second = strategy.propose()
    search = strategy._search
    row = search.columns.row(second)
    search.fit()
    alone = search.point(row)
    search._fit_all()
    assumed = search.point(row)
    assert (assumed.cost, assumed.loss) == pytest.approx((alone.cost, alone.loss), rel=1e-6)
    assert assumed.cost_sd < 0.9 * alone.cost_sd
    assert assumed.loss_sd < alone.loss_sd
    assert strategy.propose().fingerprint not in (first.fingerprint, second.fingerprint)


def test_an_executor_may_measure_whole_trials_itself_and_lose_a_process(run, ops, tmp_path, caplog):
    farm = Farm(ops, tmp_path / "crashed")
    one = run(executor=farm, max_trials=8, strategy="random")
    try:
        study = one()
    finally:
        farm.close()
    assert (study.stop_reason, len(study.trials)) == ("budget", 8)
    assert len(set(prints(study))) == 8
    assert all(trial.ok for trial in study.trials)
    assert len(farm.pools) == 2
    assert "is measured again: its worker was lost" in caplog.text
    # The run's own process builds fp32 and the finalist only, for the final measurement.
    assert len(set(one.backend.built)) == 1 + len(study.confirmed) == 2
    assert study.final is not None


def test_what_was_measured_is_kept_when_another_trial_ends_the_run(tmp_path):
    class AllAtOnce(Shuffled):
        def next_ended(self, ended):
            done = []
            while self.calls:
                done.append(super().next_ended(ended))
            for future in done:
                ended.put(future)
            return ended.get()

    problem = problem_of(workers=WORKERS)

    def measure(config):
        if config == problem.space.default():
            raise TargetError("measure.target", "is not reached any more")
        return measured(config)

    with pytest.raises(TargetError, match="not reached"):
        run_open(tmp_path / "run", problem, make("random", problem), measure, AllAtOnce(WORKERS))
    assert len((tmp_path / "run" / "trials.jsonl").read_text().splitlines()) == WORKERS - 1


def test_the_tutorials_strategy_with_several_proposals_opens_them(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "plugin-tutorial.md").read_text()
    block = text.partition("### Several proposals open")[2].partition("```python\n")[2].partition("```")[0]
    names = {}
    exec(block, names)
    problem = problem_of(workers=3)
    strategy, executor = names["EachAlone"](None, problem), Shuffled(3)
    study, reason = run_open(tmp_path / "run", problem, strategy, measured, executor)
    assert (reason, len(study.trials), len(strategy.trials), executor.most) == ("finished", 11, 10, 3)
