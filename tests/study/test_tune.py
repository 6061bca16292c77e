"""Whole runs: budgets, goals, failures, interrupts, resuming."""

import itertools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from nc_strategies.api import Config, InputError, Metric, Prediction, Preprocess, Raw, Strategy, TrialState
from nc_strategies.study.study import Status, StudyListener
from nc_strategies.testing import ToyOp
from nc_strategies.testing.toy import ToyExecutable


class Scripted(Strategy):
    """Proposes what it is told, and remembers what it was shown."""

    def __init__(self, problem, configs):
        super().__init__(None, problem)
        self.configs = iter(configs(problem.space))
        self.observed = []
        self.closed = 0

    def propose(self):
        return next(self.configs, None)

    def observe(self, trial):
        self.observed.append(trial)

    def close(self):
        self.closed += 1


def scripted(configs):
    return lambda problem: Scripted(problem, configs)


def all_neighbours(space):
    return [space.default(), *space.neighbours(space.default())]


class TestBudget:
    def test_a_run_spends_all_its_trials_and_leaves_the_best(self, run):
        one = run(max_trials=6)
        study = one()
        assert (study.stop_reason, len(study.trials)) == ("budget", 6)
        assert [line["number"] for line in one.journal()] == [1, 2, 3, 4, 5, 6]
        assert study.final is not None
        assert study.final.trial in study.trials
        assert study.model_path.is_file()
        assert study.model_path.is_relative_to(one.folder)

    def test_no_trial_starts_after_the_timeout(self, run):
        one = run(max_trials=0, timeout=2.0)
        begin, build = time.monotonic(), one.backend.build

        def until_the_time_is_over(config):
            if len(one.backend.built) == 2:  # fp32 and a trial
                time.sleep(max(0.0, begin + 2.5 - time.monotonic()))
            return build(config)

        one.backend.build = until_the_time_is_over
        study = one()
        assert study.stop_reason == "timeout"
        assert len(study.trials) <= 2

    def test_a_run_stops_at_the_first_model_that_meets_the_goal_when_asked_to(self, run):
        configs = scripted(
            lambda space: [
                space.default(),
                space.fall_back(space.default(), "b"),
                space.fall_back(space.default(), "a"),
            ]
        )
        study = run(make=configs, stop_when="met", criterion="absolute", tolerable_loss=0.01)()
        assert (study.stop_reason, len(study.trials), study.status) == ("met", 2, Status.MET)
        assert study.final.trial.number == 2

    def test_without_being_asked_it_goes_on(self, run):
        configs = scripted(lambda space: [space.fall_back(space.default(), "b"), space.default()])
        study = run(make=configs, criterion="absolute", tolerable_loss=0.01)()
        assert (study.stop_reason, len(study.trials), study.status) == ("finished", 2, Status.MET)

    def test_what_the_strategy_predicts_and_why_it_ends_are_kept(self, run):
        class Predicting(Scripted):
            def propose(self):
                config = super().propose()
                self.predicted = Prediction(0.5, 0.1) if config is not None else None
                self.ended = "" if config is not None else "all was said"
                return config

        one = run(make=lambda problem: Predicting(problem, lambda space: [space.default()]))
        study = one()
        assert (study.stop_reason, study.stop_note) == ("finished", "all was said")
        assert [t.predicted for t in study.trials] == [Prediction(0.5, 0.1)]
        assert one.journal()[0]["predicted"] == {"cost": 0.5, "cost_sd": 0.1, "loss": None, "loss_sd": None}

    def test_a_goal_that_nothing_meets_leaves_the_closest_model(self, run):
        study = run(make=scripted(all_neighbours), criterion="absolute", tolerable_loss=-0.05, max_trials=20)()
        assert study.status is Status.MISSED
        best = max(t.evaluation.metric("accuracy") for t in study.trials)
        assert study.final.trial.evaluation.metric("accuracy") == best
        assert study.model_path.is_file()


