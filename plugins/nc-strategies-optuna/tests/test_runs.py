"""Whole searches: what is proposed, what Optuna's storage holds of it, and what a resumed run repeats."""

import optuna
import pytest
from nc_strategies_optuna import CmaEsSettings, GpSettings, Nsga2Settings, OptunaSettings, TpeSettings, search
from nc_strategies_optuna.ask import ask
from nc_strategies_optuna.samplers import names
from nc_strategies_optuna.strategy import OptunaStrategy
from nc_strategies_optuna.study import Study
from optuna.trial import TrialState as Optuna
from optuna_runs import Run
from sqlalchemy.exc import OperationalError

from nc_strategies.api import InputError
from nc_strategies.testing import ToyOp


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """A run in which trials fail, and those that miss the goal are stopped early."""
    run = Run(tmp_path_factory.mktemp("run"), TpeSettings(refine=0.0), failing=(4,), pruning=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "ask", lambda *args: run.asked.append(args) or ask(*args))
        run.go()
    return run


def test_the_storage_holds_every_trial_with_its_state(pruned):
    states = {"ok": Optuna.COMPLETE, "pruned": Optuna.PRUNED, "failed": Optuna.FAIL}
    ours = {t.number: states[t.state.value] for t in pruned.journal.values()}
    assert set(ours.values()) == set(states.values())
    stored = pruned.study().trials
    assert {t.user_attrs["trial"]: t.state for t in stored} == {0: Optuna.COMPLETE, **ours}
    assert all(t.user_attrs["note"] for t in stored)


def test_a_pruned_trial_shows_its_estimate_and_what_it_misses(pruned):
    goal = pruned.problem().goal
    stored = [t for t in pruned.study().trials if t.state is Optuna.PRUNED]
    by_number = {t.number: t.evaluation for t in pruned.journal.values()}
    for trial in stored:
        done = by_number[trial.user_attrs["trial"]]
        assert trial.intermediate_values == {0: pytest.approx(goal.cost(done))}
        assert trial.constraints["accuracy"] == pytest.approx(goal.violation(done))
    assert len(stored) > 1


def test_a_sampler_learns_from_a_pruned_trial(pruned):
    *_, seen, _ = pruned.asked[-1]
    stored = pruned.study().trials[: len(seen)]
    assert {t.state for t in seen} == {Optuna.COMPLETE, Optuna.FAIL}
    missed = [t for t in seen if t.state is Optuna.COMPLETE and t.constraints["accuracy"] > 0]
    assert len(missed) == sum(t.state is Optuna.PRUNED for t in stored) > 0


def test_optuna_takes_the_goal_for_a_constraint(tmp_path):
    run = Run(tmp_path, TpeSettings())
    trials, goal = run.go(), run.problem().goal
    cheapest = min((t for t in trials if goal.feasible(t.evaluation)), key=lambda t: goal.cost(t.evaluation))
    fastest = min(trials, key=lambda t: goal.cost(t.evaluation))
    assert not goal.feasible(fastest.evaluation)
    assert run.study().best_trial.user_attrs["trial"] == cheapest.number


def test_nsga2_minimizes_loss_and_cost(tmp_path):
    run = Run(tmp_path, Nsga2Settings(refine=0.0), budget=16)
    trials, study = run.go(), run.study()
    assert study.metric_names == ["accuracy loss", "cost"]
    goal = run.problem().goal
    stored = {t.user_attrs["trial"]: t.values for t in study.trials}
    for trial in trials:
        wanted = [goal.loss(trial.evaluation), goal.cost(trial.evaluation)]
        assert stored[trial.number] == pytest.approx(wanted)
    generations = [t.system_attrs["NSGAIISampler:generation"] for t in study.trials]
    assert generations == sorted(generations)
    assert set(generations) == set(range(max(generations) + 1)) > {0, 1}
    assert len(study.best_trials) > 1


def test_cmaes_works_on_the_groups(tmp_path):
    run = Run(tmp_path, CmaEsSettings(refine=0.0), budget=16)
    run.go()
    assert {
        t.system_attrs.get("cma:generation") for t in run.study().trials if "suggestion" in t.user_attrs["kind"]
    } > {0}


def test_gp_searches_under_the_constraint():
    pytest.importorskip("torch")
    run = Run(None, GpSettings(refine=0.0), budget=10)
    trials, goal = run.go(), run.problem().goal
    suggested = [t for t in trials if "suggestion" in run.strategy._begun.search.entries[t.number].note]
    assert len(suggested) > 2
    assert any(goal.met(t.evaluation) for t in trials)


@pytest.mark.parametrize("name", [n for n in names() if n not in ("PartialFixedSampler", "GPSampler")])
def test_any_sampler_searches_by_its_name(name):
    run = Run(None, OptunaSettings(sampler=name), budget=10)
    assert len(run.go()) == 10
    assert run.strategy.engine == name


def test_a_sampler_that_needs_more_than_options_is_refused():
    with pytest.raises(InputError, match="PartialFixedSampler does not take them"):
        Run(None, OptunaSettings(sampler="PartialFixed")).go()


