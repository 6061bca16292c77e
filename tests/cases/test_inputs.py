"""Models whose inputs are not simply samples on axis 0: constants, other axes, carried state, inner batch sizes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from omegaconf import OmegaConf
from onnx import TensorProto, helper, numpy_helper

import nc_strategies
from nc_strategies.app import replay
from nc_strategies.app.run import run_job
from nc_strategies.app.settings import run_config
from nc_strategies.app.target import build
from nc_strategies.errors import InputError

N = 90
WIDTH, STATE = 12, 8
QUICK = {"max_trials": 1, "latency_runs": 20, "final_runs": 20, "calibration_samples": 30, "tolerable_loss": 0.5}
RNG = np.random.default_rng(0)


class Net:
    """Builds small ONNX models node by node."""

    def __init__(self) -> None:
        self.nodes, self.weights = [], []

    def const(self, value) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value), f"c{len(self.weights)}"))
        return self.weights[-1].name

    def op(self, kind, inputs, output, **attributes) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], f"n_{output}", **attributes))
        return output

    def dense(self, source, rows, columns, output) -> str:
        weight = self.const((RNG.normal(size=(rows, columns)) / np.sqrt(rows)).astype(np.float32))
        return self.op("MatMul", [source, weight], output)

    def model(self, inputs, outputs) -> onnx.ModelProto:
        infos = [
            [helper.make_tensor_value_info(name, dtype, shape) for name, dtype, shape in listed]
            for listed in (inputs, outputs)
        ]
        graph = helper.make_graph(self.nodes, "net", *infos, self.weights)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(made)
        return made


def streaming(batch="N", sample_axis=1, rate_shape=()) -> onnx.ModelProto:
    """Scores and the next state from audio (N, 12), a state with samples on an inner axis, and a rate."""
    net = Net()
    gain = net.op("Div", [net.op("Cast", ["rate"], "rate_f", to=1), net.const(np.float32(100))], "gain")
    wide = net.op("Relu", [net.dense(net.op("Mul", ["audio", gain], "scaled"), WIDTH, 16, "d0")], "r0")
    shape = [2, batch, STATE] if sample_axis == 1 else [2, STATE, batch]
    first = [0, 2, 1] if sample_axis == 2 else [0, 1, 2]
    rows = net.op("Transpose", ["state"], "rows", perm=first)
    old = net.op("ReduceMean", [rows], "old", axes=[0], keepdims=0)
    new = net.op("Tanh", [net.op("Add", [net.dense(wide, 16, STATE, "d1"), old], "sum")], "new")
    pair = net.op("Concat", [net.op("Unsqueeze", [new, net.const(np.array([0]))], "front")] * 2, "pair", axis=0)
    net.op("Transpose", [pair], "next_state", perm=first)
    net.dense(new, STATE, 3, "scores")
    return net.model(
        [("audio", 1, [batch, WIDTH]), ("state", 1, shape), ("rate", TensorProto.INT64, list(rate_shape))],
        [("scores", 1, [batch, 3]), ("next_state", 1, shape)],
    )


def run(model, **feed):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)


def samples(count=N):
    return {
        "audio": RNG.normal(size=(count, WIDTH)).astype(np.float32),
        "state": RNG.normal(size=(count, 2, STATE)).astype(np.float32),
    }


def tuned(model, data, run_dir, **options):
    return nc_strategies.tune(model, data, run_dir=run_dir, **{**QUICK, **options})


def remarks(study) -> str:
    return (study.run_dir / "analysis.json").read_text()


def labels(model, data, axis=1, rate=50, rate_shape=()):
    state = np.moveaxis(data["state"], 0, axis)
    rate = np.full(rate_shape, rate, np.int64)
    return run(model, audio=data["audio"], state=state, rate=rate)[0].argmax(1)


@pytest.mark.parametrize(
    ("axis", "rate_shape", "stored"),
    [
        (1, (), "number"),
        (1, (1,), "per sample"),
        (2, (), "one entry"),
    ],
)
def test_sample_axis_and_constants_follow_from_the_data(tmp_path, axis, rate_shape, stored):
    model, data = streaming(sample_axis=axis, rate_shape=rate_shape), samples()
    y = labels(model, data, axis, rate_shape=rate_shape)
    rate = {"number": np.array(50), "per sample": np.full(N, 50), "one entry": np.array([50])}[stored]
    study = tuned(model, {**data, "rate": rate, "y": y}, tmp_path / "run")
    assert study.result["baseline"]["accuracy"] == 1.0
    assert study.result["tuned"]["int8_ops"] > 0
    assert f"Input state counts samples on axis {axis}." in remarks(study)
    assert "Input rate is 50 in each run" in remarks(study)


def test_an_array_in_the_models_own_layout_is_transposed(tmp_path):
    model, data = streaming(), samples()
    y = labels(model, data)
    data["state"] = data["state"].transpose(1, 0, 2)
    study = tuned(model, {**data, "y": y}, tmp_path / "run", constants={"rate": 50})
    assert study.result["baseline"]["accuracy"] == 1.0


def test_a_constant_may_stand_for_an_input_with_samples(tmp_path):
    model, data = streaming(), samples()
    data["state"][:] = 0
    study = tuned(
        model,
        ({"audio": data["audio"]}, labels(model, data)),
        tmp_path / "run",
        constants={"rate": 50, "state": 0},
    )
    assert study.result["baseline"]["accuracy"] == 1.0


def test_samples_that_differ_in_a_scalar_input_run_one_by_one(tmp_path):
    model, data = streaming(), samples(50)
    rates = np.arange(1, 51)
    parts = [{name: array[i : i + 1] for name, array in data.items()} for i in range(50)]
    y = np.concatenate([labels(model, part, rate=rate) for part, rate in zip(parts, rates, strict=True)])
    study = tuned(model, {**data, "rate": rates, "y": y}, tmp_path / "run")
    assert study.result["baseline"]["accuracy"] == 1.0
    assert "one by one" in remarks(study)


def sequences(model, lengths):
    """Steps of sequences with the classes that follow from the state since each sequence's start."""
    audio, number, y = [], [], []
    for sequence, length in enumerate(lengths):
        state = np.zeros((2, 1, STATE), np.float32)
        for _ in range(length):
            step = RNG.normal(size=(1, WIDTH)).astype(np.float32)
            scores, state = run(model, audio=step, state=state, rate=np.array(50))
            audio.append(step)
            number.append(sequence)
            y.append(scores.argmax())
    return {"audio": np.concatenate(audio), "sequence": np.array(number), "y": np.array(y)}


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("isolation", ["none", "process"])
def test_state_is_carried_along_each_sequence(tmp_path, fixed, isolation):
    model = streaming()
    data = sequences(model, [7, 20, 5, 12, 9, 16])
    if fixed:
        for info in (*model.graph.input, *model.graph.output):
            for dim in info.type.tensor_type.shape.dim:
                if dim.dim_param:
                    dim.dim_value = 1
    study = tuned(
        model,
        data,
        tmp_path / "run",
        constants={"rate": 50},
        state={"state": "next_state"},
        calibration_samples=20,
        isolation=isolation,
        evaluation_batch_size=3,
    )
    assert study.result["baseline"]["accuracy"] == 1.0
    # A calibration of 20 samples ends with the sequence that holds the twentieth.
    assert study.trials[0].evaluation.samples == len(data["y"]) - 27