class TestFailures:
    def test_a_failed_trial_is_recorded_with_its_reason_and_the_run_goes_on(self, run, ops):
        bad = [ToyOp("a"), ToyOp("b", fails=True)]
        one = run(ops=bad, make=scripted(lambda s: [s.default(), s.fall_back(s.default(), "b")]))
        study = one()
        assert [t.state for t in study.trials] == [TrialState.FAILED, TrialState.OK]
        assert study.trials[0].error == "b cannot run in int8"
        assert one.journal()[0]["error"] == "b cannot run in int8"
        assert [t.state for t in one.strategies[0].observed] == [TrialState.FAILED, TrialState.OK]

    def test_an_unexpected_error_is_a_failed_trial_that_names_its_type(self, run):
        one = run(max_trials=2)
        measured = itertools.count()

        class Moody(Metric):
            def compute(self, outputs, labels):
                if next(measured) == 1:
                    raise ZeroDivisionError("no samples today\nmore")
                return float((outputs.argmax(1) == labels).mean())

        one.parts.metric = Moody()
        study = one()
        assert [t.error for t in study.trials] == ["ZeroDivisionError: no samples today", None]

    def test_failures_in_a_row_stop_the_run_without_a_model(self, run):
        def configs(space):
            return [c for c in all_neighbours(space) if not c.schemes["a"].is_float]

        study = run(
            ops=[ToyOp("a", fails=True), ToyOp("b")], make=scripted(configs), max_trials=100, max_consecutive_failures=5
        )()
        assert (study.stop_reason, study.status, len(study.trials)) == ("failures", Status.FAILED, 5)
        assert (study.final, study.model_path) == (None, None)
        assert study.seconds["total"] > 0

    def test_the_default_is_ten_failures_and_a_success_between_starts_the_count_again(self, run):
        ops = [ToyOp("bad", fails=True), *(ToyOp(f"op{i}") for i in range(4))]

        def configs(space):
            int8 = [c for c in space.neighbours(space.default()) if not c.schemes["bad"].is_float]
            return [
                *int8[:9],
                space.fall_back(space.default(), "bad"),
                *int8[9:],
                *(c.with_op("bad", scheme=space.ops["bad"].schemes[1]) for c in int8[:12]),
            ]

        study = run(ops=ops, make=scripted(configs), max_trials=100)()
        states = [t.state for t in study.trials]
        assert states == [TrialState.FAILED] * 9 + [TrialState.OK] + [TrialState.FAILED] * 10
        assert study.stop_reason == "failures"
        assert study.final.trial.number == 10

    def test_a_metric_that_is_nan_is_a_failed_trial(self, run):
        one = run(max_trials=2)
        measured = itertools.count()

        class Nan(Metric):
            def compute(self, outputs, labels):
                return 0.9 if next(measured) != 1 else float("nan")

        one.parts.metric = Nan()
        assert [t.state for t in one().trials] == [TrialState.FAILED, TrialState.OK]


class TestStrategies:
    def test_a_repeated_proposal_is_answered_from_the_history(self, run):
        one = run(make=scripted(lambda s: [s.default(), s.all_float(), s.default(), s.all_float(), s.default()]))
        study = one()
        assert [t.number for t in one.strategies[0].observed] == [1, 2, 1, 2, 1]
        assert (len(study.trials), len(one.journal()), study.stop_reason) == (2, 2, "finished")

    def test_a_strategy_that_only_repeats_itself_ends(self, run):
        study = run(make=scripted(lambda s: itertools.repeat(s.default())), max_trials=50)()
        assert (study.stop_reason, len(study.trials)) == ("finished", 1)

    def test_a_proposal_outside_the_space_is_an_error_and_the_strategy_is_closed(self, run):
        one = run(make=scripted(lambda s: [s.default(), Config(s.default().ops[1:])]))
        with pytest.raises(ValueError, match="proposed a configuration outside the space"):
            one()
        assert one.strategies[0].closed == 1
        assert len(one.journal()) == 1

    def test_the_error_of_a_proposal_outside_the_space_names_the_strategy(self, run):
        one = run(make=scripted(lambda s: [Config(s.default().ops[1:])]))
        with pytest.raises(ValueError, match="strategy random proposed"):
            one()

    def test_the_journal_has_a_trial_before_the_strategy_sees_it(self, run):
        one = run(max_trials=4)
        seen = []

        class Watching(Scripted):
            def observe(self, trial):
                seen.append((trial.number, len(one.journal())))

        one.make = lambda problem: Watching(problem, all_neighbours)
        one()
        assert seen == [(1, 1), (2, 2), (3, 3), (4, 4)]

    def test_a_strategy_is_closed_once(self, run):
        one = run(make=scripted(all_neighbours), max_trials=2)
        one()
        assert one.strategies[0].closed == 1

    def test_notes_and_stages_belong_to_their_trials(self, run):
        started = []

        class Listener(StudyListener):
            def trial_started(self, number, stage):
                started.append((number, stage))

        one = run(strategy="basic", max_trials=4)
        study = one(Listener())
        assert [t.note for t in study.trials][:1] == ["default int8 everywhere"]
        assert [line["note"] for line in one.journal()] == [t.note for t in study.trials]
        assert started == [(1, "default int8"), (2, "combinations"), (3, "combinations"), (4, "accumulate")]


