"""Whole runs with a time limit, on a clock that only the engine moves: nothing here depends on the machine."""

import itertools
import json
import math
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from nc_strategies.api import Config, InputError, Strategy, TrialState
from nc_strategies.app.status import of_result
from nc_strategies.config import MeasureConfig
from nc_strategies.errors import OutOfTimeError
from nc_strategies.measuring.local_target import LocalTarget
from nc_strategies.problem.objective import Shortfall
from nc_strategies.report.result import as_dict
from nc_strategies.report.table import verdict
from nc_strategies.study.keeper import Keeper
from nc_strategies.study.plan import plan
from nc_strategies.study.setup import make_box
from nc_strategies.study.study import Status, StudyListener
from nc_strategies.study.tune import _Run
from nc_strategies.testing import ToyOp
from nc_strategies.testing.toy import ToyBackend, ToyExecutable, ToySettings, toy_loss, toy_problem

OPS = tuple(ToyOp(f"op{i}", loss=0.001 * (i % 3), time_us=60) for i in range(8))
"""Seconds of a slow engine."""
SLOW = {"load": 8.0, "calibrate": 6.0, "build": 1.5, "sample": 0.046, "save": 1.0}


class Clock:
    def __init__(self):
        self.now = 5000.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    monkeypatch.setattr(time, "perf_counter", made)
    return made


class Slow(ToyExecutable):
    def __init__(self, backend, config, speed):
        super().__init__(backend.ops, config)
        self._backend, self._speed = backend, speed

    def predict(self, batch):
        x = batch["x"].astype(np.float64).reshape(-1)
        self._backend.clock.advance(len(x) * self._backend.costs["sample"] * self._speed)
        right = np.floor(x).astype(int)
        wrong = (x - right) < 0.1 + toy_loss(self._ops, self._config)
        scores = np.zeros((len(x), 2), np.float32)
        scores[np.arange(len(x)), np.where(wrong, 1 - right, right)] = 1.0
        return [scores]


class SlowBackend(ToyBackend):
    """Takes given seconds for each step. From some build on, whatever int8 runs takes `drag` times as long."""

    def __init__(self, clock, **costs):
        super().__init__(ToySettings())
        self.clock, self.costs = clock, {**SLOW, **costs}
        self.loads = self.builds = 0
        self.drag_from, self.drag = math.inf, 1.0

    def load(self, model):
        self.loads += 1
        self.clock.advance(self.costs["load"])
        return super().load(model)

    def calibrate(self, batches):
        self.clock.advance(self.costs["calibrate"])

    def reference(self):
        self.clock.advance(self.costs["build"])
        return Slow(self, self._config(super().reference()), 1.0)

    def build(self, config):
        self.builds += 1
        self.clock.advance(self.costs["build"])
        super().build(config)
        share = len(config.int8_ops) / len(config.ops)
        slow = self.drag if config.int8_ops and self.builds >= self.drag_from else 1.0
        return Slow(self, config, (1.0 - 0.6 * share) * slow)

    def save(self, config, folder):
        self.clock.advance(self.costs["save"])
        return super().save(config, folder)

    def open(self, path):
        return self.build(self._config(super().open(path)))

    @staticmethod
    def _config(model):
        return model._config


class Noticed(StudyListener):
    def __init__(self):
        self.notices, self.started_trials = [], 0

    def trial_started(self, number, stage):
        self.started_trials += 1

    def notice(self, text):
        self.notices.append(text)


@pytest.fixture
def boxed(run, clock):
    def make(timeout, name="run", costs=None, **kwargs):
        one = run(
            name,
            ops=kwargs.pop("ops", OPS),
            backend=SlowBackend(clock, **(costs or {})),
            max_trials=0,
            timeout=timeout,
            count=kwargs.pop("count", 500),
            criterion="absolute",
            tolerable_loss=0.02,
            **kwargs,
        )
        one.config.measure = MeasureConfig(evaluation_batch_size=50)
        return one

    return make


def holds(study, timeout):
    return study.seconds["total"] <= 1.1 * timeout


