"""Latency at several lengths, and outputs of batches of different lengths."""

import numpy as np
import pytest

from nc_strategies.api import Dataset, ModelInfo, Preprocess, Ragged, Raw, TensorSpec
from nc_strategies.errors import InputError
from nc_strategies.measuring.accuracy import predict
from nc_strategies.measuring.latency import Timing
from nc_strategies.measuring.lengths import LENGTH_RULES, by_length, interleave_batches, timed_batches, widened
from nc_strategies.measuring.outputs import OutputLayout
from nc_strategies.problem.evaluation import Evaluation

RNG = np.random.default_rng(0)
NUMBERS = np.dtype(np.int64)


def spec(name, *shape):
    return TensorSpec(name, (None, *shape), NUMBERS)


def text(lengths, order=None, fixed=None):
    ids = Ragged.of([np.full(length, place) for place, length in enumerate(lengths)])
    mask = Ragged.of([np.ones(length, np.int64) for length in lengths])
    specs = (spec("ids", fixed), spec("mask", fixed))
    return Dataset(Raw("data", {"ids": ids, "mask": mask}), Preprocess(), ModelInfo(specs, ()), order)


class Clocked:
    """A model whose runs take a time for each entry of a sample and one for each run."""

    def __init__(self, clock, entry, once=0.0):
        self.clock, self.entry, self.once, self.seen = clock, entry, once, []

    def predict(self, batch):
        self.clock[0] += self.once + self.entry * batch["ids"].shape[1]
        self.seen.append(batch["ids"].shape[1])
        return [batch["ids"][..., None] + 0.0]


def timed(data, models, clock, size=1, asked=None, runs=60):
    batches = timed_batches(data, size, asked)
    found = interleave_batches(models, batches, runs, RNG, clock=lambda: clock[0])
    return found, batches


class TestTiming:
    def test_the_objective_is_the_weighted_mean_over_the_quantiles_of_the_lengths(self):
        clock, lengths = [0.0], np.array([*range(1, 51), *range(60, 560, 10)])
        fp32, other = Clocked(clock, 0.001), Clocked(clock, 0.0002, 0.02)
        found, batches = timed(text(lengths), [fp32, other], clock)
        assert [(one.length, one.weight) for one in batches] == list(zip((10, 50, 450), (0.3, 0.4, 0.3), strict=True))
        assert found.median_ms(0) == pytest.approx(158)
        assert found.median_ms(1) == pytest.approx(51.6)
        assert found.ratio(1, 0) == pytest.approx(51.6 / 158)
        rows = by_length(found, batches, 1, 0)
        assert [(one.length, round(one.fp32_ms), round(one.ms), round(one.ratio, 2)) for one in rows] == [
            (10, 10, 22, 2.2),
            (50, 50, 30, 0.6),
            (450, 450, 110, 0.24),
        ]

    def test_several_lengths_take_no_more_runs_than_one(self):
        clock = [0.0]
        models = [Clocked(clock, 0.001), Clocked(clock, 0.001)]
        timed(text(np.arange(1, 101)), models, clock, runs=60)
        warm_up, untimed_and_timed = 5 * 3, 2 * 60
        assert [len(model.seen) for model in models] == [warm_up + untimed_and_timed] * 2

    def test_a_time_limit_stops_after_as_few_runs_as_at_one_length(self):
        model = Clocked([0.0], 0.001)
        batches = timed_batches(text(np.arange(1, 101)), 1)
        found = interleave_batches([model, model], batches, 300, RNG, limit=1e-9, clock=lambda: model.clock[0])
        assert found.runs * 3 == 21

    def test_lengths_that_are_equal_are_timed_once_with_the_sum_of_their_weights(self):
        batches = timed_batches(text([4] * 50 + [9] * 4), 1)
        assert [(one.length, one.weight) for one in batches] == [(4, pytest.approx(sum(LENGTH_RULES.weights)))]

    def test_samples_near_a_length_are_cut_and_filled_up_to_it(self):
        (batch,) = timed_batches(text([3, 6, 20]), 2, [5])
        assert batch.batch["ids"].tolist() == [[1] * 5, [0] * 3 + [0] * 2]
        assert batch.batch["mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]

    def test_samples_of_one_shape_can_be_timed_at_other_lengths_if_one_axis_is_free(self):
        data = Dataset(Raw("data", {"x": np.ones((4, 6, 2))}), Preprocess(), ModelInfo((spec("x", None, 2),), ()))
        assert [one.batch["x"].shape for one in timed_batches(data, 1, [3, 9])] == [(1, 3, 2), (1, 9, 2)]
        assert timed_batches(data, 1)[0].length == 0

    @pytest.mark.parametrize(
        ("data", "problem"),
        [
            (text([3, 4], fixed=8), "the model takes a length of 8 only"),
            (
                Dataset(Raw("data", {"x": np.ones((4, 6))}), Preprocess(), ModelInfo((spec("x", 6),), ())),
                "no length of the model's inputs is known to be free",
            ),
            (
                Dataset(
                    Raw("data", {"x": Ragged.of([np.ones((3, 4)), np.ones((4, 2))])}),
                    Preprocess(),
                    ModelInfo((spec("x", None, None),), ()),
                ),
                "samples differ in more than one axis",
            ),
        ],
    )
    def test_lengths_that_the_model_does_not_take_are_refused(self, data, problem):
        with pytest.raises(InputError, match=rf"^measure\.lengths: is \[5\].*{problem}"):
            timed_batches(data, 1, [5])

    def test_sessions_are_joined_at_each_length(self):
        one = Timing(np.ones((4, 2)), parts=(Timing(np.ones((4, 2))), Timing(2 * np.ones((4, 2)))))
        joined = Timing.joined([one] * 4)
        assert [part.sessions for part in joined.parts] == [(4, 4, 4, 4)] * 2
        assert joined.parts[1].median_ms(0) == pytest.approx(2000)

    def test_the_journal_keeps_latencies_by_length(self):
        clock = [0.0]
        models = [Clocked(clock, 0.001), Clocked(clock, 0.0005)]
        found, batches = timed(text(np.arange(1, 101)), models, clock)
        done = Evaluation((("accuracy", 1.0),), latency_by_length=by_length(found, batches, 1, 0))
        assert Evaluation.from_dict(done.to_dict()) == done
        assert "latency_by_length" not in Evaluation((("accuracy", 1.0),)).to_dict()


class TestOutputs:
    def test_what_is_read_is_a_prefix_of_the_samples_in_their_order(self):
        lengths, order = RNG.integers(1, 40, 300), RNG.permutation(300)
        data, read = text(lengths, order), []

        def enough(outputs):
            read.extend(outputs[:, 0, 0].astype(int).tolist())
            return len(read) >= 100

        layouts = [OutputLayout("out", 0, length_axes=(1,))]
        (found,) = predict([Clocked([0.0], 0.0)], data, 16, enough, layouts=layouts)
        assert read == order[: len(read)].tolist()
        assert 100 <= len(read) < 300
        assert found.outputs.shape == (len(read), lengths.max(), 1)
        for output, place in zip(found.outputs, order[: len(read)], strict=True):
            assert (output[: lengths[place]] == place).all()
            assert not output[lengths[place] :].any()

    def test_axes_of_the_length_are_filled_up_and_others_left(self):
        array = np.ones((2, 3, 2, 3))
        wide = widened(array, (1, 3), np.array([1, 3]), 4)
        assert wide.shape == (2, 4, 2, 4)
        assert wide[0].sum() == 2
        assert wide[1].sum() == 18
