"""`nc_strategies.tune` with the engine in a process of its own, and what is refused where it is not."""

import subprocess

import onnxruntime
import pytest

import nc_strategies
from nc_strategies import samples
from nc_strategies.errors import EngineError, InputError
from nc_strategies.metrics.classification import Top1

QUICK = {"max_trials": 2, "latency_runs": 20, "final_runs": 20, "criterion": "absolute", "tolerable_loss": 0.5}


@pytest.fixture
def processes(monkeypatch):
    """Every worker that is started."""
    started = []
    popen = subprocess.Popen

    def watched(command, **options):
        process = popen(command, **options)
        if "nc_strategies.measuring.worker.server" in command:
            started.append(process)
        return process

    monkeypatch.setattr(subprocess, "Popen", watched)
    return started


def test_a_model_and_samples_in_memory_are_tuned_in_another_process(proto, pictures, tmp_path, processes):
    x, y = pictures
    batches = [(x[i : i + 50], y[i : i + 50]) for i in range(0, 600, 50)]
    study = nc_strategies.tune(
        proto, batches, isolation="process", trial_timeout=300, run_dir=tmp_path / "run", memory_limit=8000, **QUICK
    )
    assert study.result["trials"]["ok"] == 2
    onnxruntime.InferenceSession(study.model_path, providers=["CPUExecutionProvider"])
    (worker,) = processes
    assert worker.returncode is not None  # it has ended with the run


def test_a_run_in_this_process_can_be_resumed_in_another(proto, pictures, tmp_path, processes):
    first = nc_strategies.tune(proto, pictures, run_dir=tmp_path / "run", **QUICK)
    more = nc_strategies.tune(
        proto, pictures, run_dir=tmp_path / "run", isolation="process", **{**QUICK, "max_trials": 3}
    )
    assert len(processes) == 1
    assert more.result["trials"]["resumed"] == 2
    assert more.result["baseline"]["accuracy"] == first.result["baseline"]["accuracy"]


def test_a_trial_that_takes_too_long_has_failed(proto, pictures, tmp_path):
    with pytest.raises(EngineError, match="trial_timeout"):
        nc_strategies.tune(
            proto,
            pictures,
            isolation="process",
            trial_timeout=0.001,
            max_consecutive_failures=1,
            run_dir=tmp_path / "run",
            **QUICK,
        )


@pytest.mark.parametrize("limit", [{"trial_timeout": 60}, {"stage_timeout": 60.0}, {"memory_limit": 4000}])
def test_a_limit_that_nothing_enforces_is_refused(pictures, tmp_path, limit):
    (name,) = limit
    with pytest.raises(InputError, match=rf"^tuning\.{name}: is .* isolation='process'") as caught:
        nc_strategies.tune(samples.onnx_model(), pictures, run_dir=tmp_path / "run", **limit)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"eval_func": lambda model: 0.5}, "eval_func: is a function of this process"),
        ({"metric": Top1()}, r"metric: is an object of this process \(Top1\)"),
        ({"isolation": "thread"}, "isolation: is 'thread'"),
        ({"backend": {"name": "onnxruntime", "speed": 3}}, r"backend\.speed"),
    ],
)
def test_what_cannot_travel_is_refused_by_name(pictures, tmp_path, given, says, processes):
    arguments = {"isolation": "process", "run_dir": tmp_path / "run", **given}
    with pytest.raises(InputError, match=f"^{says}"):
        nc_strategies.tune(samples.onnx_model(), pictures, **arguments)
    assert not (tmp_path / "run").exists()
    assert processes == []


def test_the_time_limit_holds_in_this_process_too(pictures, tmp_path):
    study = nc_strategies.tune(
        samples.onnx_model(),
        pictures,
        timeout=30,
        run_dir=tmp_path / "run",
        max_trials=0,
        strategy="random",
        criterion="absolute",
        tolerable_loss=0.5,
    )
    assert study.result["seconds"]["total"] <= 33
    assert study.result["stop_reason"] in ("timeout", "finished")
