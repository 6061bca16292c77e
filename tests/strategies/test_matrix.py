"""Every installed strategy in whole runs: on the toy backend, and on the bundled sample with both engines."""

import importlib.util
import json
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest

import nc_strategies
from nc_strategies import samples
from nc_strategies.api import Config, ModelSource, Preprocess, Raw
from nc_strategies.config import MeasureConfig, RunConfig, SpaceConfig, TuningConfig
from nc_strategies.errors import InputError
from nc_strategies.measuring.local_target import LocalTarget, TargetParts
from nc_strategies.metrics.classification import Top1
from nc_strategies.registry import registry
from nc_strategies.study.executor import SerialExecutor
from nc_strategies.study.folder import RunFolder
from nc_strategies.study.setup import Setup
from nc_strategies.study.tune import tune
from nc_strategies.testing import ToyBackend, ToyOp, ToySettings, simulated_time

SETTINGS = {"sigopt": {"driver": "local"}, "exhaustive": {"limit": 10**12}}
NO_TORCH = importlib.util.find_spec("torch") is None
OPTUNA = {"tpe", "gp", "nsga2", "cmaes", "optuna", "sigopt"}
"""Strategies that import Optuna."""
STRATEGIES = [name for name in registry().names("strategy") if name != "gp" or not NO_TORCH]
"""Without torch, ``gp`` is refused: its plugin's tests hold that."""
BUDGET, FLOAT_ONLY = 8, {"activation": {"dtype": ["fp32"]}, "weight": {"dtype": ["fp32"]}}
OPS = (
    ToyOp("a", loss=0.001, time_us=60),
    ToyOp("b", "MatMul", loss=0.05, time_us=30),
    ToyOp("c", time_us=60),
    ToyOp("d", "Gemm", time_us=80, loss=0.002),
)


class ToyWithGradients(ToyBackend):
    """The operators' losses stand for their Hessian traces."""

    gradients = True

    def hessian(self, batch, draws):
        return {op.name: op.loss for op in self.ops}


class Interrupted(LocalTarget):
    """A target that is interrupted in its n-th trial."""

    left = -1

    def measure(self, config, partial=False):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().measure(config, partial)


def toy_run(folder, name, interrupt_at=-1, simulated=True, samples=500, **tuning):
    """A whole run on the toy backend."""
    model = folder.parent / f"{folder.name}.toy"
    model.write_text(json.dumps([asdict(op) for op in OPS]))
    labels = np.arange(samples) % 2
    x = labels + (np.arange(samples) * 0.618034) % 1.0
    found, chosen = registry(), {"name": name, **SETTINGS.get(name, {})}
    config = RunConfig(
        strategy=chosen,
        backend={"name": "toy"},
        model={"name": "toy"},
        data={"name": "numbers"},
        executor={"name": "serial"},
        tuning=TuningConfig(**{"max_trials": BUDGET, **tuning}),
        space=SpaceConfig(op_type_dict={"Gemm": FLOAT_ONLY}),
        measure=MeasureConfig(latency_runs=20, final_runs=20),
    )
    config.validate()
    settings, kind = found.settings("strategy", chosen), found.target(found.get("strategy", name))
    parts = TargetParts(
        ToyWithGradients(ToySettings(simulated=simulated)),
        ModelSource("toy", {"toy": model}),
        Raw("data.path", {"x": x}, labels),
        Raw("data.path", {"x": x[:20]}),
        Preprocess(),
        Top1(),
    )
    target = Interrupted(parts, config)
    target.left = interrupt_at
    kind.check(settings)
    check_model = partial(kind.check_model, settings)
    setup = Setup(config, target, lambda problem: kind(settings, problem), SerialExecutor(), {}, check_model)
    return tune(setup, RunFolder(folder))


@pytest.fixture(scope="module", params=STRATEGIES)
def whole(request, tmp_path_factory):
    """The name of a strategy, and its run on the toy backend."""
    return request.param, toy_run(tmp_path_factory.mktemp(request.param) / "run", request.param)


def fingerprints(study):
    return [trial.config.fingerprint for trial in study.trials]


def test_a_run_ends_within_its_budget_and_repeats_nothing(whole):
    _, study = whole
    assert study.stop_reason in ("budget", "finished")
    assert 1 <= len(study.trials) <= BUDGET
    assert len(set(fingerprints(study))) == len(study.trials)
    assert all(trial.note for trial in study.trials)


def test_a_run_keeps_to_the_users_overrides(whole):
    _, study = whole
    assert all(trial.config.schemes["d"].is_float for trial in study.trials)


def test_a_run_gives_the_best_of_its_trials(whole):
    _, study = whole
    chosen, best = study.final.trial.config.fingerprint, study.goal.best(study.trials)
    assert chosen in fingerprints(study)
    done = next(t.evaluation for t in study.trials if t.config.fingerprint == chosen)
    assert study.goal.feasible(done) == study.goal.feasible(best.evaluation)
    assert study.goal.cost(done) <= study.goal.cost(best.evaluation) * (1 + study.goal.tie)
    saved = json.loads((study.model_path).read_text())["config"]
    assert Config.from_dict(saved).fingerprint == chosen


def test_an_interrupted_run_resumes_with_the_same_trials(whole, tmp_path):
    name, study = whole
    at = min(3, len(study.trials))
    first = toy_run(tmp_path / "run", name, interrupt_at=at)
    assert first.stop_reason == "interrupted"
    again = toy_run(tmp_path / "run", name)
    assert [trial.resumed for trial in again.trials] == [i < at - 1 for i in range(len(again.trials))]
    assert fingerprints(again) == fingerprints(study)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_run_keeps_to_its_time_box(name, tmp_path):
    # A time so short leaves none to import an optimizer, or to create its database.
    toy_run(tmp_path / "before", name, samples=100, max_trials=1)
    slow = 1.5 if name in OPTUNA else 0.0
    study = toy_run(tmp_path / "run", name, simulated=False, samples=100, max_trials=0, timeout=1.5 + slow)
    assert study.stop_reason in ("timeout", "finished")
    assert study.seconds["total"] < 2.5 + 2 * slow
    assert study.final is not None


ENGINES = ("onnxruntime", "tensorflow")
QUICK = {"max_trials": 2, "latency_runs": 20, "final_runs": 20, "tolerable_loss": 0.05, "calibration_samples": 40}


@pytest.fixture(scope="module")
def pictures():
    with np.load(samples.evaluation_images()) as file:
        return file["x"][:200].astype(np.float32) * np.float32(samples.SCALE) + samples.OFFSET, file["y"][:200]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_runs_on_every_engine(name, engine, pictures, tmp_path, few_timings):
    pytest.importorskip(engine)
    backend = registry().target(registry().get("backend", engine))
    model = samples.onnx_model() if engine == "onnxruntime" else samples.keras_model()
    chosen = {"strategy": {"name": name, **SETTINGS.get(name, {})}, "backend": engine, "run_dir": tmp_path / "run"}

    def start():
        with simulated_time(backend):
            return nc_strategies.tune(model, pictures, **chosen, **QUICK)

    if not backend.gradients and name == "hawq_v2":
        with pytest.raises(InputError, match="needs gradients"):
            start()
        assert not (tmp_path / "run").exists()
        return
    study = start()
    assert 1 <= len(set(fingerprints(study))) == len(study.trials) <= QUICK["max_trials"]
    assert study.status == "met"
    assert study.result["strategy"] == name
    assert study.model_path.exists()
