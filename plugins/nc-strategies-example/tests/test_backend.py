"""The backend: the suite every backend must pass, on a real model, and what is its own."""

from pathlib import Path

import numpy as np
import pytest
from nc_strategies_example.backend import NumpyBackend
from nc_strategies_example.layers import Dense
from nc_strategies_example.settings import NumpySettings

from nc_strategies.api import InputError, ModelSource
from nc_strategies.testing import BackendSuite


class TestNumpy(BackendSuite):
    expected_int8 = 3
    folder: Path

    @pytest.fixture(autouse=True)
    def _problem(self, problem):
        type(self).folder = problem

    def make(self):
        return NumpyBackend(NumpySettings())

    def source(self):
        return ModelSource("model", {"mlp": self.folder / "model.npz"})

    def batches(self):
        with np.load(self.folder / "data.npz") as data:
            return [{"x": data["x"][start : start + 100]} for start in (0, 100)]


def test_an_int8_layer_multiplies_as_integers_do():
    layer = Dense(np.array([[0.5, -1.27], [1.27, 0.01]], np.float32), np.zeros(2, np.float32), np.float32(1), 1.0)
    int8 = layer.quantized(2.54, per_channel=False)
    np.testing.assert_array_equal(int8.weight, [[50, -127], [127, 1]])
    out, kind = int8.product(np.array([[2.54, -1.0]], np.float32))
    # The input is 127 and -50 steps of 0.02: sums of 127 * 50 - 50 * 127 and -127 * 127 - 50 steps of 0.0002.
    np.testing.assert_allclose(out, [[0.0, -(127 * 127 + 50) * 0.0002]], rtol=1e-5, atol=1e-6)
    assert kind == np.int8


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"w0": np.zeros((2, 2))},
        {"w0": np.zeros((2, 3)), "b0": np.zeros(2)},
        {"w0": np.zeros((2, 2), np.int8), "b0": np.zeros(2)},
    ],
)
def test_a_file_that_is_no_fp32_model_is_an_input_error(tmp_path, content):
    np.savez(tmp_path / "m.npz", **content)
    with pytest.raises(InputError, match=r"^model\.path: "):
        NumpyBackend(NumpySettings()).load(ModelSource("m", {"mlp": tmp_path / "m.npz"}))


def test_a_file_that_is_no_archive_is_an_input_error(tmp_path):
    (tmp_path / "m.npz").write_text("nothing")
    with pytest.raises(InputError, match="is not an mlp"):
        NumpyBackend(NumpySettings()).load(ModelSource("m", {"mlp": tmp_path / "m.npz"}))