def attempt(one, listener):
    """A run's study, or why it was refused."""
    try:
        return one(listener), ""
    except InputError as error:
        return None, str(error)


class TestTheLimitHolds:
    @pytest.mark.parametrize("timeout", [90, 150, 180, 300])
    @pytest.mark.parametrize(
        ("count", "costs"),
        [
            (500, {}),
            (100, {}),
            (500, {"sample": 0.02, "build": 6.0, "save": 5.0}),
            (500, {"sample": 0.003}),
            (500, {"load": 1.0, "calibrate": 0.5}),
            (250, {"sample": 0.1}),
        ],
        ids=["long evaluation", "few samples", "slow builds", "small model", "quick start", "slow finalists"],
    )
    def test_a_run_ends_in_time_with_a_model_or_is_refused(self, boxed, timeout, count, costs):
        one = boxed(timeout, count=count, costs=costs)
        begin = one.backend.clock.now
        told = Noticed()
        study, refused = attempt(one, told)
        if study is None:
            assert refused.startswith(f"tuning.timeout: {timeout} s is too short")
            assert one.backend.clock.now - begin <= timeout
            assert not one.folder.exists()
            return
        assert holds(study, timeout), study.seconds["total"]
        assert study.stop_reason == "timeout"
        assert study.model_path.is_file()
        # No trial was begun in vain.
        assert told.started_trials == len(study.trials) >= 1
        assert one.backend.loads == 1

    def test_time_is_used(self, boxed):
        study = boxed(600)()
        assert study.seconds["total"] > 0.8 * 600
        assert len(study.trials) > 8

    def test_a_long_box_measures_the_end_as_without_a_limit(self, boxed):
        one = boxed(5000, costs={"sample": 0.001}, make=lambda problem: Few(problem, 4))
        study = one()
        assert study.stop_reason == "finished"
        assert study.final.accuracy_loss_ci95 is not None
        assert len(study.final.finalists) == 3

    @pytest.mark.parametrize(
        ("timeout", "drag", "reason"), [(110, 1.0, "met"), (600, 1.0, "met"), (200, 300.0, "timeout")]
    )
    def test_a_run_that_stops_when_the_goal_is_met_confirms_it_in_time(self, boxed, timeout, drag, reason):
        one = boxed(timeout, stop_when="met")
        one.backend.drag_from, one.backend.drag = 3, drag  # fp32, a trial, and then its confirmation
        study = one()
        assert holds(study, timeout)
        assert study.stop_reason == reason
        assert study.status is Status.MET

    def test_a_run_that_resumes_has_its_whole_time_again(self, boxed):
        first = boxed(150)()
        one = boxed(250)
        study = one()
        assert holds(study, 250)
        assert sum(trial.resumed for trial in study.trials) == len(first.trials)
        assert len(study.trials) > len(first.trials)
        assert study.model_path.is_file()

    def test_trials_of_an_earlier_run_need_no_other_one(self, boxed):
        boxed(150)()
        study = boxed(35)()
        assert holds(study, 35)
        assert study.model_path.is_file()
        assert all(trial.resumed for trial in study.trials)

    def test_a_short_end_is_measured_less_and_its_verdict_says_so(self, boxed):
        study = boxed(80)()
        assert study.final.accuracy_loss_ci95 is None
        assert study.final.evaluation.metrics == study.final.trial.evaluation.metrics
        assert study.status is Status.MET


class Few(Strategy):
    """A few configurations, all but two operators in int8, that nothing tells apart in time."""

    def __init__(self, problem, count):
        super().__init__(None, problem)
        space = problem.space
        pairs = itertools.islice(itertools.combinations(range(8), 2), count)
        self.left = [space.fall_back(space.default(), *(f"op{i}" for i in pair)) for pair in pairs]

    def propose(self):
        return self.left.pop() if self.left else None

    def observe(self, trial):
        """Nothing is learnt."""


