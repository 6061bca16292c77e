"""Noise by operator: the ranking of graphs of their own, from one graph where the backend has one."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from nc_strategies.api import EngineError, ModelSource, Space
from nc_strategies.backends.base import DualPrecisionSession
from nc_strategies.backends.onnxruntime import backend as onnxruntime_backend
from nc_strategies.backends.tensorflow import backend as tensorflow_backend
from nc_strategies.calibration import equalization
from nc_strategies.calibration.noise import noise_to_signal
from nc_strategies.measuring import sensitivity
from nc_strategies.measuring.sensitivity import divergence, output_noise
from nc_strategies.testing import ToyBackend, ToyOp, ToySettings

OPS = (ToyOp("a", loss=0.1), ToyOp("b", "MatMul", loss=0.3), ToyOp("c"))
BATCH = {"x": np.arange(50) % 2 + (np.arange(50) * 0.618034) % 1.0}


class Switched(DualPrecisionSession):
    """Answers by graphs of their own, and counts."""

    def __init__(self, backend, config):
        self.backend, self.config, self.asked = backend, config, []
        self.ops, self.closed = config.int8_ops, False

    def predict(self, batch, int8):
        self.asked.append(tuple(int8))
        return ToyBackend.build(
            self.backend,
            Space(self.backend.capabilities()).all_float().with_ops({name: self.config.schemes[name] for name in int8}),
        ).predict(batch)

    def close(self):
        self.closed = True


class Toy(ToyBackend):
    """Counts the graphs it makes; may be switchable, or fail to be."""

    def __init__(self, switch=None):
        super().__init__(ToySettings())
        self.switch, self.made = switch, 0

    def build(self, config):
        self.made += 1
        return super().build(config)

    def dual_precision_session(self, config):
        if self.switch == "fails":
            raise EngineError("no such graph")
        self.both = Switched(self, config) if self.switch else None
        return self.both


@pytest.fixture
def toy(tmp_path):
    def make(switch=None, ops=OPS):
        path = tmp_path / "ops.toy"
        path.write_text(json.dumps([asdict(op) for op in ops]))
        backend = Toy(switch)
        backend.load(ModelSource("toy", {"toy": path}))
        space = Space(backend.capabilities())
        signal = ToyBackend.build(backend, space.all_float()).predict(BATCH)[0]
        return backend, space, signal

    return make


@pytest.mark.parametrize(("switch", "graphs"), [(None, 3), ("fails", 3), ("works", 0)])
def test_one_graph_answers_as_graphs_of_their_own_do(toy, switch, graphs):
    backend, space, signal = toy(switch)
    noise = output_noise(backend, space, BATCH, signal)
    assert noise["b"] > noise["a"] > noise["c"] == 0
    assert backend.made == graphs
    if switch == "works":
        assert backend.both.asked == [("a",), ("b",), ("c",)]
        assert backend.both.closed


def test_what_cannot_be_built_is_worst_and_the_others_are_ranked(toy):
    backend, space, signal = toy(ops=(ToyOp("a", loss=0.1), ToyOp("b", fails=True)))
    noise = output_noise(backend, space, BATCH, signal)
    assert math.isinf(noise["b"])
    assert 0 < noise["a"] < 1


def test_the_divergence_of_a_configuration_adds_up_its_operators(toy):
    backend, space, signal = toy()
    noise = output_noise(backend, space, BATCH, signal)
    assert divergence(backend, space.default(), BATCH, signal) == pytest.approx(noise["a"] + noise["b"], rel=0.2)
    assert divergence(backend, space.all_float(), BATCH, signal) == 0


def test_noise_is_relative_to_each_sample_and_infinite_for_what_is_not_finite():
    signal = np.array([[1.0, 0.0], [0.0, 10.0]])
    assert noise_to_signal(signal, signal * 1.1) == pytest.approx(0.01)
    assert noise_to_signal(signal, signal * [[0.0], [1.0]]) == pytest.approx(0.5)  # one sample of two is all wrong
    assert noise_to_signal(signal * 0, signal * 0) == 0
    assert math.isinf(noise_to_signal(signal, signal * np.nan))
    assert math.isinf(noise_to_signal(signal * 0, signal))


def test_all_that_speaks_of_noise_has_one_definition():
    places = [equalization, sensitivity, onnxruntime_backend, tensorflow_backend]
    assert not hasattr(equalization, "noise_to_signal")
    assert all(vars(place).get("noise_to_signal", noise_to_signal) is noise_to_signal for place in places)