def test_calibration_sees_the_state_that_the_model_carries(tmp_path):
    model = streaming()
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    data = sequences(model, [15, 15, 15])
    np.savez(tmp_path / "data.npz", **data)
    settings = {
        "strategy": {"name": "basic"},
        "backend": {"name": "onnxruntime"},
        "model": {"name": "onnx", "path": str(path)},
        "data": {
            "name": "npz",
            "path": str(tmp_path / "data.npz"),
            "calibration_samples": 15,
            "constants": "{rate: 50}",
            "state": {"state": "next_state"},
        },
        "executor": {"name": "serial"},
    }
    target = build(run_config(settings))
    target.load()
    target.calibrate()
    state, states = np.zeros((2, 1, STATE), np.float32), []
    for step in data["audio"][:15]:
        _, state = run(model, audio=step[None], state=state, rate=np.array(50))
        states.append(state)
    low, high = target.parts.backend.inner._calibration.range("new", "minmax")
    assert (low, high) == pytest.approx((np.min(states), np.max(states)), abs=1e-5)
    first, later = target._calibration.batch(0, 1)["state"], target._calibration.batch(1, 14)["state"]
    assert not first.any()
    np.testing.assert_allclose(later, np.concatenate(states[:14], 1).transpose(1, 0, 2), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"constants": {"sr": 1}},
            r"data\.constants: names 'sr'; allowed: audio, state, rate; the model's inputs: audio",
        ),
        ({"constants": {"rate": 0.5}}, r"data\.constants: 0\.5 does not fit input 'rate' \(int64 cannot hold it\)"),
        ({"constants": {"rate": 50}, "axes": {"state": 3}}, r"data\.axes: names axis 3 of 'state', which has 3 axes"),
        ({"constants": {"rate": 50}, "axes": {"state": -1}}, r"data\.axes: names axis -1 of 'state'"),
        ({"constants": {"rate": 50}, "state": {"state": "h"}}, r"data\.state: names 'h'; allowed: scores, next_state"),
        ({"constants": {"rate": 50}, "state": {"state": "scores"}}, r"data\.state: state .* does not fit the output"),
        ({}, r"has no array for the model's input rate; .*data\.constants=\{rate: VALUE\}.*outputs: scores \(N, 3\)"),
        ({"calibration_batch_size": 0}, r"data\.calibration_batch_size: is 0; at least 1"),
    ],
)
def test_rules_that_do_not_fit_the_model_are_refused(tmp_path, options, message):
    data = samples()
    with pytest.raises(InputError, match=message):
        tuned(streaming(), {**data, "y": np.zeros(N, int)}, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_samples_of_another_shape_are_refused_with_all_shapes(tmp_path):
    data = {**samples(), "audio": RNG.normal(size=(N, 7)), "y": np.zeros(N, int)}
    with pytest.raises(InputError) as caught:
        tuned(streaming(), data, tmp_path / "run", constants={"rate": 50})
    for part in ("samples have shape (7,)", "audio (N, 12) float32", "scores (N, 3) float32", "audio (60, 7) float64"):
        assert part in str(caught.value)


def inner_batch(size: int) -> onnx.ModelProto:
    """A free input batch, and a Reshape to a fixed one inside."""
    net = Net()
    hidden = net.op("Relu", [net.dense("x", WIDTH, 16, "d0")], "r0")
    split = net.op("Reshape", [hidden, net.const(np.array([size, 4, 4]))], "split")
    flat = net.op("Reshape", [net.dense(split, 4, 4, "d1"), net.const(np.array([size, 16]))], "flat")
    net.dense(flat, 16, 3, "scores")
    return net.model([("x", 1, ["N", WIDTH])], [("scores", 1, ["N", 3])])


def test_an_inner_batch_of_one_is_calibrated_and_evaluated_one_by_one(tmp_path):
    model, x = inner_batch(1), samples()["audio"]
    y = np.array([run(model, x=row[None])[0].argmax() for row in x])
    study = tuned(model, (x, y), tmp_path / "run")
    assert study.result["baseline"]["accuracy"] == 1.0
    assert study.result["tuned"]["int8_ops"] == 3


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorflow"])
def test_replay_and_saved_model_go_through_the_same_border(tmp_path, backend):
    model, data = streaming(), samples()
    path = tmp_path / "model.onnx"
    if backend == "tensorflow":
        tf = pytest.importorskip("tensorflow")
        weights = tf.constant(RNG.normal(size=(WIDTH, STATE)).astype(np.float32))

        class Module(tf.Module):
            @tf.function(
                input_signature=[
                    tf.TensorSpec([None, WIDTH], name="audio"),
                    tf.TensorSpec([2, None, STATE], name="state"),
                    tf.TensorSpec([], tf.int64, name="rate"),
                ]
            )
            def __call__(self, audio, state, rate):
                gain = tf.cast(rate, tf.float32) / 100
                hidden = tf.nn.relu(tf.matmul(audio * gain, weights)) + tf.reduce_mean(state, 0)
                return {"scores": tf.matmul(hidden, weights, transpose_b=True)[:, :3]}

        path = tmp_path / "saved"
        module = Module()
        tf.saved_model.save(module, str(path))
        answer = module(data["audio"], data["state"].transpose(1, 0, 2), 50)["scores"].numpy().argmax(1)
    else:
        onnx.save(model, path)
        answer = labels(model, data)
    np.savez(tmp_path / "data.npz", **data, y=answer)
    config = OmegaConf.create(
        {
            "strategy": {"name": "basic"},
            "backend": {"name": backend},
            "model": {"name": "onnx" if backend == "onnxruntime" else "saved_model", "path": str(path)},
            "data": {
                "name": "npz",
                "path": str(tmp_path / "data.npz"),
                "calibration_samples": 30,
                "constants": {"rate": 50},
                "axes": {"state": 1},
            },
            "executor": {"name": "serial"},
            "tuning": {"max_trials": 1, "tolerable_loss": 0.5},
            "measure": {"latency_runs": 20, "final_runs": 20},
            "isolation": "none",
        }
    )
    run_dir = Path(tmp_path / "run")
    assert run_job(config, run_dir).status in (0, 3)
    found = replay.replay(run_dir)
    assert found["accuracy"]["fp32_now"] == 1.0
    assert found["executed"]["equal"]


def time_major() -> onnx.ModelProto:
    """Scores (steps, N, 3) from x (steps, N, 12), as recurrent networks have them."""
    net = Net()
    net.dense(net.op("Relu", [net.dense("x", WIDTH, 16, "d0")], "r0"), 16, 3, "scores")
    return net.model([("x", 1, ["T", "N", WIDTH])], [("scores", 1, ["T", "N", 3])])


def last_step_accuracy(outputs, labels):
    return float((outputs[:, -1].argmax(1) == labels).mean())


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_stated_axes_move_inputs_and_outputs(tmp_path, isolation):
    model, x = time_major(), RNG.normal(size=(N, 5, WIDTH)).astype(np.float32)
    y = run(model, x=x.transpose(1, 0, 2))[0][-1].argmax(1)
    metric = {"name": "python", "target": f"{__file__}:last_step_accuracy"}
    study = tuned(model, (x, y), tmp_path / "run", axes={"x": 1, "scores": 1}, metric=metric, isolation=isolation)
    assert study.result["baseline"]["accuracy"] == 1.0
    assert study.result["tuned"]["int8_ops"] == 2


MEASURE_PEAK = """
import resource, sys
from nc_strategies.app.settings import run_config
from nc_strategies.app.target import build
target = build(run_config({
    "strategy": {"name": "basic"}, "backend": {"name": "onnxruntime"}, "model": {"name": "onnx", "path": sys.argv[1]},
    "data": {"name": "npz", "path": sys.argv[2], "calibration_samples": 8}, "executor": {"name": "serial"},
}))
target.load()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
target.calibrate()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, target.parts.backend.largest_batch)
"""


def test_calibration_on_large_pictures_keeps_to_its_memory(tmp_path):
    net, source = Net(), "x"
    for layer in range(8):
        weight = net.const(RNG.normal(size=(8, 8 if layer else 1, 1, 1)).astype(np.float32) / 3)
        source = net.op("Relu", [net.op("Conv", [source, weight], f"conv{layer}")], f"relu{layer}")
    net.op("ReduceMean", [source], "scores", axes=[2, 3], keepdims=0)
    # Each convolution and each Relu takes 16 MB for one sample: 2 GB for the eight samples.
    model = net.model([("x", 1, ["N", 1, 724, 724])], [("scores", 1, ["N", 8])])
    onnx.save(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=RNG.integers(256, size=(12, 1, 724, 724), dtype=np.uint8), y=np.zeros(12, int))
    arguments = [sys.executable, "-c", MEASURE_PEAK, str(tmp_path / "model.onnx"), str(tmp_path / "data.npz")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    growth, largest_batch = map(int, done.stdout.split())
    assert growth < 450
    assert largest_batch == 1