class TestOverrun:
    def test_a_trial_that_takes_too_long_ends_by_itself_and_the_best_is_saved(self, boxed):
        one = boxed(200)
        one.backend.drag_from, one.backend.drag = 5, 40.0  # fp32, three trials, and then what is slow
        study = one()
        assert holds(study, 200)
        assert (study.stop_reason, one.backend.loads) == ("timeout", 1)
        assert [t.number for t in study.trials] == [1, 2, 3]
        assert study.final.trial in study.trials
        assert study.model_path.is_file()

    def test_sessions_and_an_evaluation_that_take_too_long_are_left_out(self, boxed):
        one = boxed(400, make=lambda problem: Few(problem, 2))
        one.backend.drag_from, one.backend.drag = 7, 30.0  # two trials, a session of two finalists, and then the rest
        study = one()
        assert holds(study, 400)
        assert study.final.accuracy_loss_ci95 is None
        assert len(study.final.finalists) == 2

    def test_finalists_that_take_too_long_leave_the_trial_as_it_was_measured(self, boxed):
        one = boxed(400, make=lambda problem: Few(problem, 2))
        one.backend.drag_from, one.backend.drag = 4, 300.0  # two trials, and then the end
        study = one()
        assert study.stop_reason == "finished"
        assert holds(study, 400)
        assert study.final.accuracy_loss_ci95 is None
        assert study.final.evaluation == study.final.trial.evaluation


class Looks(Few):
    """Looks at the time before each proposal."""

    def __init__(self, problem):
        super().__init__(problem, 5)
        self.seen = []

    def propose(self):
        self.seen.append((self.problem.seconds_left(), self.problem.time_used()))
        return super().propose()


class TestTheTimeThatAStrategySees:
    def test_less_is_left_and_more_is_used_at_each_proposal(self, boxed):
        one = boxed(400, make=Looks)
        study = one()
        left, used = zip(*one.strategies[0].seen, strict=True)
        assert len(study.trials) == len(left) - 1 == 5
        assert 400 > left[0] > left[-1] > 0
        assert list(left) == sorted(left, reverse=True)
        assert 0 <= used[0] < used[-1] < 1
        assert list(used) == sorted(used)

    def test_without_a_limit_all_of_it_is_left(self, run):
        one = run(ops=OPS, max_trials=3, make=Looks)
        one()
        assert set(one.strategies[0].seen) == {(math.inf, 0.0)}


class Asks(Few):
    def __init__(self, problem):
        super().__init__(problem, 20)
        self.told = []

    def propose(self):
        if len(self.left) < 20:
            self.told.append(self.problem.sensitivity())
        return super().propose()


class TestEstimates:
    def test_an_estimate_that_does_not_fit_is_skipped_and_told(self, boxed):
        ops = tuple(ToyOp(f"op{i}", time_us=60) for i in range(60))
        one, told = boxed(150, ops=ops, make=Asks), Noticed()
        study = one(told)
        assert one.strategies[0].told
        assert all(found == {} for found in one.strategies[0].told)
        (text,) = (t for t in told.notices if "sensitivity" in t)
        assert study.estimate_seconds["sensitivity"] < 10.0  # three operators have shown that 60 take too long
        assert "tuning.timeout=150" in text
        assert study.sensitivity is None
        assert holds(study, 150)

    def test_an_estimate_that_takes_longer_than_expected_is_dropped(self, boxed):
        # The toy backend builds a graph for each operator, which the least that is expected does not know of.
        one, told = boxed(150, costs={"build": 6.0, "sample": 0.005}, make=Asks), Noticed()
        study = one(told)
        assert all(found == {} for found in one.strategies[0].told)
        assert any("sensitivity is not estimated" in text for text in told.notices)
        assert study.estimate_seconds["sensitivity"] > 0  # it was begun
        assert holds(study, 150)
        assert len(study.trials) >= 2

    @pytest.mark.parametrize("strategy", ["basic"])
    def test_a_strategy_that_gets_no_estimates_still_ends_with_a_model(self, boxed, strategy):
        study = boxed(150, strategy=strategy, costs={"build": 4.0})()
        assert holds(study, 150)
        assert study.model_path.is_file()


