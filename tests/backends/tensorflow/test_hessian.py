"""The Hessian's trace, against its closed form for a linear model and against measured noise."""

import numpy as np
import pytest

pytest.importorskip("tensorflow")

import tensorflow as tf

from nc_strategies.backends.tensorflow.backend import TensorFlowBackend
from nc_strategies.backends.tensorflow.settings import TensorFlowSettings
from nc_strategies.calibration.noise import noise_to_signal
from nc_strategies.errors import EngineError
from nc_strategies.models import ModelSource

RNG = np.random.default_rng(5)
X = RNG.normal(size=(16, 12)).astype(np.float32)
WEIGHTS = [RNG.normal(size=shape).astype(np.float32) for shape in ((12, 20), (20, 6))]


def rounded(weight):
    """A weight as int8 per output channel holds it."""
    scale = np.abs(weight).max(0) / 127
    return np.round(weight / scale) * scale


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    """A loaded chain of two matrix products."""
    layers = [tf.keras.layers.Dense(w.shape[1], use_bias=False, name=f"product{i}") for i, w in enumerate(WEIGHTS)]
    model = tf.keras.Sequential([tf.keras.Input((12,), name="x"), *layers])
    model.set_weights(WEIGHTS)
    path = tmp_path_factory.mktemp("hessian") / "chain.keras"
    model.save(path)
    made = TensorFlowBackend(TensorFlowSettings(equalize="never"), 1)
    info = made.load(ModelSource("chain", {"keras": path}))
    feed = {info.inputs[0].name: X}
    made.calibrate([feed])
    return made, feed


def test_the_trace_of_a_linear_model_is_its_closed_form(backend):
    made, feed = backend
    found = list(made.hessian(feed, 4000).values())
    first, last = WEIGHTS
    power = np.square(X @ first @ last).sum(1)
    # The output's derivative by an entry of the last weight is an entry of its input; by one of the first, an input
    # times a row of the last weight.
    traces = [
        (np.square(X).sum(1) * np.square(last).sum() / power).mean(),
        (np.square(X @ first).sum(1) * last.shape[1] / power).mean(),
    ]
    errors = [np.square(rounded(w) - w).sum() / w.size for w in WEIGHTS]
    assert found == pytest.approx([t * e for t, e in zip(traces, errors, strict=True)], rel=0.05)


def test_it_predicts_the_noise_of_a_rounded_weight(backend):
    made, feed = backend
    found = list(made.hessian(feed, 100).values())
    first, last = WEIGHTS
    signal = X @ first @ last
    noise = [noise_to_signal(signal, X @ rounded(first) @ last), noise_to_signal(signal, X @ first @ rounded(last))]
    assert found == pytest.approx(noise, rel=0.5)


def test_the_same_draws_give_the_same_numbers(backend):
    made, feed = backend
    assert made.hessian(feed, 4) == made.hessian(feed, 4)


def test_a_model_without_a_floating_point_output_is_refused(tmp_path):
    class Classes(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 12), tf.float32, name="x")])
        def __call__(self, x):
            return {"class": tf.argmax(x @ WEIGHTS[0], 1)}

    module = Classes()
    tf.saved_model.save(module, str(tmp_path / "classes"))
    made = TensorFlowBackend(TensorFlowSettings(), 1)
    info = made.load(ModelSource("classes", {"saved_model": tmp_path / "classes"}))
    feed = {info.inputs[0].name: X}
    made.calibrate([feed])
    with pytest.raises(EngineError, match="no floating-point output"):
        made.hessian(feed, 2)
