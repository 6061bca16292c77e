"""Ragged samples, and batches of samples of like length."""

import numpy as np
import pytest

from nc_strategies.api import Dataset, ModelInfo, Preprocess, Ragged, Raw, TensorSpec
from nc_strategies.data.batches import LazyBatches
from nc_strategies.data.lengths import BUCKET_RULES
from nc_strategies.data.npz import read_npz
from nc_strategies.data.ragged import gathered, stored
from nc_strategies.errors import InputError

RNG = np.random.default_rng(0)


def pieces(*shapes):
    return [RNG.integers(0, 100, shape) for shape in shapes]


def same(ragged, expected):
    return len(ragged) == len(expected) and all(map(np.array_equal, ragged, expected))


def info(**shapes):
    specs = (TensorSpec(name, (None, *shape), np.dtype(np.int64)) for name, shape in shapes.items())
    return ModelInfo(tuple(specs), ())


class TestRagged:
    def test_samples_slices_and_positions_are_those_of_the_list(self):
        given = pieces((3, 2), (1, 4), (2, 2), (5, 1))
        ragged = Ragged.of(given)
        assert same(ragged, given)
        assert same(ragged[1:3], given[1:3])
        assert same(ragged[np.array([3, 0])], [given[3], given[0]])
        assert same(ragged[np.array([3, 0])][1:].packed(), [given[0]])
        assert (ragged.shape, ragged.ndim, ragged.size) == ((4, -1, -1), 3, sum(map(np.size, given)))
        assert ragged.text() == "(4, 1 to 5, 1 to 4)"

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_samples_may_be_concatenated_along_any_axis(self, axis):
        shapes = [[3, 2, 4] for _ in range(3)]
        for shape, size in zip(shapes, (5, 1, 2), strict=True):
            shape[axis] = size
        given = pieces(*map(tuple, shapes))
        assert same(Ragged.concatenated(np.concatenate(given, axis), np.array([0, 5, 6, 8]), axis), given)

    def test_samples_are_cut_and_filled_up(self):
        filled = Ragged.of([np.array([1, 2, 3]), np.array([4])]).filled([2], 9)
        assert filled.tolist() == [[1, 2], [4, 9]]

    def test_what_is_stored_is_read_again(self, tmp_path):
        given = pieces((3, 2), (1, 4))
        ragged = Ragged.of(given)[::-1]
        np.savez(tmp_path / "data.npz", **stored("x", ragged), y=np.arange(2))
        assert same(read_npz("data.path", str(tmp_path / "data.npz")).inputs["x"], given[::-1])

    def test_hashes_tell_shapes_apart_and_forget_where_values_are_stored(self):
        given = pieces((4,), (2,), (3,))
        hashes = [
            Raw("k", {"x": Ragged.of(given)[::-1]}).sha256(),
            Raw("k", {"x": Ragged.of(given[::-1])}).sha256(),
            Raw("k", {"x": Ragged(Ragged.of(given[::-1]).values, [[3], [3], [3]])}).sha256(),
        ]
        assert hashes[0] == hashes[1] != hashes[2]

    @pytest.mark.parametrize(
        ("arrays", "problem"),
        [
            ({"x.offsets": [0, 2]}, "offsets from 0 to 2 of 6 values"),
            ({"x.offsets": [1, 6]}, "offsets from 1 to 6 of 6 values"),
            ({"x.offsets": [0, 4, 2, 6]}, "offsets from 0 to 6 of 6 values"),
            ({"x.offsets": [0.0, 6.0]}, "offsets of shape"),
            ({"x.offsets": [0, 6], "x.axis": 1}, "axis 1 of values with 1 axes"),
            ({"x.shapes": [[2], [3]]}, "values of shape"),
            ({"x.shapes": [2, 4]}, "shapes of shape"),
        ],
    )
    def test_arrays_that_do_not_fit_each_other_are_refused(self, arrays, problem):
        with pytest.raises(
            InputError, match=rf"^data\.path: holds {problem}.* for the ragged samples 'x'; NAME.values"
        ):
            gathered("data.path", {"x.values": np.arange(6), **{name: np.array(a) for name, a in arrays.items()}})

    def test_values_alone_are_an_array_of_that_name(self):
        assert list(gathered("k", {"x.values": np.arange(3)})) == ["x.values"]

    def test_nan_and_a_wrong_number_of_labels_are_refused(self):
        with pytest.raises(InputError, match="array 'x' holds NaN"):
            Raw("k", {"x": Ragged.of([np.array([1.0]), np.array([np.nan, 1.0])])})
        with pytest.raises(InputError, match="3 labels for 2 samples"):
            Raw("k", {"x": Ragged.of(pieces((1,), (2,)))}, np.zeros(3))

    def test_an_empty_sample_is_refused_and_an_empty_label_is_not(self):
        with pytest.raises(InputError, match="sample 1 of array 'x' is empty"):
            Raw("k", {"x": Ragged.of(pieces((1,), (0,)))})
        assert len(Raw("k", {"x": np.zeros((2, 1))}, Ragged.of(pieces((1,), (0,))))) == 2


def masked(lengths, width=None, order=None):
    ids = Ragged.of([np.full(length, place + 1) for place, length in enumerate(lengths)])
    mask = Ragged.of([np.ones(length, np.int64) for length in lengths])
    if width:
        ids, mask = ids.filled([width]), mask.filled([width])
    raw = Raw("data", {"ids": ids, "mask": mask}, np.arange(1, len(lengths) + 1))
    return Dataset(raw, Preprocess(), info(ids=(None,), mask=(None,)), order, pad=7)


