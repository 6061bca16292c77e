"""Samples in the form the model takes, and what is said of samples that do not fit."""

from types import SimpleNamespace

import numpy as np
import pytest

from nc_strategies.api import Dataset, ModelInfo, Preprocess, Raw, TensorSpec
from nc_strategies.data import spool
from nc_strategies.errors import InputError

KEY = "data.path"


def info(*shapes, dtype=np.float32, names=("image", "mask")):
    specs = tuple(TensorSpec(name, shape, np.dtype(dtype)) for name, shape in zip(names, shapes, strict=False))
    return ModelInfo(specs, ())


def numbered(count, width=2):
    return Raw(KEY, {"x": np.repeat(np.arange(count, dtype=np.float64)[:, None], width, 1)}, np.arange(count))


class TestRaw:
    def test_labels_of_another_length_are_refused(self):
        with pytest.raises(InputError, match=r"^data\.path: 3 labels for 4 samples; one label per sample$"):
            Raw(KEY, {"x": np.zeros((4, 2))}, np.zeros(3))

    def test_inputs_of_different_lengths_are_refused(self):
        with pytest.raises(InputError, match=r"inputs of different lengths: .*'a': 4, 'b': 5"):
            Raw(KEY, {"a": np.zeros((4, 2)), "b": np.zeros((5, 2))})

    @pytest.mark.parametrize("inputs", [{}, {"x": np.zeros((0, 3))}], ids=["no array", "no sample"])
    def test_no_samples_are_refused(self, inputs):
        with pytest.raises(InputError, match=r"^data\.path: holds no samples$"):
            Raw(KEY, inputs)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_values_that_are_not_finite_are_refused(self, value):
        x = np.zeros((4, 2))
        x[2, 1] = value
        with pytest.raises(InputError, match=r"array 'x' holds NaN or infinity"):
            Raw(KEY, {"x": x})
        with pytest.raises(InputError, match=r"array 'y' holds NaN or infinity"):
            Raw(KEY, {"x": np.zeros((4, 2))}, x[:, 1])

    @pytest.mark.parametrize("array", [np.array(["a", "b"]), np.array([None, 1]), np.zeros(2, complex)])
    def test_arrays_without_numbers_are_refused(self, array):
        with pytest.raises(InputError, match=r"array 'x' is of type .*; numbers are needed"):
            Raw(KEY, {"x": array})

    def test_taking_keeps_labels_beside_their_samples(self):
        part = numbered(10).take(3, 5)
        assert part.inputs["x"][:, 0].tolist() == part.labels.tolist() == [3, 4]
        assert len(numbered(3).take(0, 100)) == 3

    def test_the_hash_sees_values_names_types_shapes_and_labels(self):
        x = np.arange(6, dtype=np.float32).reshape(3, 2)
        changed = x.copy()
        changed[2, 1] = 9
        raws = [
            Raw(KEY, {"x": x}),
            Raw(KEY, {"x": changed}),
            Raw(KEY, {"z": x}),
            Raw(KEY, {"x": x.astype(np.float64)}),
            Raw(KEY, {"x": x.reshape(3, 2, 1)}),
            Raw(KEY, {"x": x}, np.arange(3)),
            Raw(KEY, {"x": x}, np.ones(3)),
        ]
        assert len({raw.sha256() for raw in raws}) == len(raws)

    def test_the_hash_does_not_depend_on_memory_layout_or_the_order_of_inputs(self):
        x, z = np.arange(6.0).reshape(3, 2), np.ones((3, 1))
        one = Raw(KEY, {"x": x, "z": z})
        other = Raw("another.key", {"z": z, "x": np.asfortranarray(x)})
        assert one.sha256() == other.sha256()


