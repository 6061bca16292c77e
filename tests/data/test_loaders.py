"""Samples from files: what is read, what is refused."""

import gc
import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from nc_strategies.data.loaders import NpzData, SampleData, read_npz
from nc_strategies.data.settings import NpzSettings, SampleDataSettings
from nc_strategies.errors import InputError

X, Y = np.arange(40.0).reshape(20, 2), np.arange(20)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=X, y=Y)
    return path


class Payload:
    """Says so when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def refuse(path):
    with pytest.raises(InputError) as caught:
        read_npz("data.path", str(path))
    message = str(caught.value)
    assert message.startswith("data.path: ")
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.fixture(autouse=True)
def _closed_files():
    """numpy leaves a file open that it could not read; `test_a_refused_file_is_closed` is about that."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def open_files():
    return {os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()}


def test_arrays_are_read_with_labels_apart(file):
    raw = read_npz("data.path", str(file))
    assert list(raw.inputs) == ["x"]
    np.testing.assert_array_equal(raw.inputs["x"], X)
    np.testing.assert_array_equal(raw.labels, Y)


def test_labels_may_be_left_out_and_inputs_have_their_names(tmp_path):
    np.savez(tmp_path / "two.npz", image=X, mask=Y)
    raw = read_npz("data.path", str(tmp_path / "two.npz"))
    assert sorted(raw.inputs) == ["image", "mask"]
    assert raw.labels is None


def test_a_path_in_the_home_folder_is_found(file, monkeypatch):
    monkeypatch.setenv("HOME", str(file.parent))
    assert len(read_npz("data.path", "~/data.npz")) == 20


def test_a_missing_file_is_named(tmp_path):
    assert "no such file" in refuse(tmp_path / "missing.npz")
    assert "no such file" in refuse(tmp_path)


@pytest.mark.parametrize("content", [b"", b"a text", b"PK\x03\x04 and then nothing"])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "text.npz"
    path.write_bytes(content)
    assert "arrays x and y saved by numpy.savez" in refuse(path)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(file, share):
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    assert "cannot be read as .npz" in refuse(file)


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "damaged.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).random((200, 10)))
    content = path.read_bytes()
    for place in range(60, len(content) - 300, 997):
        path.write_bytes(content[:place] + b"\xff\x00\xff\x00" + content[place + 4 :])
        assert "cannot be read as .npz" in refuse(path)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="lists its open files by /proc")
def test_a_refused_file_is_closed(tmp_path):
    path = tmp_path / "text.npz"
    path.write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(InputError) as caught:
        read_npz("data.path", str(path))
    assert caught.value.key == "data.path"
    assert os.path.realpath(path) not in open_files()


def test_a_single_array_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", X)
    assert "is not an .npz archive" in refuse(tmp_path / "x.npy")


def test_pickled_objects_are_refused_and_not_run(tmp_path):
    mark = tmp_path / "was-run"
    np.savez(tmp_path / "objects.npz", x=np.array([Payload(str(mark))], dtype=object))
    assert "cannot be read as .npz" in refuse(tmp_path / "objects.npz")
    np.save(tmp_path / "objects.npy", np.array([Payload(str(mark))], dtype=object), allow_pickle=True)
    refuse(tmp_path / "objects.npy")
    assert not mark.exists()


def test_a_file_of_labels_only_is_refused(tmp_path):
    np.savez(tmp_path / "y.npz", y=Y)
    assert "holds no input array; x, or one array per input of the model" in refuse(tmp_path / "y.npz")


@pytest.mark.parametrize("arrays", [{"x": 1.0}, {"x": X, "y": 1}])
def test_a_single_number_is_refused(tmp_path, arrays):
    np.savez(tmp_path / "number.npz", **arrays)
    assert "single number where samples are expected" in refuse(tmp_path / "number.npz")


class TestNpzData:
    def test_calibration_samples_come_from_the_head_and_are_left_out_of_the_evaluation(self, file):
        evaluation, calibration = NpzData(NpzSettings(path=str(file), calibration_samples=5)).load()
        assert calibration.labels.tolist() == list(range(5))
        assert evaluation.labels.tolist() == list(range(5, 20))

    def test_a_calibration_file_leaves_all_samples_to_evaluate(self, file, tmp_path):
        np.savez(tmp_path / "calibration.npz", x=X + 100)
        settings = NpzSettings(
            path=str(file), calibration_path=str(tmp_path / "calibration.npz"), calibration_samples=5
        )
        evaluation, calibration = NpzData(settings).load()
        assert len(evaluation) == 20
        assert calibration.inputs["x"][:, 0].tolist() == [100, 102, 104, 106, 108]

    @pytest.mark.parametrize("count", [20, 100])
    def test_some_samples_must_be_left_to_evaluate(self, file, count):
        with pytest.raises(
            InputError,
            match=rf"^data\.calibration_samples: takes {count} of 20 samples; .*"
            r"data\.calibration_path",
        ):
            NpzData(NpzSettings(path=str(file), calibration_samples=count)).load()

    def test_no_calibration_samples_are_refused(self, file):
        with pytest.raises(InputError, match=r"^data\.calibration_samples: is 0; at least 1$"):
            NpzData(NpzSettings(path=str(file), calibration_samples=0))

    def test_a_broken_calibration_file_is_named_by_its_own_key(self, file, tmp_path):
        with pytest.raises(InputError, match=r"^data\.calibration_path: no such file"):
            NpzData(NpzSettings(path=str(file), calibration_path=str(tmp_path / "missing.npz"))).load()


def test_the_bundled_pictures_come_labelled_and_apart_from_those_for_calibration():
    evaluation, calibration = SampleData(SampleDataSettings(calibration_samples=50)).load()
    assert len(calibration) == 50
    assert set(np.unique(evaluation.labels)) == set(range(10))
    seen = {picture.tobytes() for picture in evaluation.inputs["x"]}
    assert not any(picture.tobytes() in seen for picture in calibration.inputs["x"])