class TestSameGraph:
    def test_the_same_executed_graph_is_measured_once(self, run):
        one = run(make=scripted(all_neighbours), max_trials=5)
        predictions = []

        class Same(ToyExecutable):
            def predict(self, batch):
                predictions.append(self.fingerprint)
                return super().predict(batch)

        def build(config):
            made = Same(one.backend.ops, config)
            made.fingerprint = "int8" if config.int8_ops else "fp32"
            return made

        one.backend.build = build
        study = one()
        assert len({replace(t.evaluation, seconds=()) for t in study.trials}) == 1
        assert len({t.config.fingerprint for t in study.trials}) == 5

    def test_seconds_of_one_measurement_are_counted_once(self, run):
        one = run(make=scripted(all_neighbours), max_trials=10)

        def build(config):
            made = ToyExecutable(one.backend.ops, config)
            made.fingerprint = "int8" if config.int8_ops else "fp32"
            return made

        one.backend.build = build
        study = one()
        parts = [study.baseline, study.trials[0].evaluation, study.final]
        assert study.seconds["latency"] == pytest.approx(sum(dict(part.seconds)["latency"] for part in parts))


class TestSeconds:
    def test_fp32_and_the_finalists_are_counted_too_and_nothing_is_counted_twice(self, run):
        study = run(make=scripted(all_neighbours), max_trials=4)()
        trials = sum(dict(t.evaluation.seconds).get("accuracy", 0.0) for t in study.trials)
        assert study.seconds["accuracy"] > trials
        assert set(study.seconds) == {
            "load",
            "calibrate",
            "build",
            "accuracy",
            "latency",
            "ceiling",
            "strategy",
            "save",
            "total",
        }
        assert sum(study.seconds.values()) - study.seconds["total"] < study.seconds["total"]

    def test_a_trial_counts_all_it_did_and_all_but_evaluating_and_timing_as_building(self, run):
        one = run(max_trials=2)
        build = one.backend.build

        def slow_to_close(config):
            model = build(config)
            close, executed = model.close, model.executed

            def closing():
                time.sleep(0.1)
                close()

            def looking():
                time.sleep(0.1)
                return executed()

            model.close, model.executed = closing, looking
            return model

        one.backend.build = slow_to_close
        study = one()
        took = [dict(trial.evaluation.seconds)["build"] for trial in study.trials]
        assert all(seconds >= 0.2 for seconds in took)


class TestInterrupt:
    def test_an_interrupt_inside_a_trial_keeps_what_was_measured_and_saves_the_best(self, run):
        one = run(max_trials=8)
        one.backend.interrupt_at = 5
        study = one()
        assert (study.stop_reason, len(study.trials)) == ("interrupted", 3)
        assert len(one.journal()) == 3
        assert study.final.trial is study.best
        assert study.model_path.is_file()

    def test_an_interrupt_before_the_first_trial_leaves_no_model(self, run):
        one = run()
        one.backend.interrupt_at = 2
        study = one()
        assert (study.stop_reason, study.status, study.trials) == ("interrupted", Status.FAILED, [])

    def test_an_interrupted_run_is_resumed_to_the_end_that_it_would_have_had(self, run):
        whole = run("whole", max_trials=8)()
        first = run("parts", max_trials=8)
        first.backend.interrupt_at = 6
        first()
        second = run("parts", max_trials=8)()
        assert second.stop_reason == "budget"
        assert [t.config for t in second.trials] == [t.config for t in whole.trials]
        assert [t.resumed for t in second.trials] == [True] * 4 + [False] * 4