@pytest.mark.parametrize(
    ("name", "sets"), [("TPESampler", 2), ("NSGAIISampler", 3), ("BruteForceSampler", 2), ("GridSampler", 2)]
)
def test_a_search_of_a_small_space_ends_with_a_reason(name, sets):
    ops = [ToyOp("a", loss=0.001), ToyOp("b", loss=0.2)]
    run = Run(None, OptunaSettings(sampler=name), budget=50, ops=ops, sensitivity=None)
    trials = run.go()
    # Sets of operators that the parameters express, each with two granularities and two calibration algorithms.
    assert sets * 4 <= len(trials) <= 12
    assert "only configurations that were tried" in run.strategy.ended


@pytest.mark.parametrize("settings", [TpeSettings(), CmaEsSettings()], ids=lambda s: s.name)
def test_a_killed_run_ends_as_if_it_had_not_been(settings, tmp_path, monkeypatch):
    whole = Run(tmp_path / "whole", settings)
    whole.folder.mkdir()
    wanted = [t.config.fingerprint for t in whole.go()]
    run = Run(tmp_path / "cut", settings)
    run.folder.mkdir()
    create, write = optuna.storages.RDBStorage.create_new_study, Study._write

    def unborn(*args):
        create(*args)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(optuna.storages.RDBStorage, "create_new_study", unborn)
        with pytest.raises(Killed):
            run.go()
    for count, after in ((3, True), (6, False)):
        left = [count]

        def dying(self, what, left=left, after=after):
            left[0] -= 1
            if left[0] > 0 or after:
                write(self, what)
            if left[0] == 0:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(Study, "_write", dying)
            with pytest.raises(Killed):
                run.go()
    assert [t.config.fingerprint for t in run.go()] == wanted
    assert run.measured == wanted
    assert [t.params for t in run.study().trials] == [t.params for t in whole.study().trials]
    assert [t.state for t in run.study().trials] == [t.state for t in whole.study().trials]


def test_a_larger_budget_continues_the_same_study(tmp_path):
    before = Run(tmp_path, TpeSettings(), budget=8)
    first = [t.config.fingerprint for t in before.go()]
    after = Run(tmp_path, TpeSettings(), budget=14, sensitivity=lambda: {op.name: 1.0 for op in before.ops})
    after.journal.update(before.journal)
    trials = [t.config.fingerprint for t in after.go()]
    assert trials[:8] == first
    assert len(trials) == 14
    assert len(after.measured) == 6


@pytest.mark.parametrize("settings", [TpeSettings(), Nsga2Settings()], ids=lambda s: s.name)
def test_several_trials_may_run_at_a_time(settings):
    run = Run(None, settings, budget=18)
    problem = run.problem()
    strategy, seen = OptunaStrategy(settings, problem), []
    for _ in range(6):
        together = [strategy.propose() for _ in range(3)]
        for config in reversed(together):
            seen.append(config.fingerprint)
            strategy.observe(run.trial(problem, len(seen), config))
    assert len(set(seen)) == 18
    assert all(entry.outcome is not None for entry in strategy._begun.search.entries)


def test_the_storage_may_be_at_a_url(tmp_path):
    url = f"sqlite:///{tmp_path / 'all.db'}"
    run = Run(tmp_path / "run", TpeSettings(storage=url, study_name="mine"))
    run.folder.mkdir()
    run.go()
    assert optuna.get_all_study_names(url) == ["mine"]
    assert {t.user_attrs["trial"] for t in run.study(url).trials} == set(range(13))
    assert not (run.folder / "optuna.db").exists()
    other = Run(tmp_path / "other", TpeSettings(storage=url, study_name="mine"))
    other.folder.mkdir()
    with pytest.raises(InputError, match=r"^strategy\.study_name: the storage has a study 'mine' of another run"):
        other.go()


def test_a_folder_may_have_any_name(tmp_path):
    run = Run(tmp_path / "50%41 {of} #a? b", TpeSettings(), budget=3)
    run.folder.mkdir()
    run.go()
    assert sorted(path.name for path in run.folder.iterdir()) == ["optuna.db", "optuna.json"]
    assert run.measured == [t.config.fingerprint for t in Run(run.folder, TpeSettings(), budget=3).go()]


def test_runs_share_a_storage_under_names_of_their_own(tmp_path):
    url = f"sqlite:///{tmp_path / 'all.db'}"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        Run(tmp_path / name, TpeSettings(storage=url), budget=3).go()
    first, second = optuna.get_all_study_names(url)
    assert first != second
    assert first.startswith("toy-tpe-")


def test_a_storage_that_fails_stops_nothing(tmp_path, monkeypatch):
    whole = [t.config.fingerprint for t in Run(None, TpeSettings()).go()]
    secret = "postgresql://me:s3cret-word@db/x"
    monkeypatch.setenv("OPTUNA_STORAGE", f"sqlite:///{tmp_path / 'x.db'}")
    run = Run(tmp_path, TpeSettings(storage="environment"))
    add, left = optuna.storages.RDBStorage.create_new_trial, [4]

    def failing(self, *args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            raise OperationalError(f"insert at {secret}", {}, OSError("server closed the connection"))
        return add(self, *args, **kwargs)

    monkeypatch.setattr(optuna.storages.RDBStorage, "create_new_trial", failing)
    monkeypatch.setattr("nc_strategies_optuna.study.connect", lambda url: optuna.storages.RDBStorage(url))
    # The URL with a password is what the run was given; the storage itself is a file.
    original = Study.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self._url = secret

    monkeypatch.setattr(Study, "__init__", init)
    assert [t.config.fingerprint for t in run.go()] == whole
    (notice,) = run.notices
    assert "the storage of the Optuna study fails" in notice
    assert "s3cret-word" not in notice
