"""Samples handed over in Python."""

import numpy as np
import pytest

from nc_strategies.data.objects import samples
from nc_strategies.errors import InputError

X, Y = np.arange(24, dtype=np.float32).reshape(12, 2), np.arange(12)


class Tensor:
    """What a framework's tensor has in common with others: it can be read as an array."""

    def __init__(self, array):
        self.array = array

    def detach(self):
        return self

    def cpu(self):
        return self

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.array, dtype)


class Loader:
    """An iterable of batches that can be gone through more than once."""

    def __init__(self, size, wrap=lambda array: array, kind=tuple):
        self.size, self.wrap, self.kind, self.given = size, wrap, kind, 0

    def __iter__(self):
        for start in range(0, len(X), self.size):
            self.given += 1
            yield self.kind([self.wrap(X[start : start + self.size]), self.wrap(Y[start : start + self.size])])


def file(folder):
    np.savez(folder / "d.npz", x=X, y=Y)
    return folder / "d.npz"


@pytest.mark.parametrize(
    "make",
    [
        lambda _: (X, Y),
        file,
        lambda folder: str(file(folder)),
        lambda _: {"x": X, "y": Y},
        lambda _: Loader(5),
        lambda _: Loader(5, Tensor, list),
        lambda _: iter(Loader(4)),
        lambda _: list(Loader(12)),
        lambda _: [(x, y) for x, y in zip(X, Y, strict=True)],
        lambda _: [{"x": X[:6], "label": Y[:6]}, {"x": X[6:], "label": Y[6:]}],
    ],
)
def test_every_form_gives_the_same_samples(make, tmp_path):
    raw = samples("data", make(tmp_path))
    assert list(raw.inputs) == ["x"]
    assert np.array_equal(raw.inputs["x"], X)
    assert np.array_equal(raw.labels, Y)


def test_labels_may_be_missing():
    for data in (X, [X[:6], X[6:]], [(X,)], [{"x": X}], Loader(5)):
        assert len(samples("calibration", data)) == 12
    assert samples("calibration", [X]).labels is None


def test_several_inputs_come_by_name_or_in_order():
    assert list(samples("data", [([X, X], Y)]).inputs) == ["0", "1"]
    assert list(samples("data", [({"a": X, "b": X}, Y)]).inputs) == ["a", "b"]


def test_an_endless_iterable_is_left_after_enough_samples():
    loader = Loader(3)
    assert len(samples("calibration", loader, 4)) == 4
    assert loader.given == 2


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "yields nothing"),
        (3, "is of type int"),
        ([(X, Y), (X[:, 0], Y)], "do not fit each other"),
        ([(X, Y), X], "element 2 differs"),
        ((X, Y[:3]), "3 labels for 12 samples"),
        (["text"], "yields str"),
        ("missing.npz", "no such file"),
        ((X * np.nan, Y), "NaN"),
    ],
)
def test_what_does_not_fit_is_refused(data, says):
    with pytest.raises(InputError, match=f"^data: .*{says}"):
        samples("data", data)
