"""How many samples and seconds a run with a time limit uses."""

import math

import numpy as np
import pytest

from nc_strategies.api import Preprocess, Raw
from nc_strategies.config import MeasureConfig
from nc_strategies.data.dataset import Dataset
from nc_strategies.measuring.extent import Allowance, BatchesInTime, Extent
from nc_strategies.models.info import ModelInfo, TensorSpec
from nc_strategies.study.timebox import TimeBox

ALLOWED = Allowance(10.0, 4.0, 8.0, 2.0, 6.0)


class TestAllowance:
    @pytest.mark.parametrize(
        ("given", "each", "used"),
        [(50, 0.001, 50), (1000, 0.01, 400), (1000, 0.05, 100), (1000, 0.1, 80), (1000, 9.0, 2), (1, 9.0, 1)],
        ids=["all fit", "a share", "at least 100", "fewer where even 100 are too many", "at least two", "one given"],
    )
    def test_samples_follow_the_time_per_sample(self, given, each, used):
        assert ALLOWED.evaluation_samples(given, each) == used

    def test_no_limit_uses_everything(self):
        free = Allowance()
        assert not free.limited
        assert free.evaluation_samples(10_000, 5.0) == 10_000
        assert free.batch_size(100, 5.0) == 100
        assert free.noise_samples(16, 500, 5.0) == 16

    def test_a_repeated_preparation_uses_the_same_numbers_at_any_speed(self):
        again = ALLOWED.fixed(Extent(70, 1000, 15, 40))
        assert again.evaluation_samples(1000, 1e-6) == again.evaluation_samples(1000, 9.0) == 70
        assert again.calibration_samples == 15

    def test_batches_are_short_enough_to_stop_between_them(self):
        assert ALLOWED.batch_size(100, 0.01) == 50
        assert ALLOWED.batch_size(100, 0.001) == 100
        assert ALLOWED.batch_size(100, 9.0) == 1

    def test_many_operators_are_estimated_from_fewer_samples(self):
        assert ALLOWED.noise_samples(16, 10, 0.01) == 16
        assert ALLOWED.noise_samples(16, 100, 0.01) == 2
        assert ALLOWED.noise_samples(16, 100, 1.0) == 1

    def test_shares_are_of_the_time_that_loading_left(self):
        now = [0.0]
        box = TimeBox(100.0, MeasureConfig(), 3, 5, lambda: now[0])
        whole = box.allowance()
        now[0] = 50.0
        half = box.allowance()
        assert half.evaluation_seconds == pytest.approx(whole.evaluation_seconds / 2)
        assert whole.calibration_seconds + 2 * whole.most_evaluation_seconds < 0.5 * 100
        assert not TimeBox(0.0, MeasureConfig(), 3, 5).allowance().limited


class TestBatchesInTime:
    def batches(self, seconds):
        now = [0.0]
        made = BatchesInTime([{"x": np.full(2, i)} for i in range(10)], seconds, lambda: now[0])
        return made, now

    def read(self, made, now, each):
        found = []
        for batch in made:
            found.append(int(batch["x"][0]))
            now[0] += each
        return found

    @pytest.mark.parametrize(("each", "count"), [(0.1, 10), (1.0, 5), (2.0, 2), (50.0, 1)])
    def test_the_first_pass_reads_what_its_time_allows(self, each, count):
        made, now = self.batches(5.0)
        assert self.read(made, now, each) == list(range(count))
        assert len(made) == count

    @pytest.mark.parametrize(("passes", "count"), [(1, 5), (2, 2), (20, 1)])
    def test_all_passes_together_take_the_time(self, passes, count):
        made, now = self.batches(5.0)
        made.expect_passes(passes)
        assert self.read(made, now, 1.0) == list(range(count))

    def test_the_second_pass_reads_the_same_batches_at_any_speed(self):
        made, now = self.batches(5.0)
        first = self.read(made, now, 1.0)
        assert self.read(made, now, 100.0) == first == self.read(made, now, 0.0)

    @pytest.mark.parametrize(("each", "seconds", "left"), [(0.1, 8.9, True), (0.1, 9.1, False), (1.0, 5.1, False)])
    def test_what_the_first_pass_leaves_is_for_further_work(self, each, seconds, left):
        made, now = self.batches(5.0)
        self.read(made, now, each)
        assert made.leaves(seconds) is left
        assert made.further is left
        assert made.leaves(0.0) is left  # what was left out once stays out

    def test_a_repetition_decides_as_the_first_preparation_did(self):
        found = Extent(4, 8, 5, 10, 0)
        allowance = Allowance(calibration_seconds=5.0).fixed(Extent(**found.to_dict()))
        assert not BatchesInTime([], math.inf, further=allowance.equalization).leaves(0.0)
        assert Allowance().fixed(Extent()).equalization

    def test_it_is_a_sequence(self):
        made, now = self.batches(5.0)
        assert int(made[0]["x"][0]) == 0
        self.read(made, now, 1.0)
        assert len(made[1:]) == 4
        with pytest.raises(IndexError):
            made[5]


class TestText:
    def test_it_names_what_is_used_of_what_is_given(self):
        text = Extent(120, 718, 40, 100).text(150)
        assert text.startswith("120 of 718 evaluation samples and 40 of 100 calibration samples are used")
        assert "tuning.timeout=150" in text

    def test_nothing_is_said_where_everything_is_used(self):
        assert Extent(718, 718, 100, 100).text(150) == ""
        assert Extent(0, 0, 100, 100).text(150) == ""  # a user's function counts no samples


class TestLimitedDataset:
    def dataset(self, order=None):
        info = ModelInfo((TensorSpec("x", (None, 2), np.dtype(np.float32)),), ())
        x = np.repeat(np.arange(10, dtype=np.float32)[:, None], 2, 1)
        return Dataset(Raw("data.path", {"x": x}, np.arange(10)), Preprocess(), info, order)

    @pytest.mark.parametrize("order", [None, np.array([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])])
    def test_inputs_and_labels_stay_paired(self, order):
        data = self.dataset(order)
        assert len(data.labels) == 10
        data.limit(4)
        assert len(data) == len(data.labels) == 4
        read = np.concatenate([batch["x"][:, 0] for batch, _, _ in data.batches(3)])
        assert read.tolist() == data.labels.tolist()
        assert data.batch(3, 2)["x"][:, 0].tolist() == [data.labels[3], data.labels[0]]

    def test_the_first_of_a_random_order_are_used(self):
        order = np.array([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])
        data = self.dataset(order)
        data.limit(3)
        assert data.labels.tolist() == [3, 1, 4]

    def test_without_an_order_all_parts_of_the_data_are_used(self):
        data = self.dataset()  # data may be sorted by class
        data.limit(5)
        assert data.labels.tolist() == [0, 2, 4, 6, 8]


def test_infinite_shares_are_no_numbers_of_samples():
    assert math.isinf(Allowance().timing_seconds)
    assert Allowance(samples=7).evaluation_samples(100, 1.0) == 7
