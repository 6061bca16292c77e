"""`nc_strategies.tune`, with a real engine on the bundled model."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml

import nc_strategies
from nc_strategies import samples
from nc_strategies.errors import EngineError, InputError

QUICK = {"max_trials": 3, "latency_runs": 20, "final_runs": 20, "tolerable_loss": 0.05}


@pytest.fixture(scope="module")
def study(tmp_path_factory, pictures):
    return nc_strategies.tune(samples.onnx_model(), pictures, run_dir=tmp_path_factory.mktemp("run"), **QUICK)


def test_a_run_leaves_what_the_command_line_leaves(study):
    names = {path.name for path in study.run_dir.iterdir()}
    assert {"result.json", "trials.jsonl", "config.yaml", "nc_strategies.log", "model"} <= names
    assert study.result == json.loads((study.run_dir / "result.json").read_text())
    told = yaml.safe_load((study.run_dir / "config.yaml").read_text())
    assert told["strategy"]["name"] == "auto"
    assert told["tuning"]["max_trials"] == 3


def test_the_default_strategy_is_auto_on_the_engine_of_the_model(study):
    assert (study.result["strategy"], study.result["backend"]) == ("auto", "onnxruntime")
    assert study.result["trials"]["total"] == len(study.trials) == 3


def test_the_saved_model_has_the_accuracy_it_is_said_to_have(study, pictures):
    session = onnxruntime.InferenceSession(study.model_path, providers=["CPUExecutionProvider"])
    x, y = pictures[0][100:], pictures[1][100:]
    found = session.run(None, {session.get_inputs()[0].name: x})[0].argmax(1)
    assert (found == y).mean() == pytest.approx(study.result["tuned"]["accuracy"], abs=0.004)
    assert study.best.number == study.result["tuned"]["trial"]


def test_a_study_can_be_opened_again_and_shows_itself(study):
    again = nc_strategies.Study(study.run_dir)
    assert again.result == study.result
    assert again.best == study.best or again.best.config == study.best.config
    assert f"goal {study.status}" in repr(again)
    assert "<table>" in again._repr_html_()
    assert "basic" in again._repr_html_()


def test_a_study_as_a_data_frame(study):
    pytest.importorskip("pandas")
    frame = study.to_dataframe()
    assert list(frame.index) == [1, 2, 3]
    assert frame.loc[study.best.number, "int8_ops"] == study.result["tuned"]["int8_ops"]
    assert frame["accuracy"].between(0.5, 1).all()


def test_a_study_as_a_figure(study, tmp_path):
    pytest.importorskip("matplotlib")
    figure = study.plot()
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["trials", "fp32", "threshold", "saved model"]
    figure.savefig(tmp_path / "study.png")
    assert (tmp_path / "study.png").stat().st_size > 5000


def test_the_same_folder_resumes_and_a_larger_budget_adds_trials(pictures, proto, tmp_path):
    first = nc_strategies.tune(proto, pictures, run_dir=tmp_path / "run", **{**QUICK, "max_trials": 2})
    same = nc_strategies.tune(proto, pictures, run_dir=tmp_path / "run", **{**QUICK, "max_trials": 2})
    assert same.result == first.result
    more = nc_strategies.tune(proto, pictures, run_dir=tmp_path / "run", **QUICK)
    assert (more.result["trials"]["total"], more.result["trials"]["resumed"]) == (3, 2)
    with pytest.raises(InputError, match=r"run_dir: .* holds a run with other settings: seed"):
        nc_strategies.tune(proto, pictures, run_dir=tmp_path / "run", **QUICK, seed=5)


def test_the_named_strategy_is_the_one_that_runs_with_its_settings(pictures, tmp_path):
    study = nc_strategies.tune(
        samples.onnx_model(),
        pictures,
        strategy={"name": "random"},
        run_dir=tmp_path / "run",
        objectives=["latency", "size"],
        weights=[0.5, 0.5],
        op_type_dict={"Conv": {"weight": {"granularity": ["per_tensor"]}}},
        metric={"name": "topk", "k": 2},
        **QUICK,
    )
    assert study.result["strategy"] == "random"
    assert study.result["goal"]["metric"] == "topk"
    assert study.result["objectives"] == ["latency", "size"]
    assert "per_channel" not in json.dumps(
        [op for op in study.best.config.to_dict()["ops"].values() if "Conv" in str(op)]
    )


def test_a_function_of_the_model_replaces_data_and_metric(proto, calibration, evaluate, tmp_path):
    study = nc_strategies.tune(proto, calibration=calibration, eval_func=evaluate, run_dir=tmp_path / "run", **QUICK)
    assert set(evaluate.seen) == {onnx.ModelProto}
    assert study.result["baseline"]["accuracy"] == evaluate.gave[0]
    assert study.result["tuned"]["accuracy"] in evaluate.gave[1:]
    assert study.result["tuned"]["accuracy_loss_ci95"] is None
    assert study.result["goal"]["metric"] == "eval_func"
    assert study.result["baseline"]["duration_s"] > 0


def test_a_trial_whose_evaluation_raises_is_a_failed_trial(proto, calibration, evaluate, tmp_path):
    def brittle(model):
        if len(evaluate.seen) == 1:
            evaluate.seen.append(None)
            raise RuntimeError("the second model is too much")
        return evaluate(model)

    study = nc_strategies.tune(proto, calibration=calibration, eval_func=brittle, run_dir=tmp_path / "run", **QUICK)
    assert (study.trials[0].state, study.trials[1].state) == ("failed", "ok")
    assert "the second model is too much" in study.trials[0].error


def test_a_secret_in_what_an_evaluation_raises_is_in_no_file(proto, calibration, evaluate, tmp_path, monkeypatch):
    monkeypatch.setenv("SHOP_PASSWORD", "open-sesame-17")

    def brittle(model):
        if len(evaluate.seen) == 1:
            evaluate.seen.append(None)
            raise RuntimeError(f"cannot sign in with {os.environ['SHOP_PASSWORD']}")
        return evaluate(model)

    study = nc_strategies.tune(proto, calibration=calibration, eval_func=brittle, run_dir=tmp_path / "run", **QUICK)
    assert study.trials[0].error == "RuntimeError: cannot sign in with ***"
    assert [p for p in (tmp_path / "run").rglob("*") if p.is_file() and b"open-sesame" in p.read_bytes()] == []


def test_a_run_that_measures_nothing_is_an_engine_error(proto, calibration, tmp_path):
    calls = []

    def broken(model):
        calls.append(model)
        return 0.9 if len(calls) == 1 else float("nan")

    with pytest.raises(EngineError, match="no configuration could be measured: the metric is nan"):
        nc_strategies.tune(proto, calibration=calibration, eval_func=broken, run_dir=tmp_path / "run", **QUICK)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"strategy": "nonsense"}, "strategy.name: no strategy 'nonsense'"),
        ({"strategy": {"name": "basic", "depth": 3}}, "strategy.depth: is not a setting of strategy 'basic'"),
        ({"strategy": {"name": "basic", "api_token": "x-y-z"}}, "strategy.api_token: is not a setting"),
        ({"backend": "tensorflow"}, "model: backend=tensorflow does not take"),
        ({"metric": "nice"}, "metric.name: no metric"),
        ({"metric": 3}, "eval_metric: int has no"),
        ({"max_trails": 3}, "max_trails: .* did you mean 'max_trials'"),
        ({"max_trials": "many"}, "tuning.max_trials"),
        ({"tolerable_loss": 2}, "tuning.tolerable_loss: is 2"),
        ({"objectives": "speed"}, "metrics.objectives: is 'speed'"),
        ({"calibration_samples": 600}, "calibration_samples: takes 600 of 600"),
        ({"preprocess": {"zoom": 2}}, "preprocess: is"),
        ({"eval_func": 3}, "eval_func: is of type int"),
        (
            {"op_name_dict": {"nowhere": {"weight": {"dtype": ["fp32"]}}}},
            "space.op_name_dict.nowhere: matches no operator",
        ),
        ({"data": None}, "calibration: is missing"),
        ({"model": "gone.onnx"}, "model: no such file"),
    ],
)
def test_bad_input_names_its_key_and_leaves_nothing(given, says, pictures, tmp_path):
    arguments = {"model": samples.onnx_model(), "data": pictures, "run_dir": tmp_path / "run", **given}
    with pytest.raises(InputError, match=f"^{says}"):
        nc_strategies.tune(**arguments)
    assert not (tmp_path / "run").exists()


def test_a_folder_without_a_result_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"run_dir: .* holds no result"):
        nc_strategies.Study(tmp_path)


def test_two_runs_in_one_second_have_folders_of_their_own_and_hydra_is_not_imported(tmp_path):
    np.savez(
        tmp_path / "d.npz",
        x=np.random.default_rng(0).normal(size=(40, 28, 28, 1)).astype(np.float32),
        y=np.arange(40) % 10,
    )
    code = (
        "import sys, nc_strategies; from nc_strategies import samples\n"
        "studies = [nc_strategies.tune(samples.onnx_model(), 'd.npz', calibration_samples=5, max_trials=1, "
        "latency_runs=20, final_runs=20, criterion='absolute', tolerable_loss=1, "
        "allow_poor_baseline=True) for _ in range(2)]\n"
        "assert studies[0].run_dir != studies[1].run_dir\n"
        "assert studies[0].run_dir.parent.parent.name == 'outputs'\n"
        "print('hydra' in sys.modules, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (["False", "False"], "")
