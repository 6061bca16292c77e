"""Calibration keeps to a limit of memory and gives the same histograms whatever the limit."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from nc_strategies.backends.adapted import LazyFeeds
from nc_strategies.backends.collection import MemoryLimits, collect, noise_in_pieces, plan_runs
from nc_strategies.calibration.noise import noise_to_signal
from nc_strategies.errors import EngineError, InputError
from nc_strategies.models.info import ModelInfo, TensorSpec
from nc_strategies.runtime import memory

MANY, FEW = 10**9, 400


def info(shape=(None, 4), axis=0):
    return ModelInfo((TensorSpec("x", shape, np.dtype(np.float32), axis),), ())


class Doubling:
    """Computes ``a = x`` and ``b = 2 x`` of the same shape; refuses more samples than `most`."""

    def __init__(self, axis=0, most=MANY):
        self.axis, self.most, self.runs, self.largest = axis, most, [], 0

    def tensors(self, feed):
        x = feed["x"]
        if x.shape[self.axis] > self.most:
            raise EngineError("too many samples")
        return {"a": x, "b": 2 * x}

    def shapes(self, feed):
        return {name: value.shape for name, value in self.tensors(feed).items()}

    def reader(self, names):
        def read(feed):
            values = [self.tensors(feed)[name] for name in names]
            self.runs.append((tuple(names), feed["x"].shape[self.axis]))
            self.largest = max(self.largest, sum(value.nbytes for value in values))
            return values

        return read


def batches(axis=0, size=10):
    values = np.random.default_rng(0).normal(size=(25, 4)).astype(np.float32)
    return [{"x": np.moveaxis(values[i : i + size], 0, axis)} for i in range(0, 25, size)]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("read", "groups", "samples"), [(MANY, 1, 10), (100, 1, 3), (16, 2, 1), (1, 2, 1)])
def test_any_limit_of_memory_gives_the_same_histograms(axis, read, groups, samples):
    shape = (None, 4) if axis == 0 else (4, None)
    whole, _ = collect(Doubling(axis), batches(axis), info(shape, axis), lambda *_: None, MemoryLimits(MANY, MANY))
    engine, looked = Doubling(axis), []
    found, _ = collect(
        engine,
        batches(axis),
        info(shape, axis),
        lambda name, v: looked.append((name, v.size)),
        MemoryLimits(read, MANY),
    )
    for name in ("a", "b"):
        np.testing.assert_array_equal(found[name].counts, whole[name].counts)
        assert sum(size for seen, size in looked if seen == name) == 100
    assert len({names for names, _ in engine.runs}) == groups
    assert max(count for _, count in engine.runs) == samples
    assert engine.largest <= max(read, 16)


@pytest.mark.parametrize(("free", "groups"), [(0, 2), (60, 2), (64, 1)])
def test_where_memory_is_free_fewer_passes_read_the_same_samples_per_run(monkeypatch, free, groups):
    monkeypatch.setattr(memory, "free_bytes", lambda: free)
    plan = plan_runs({"a": 16, "b": 16}, 20, MemoryLimits(16, MANY, free_share=0.5))
    assert (len(plan.groups), plan.samples) == (groups, 1)
    monkeypatch.setattr(memory, "free_bytes", lambda: pytest.fail("asked without need"))
    assert plan_runs({"a": 16, "b": 16}, 20, MemoryLimits(64, MANY, free_share=0.5)).samples == 2


@pytest.mark.parametrize(("read", "groups"), [(MANY, 1), (16, 2)])
def test_batches_in_time_hear_how_often_they_will_be_read(read, groups):
    class Heard(list):
        expected = 0

        def expect_passes(self, count):
            self.expected = count

        def leaves(self, seconds):
            return True

    inner = Heard(batches())
    feeds = LazyFeeds(inner, SimpleNamespace(engine=lambda batch: batch))
    collect(Doubling(), feeds, info(), lambda *_: None, MemoryLimits(read, MANY))
    assert inner.expected == groups


@pytest.mark.parametrize("read", [MANY, 32])
def test_a_model_that_takes_single_samples_only_is_calibrated_with_them(read):
    engine = Doubling(most=1)
    found, largest = collect(engine, batches(), info(), lambda *_: None, MemoryLimits(read, MANY))
    assert largest == 1
    assert found["b"].counts.sum() == 100


def test_the_largest_batch_follows_from_the_largest_activation():
    _, largest = collect(Doubling(), batches(), info(), lambda *_: None, MemoryLimits(MANY, 16 * 4 * 7))
    assert largest == 7
    assert plan_runs({"a": MANY}, 20, MemoryLimits(FEW, FEW)).samples == 1


def test_a_fixed_batch_is_not_cut_and_its_tensors_are_split():
    engine = Doubling()
    _, largest = collect(engine, batches(size=5), info((5, 4)), lambda *_: None, MemoryLimits(100, 100))
    assert largest == 5
    assert {count for _, count in engine.runs} == {5}
    assert len({names for names, _ in engine.runs}) == 2


def test_a_model_that_refuses_its_data_is_refused():
    with pytest.raises(InputError, match="does not accept the calibration data: too many samples"):
        collect(Doubling(most=0), batches(), info(), lambda *_: None)
    with pytest.raises(InputError, match="NaN in tensor 'a'"):
        collect(Doubling(), [{"x": np.full((2, 4), np.nan, np.float32)}], info(), lambda *_: None)


def test_noise_is_that_of_all_samples_however_they_are_cut():
    feed = {"x": np.random.default_rng(1).normal(size=(7, 4)).astype(np.float32)}
    wrong = {"x": feed["x"] + np.arange(7, dtype=np.float32)[:, None]}

    def other(piece):
        rows = [int(np.flatnonzero((feed["x"] == row).all(1))[0]) for row in piece["x"]]
        return [wrong["x"][rows]]

    expected = noise_to_signal(feed["x"], wrong["x"])
    for size in (1, 3, 7, 20):
        assert noise_in_pieces(lambda piece: [piece["x"]], other, feed, info(), size) == pytest.approx(expected)
