"""Whether a goal is met: one answer, whoever is asked and however the run ends."""

import json
import warnings
from dataclasses import asdict

import numpy as np
import pytest
from omegaconf import OmegaConf

from nc_strategies import config, quantization
from nc_strategies.app import python, target
from nc_strategies.app import run as runs
from nc_strategies.app.replay import exit_status, render, replay
from nc_strategies.app.studies import Study
from nc_strategies.measuring.latency import Timing
from nc_strategies.measuring.measurer import Measurer
from nc_strategies.models.source import FileModelSettings, ModelSource
from nc_strategies.registry import Component
from nc_strategies.registry.registry import Registry
from nc_strategies.report import comparison, explain, table
from nc_strategies.report.progress import _best
from nc_strategies.report.run_files import RunFiles
from nc_strategies.study.study import StudyListener
from nc_strategies.testing import ToyOp, ToySettings

ALLOWED = 0.05
ACCURACY = {"within": 0.02, "outside": 0.2}
"""Share of samples that int8 loses; 0.05 is tolerated."""
SPEED = {"sure": (0.9, 0.01), "unsure": (0.95, 0.05), "slower": (1.1, 0.01)}
"""Latency of int8 relative to fp32, and by how much its blocks of runs differ: the half-width is 1.84 times that."""
ENDINGS = ("budget", "met", "interrupted")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of which each model's timing is known, with the toy backend installed under TensorFlow's name."""
    found = Registry([])
    for kind, name, path, schema in (
        ("backend", "tensorflow", "nc_strategies.testing:ToyBackend", ToySettings),
        ("model", "toy", "nc_strategies.models.source:FileModel", FileModelSettings),
    ):
        found.components[kind, name] = Component(kind, name, path, schema)
    for module in (runs, target, python):
        monkeypatch.setattr(module, "registry", lambda: found)
    return Machine(tmp_path, monkeypatch)


class Machine:
    def __init__(self, folder, monkeypatch):
        self.folder, self.monkeypatch = folder, monkeypatch
        self.progress, self.timings, self.interrupt_at, self.drift = [], 0, 0, False

    def prepare(self, accuracy, speed):
        model, labels = self.folder / "model.toy", np.arange(400) % 2
        model.write_text(json.dumps([asdict(ToyOp("a", loss=ACCURACY[accuracy])), asdict(ToyOp("b", "MatMul"))]))
        self.x, self.y = labels + (np.arange(400) * 0.618034) % 1.0, labels
        np.savez(self.folder / "data.npz", x=self.x, y=self.y)
        ratio, apart = SPEED[speed]

        def timing(_, models, runs, patience=1.0):
            self.timings += 1
            if self.timings == self.interrupt_at:
                raise KeyboardInterrupt
            now = 1e-3 * (1 + 0.5 * self.timings * self.drift)
            blocks = np.exp(np.repeat([apart, -apart, apart, -apart], 10))
            columns = [now * (ratio * blocks if m._config.int8_ops else np.ones(40)) for m in models]
            return Timing(np.array(columns).T)

        self.monkeypatch.setattr(Measurer, "_time", timing)

    def run(self, name, **tuning):
        """A run as the command line makes it; its exit status."""
        seen = self.progress = []

        class Line(StudyListener):
            def trial_finished(self, study, trial):
                seen.append(_best(study))

        self.monkeypatch.setattr(runs, "_progress", lambda _: Line())
        settings = config.RunConfig(
            strategy={"name": "basic"},
            backend={"name": "tensorflow"},
            model={"name": "toy", "path": str(self.folder / "model.toy")},
            data={"name": "npz", "path": str(self.folder / "data.npz"), "calibration_samples": 20},
            executor={"name": "serial"},
            measure=config.MeasureConfig(latency_runs=20, final_runs=20),
            tuning=config.TuningConfig(criterion="absolute", tolerable_loss=ALLOWED, **tuning),
        )
        return runs.run_job(OmegaConf.structured(settings), self.folder / name).status

    def end(self, ending):
        """A run that ends in one of the ways, or misses it; its exit status."""
        # fp32 is timed first, then each trial beside it.
        self.timings, self.interrupt_at = 0, 3 if ending == "interrupted" else 0
        status = self.run(
            ending, stop_when="met" if ending == "met" else "budget", max_trials=2 if ending == "interrupted" else 1
        )
        self.interrupt_at = 0
        return status

    def fit(self):
        """What `fit` gives, and its warnings."""
        settings = config.PostTrainingQuantConfig(
            tuning_criterion=config.TuningCriterion(max_trials=1),
            accuracy_criterion=config.AccuracyCriterion(criterion="absolute", tolerable_loss=ALLOWED),
        )
        batches = [(self.x[i : i + 50], self.y[i : i + 50]) for i in range(0, 400, 50)]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = quantization.fit(
                ModelSource("toy", {"toy": self.folder / "model.toy"}),
                settings,
                calib_dataloader=batches[:1],
                eval_dataloader=batches,
                eval_metric="top1",
                run_dir=self.folder / "fit",
                latency_runs=20,
                final_runs=20,
            )
        return found, [str(w.message) for w in caught if "model" in str(w.message)]


@pytest.mark.parametrize("speed", SPEED)
@pytest.mark.parametrize("accuracy", ACCURACY)
def test_trial_stop_rule_result_replay_and_fit_give_one_verdict(machine, accuracy, speed, capsys):
    machine.prepare(accuracy, speed)
    met = (accuracy, speed) == ("within", "sure")
    word = "met" if met else "missed"
    reason = None if met else "accuracy" if accuracy == "outside" else "objective"
    for ending in ENDINGS:
        status = machine.end(ending)
        run = RunFiles.read(machine.folder / ending)
        said = {
            "trial": run.goal.met(run.trials[0].evaluation),
            "progress": machine.progress[-1].endswith("x (met)"),
            "stop rule": run.result["stop_reason"] == "met" if ending == "met" else met,
            "result": run.result["status"] == "met",
            "table": "goal met" in (shown := capsys.readouterr().out),
            "page": explain.headline(run) == "Goal met",
        }
        assert said == dict.fromkeys(said, met), ending
        assert f"goal {word}" in shown
        assert (run.result["stop_reason"] == "interrupted") == (ending == "interrupted")
        assert status == (130 if ending == "interrupted" else 0 if met else 3)
        assert run.result["status"] == word
        expected = "samples" if ending == "interrupted" and run.trials[0].state == "pruned" else reason
        assert run.result["goal"]["shortfall"] == expected
        again = replay(machine.folder / ending)
        assert (again["goal"]["met"], again["goal"]["then_met"], exit_status(again)) == (met, met, 0 if met else 3)
        assert f"the goal is {word} now, was {word} then" in render(again)
    model, told = machine.fit()
    assert (model is not None) is met
    assert model is None or model.study.status == "met"
    assert json.loads((machine.folder / "fit" / "result.json").read_text())["status"] == word
    words = {
        "accuracy": "no model was accurate enough: the closest has 0.7",
        "objective": "no accurate model was surely faster than fp32: the closest is",
    }
    assert len(told) == (not met)
    assert met or told[0].startswith(words[reason])


@pytest.mark.parametrize("ending", ["budget", "interrupted"])
def test_figures_side_by_side_come_from_one_measurement(machine, ending):
    # Each time that anything is timed, the machine is slower than the time before.
    machine.prepare("within", "unsure")
    machine.drift = True
    machine.end(ending)
    run = RunFiles.read(machine.folder / ending)
    result = run.result
    base, tuned = result["baseline"], result["tuned"]
    assert result["speedup"] == pytest.approx(base["latency_ms"] / tuned["latency_ms"], rel=1e-9)
    assert base["latency_ms"] == pytest.approx(min(base["as_given_latency_ms"], base["all_float_latency_ms"]))
    for part in (base, tuned):
        low, high = part["latency_ms_ci95"]
        assert low <= part["latency_ms"] <= high
    assert result["speedup_ci95"][0] < result["speedup"] < result["speedup_ci95"][1]
    page = (run.path / "report.html").read_text()
    speedup = f"{result['speedup']:.2f} times"
    assert f"The int8 model is {speedup} as fast as fp32" in page
    assert f'<dd class="figure">{tuned["latency_ms"]:.3g} ms</dd>' in page
    assert f"fp32: {base['latency_ms']:.3g} ms" in page
    assert f"{result['speedup']:.2f}" == table.row(result)[table.COLUMNS.index("speed-up")]
    assert f"{speedup} as fast" in table.verdict(result).plain
    notebook = Study(run.path)
    assert f"{speedup} as fast" in notebook._repr_html_()
    for row in notebook.rows():
        assert row["speedup"] == pytest.approx(row["fp32_latency_ms"] / row["latency_ms"], rel=1e-9)
    comparison.write(machine.folder, [{**result, "run": ending}])
    assert f"<td>{result['speedup']:.2f}</td>" in (machine.folder / "comparison.html").read_text()
    again = replay(run.path)["speedup"]
    assert again["then"] == result["speedup"]
    assert again["now"] == pytest.approx(result["speedup"])