class TestResume:
    @pytest.mark.parametrize("strategy", ["basic", "random"])
    def test_a_finished_run_measures_nothing_again_and_gives_the_same_proposals(self, run, strategy):
        first = run(strategy=strategy, max_trials=6)
        before = first()
        again = run(strategy=strategy, max_trials=6)
        after = again()
        tuned = {t.config.fingerprint for t in after.trials}
        finalists = again.backend.built[1:]
        assert len(first.backend.built) - len(again.backend.built) >= 6 - 3
        assert finalists.count(after.final.trial.config.fingerprint) >= 1
        # Three finalists and fp32 in a session for timing, the finalists again for their outputs, one to be saved.
        assert len(finalists) <= 4 + 3 + 1
        assert set(finalists) <= tuned | {after.space.all_float().fingerprint}
        assert [t.config for t in after.trials] == [t.config for t in before.trials]
        assert [t.evaluation for t in after.trials] == [t.evaluation for t in before.trials]
        assert all(t.resumed for t in after.trials)
        assert len(first.journal()) == 6

    def test_a_larger_budget_goes_on_where_the_run_ended(self, run):
        run(max_trials=3)()
        again = run(max_trials=6)
        study = again()
        assert [t.resumed for t in study.trials] == [True] * 3 + [False] * 3
        assert [t.number for t in study.trials] == [1, 2, 3, 4, 5, 6]
        assert [line["number"] for line in again.journal()] == [1, 2, 3, 4, 5, 6]
        assert [t.config for t in study.trials] == [t.config for t in run("whole", max_trials=6)().trials]

    def test_failed_trials_are_not_tried_again(self, run):
        ops = [ToyOp("a"), ToyOp("b", fails=True)]
        configs = scripted(lambda s: [s.default(), s.fall_back(s.default(), "b")])
        run(ops=ops, make=configs)()
        again = run(ops=ops, make=configs)
        study = again()
        assert study.trials[0].error == "b cannot run in int8"
        assert study.trials[0].config.fingerprint not in again.backend.built

    def test_a_torn_journal_measures_only_the_torn_trial_again(self, run):
        one = run(max_trials=4)
        before = one()
        path = one.folder / "trials.jsonl"
        path.write_bytes(path.read_bytes()[:-30])
        study = run(max_trials=4)()
        assert [t.resumed for t in study.trials] == [True, True, True, False]
        assert [t.config for t in study.trials] == [t.config for t in before.trials]
        assert [line["number"] for line in one.journal()] == [1, 2, 3, 4]

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"seed": 1}, "seed"),
            ({"tolerable_loss": 0.5}, "tolerable_loss"),
            ({"strategy": "basic"}, "strategy"),
            ({"ops": (ToyOp("a"), ToyOp("b"))}, "model_sha256, space"),
        ],
    )
    def test_another_problem_in_the_same_folder_is_refused_with_what_differs(self, run, change, named):
        one = run(max_trials=2)
        one()
        files = sorted((p, p.read_bytes()) for p in one.folder.rglob("*") if p.is_file())
        with pytest.raises(InputError, match=rf"^run_dir: .* holds a run with other settings: {named} \("):
            run(max_trials=2, **change)()
        assert sorted((p, p.read_bytes()) for p in one.folder.rglob("*") if p.is_file()) == files

    def test_other_data_in_the_same_folder_are_refused(self, run):
        run(max_trials=2)()
        other = run(max_trials=2)
        labels = other.parts.evaluation.labels.copy()
        labels[0] = 1 - labels[0]
        other.parts.evaluation = Raw("data.path", other.parts.evaluation.inputs, labels)
        with pytest.raises(InputError, match="other settings: data_sha256"):
            other()

    def test_settings_given_as_tuples_resume(self, run):
        for _ in range(2):
            one = run(max_trials=2)
            one.parts.preprocess = Preprocess(mean=(0.0,), std=(1.0,))
            study = one()
        assert all(t.resumed for t in study.trials)


class TestInput:
    @pytest.mark.parametrize(
        "spoil",
        [
            lambda one: setattr(one.parts, "evaluation", Raw("data.path", one.parts.evaluation.inputs)),
            lambda one: setattr(one.parts, "evaluation", Raw("data.path", {"x": np.zeros((4, 3))}, np.zeros(4))),
            lambda one: setattr(
                one.parts, "evaluation", Raw("data.path", one.parts.evaluation.inputs, one.parts.evaluation.labels + 5)
            ),
            lambda one: setattr(one.config.space, "op_type_dict", {"Gemm": {}}),
            lambda one: setattr(one.config.space, "excluded_precisions", ["int8", "uint8"]),
            lambda one: one.parts.model.files["toy"].write_text("no model"),
        ],
        ids=["no labels", "shape", "classes", "override", "nothing left", "model"],
    )
    def test_what_does_not_fit_is_an_input_error_that_leaves_nothing_behind(self, run, spoil):
        one = run()
        spoil(one)
        with pytest.raises(InputError) as caught:
            one()
        assert "\n" not in str(caught.value)
        assert not one.folder.exists()


class Threads(ThreadPoolExecutor):
    workers = 2

    def __init__(self):
        super().__init__(2)