class TestBatches:
    @pytest.mark.parametrize("width", [None, 60], ids=["ragged", "padded"])
    def test_every_part_is_complete_in_the_order_of_the_samples(self, width):
        lengths = RNG.integers(1, 50, 200)
        order = RNG.permutation(200)
        data = masked(lengths, width, order)
        read, parts = [], 0
        for run in data.runs(16):
            own = lengths[order[run.positions]]
            np.testing.assert_array_equal(run.batch["mask"].sum(1)[: len(own)], own)
            assert run.batch["ids"].shape[1] == own.max()
            assert run.batch["ids"][:, 0].tolist()[: len(own)] == (order[run.positions] + 1).tolist()
            longest = max(own.min() * BUCKET_RULES.longest_to_shortest, own.min() + BUCKET_RULES.free_difference)
            assert own.max() <= longest
            assert len(own) <= 16
            read += run.positions.tolist()
            if run.complete:
                parts += 1
                assert sorted(read) == list(range(len(read))), "what has been read is a random sample"
        assert len(read) == 200
        assert parts == BUCKET_RULES.windows

    def test_places_beyond_a_sample_hold_the_value_that_is_asked_for_and_zeros_in_the_mask(self):
        (run,) = masked([2, 3]).runs(5)
        assert run.batch["ids"].tolist() == [[1, 1, 7], [2, 2, 2]]
        assert run.batch["mask"].tolist() == [[1, 1, 0], [1, 1, 1]]

    def test_full_masks_change_nothing(self):
        assert masked([5, 5, 5], 5).lengths is None

    def test_without_a_mask_only_equal_shapes_share_a_batch(self):
        shapes = [(2, int(RNG.integers(3, 6))) for _ in range(50)]
        raw = Raw("data", {"x": Ragged.of(pieces(*shapes))})
        data = Dataset(raw, Preprocess(), info(x=(2, None)))
        runs = list(data.runs(100))
        assert sorted(place for run in runs for place in run.positions) == list(range(50))
        for run in runs:
            assert {shapes[place] for place in run.positions} == {run.batch["x"].shape[1:]}
        for start in range(5):
            assert data.batch(start, 4)["x"].shape == (4, *shapes[start])

    def test_calibration_reads_the_longest_batch_first_and_every_sample_once(self):
        lengths = RNG.integers(1, 50, 100)
        batches = LazyBatches(masked(lengths), 8)
        assert batches[0]["ids"].shape[1] == lengths.max()
        assert sorted(int(place) for batch in batches for place in batch["ids"][:, 0]) == list(range(1, 101))
        assert batches.samples(len(batches)) == 100
        widths = [batch["ids"].shape[1] for batch in batches]
        assert widths[1:] != sorted(widths[1:])

    def test_two_masks_of_one_width_cut_neither(self):
        ids = np.ones((3, 6), np.int64)
        masks = {"a_mask": np.tri(3, 6, 0, np.int64), "b_mask": np.tri(3, 6, 2, np.int64)}
        raw = Raw("data", {"ids": ids, **masks})
        data = Dataset(raw, Preprocess(), info(ids=(None,), a_mask=(None,), b_mask=(None,)))
        assert data.lengths.values.tolist() == [3, 4, 5]

    def test_other_masks_say_nothing_about_lengths(self):
        for mask in (np.array([[0, 1, 1], [0, 0, 1]]), np.array([[1, 2, 0], [1, 0, 0]]), np.array([[0, 0], [1, 0]])):
            raw = Raw("data", {"mask": mask})
            assert Dataset(raw, Preprocess(), info(mask=(None,))).lengths is None

    def test_an_input_that_does_not_follow_the_mask_is_refused(self):
        raw = Raw("data", {"ids": Ragged.of(pieces((3,), (4,))), "mask": np.array([[1, 1, 0], [1, 1, 1]])})
        with pytest.raises(InputError, match="axis 0 of a sample does not follow the lengths of 'mask'"):
            Dataset(raw, Preprocess(), info(ids=(None,), mask=(None,)))

    def test_a_fixed_axis_without_a_mask_is_refused(self):
        raw = Raw("data", {"x": Ragged.of(pieces((2, 3), (2, 4)))})
        with pytest.raises(InputError, match=r"shape \(2, 2, 3 to 4\), and input 'x' has a fixed size of 4 there"):
            Dataset(raw, Preprocess(), info(x=(2, 4)))

    def test_a_resize_makes_pictures_equal(self):
        raw = Raw("data", {"x": Ragged.of([np.ones((h, 5, 1), np.uint8) for h in (4, 6, 9)])})
        data = Dataset(raw, Preprocess(resize=[4, 4]), info(x=(4, 4, 1)))
        assert data.lengths is None
        assert data.batch(0, 3)["x"].shape == (3, 4, 4, 1)

    def test_preprocessing_leaves_shapes_alone_where_it_does_not_resize(self):
        raw = Raw("data", {"x": Ragged.of([np.ones((2, w), np.uint8) for w in (4, 6)])})
        data = Dataset(raw, Preprocess(scale=3.0), info(x=(2, None)))
        assert [run.batch["x"].tolist() for run in data.runs(1)] == [np.full((1, 2, w), 3).tolist() for w in (4, 6)]