class Mortal(LocalTarget):
    """A target whose engine hangs in some trial, is killed for it, and is prepared again at the next call."""

    def __init__(self, parts, config, clock, hangs_at):
        super().__init__(parts, config)
        self.clock, self.hangs_at = clock, hangs_at
        self.measured = self.restarts = 0
        self.dead, self.limit = False, (0.0, 0.0)

    def until(self, deadline, patience=0.0):
        super().until(deadline, patience)
        self.limit = deadline, patience

    def prepared(self):
        return super().prepared() and not self.dead

    def measure(self, config, partial=False, complete=False):
        self._revive()
        self.measured += 1
        if self.measured == self.hangs_at:
            deadline, patience = self.limit
            self.clock.now = deadline + patience
            self.dead = True
            raise OutOfTimeError("the run's time ended in measure")
        return super().measure(config, partial, complete)

    def settle(self, trial):
        self._revive()
        return super().settle(trial)

    def finish(self, *arguments):
        self._revive()
        return super().finish(*arguments)

    def save(self, final, folder):
        self._revive()
        return super().save(final, folder)

    def _revive(self):
        if self.dead:
            self.dead = False
            self.restarts += 1
            self.clock.advance(SLOW["load"] + SLOW["calibrate"] + 30.0)


@pytest.fixture
def mortal(boxed, clock):
    def make(timeout, hangs_at, **kwargs):
        one = boxed(timeout, **kwargs)
        one.config.isolation = "process"
        one.setup = replace(one.setup, target=Mortal(one.parts, one.config, clock, hangs_at))
        return one

    return make


