"""A saved model is opened and run: it has to give what was measured, but for values at the edge of an int8 step."""

import numpy as np
import pytest

from nc_strategies.errors import EngineError
from nc_strategies.measuring.outputs import PROBE_RULES, within_noise
from nc_strategies.testing import ToyBackend, ToyOp, ToySettings
from nc_strategies.testing.toy import ToyExecutable

OPS = [ToyOp("a", loss=0.2), ToyOp("b", loss=0.1)]


class Shifted(ToyExecutable):
    """Adds a number to one value of its output."""

    shift = 0.0

    def predict(self, batch):
        found = np.array(super().predict(batch)[0])
        found[0, 0] += self.shift
        return [found]


class Reopening(ToyBackend):
    """What it opens differs from what it saved."""

    def __init__(self, shift):
        super().__init__(ToySettings(simulated=True))
        self.shift = shift

    def open(self, path):
        found = super().open(path)
        found.__class__, found.shift = Shifted, self.shift
        return found


@pytest.mark.parametrize("shift", [0.0, 1e-3, 5.0])
def test_what_differs_by_a_rounding_is_saved_and_what_differs_by_more_is_not(run, caplog, shift):
    one = run("run", ops=OPS, backend=Reopening(shift), max_trials=1, criterion="absolute", tolerable_loss=0.5)
    one.config.measure.batch_size = 50  # int8 answers some of so many samples otherwise than fp32
    if shift < 1.0:
        with caplog.at_level("INFO"):
            assert one().model_path.is_file()
        assert ("rounding to int8 differs" in caplog.text) == (shift > 0)
    else:
        with pytest.raises(EngineError, match="does not give the outputs of the measured one"):
            one()


def test_the_difference_counts_as_a_share_of_what_int8_changes():
    fp32 = np.random.default_rng(0).normal(size=(4, 100))
    int8 = fp32 + 0.1
    moved = int8.copy()
    moved[0, 0] += 0.09
    assert within_noise(int8, moved, fp32)
    assert not within_noise(int8, int8 + 1.1 * 0.1 * PROBE_RULES.rounding_share, fp32)
    assert not within_noise(int8, fp32, fp32)


@pytest.mark.parametrize("change", [lambda x: x[:2], lambda x: np.where(x == x.max(), np.nan, x)])
def test_another_shape_or_no_number_is_never_a_rounding(change):
    fp32 = np.random.default_rng(0).normal(size=(4, 100))
    assert not within_noise(fp32 + 0.1, change(fp32 + 0.1), fp32)