class TestDataset:
    def test_all_samples_come_once_in_order_with_their_labels(self):
        data = Dataset(numbered(7), Preprocess(), info((None, 2)))
        found = [(batch["image"][:, 0].tolist(), labels.tolist(), count) for batch, labels, count in data.batches(3)]
        assert found == [([0, 1, 2], [0, 1, 2], 3), ([3, 4, 5], [3, 4, 5], 3), ([6], [6], 1)]

    def test_a_fixed_batch_size_is_filled_up_with_samples_that_do_not_count(self):
        data = Dataset(numbered(5), Preprocess(), info((3, 2)))
        found = [(batch["image"][:, 0].tolist(), labels.tolist(), count) for batch, labels, count in data.batches(100)]
        assert found == [([0, 1, 2], [0, 1, 2], 3), ([3, 4, 0], [3, 4], 2)]

    def test_a_fixed_batch_size_larger_than_the_data_goes_round_and_round(self):
        data = Dataset(numbered(2), Preprocess(), info((5, 2)))
        ((batch, labels, count),) = data.batches(1)
        assert (batch["image"][:, 0].tolist(), labels.tolist(), count) == ([0, 1, 0, 1, 0], [0, 1], 2)

    def test_arrays_have_the_type_the_model_takes(self):
        assert Dataset(numbered(2), Preprocess(), info((None, 2), dtype=np.float16)).batch(0, 1)["image"].dtype == "f2"

    def test_preprocessing_is_applied(self):
        data = Dataset(numbered(3), Preprocess(scale=10.0, offset=1.0), info((None, 2)))
        assert data.batch(1, 2)["image"][:, 0].tolist() == [11.0, 21.0]

    def test_large_samples_are_kept_on_disk_or_made_again_and_are_always_the_same(self, monkeypatch, caplog):
        preprocess = Preprocess(scale=2.0)
        kept = Dataset(numbered(5), preprocess, info((3, 2)))
        monkeypatch.setattr(spool, "LARGE", 0)
        monkeypatch.setattr(spool, "CHUNK", 16)
        on_disk = Dataset(numbered(5), preprocess, info((3, 2)))
        on_disk.store()
        monkeypatch.setattr(spool.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
        assert not caplog.text
        made = Dataset(numbered(5), preprocess, info((3, 2)))
        made.store()
        assert "samples are preprocessed again in each pass" in caplog.text
        for (a, _, n), (b, _, m), (c, _, k) in zip(kept.batches(3), on_disk.batches(3), made.batches(3), strict=True):
            np.testing.assert_array_equal(a["image"], b["image"])
            np.testing.assert_array_equal(a["image"], c["image"])
            assert n == m == k

    def test_a_cheap_preprocessing_of_many_bytes_is_repeated_instead_of_stored(self, monkeypatch):
        resized = Preprocess(resize=[1, 1])
        raw = Raw(KEY, {"x": np.arange(40, dtype=np.uint8).reshape(5, 2, 2, 2)})
        monkeypatch.setattr("nc_strategies.data.dataset.STORED", 0)
        monkeypatch.setattr(
            "nc_strategies.data.dataset.allocate", lambda *_: stored.append(1) or np.zeros((5, 1, 1, 2))
        )
        stored = []
        scaled = Dataset(raw, Preprocess(scale=2.0), info((None, 2, 2, 2)))
        parts = [batch["image"] for batch, _, _ in scaled.batches(2)]
        np.testing.assert_array_equal(np.concatenate(parts), raw.inputs["x"] * 2.0)
        assert not stored
        list(Dataset(raw, resized, info((None, 1, 1, 2))).batches(2))
        assert stored

    @pytest.mark.parametrize("large", [0, 10**9], ids=["disk", "memory"])
    def test_no_sample_is_preprocessed_twice(self, monkeypatch, large):
        monkeypatch.setattr(spool, "LARGE", large)
        seen = []

        class Counting(Preprocess):
            def __call__(self, x):
                seen.extend(x[:, 0].tolist())
                return super().__call__(x)

        data = Dataset(numbered(50), Counting(scale=2.0), info((None, 2)))
        for _ in range(3):
            assert sum(count for _, _, count in data.batches(7)) == 50
            data.batch(40, 20)
        assert sorted(seen[1:]) == list(range(50)), "all once, but for the first, by which shapes are seen"

    @pytest.mark.parametrize("stored_first", [False, True])
    def test_a_part_of_the_samples_holds_the_same_ones_whenever_they_are_preprocessed(self, stored_first):
        data = Dataset(numbered(50), Preprocess(scale=2.0), info((None, 2)))
        if stored_first:
            data.store()
        data.limit(40)
        data.store()
        values = np.concatenate([batch["image"][:count, 0] for batch, _, count in data.batches(7)])
        np.testing.assert_array_equal(values, 2 * data.labels)
        assert values.max() > 2 * 40

    def test_samples_that_need_no_preprocessing_are_not_copied(self):
        raw = Raw(KEY, {"x": np.zeros((4, 2), np.float32)})
        assert np.shares_memory(Dataset(raw, Preprocess(), info((None, 2))).batch(0, 2)["image"], raw.inputs["x"])

    def test_preprocessing_may_be_for_some_inputs_only(self):
        raw = Raw(KEY, {"mask": np.ones((4, 3)), "image": np.ones((4, 2))})
        batch = Dataset(raw, Preprocess(scale=5.0, inputs=["image"]), info((None, 2), (None, 3))).batch(0, 1)
        assert (batch["image"][0, 0], batch["mask"][0, 0]) == (5.0, 1.0)
        with pytest.raises(InputError, match=r"^data\.preprocess\.inputs: names other; the model's inputs: image"):
            Dataset(raw, Preprocess(scale=5.0, inputs=["other"]), info((None, 2), (None, 3)))

    @pytest.mark.parametrize(
        "labels",
        [np.zeros((4, 8, 8), np.uint8), np.ones((4, 5)), np.linspace(0, 1, 4)],
        ids=["masks", "multi-label", "numbers"],
    )
    def test_labels_have_any_shape(self, labels):
        data = Dataset(Raw(KEY, {"x": np.zeros((4, 2))}, labels), Preprocess(), info((None, 2)))
        np.testing.assert_array_equal(np.concatenate([part for _, part, _ in data.batches(3)]), labels)

    def test_several_inputs_go_by_name(self):
        raw = Raw(KEY, {"mask": np.ones((4, 3)), "image": np.zeros((4, 2)), "more": np.zeros((4, 1))})
        batch = Dataset(raw, Preprocess(), info((None, 2), (None, 3))).batch(0, 2)
        assert {name: array.shape for name, array in batch.items()} == {"image": (2, 2), "mask": (2, 3)}

    def test_a_missing_input_is_named(self):
        with pytest.raises(
            InputError,
            match=r"^data\.path: has no array for the model's input mask; it has image, x; arrays must have the names "
            r"of the inputs; the model's inputs: image \(N, 2\) float32, mask \(N, 3\) float32; outputs:",
        ):
            Dataset(
                Raw(KEY, {"image": np.zeros((4, 2)), "x": np.zeros((4, 3))}), Preprocess(), info((None, 2), (None, 3))
            )

    def test_the_only_array_serves_the_only_input_whatever_its_name(self):
        assert list(Dataset(Raw(KEY, {"other": np.zeros((4, 2))}), Preprocess(), info((None, 2))).batch(0, 1)) == [
            "image"
        ]

    @pytest.mark.parametrize(
        ("got", "want", "hint"),
        [
            ((28, 28, 1), (1, 28, 28), "data.preprocess.layout=nchw"),
            ((3, 28, 20), (28, 20, 3), "data.preprocess.layout=nhwc"),
            ((28, 28, 3), (32, 30, 3), "data.preprocess.resize=[32,30]"),
            ((3, 28, 28), (3, 32, 30), "data.preprocess.resize=[32,30]"),
        ],
    )
    def test_pictures_of_another_shape_come_with_the_setting_that_mends_them(self, got, want, hint):
        with pytest.raises(InputError) as caught:
            Dataset(Raw(KEY, {"x": np.zeros((2, *got))}), Preprocess(), info((None, *want)))
        message = str(caught.value)
        assert message.startswith(
            f"data.path: samples have shape {got} after preprocessing; input 'image' takes {want}"
        )
        assert message.endswith(f"; set {hint}")
        name, value = hint.removeprefix("data.preprocess.").split("=")
        mended = Preprocess(**{name: value if name == "layout" else [int(v) for v in value.strip("[]").split(",")]})
        assert Dataset(Raw(KEY, {"x": np.zeros((2, *got))}), mended, info((None, *want))).batch(0, 1)

    def test_a_shape_that_cannot_be_mended_says_what_the_model_takes(self):
        with pytest.raises(
            InputError,
            match=r"samples have shape \(3,\) after preprocessing; input 'image' takes \(any, 2\); "
            r"the model's inputs: image \(N, any, 2\) float32; outputs: .*; the data: x \(2, 3\) float64$",
        ):
            Dataset(Raw(KEY, {"x": np.zeros((2, 3))}), Preprocess(), info((None, None, 2)))

    def test_labels_are_asked_for_where_there_are_none(self):
        data = Dataset(Raw(KEY, {"x": np.zeros((4, 2))}), Preprocess(), info((None, 2)))
        assert next(data.batches(2))[1] is None
        with pytest.raises(InputError, match=r"^data\.path: has no labels; array y .* or metrics=fidelity, "):
            _ = data.labels


def test_samples_limited_before_they_are_preprocessed_are_those_of_all():
    data = Dataset(numbered(10), Preprocess(scale=2.0), info((None, 2), names=("x",)))
    data.limit(3)
    ((batch, _, count),) = list(data.batches(8))
    assert count == 3
    assert batch["x"][:, 0].tolist() == (2 * data.labels).tolist() == [0, 6, 12]