class TestLostWorker:
    @pytest.mark.parametrize("hangs_at", [2, 3, 4])
    def test_the_best_was_saved_before_and_no_new_worker_is_started(self, mortal, hangs_at):
        one = mortal(300, hangs_at)
        study = one()
        assert holds(study, 300)
        assert one.setup.target.restarts == 0
        assert study.model_path == one.folder / "model" / "model.toy"
        assert study.model_path.is_file()
        assert study.final.trial.config.fingerprint in {t.config.fingerprint for t in study.trials}
        assert study.final.evaluation == study.final.trial.evaluation
        assert [p for p in one.folder.iterdir() if "partial" in p.name] == []

    def test_the_first_trial_is_saved_before_the_strategy_estimates_anything(self, mortal):
        seen = []

        class Estimates(Few):
            """An estimate that exceeds its time ends the engine's process; it is asked for from here on."""

            def observe(self, trial):
                seen.append((one.folder / ".model.partial" / "model.toy").is_file())

        one = mortal(300, 99, make=lambda problem: Estimates(problem, 2))
        study = one()
        assert seen == [True, True]
        assert study.model_path.is_file()

    def test_one_that_hangs_in_the_first_trial_leaves_no_model(self, mortal):
        one = mortal(120, 1)
        study = one()
        assert holds(study, 120)
        assert (study.status, study.stop_reason, study.model_path) == (Status.FAILED, "timeout", None)

    @pytest.mark.parametrize(
        ("evaluation", "says"),
        [(None, "during the first trial"), (object(), "before the best model was measured again and saved")],
    )
    def test_the_reason_for_no_model_says_whether_a_trial_was_measured(self, evaluation, says):
        box = SimpleNamespace(timeout=60.0, spent=50.0, least_trial=8.0, least_end=5.0)
        study = SimpleNamespace(trials=[SimpleNamespace(error="", evaluation=evaluation)], stop_reason="timeout")
        told = _Run._why_no_model(SimpleNamespace(box=box), study)
        assert told.startswith(f"tuning.timeout: 60 s ended {says}; give the run more than 63 s")

    def test_what_a_killed_run_had_saved_early_is_removed_by_the_next(self, boxed):
        boxed(150)()
        one = boxed(200)
        left = one.folder / ".model.partial"
        left.mkdir()
        (left / "model.toy").write_text("of a run that was killed")
        study = one()
        assert not left.exists()
        assert study.model_path.is_file()

    def test_the_first_that_was_evaluated_on_everything_replaces_one_that_stopped_early(self, mortal, tmp_path):
        one = mortal(300, 99, make=lambda problem: Few(problem, 1))
        final = one().final
        keeper = Keeper(one.setup.target, tmp_path, make_box(one.config), toy_problem(OPS).goal)
        keeper.save(replace(final.trial, state=TrialState.PRUNED))
        assert not keeper.due(final.trial)  # it is the same configuration
        other = replace(final.trial, config=final.trial.config.with_op("op5"))
        assert keeper.due(other)
        assert not keeper.due(None)

    def test_the_first_that_keeps_the_goal_replaces_one_that_does_not(self, mortal, tmp_path):
        one = mortal(300, 99, make=lambda problem: Few(problem, 1))
        final = one().final
        box = make_box(one.config)
        box.may_save = lambda spent, since: False
        keeper = Keeper(one.setup.target, tmp_path, box, toy_problem(OPS).goal)
        keeper.save(replace(final.trial, evaluation=replace(final.evaluation, metrics=(("accuracy", 0.5),))))
        other = final.trial.config.with_op("op5")
        kept, missed = (("accuracy", 0.9),), (("accuracy", 0.6),)
        assert keeper.due(replace(final.trial, config=other, evaluation=replace(final.evaluation, metrics=kept)))
        assert not keeper.due(replace(final.trial, config=other, evaluation=replace(final.evaluation, metrics=missed)))

    def test_the_best_is_saved_as_soon_as_it_is_measured(self, mortal):
        lossy = tuple(ToyOp(f"op{i}", loss=0.2 * (i == 0), time_us=60) for i in range(8))
        seen = []

        class Second(Few):
            """The first trial misses the goal, the second keeps it."""

            def __init__(self, problem):
                super().__init__(problem, 0)
                default = problem.space.default()
                self.left = [problem.space.fall_back(default, "op0"), default]

            def observe(self, trial):
                saved = json.loads((one.folder / ".model.partial" / "model.toy").read_text())["config"]
                seen.append(Config.from_dict(saved) == trial.config)

        one = mortal(300, 99, ops=lossy, early_stop=False, make=Second)
        study = one()
        assert seen == [True, True]
        assert study.status is Status.MET

    def test_what_was_saved_early_is_not_saved_again(self, mortal):
        one = mortal(300, 99, make=lambda problem: Few(problem, 1))
        saves = []
        save = one.backend.save
        one.backend.save = lambda config, folder: (saves.append(config), save(config, folder))[1]
        study = one()
        assert saves.count(study.final.trial.config) == 1
        assert holds(study, 300)


class TestTooSmall:
    @pytest.mark.parametrize(
        ("timeout", "says"),
        [
            (5, "5 s ended before the model was loaded"),
            (12, "12 s ended before it was calibrated"),
            (18, "18 s ended before fp32 was measured"),
            (30, "30 s is too short for fp32, one trial and the end"),
        ],
    )
    def test_it_is_one_line_that_leaves_nothing(self, boxed, timeout, says):
        one = boxed(timeout)
        with pytest.raises(InputError) as caught:
            one()
        text = str(caught.value)
        assert text.startswith(f"tuning.timeout: {says}")
        assert "give the run more than" in text
        assert "\n" not in text
        assert not one.folder.exists()

    def test_a_box_as_large_as_it_said_holds(self, boxed):
        with pytest.raises(InputError) as caught:
            boxed(30)()
        needed = int(str(caught.value).split("give the run more than ")[1].split()[0])
        assert needed > 30
        study = boxed(needed + 1, "again")()
        assert holds(study, needed + 1)
        assert study.model_path.is_file()


