"""Neural Compressor's `quantization.fit`, as its users call it."""

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from nc_strategies import config, quantization, samples
from nc_strategies.errors import InputError

QUICK = {"latency_runs": 20, "final_runs": 20}
pytestmark = pytest.mark.usefixtures("simulated_onnxruntime")


def conf(**changes):
    # Size, which no machine is too busy to save: whether int8 is faster is not what these tests are about.
    tuning = {"max_trials": 2, "objective": "modelsize", **changes.pop("tuning", {})}
    accuracy = {"tolerable_loss": 0.05, **changes.pop("accuracy", {})}
    return config.PostTrainingQuantConfig(
        tuning_criterion=config.TuningCriterion(**tuning),
        accuracy_criterion=config.AccuracyCriterion(**accuracy),
        **changes,
    )


def test_the_documented_snippet_gives_a_model_that_runs_as_it_was_evaluated(
    proto, calibration, evaluate, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    settings = config.PostTrainingQuantConfig(
        quant_level=1,
        approach="static",
        recipes={"smooth_quant": False},
        op_type_dict=None,
        op_name_dict={".*": {"weight": {"dtype": ["int8", "fp32"]}}},
        excluded_precisions=["bf16"],
        quant_format="QDQ",
        tuning_criterion=config.TuningCriterion(
            strategy="random", strategy_kwargs=None, timeout=0, max_trials=20, objective="modelsize"
        ),
        accuracy_criterion=config.AccuracyCriterion(higher_is_better=True, criterion="relative", tolerable_loss="0.05"),
    )
    q_model = quantization.fit(proto, settings, calib_dataloader=calibration, eval_func=evaluate, **QUICK)
    assert set(evaluate.seen) == {onnx.ModelProto}
    result = q_model.study.result
    assert (result["strategy"], result["stop_reason"]) == ("random", "met")
    assert result["trials"]["total"] < 20
    assert evaluate(q_model.model) == result["tuned"]["accuracy"]
    assert q_model.save("out") == q_model.save("out")
    session = onnxruntime.InferenceSession("out", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].name == proto.graph.input[0].name
    (tmp_path / "folder").mkdir()
    assert q_model.save("folder").name == "model.onnx"
    assert q_model.path.is_relative_to(tmp_path / "outputs")


def test_a_dataloader_and_a_metric_evaluate_and_calibrate(calibration, pictures, tmp_path):
    x, y = pictures
    batches = [(x[i : i + 50], y[i : i + 50]) for i in range(0, 600, 50)]
    settings = conf(calibration_sampling_size=[100], tuning={"timeout": 600})
    q_model = quantization.fit(
        str(samples.onnx_model()),
        settings,
        eval_dataloader=batches,
        eval_metric={"topk": 1},
        run_dir=tmp_path / "run",
        **QUICK,
    )
    result = q_model.study.result
    assert (result["goal"]["metric"], result["measure"]["samples"], result["strategy"]) == ("topk", 500, "basic")
    assert (result["stop_reason"], result["trials"]["total"]) == ("budget", 2)
    assert result["tuned"]["accuracy_loss_ci95"] is not None


class Errors:
    """A metric object as Neural Compressor's users write them; lower is better."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.wrong, self.count = 0, 0

    def update(self, predictions, labels):
        self.wrong += int((np.argmax(predictions, 1) != labels).sum())
        self.count += len(labels)

    def result(self):
        return self.wrong / self.count


@pytest.mark.parametrize("metric", [Errors(), Errors])
def test_a_metric_object_or_its_class_evaluates(metric, calibration, pictures, tmp_path):
    batches = [(pictures[0][i : i + 100], pictures[1][i : i + 100]) for i in range(0, 300, 100)]
    changes = {"accuracy": {"higher_is_better": False, "criterion": "absolute", "tolerable_loss": 0.2}}
    q_model = quantization.fit(
        samples.onnx_model(),
        conf(**changes),
        calib_dataloader=calibration,
        eval_dataloader=batches,
        eval_metric=metric,
        run_dir=tmp_path / "run",
        **QUICK,
    )
    result = q_model.study.result
    assert 0 < result["baseline"]["accuracy"] < 0.3
    assert result["goal"]["threshold"] == pytest.approx(result["baseline"]["accuracy"] + 0.2)


def test_no_accurate_model_gives_none_a_warning_and_the_closest_on_disk(proto, calibration, evaluate, tmp_path):
    def worse(model):
        value = evaluate(model)
        return value if len(evaluate.gave) == 1 else value / 2

    with pytest.warns(UserWarning, match="no model was accurate enough"):
        found = quantization.fit(
            proto,
            conf(tuning={"max_trials": 1}),
            calib_dataloader=calibration,
            eval_func=worse,
            run_dir=tmp_path / "run",
            **QUICK,
        )
    assert found is None
    assert (tmp_path / "run" / "model" / "model.onnx").is_file()


def test_an_operator_named_in_op_name_dict_stays_in_fp32(proto, calibration, evaluate, tmp_path):
    first = next(node.name for node in proto.graph.node if node.op_type == "Conv")
    fp32 = {"weight": {"dtype": ["fp32"]}, "activation": {"dtype": ["fp32"]}}
    q_model = quantization.fit(
        proto,
        conf(op_name_dict={first: fp32}),
        calib_dataloader=calibration,
        eval_func=evaluate,
        run_dir=tmp_path / "run",
        **QUICK,
    )
    assert q_model.study.best.config.schemes[first].is_float
    assert not all(scheme.is_float for scheme in q_model.study.best.config.schemes.values())


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"tuning": {"strategy": "mse_v2", "strategy_kwargs": {"confidence_batches": 1}}}, "mse_v2"),
        ({"quant_level": 0}, "conservative"),
    ],
)
def test_a_strategy_runs_under_neural_compressors_name(changes, name, proto, calibration, evaluate, tmp_path):
    q_model = quantization.fit(
        proto, conf(**changes), calib_dataloader=calibration, eval_func=evaluate, run_dir=tmp_path / "run", **QUICK
    )
    assert q_model.study.result["strategy"] == name


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"conf": {}}, "conf: is of type dict"),
        ({"conf": conf(tuning={"strategy": "bayesian"})}, "tuning_criterion.strategy: 'bayesian' is not supported"),
        ({"conf": conf(tuning={"strategy": "hawq_v2"})}, "strategy: hawq_v2 needs gradients"),
        ({"calib_func": print}, "calib_func: is not supported"),
        ({"eval_func": None}, "eval_func: is missing"),
        ({"eval_func": None, "eval_dataloader": [1]}, "eval_metric: is missing"),
        ({"calib_dataloader": None}, "calibration: is missing"),
        ({"eval_func": lambda _: "good"}, "eval_func: returned 'good'"),
        ({"eval_func": lambda _: [0.5, 0.6]}, "eval_func: returned an array"),
        ({"conf": conf(tuning={"strategy": "nonsense"})}, "strategy.name: no strategy 'nonsense'"),
        ({"conf": conf(tuning={"strategy": "random"}, quant_level=0)}, "quant_level: is 0, which is the conservative"),
        ({"conf": conf(tuning={"strategy_kwargs": {"depth": 3}})}, "strategy.depth: is not a setting"),
        ({"conf": conf(op_type_dict={"Conv": {"weight": {"bits": [4]}}})}, "unknown key 'bits'"),
        ({"conf": conf(accuracy={"tolerable_loss": -0.1})}, "tuning.tolerable_loss: is -0.1"),
        ({"conf": conf(backend="tensorflow", reduce_range=True)}, "reduce_range: is set"),
    ],
)
def test_what_is_not_possible_is_refused_before_anything_is_written(
    arguments, says, proto, calibration, evaluate, tmp_path
):
    whole = {
        "conf": conf(),
        "calib_dataloader": calibration,
        "eval_func": evaluate,
        "run_dir": tmp_path / "run",
        **QUICK,
        **arguments,
    }
    with pytest.raises(InputError, match=says):
        quantization.fit(proto, **whole)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        ({"RMSE": {}}, "eval_metric.RMSE: is not supported"),
        ({"topk": 1, "MSE": {}}, "names 2 metrics"),
        ({"topk": {"k": "1"}}, "eval_metric.topk.k: is '1'"),
        ({"MSE": {"compare_label": False}}, "compare_label"),
        (object(), "eval_metric: object has no"),
    ],
)
def test_a_metric_that_is_not_here_is_refused(metric, says, proto, calibration, tmp_path):
    with pytest.raises(InputError, match=says):
        quantization.fit(
            proto,
            conf(),
            calib_dataloader=calibration,
            eval_dataloader=calibration,
            eval_metric=metric,
            run_dir=tmp_path / "run",
            **QUICK,
        )


KERAS = """
import numpy as np, tensorflow as tf
from nc_strategies import (quantization, config, samples)
from nc_strategies.backends.tensorflow.backend import TensorFlowBackend
from nc_strategies.testing import simulated_time
with np.load(samples.evaluation_images()) as file:
    x = file["x"][:400].astype(np.float32) * np.float32(samples.SCALE) + samples.OFFSET
    y = file["y"][:400]
model = tf.keras.models.load_model(samples.keras_model(), compile=False)
kinds = set()
def eval_func(model):
    kinds.add(hasattr(model, "signatures"))
    outputs = model.signatures["serving_default"](tf.constant(x[100:]))
    first = np.asarray(next(iter(outputs.values()))).argmax(1)
    assert (np.asarray(model(x[100:])).argmax(1) == first).all()
    assert (model.predict(x[100:], batch_size=64).argmax(1) == first).mean() > 0.99
    return (first == y[100:]).mean()
conf = config.PostTrainingQuantConfig(tuning_criterion=config.TuningCriterion(max_trials=2, objective="modelsize"),
                                      accuracy_criterion=config.AccuracyCriterion(tolerable_loss=0.05))
data = tf.data.Dataset.from_tensor_slices((x[:100], y[:100])).batch(20)
with simulated_time(TensorFlowBackend):
    q_model = quantization.fit(model, conf, calib_dataloader=data, eval_func=eval_func, run_dir="run",
                               latency_runs=20, final_runs=20)
q_model.save("out")
served = tf.saved_model.load("out").signatures["serving_default"]
again = np.asarray(next(iter(served(tf.constant(x[100:])).values()))).argmax(1)
print(kinds, q_model.study.result["backend"], (again == y[100:]).mean() == q_model.study.result["tuned"]["accuracy"],
      q_model.study.result["tuned"]["int8_ops"] > 0)
"""


@pytest.mark.slow
def test_a_keras_model_is_tuned_on_tensorflow_with_a_function_that_serves_it(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KERAS], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1:] == ["{True} tensorflow True True"], done.stderr[-2000:]
