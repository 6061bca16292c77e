"""The token given in Python: it reaches the server and nothing else."""

import io
import logging
import os
import traceback

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from watching import Watch

from nc_strategies import config, quantization, samples
from nc_strategies.backends.onnxruntime.backend import OnnxRuntimeBackend
from nc_strategies.backends.tensorflow.export import export_in_child
from nc_strategies.errors import InputError
from nc_strategies.models import ModelSource
from nc_strategies.testing import simulated_time

TOKEN = "secret-token-123456"
QUICK = {"latency_runs": 20, "final_runs": 20}


@pytest.fixture(autouse=True)
def simulated():
    """Whether int8 is faster is not the question here."""
    with simulated_time(OnnxRuntimeBackend):
        yield


@pytest.fixture
def task():
    """A small model, calibration batches and an evaluation: the share of samples answered as in fp32."""
    rng, wires = np.random.default_rng(0), ["x", "a", "b", "scores"]
    weights = [numpy_helper.from_array(rng.normal(size=(16, 16)).astype(np.float32), f"w{i}") for i in range(3)]
    nodes = [helper.make_node("MatMul", [wires[i], f"w{i}"], [wires[i + 1]], f"product{i}") for i in range(3)]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 16])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 16])],
        weights,
    )
    fp32 = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = rng.normal(size=(100, 16)).astype(np.float32)

    def answers(model):
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {"x": x})[0].argmax(1)

    right = answers(fp32)
    return fp32, [(x[:50], right[:50])], lambda model: float((answers(model) == right).mean())


def conf(**settings):
    kwargs = {
        "sigopt_api_token": TOKEN,
        "sigopt_project_id": "nc-demo",
        "sigopt_experiment_name": "nc-tune",
        **settings,
    }
    return config.PostTrainingQuantConfig(
        quant_level=1,
        tuning_criterion=config.TuningCriterion(strategy="sigopt", strategy_kwargs=kwargs, timeout=600, max_trials=4),
        accuracy_criterion=config.AccuracyCriterion(tolerable_loss=0.5),
    )


def shown_in(folder):
    return [path for path in folder.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def test_a_run_with_the_token_from_python_shows_it_nowhere(task, server, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("SIGOPT_API_URL", server.url)
    monkeypatch.chdir(tmp_path)
    model, calibration, eval_func = task
    everything = io.StringIO()
    handler = logging.StreamHandler(everything)
    logging.getLogger().addHandler(handler)
    settings = conf()
    try:
        with Watch(TOKEN, os.getpid()) as watch:
            q_model = quantization.fit(
                model, settings, calib_dataloader=calibration, eval_func=eval_func, run_dir="run", **QUICK
            )
    finally:
        logging.getLogger().removeHandler(handler)
    assert (watch.found, watch.looks > 3) == (set(), True)
    assert q_model.study.result["engine"] == "http"
    assert [e["name"] for e in server.experiments.values()] == ["nc-tune"]
    assert len(q_model.study.trials) == 4
    assert not shown_in(tmp_path)
    printed = capfd.readouterr()
    text = "".join(
        [
            printed.out,
            printed.err,
            everything.getvalue(),
            repr(settings),
            repr(q_model),
            repr(q_model.study),
            q_model.study._repr_html_(),
        ]
    )
    assert TOKEN not in text
    assert "SIGOPT_API_TOKEN" not in os.environ


def test_a_crash_shows_the_token_nowhere(task, server, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("SIGOPT_API_URL", server.url)
    model, calibration, eval_func = task

    def broken(problem, trial):
        raise RuntimeError(f"a crash with {conf().tuning_criterion.strategy_kwargs['sigopt_api_token']!s} in it")

    monkeypatch.setattr("nc_strategies_sigopt.form.outcome", broken)
    with pytest.raises(RuntimeError, match=r"a crash with \*\*\* in it") as caught:
        quantization.fit(
            model, conf(), calib_dataloader=calibration, eval_func=eval_func, run_dir=tmp_path / "run", **QUICK
        )
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    printed = capfd.readouterr()
    assert TOKEN not in shown.replace(f"TOKEN = {TOKEN!r}", "") + printed.out + printed.err
    assert not shown_in(tmp_path)
    assert "a crash with ***" in (tmp_path / "run" / "nc_strategies.log").read_text()


def test_a_rejected_token_is_an_input_error_that_does_not_show_it(task, server, tmp_path, monkeypatch):
    monkeypatch.setenv("SIGOPT_API_URL", server.url)
    model, calibration, eval_func = task
    with pytest.raises(InputError, match="sigopt_api_token: is rejected") as caught:
        quantization.fit(
            model,
            conf(sigopt_api_token="wrong-token-777"),
            calib_dataloader=calibration,
            eval_func=eval_func,
            run_dir=tmp_path / "run",
            **QUICK,
        )
    assert "wrong-token-777" not in str(caught.value) + repr(vars(caught.value))
    assert not (tmp_path / "run").exists()


def test_an_empty_token_falls_back_to_the_environment(task, server, tmp_path, monkeypatch):
    monkeypatch.setenv("SIGOPT_API_URL", server.url)
    monkeypatch.setenv("SIGOPT_API_TOKEN", TOKEN)
    model, calibration, eval_func = task
    q_model = quantization.fit(
        model,
        conf(sigopt_api_token=None),
        calib_dataloader=calibration,
        eval_func=eval_func,
        run_dir=tmp_path / "run",
        **QUICK,
    )
    assert q_model.study.result["engine"] == "http"


@pytest.mark.slow
def test_a_process_that_converts_a_model_is_started_without_the_token(tmp_path, monkeypatch):
    monkeypatch.setenv("SIGOPT_API_TOKEN", TOKEN)
    with Watch(TOKEN, os.getpid()) as watch:
        export_in_child(ModelSource("fashion", {"keras": samples.keras_model()}), tmp_path)
    assert any("nc_strategies.backends.tensorflow.export" in line for line in watch.children)
    assert not watch.found