class TestPlan:
    def test_the_plan_and_the_run_use_one_estimate(self, boxed):
        planned = plan(boxed(400).setup, StudyListener())
        study = boxed(400, "again", make=lambda problem: Few(problem, 28))()
        assert study.stop_reason == "timeout"
        # The plan rehearses the default, the run tries what has two operators more in fp32.
        assert planned.trial == pytest.approx(study.box.trial, rel=0.3)
        assert planned.end == pytest.approx(study.box.end_seconds(3), rel=0.1)
        assert len(study.trials) == pytest.approx(planned.expected_trials, abs=2)
        assert planned.seconds <= 400

    def test_a_plan_says_that_the_run_would_be_refused(self, boxed):
        found = plan(boxed(30).setup, StudyListener())
        assert found.expected_trials == 0
        assert "at least" in found.shortage
        assert plan(boxed(400, "again").setup, StudyListener()).shortage == ""

    def test_a_plan_says_how_many_samples_would_be_used(self, boxed):
        found = plan(boxed(100, count=2000).setup, StudyListener())
        assert found.fewer_samples.startswith(f"{found.samples} of 2,000 evaluation samples are used")
        assert plan(boxed(5000, "again").setup, StudyListener()).fewer_samples == ""


class Evaluations(StudyListener):
    """Counts runs of fp32 on more than one sample, and when the trials have started."""

    def __init__(self, one):
        self.backend, self.trials_from = one.backend, None
        self.read = []
        plain = Slow.predict

        def predict(model, batch):
            if not model._config.int8_ops and len(batch["x"]) > 1:
                self.read.append(len(batch["x"]))
            return plain(model, batch)

        self.predict = predict

    def trial_started(self, number, stage):
        if self.trials_from is None:
            self.trials_from = len(self.read)


class TestFewerSamples:
    def test_a_small_box_uses_fewer_samples_and_the_result_says_so(self, boxed):
        one, told = boxed(100, count=2000), Noticed()
        study = one(told)
        assert holds(study, 100)
        assert len(study.trials) >= 5
        used = study.extent.samples
        assert 100 <= used < 2000
        (text,) = (t for t in told.notices if "evaluation samples" in t)
        assert text.startswith(f"{used} of 2,000 evaluation samples are used")
        result = as_dict(study, one.setup)
        assert result["measure"]["samples"] == result["tuned"]["samples"] == used
        assert result["measure"]["samples_given"] == 2000
        assert f"measured on {used} of 2,000 samples" in verdict(result).plain

    def test_a_large_box_uses_all_samples(self, boxed):
        study = boxed(5000, make=lambda problem: Few(problem, 1))()
        assert (study.extent.samples, study.extent.samples_given) == (500, 500)

    def test_without_a_limit_all_samples_are_used(self, run):
        one = run()
        study = one()
        result = as_dict(study, one.setup)
        assert result["measure"]["samples"] == result["measure"]["samples_given"] == 500
        assert "samples" not in verdict(result).plain

    def test_a_run_that_resumes_uses_the_samples_of_the_earlier_trials(self, boxed):
        first = boxed(100, count=2000)()
        second = boxed(300, count=2000)()
        assert second.extent == first.extent
        assert any(trial.resumed for trial in second.trials)

    def test_a_run_without_a_limit_goes_on_with_them_too(self, boxed):
        first = boxed(100, count=2000)()
        one = boxed(300, count=2000, make=lambda problem: Few(problem, 1))
        one.config.tuning.timeout, one.config.tuning.max_trials = 0.0, 50
        study = one()
        assert study.extent.samples == first.extent.samples
        assert study.baseline.samples == first.baseline.samples

    def test_fp32_is_not_evaluated_again_after_its_first_measurement(self, boxed, monkeypatch):
        one = boxed(400, make=lambda problem: Few(problem, 2))
        seen = Evaluations(one)
        monkeypatch.setattr(Slow, "predict", seen.predict)
        study = one(seen)
        assert study.final.accuracy_loss_ci95 is not None
        assert sum(seen.read[: seen.trials_from]) >= study.baseline.samples
        assert seen.read[seen.trials_from :] == []

    def test_hopeless_trials_do_not_count_as_long_as_complete_ones(self, boxed):
        # No sample of int8 is right: trials stop after the first batches; a complete one takes 3 times as long.
        ops = tuple(ToyOp(f"op{i}", loss=0.9, time_us=60) for i in range(8))
        study = boxed(300, count=2000, ops=ops)()
        assert holds(study, 300)
        short = max(sum(dict(t.evaluation.seconds).values()) for t in study.trials)
        assert short < study.box.trial_seconds
        assert all(t.state is TrialState.PRUNED for t in study.trials)
        idle = study.box.timeout - study.seconds["total"]
        assert idle < 0.12 * 300  # 15 % if a complete trial had to fit before the whole end
        assert len(study.trials) > 20