class TestParallel:
    def test_two_trials_run_at_a_time_and_all_are_kept(self, run):
        running, most = [], []
        lock, both = threading.Lock(), threading.Event()
        with Threads() as executor:
            one = run(executor=executor, max_trials=6, make=scripted(all_neighbours))
            build = one.backend.build

            def slow(config):
                with lock:
                    running.append(config)
                    most.append(len(running))
                    if len(running) == 2:
                        both.set()
                if config.int8_ops:  # a trial, which waits for a second one beside it
                    both.wait(60)
                with lock:
                    running.remove(config)
                return build(config)

            one.backend.build = slow
            study = one()
        assert max(most) == 2
        assert (study.stop_reason, len(study.trials)) == ("budget", 6)
        assert sorted(line["number"] for line in one.journal()) == [1, 2, 3, 4, 5, 6]

    def test_a_configuration_under_way_is_not_measured_a_second_time(self, run):
        with Threads() as executor:
            one = run(executor=executor, make=scripted(lambda s: [s.default(), s.default()]))
            build = one.backend.build

            def slow(config):
                time.sleep(0.05)
                return build(config)

            one.backend.build = slow
            one()
        prints = [line["fingerprint"] for line in one.journal()]
        assert len(set(prints)) == len(prints)


def test_what_is_saved_is_what_was_measured(run):
    one = run(max_trials=4)
    study = one()
    saved = json.loads(study.model_path.read_text())
    assert saved["config"] == study.final.trial.config.to_dict()


def test_the_final_model_was_evaluated_on_all_samples_beside_fp32(run):
    study = run(max_trials=4)()
    final = study.final
    assert final.evaluation.samples == 500
    low, high = final.accuracy_loss_ci95
    loss = study.baseline.metric("accuracy") - final.evaluation.metric("accuracy")
    assert low <= loss <= high
    assert final.speedup_ci95[0] <= final.speedup <= final.speedup_ci95[1]
    assert final.speedup > 1.0
    assert final.executed.int8_count == len(final.trial.config.int8_ops)


class Noticed(StudyListener):
    """Remembers what the user is told, and how many trials there were then."""

    def __init__(self):
        self.notices, self.trials = [], 0

    def notice(self, text):
        self.notices.append((self.trials, text))

    def trial_finished(self, study, trial):
        self.trials += 1


class TestResolution:
    def test_a_goal_finer_than_the_samples_is_announced_before_the_trials(self, run):
        told = Noticed()
        study = run(max_trials=2, tolerable_loss=0.003)(told)
        ((when, text),) = told.notices
        assert when == 0
        assert "500 samples" in text
        assert not study.resolution.enough

    def test_a_goal_that_can_be_told_is_not(self, run):
        told = Noticed()
        study = run(max_trials=2, tolerable_loss=0.1)(told)
        assert told.notices == []
        assert study.certain is True

    def test_a_loss_within_the_noise_of_the_limit_is_not_certain(self, run):
        # One in a hundred is lost, twelve in a thousand are allowed: 500 samples cannot tell these apart.
        study = run(
            ops=(ToyOp("a", loss=0.01, time_us=60),), max_trials=1, tolerable_loss=0.012, criterion="absolute"
        )()
        assert (study.status, study.certain) == (Status.MET, False)
        assert study.resolution.observed


class TestEstimates:
    def test_a_strategy_may_ask_what_operators_and_configurations_do_to_the_outputs(self, run):
        asked = {}

        class Asks(Scripted):
            def propose(self):
                config = super().propose()
                if config is not None:
                    asked[config] = self.problem.divergence(config), dict(self.problem.sensitivity())
                return config

        one = run(
            ops=(ToyOp("a", loss=0.3, time_us=60), ToyOp("c", time_us=60)),
            make=lambda problem: Asks(problem, lambda space: [space.default(), space.all_float()]),
        )
        study = one()
        (int8, noise), (fp32, _) = asked.values()
        assert noise["a"] > noise["c"] == 0
        assert int8 == pytest.approx(noise["a"])
        assert fp32 == 0
        assert set(study.estimate_seconds) == {"sensitivity", "divergence"}
        assert min(study.estimate_seconds.values()) > 0
        # They are a part of what the strategy takes.
        assert sum(study.estimate_seconds.values()) < study.seconds["strategy"]

    def test_a_strategy_may_ask_what_a_configuration_would_cost(self, run):
        predicted = {}

        class Asks(Scripted):
            def propose(self):
                config = super().propose()
                if config is not None:
                    predicted[config] = self.problem.latency_model(config)
                    assert self.problem.latency_terms()(config) == predicted[config]
                return config

        one = run(
            ops=(ToyOp("a", time_us=400, int8_time_us=50), ToyOp("c", time_us=400, int8_time_us=50)),
            make=lambda problem: Asks(problem, lambda space: [space.default(), space.all_float()]),
        )
        study = one()
        # An eighth of fp32's time, which the model takes a few steps to believe in.
        assert predicted[study.space.default()] == pytest.approx(0.125, rel=0.2)
        assert predicted[study.space.all_float()] == pytest.approx(1.0, rel=0.1)
        assert study.estimate_seconds["profile"] > 0