class TestFirstTrial:
    """The box holds no complete trial, which is only seen once int8 runs."""

    def slow(self, boxed, **kwargs):
        one = boxed(60, **kwargs)
        one.backend.drag_from, one.backend.drag = 2, 40.0
        return one

    def test_it_leaves_the_default_measured_on_what_there_was(self, boxed):
        one = self.slow(boxed)
        study = one()
        assert holds(study, 60)
        assert (study.status, study.stop_reason) == (Status.MISSED, "timeout")
        (trial,) = study.trials
        assert trial.state is TrialState.PRUNED
        assert trial.evaluation.partial
        assert 0 < trial.evaluation.samples < study.baseline.samples
        assert study.shortfall is Shortfall.SAMPLES
        assert study.model_path.is_file()
        result = as_dict(study, one.setup)
        assert of_result(result) == 3
        assert f"measured on {trial.evaluation.samples} of 500 samples" in verdict(result).plain

    def test_it_is_measured_again_by_a_run_that_resumes(self, boxed):
        first = self.slow(boxed)()
        study = boxed(400, make=lambda problem: Few(problem, 0))()
        assert study.trials == []
        one = boxed(400, make=lambda problem: Same(problem, first.trials[0].config))
        (trial,) = one().trials
        assert trial.ok
        assert not trial.evaluation.partial

    def test_one_that_gives_no_batch_in_time_asks_for_more_time(self, boxed):
        one = boxed(60)
        one.backend.drag_from, one.backend.drag = 2, 3000.0
        study = one()
        result = as_dict(study, one.setup)
        assert (study.status, study.trials) == (Status.FAILED, [])
        assert of_result(result) == 2
        assert verdict(result).plain.startswith("failed: tuning.timeout: 60 s ended during the first trial; give the")

    def test_failures_of_the_engine_are_an_error_of_status_1_with_a_reason(self, boxed):
        ops = tuple(ToyOp(f"op{i}", fails=True) for i in range(3))
        one = boxed(100, ops=ops)
        study = one()
        result = as_dict(study, one.setup)
        assert study.status is Status.FAILED
        assert of_result(result) == 1
        assert "no configuration could be measured: op0 cannot run in int8 (" in verdict(result).plain


class Same(Few):
    def __init__(self, problem, config):
        super().__init__(problem, 0)
        self.left = [config]


class TestAFront:
    @pytest.mark.parametrize("timeout", [120, 200, 400, 1500])
    def test_a_run_with_a_front_ends_in_time_and_says_what_is_missing(self, boxed, timeout):
        one = boxed(timeout, costs={"sample": 0.01}, front=6)
        told = Noticed()
        study = one(told)
        assert holds(study, timeout), study.seconds["total"]
        assert study.model_path.is_file()
        points = study.front.points
        assert 2 <= len(points) <= 6
        assert {p.role for p in points} >= {"fp32", "chosen"}
        assert bool(study.front.notes) == (len(points) < 6)
        assert set(study.front.notes) <= set(told.notices)

    def test_more_time_gives_the_points_asked_for(self, boxed):
        study = boxed(3000, costs={"sample": 0.01}, front=4)()
        assert holds(study, 3000)
        assert len(study.front.points) == 4

    def test_too_little_time_for_a_front_is_said_in_words(self, boxed):
        study = boxed(120, front=12)()
        assert holds(study, 120)
        assert len(study.front.points) < 12
        assert any("tuning.timeout=120 left no time for more" in note for note in study.front.notes)
