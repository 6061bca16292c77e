"""Samples from functions of the user's, and from arrays larger than memory."""

import subprocess
import sys

import numpy as np
import pytest

from nc_strategies.data import npz, spool
from nc_strategies.data.loaders import PythonData, read_npz
from nc_strategies.data.settings import PythonDataSettings
from nc_strategies.errors import InputError

CODE = """
import numpy as np
x, y = np.arange(40.0).reshape(20, 2), np.arange(20)

def arrays():
    return x, y

def batches():
    for start in range(0, 20, 6):
        yield x[start:start + 6], y[start:start + 6]

def listed():
    return list(batches())

def named():
    return {"image": x, "mask": x > 3}, y

def named_batches():
    return ([{"image": a, "mask": a > 3}, b] and ({"image": a, "mask": a > 3}, b) for a, b in batches())

def inputs_only():
    return x + 100

def endless():
    while True:
        yield x + 100

def broken():
    raise ValueError("no data today")

def breaks_off():
    yield x, y
    raise ValueError("no more today")

def other_rank():
    yield x, y
    yield x[:, 0], y

def ragged():
    yield x, y
    yield x[:, :1], y
    yield [x[0], x[1, :1]], y[:2]

def words():
    return np.array(["a", "b"]), y[:2]

def nothing():
    return None

def none_yielded():
    yield from ()

def numbers():
    yield 1, 2

def calls_it_y():
    return {"y": x}, y
"""


@pytest.fixture
def load(tmp_path):
    file = tmp_path / "own_data.py"
    file.write_text(CODE)

    def loaded(name, calibration=None, samples=5):
        other = calibration and f"{file}:{calibration}"
        return PythonData(
            PythonDataSettings(target=f"{file}:{name}", calibration_target=other, calibration_samples=samples)
        ).load()

    return loaded


@pytest.mark.parametrize("name", ["arrays", "batches", "listed"])
def test_arrays_and_batches_are_the_same_samples(load, name):
    evaluation, calibration = load(name)
    np.testing.assert_array_equal(evaluation.inputs["x"], np.arange(10.0, 40.0).reshape(15, 2))
    assert evaluation.labels.tolist() == list(range(5, 20))
    assert calibration.labels.tolist() == list(range(5))


@pytest.mark.parametrize("name", ["named", "named_batches"])
def test_several_inputs_have_their_names(load, name):
    evaluation, _ = load(name)
    assert {n: a.dtype.kind for n, a in evaluation.inputs.items()} == {"image": "f", "mask": "b"}


@pytest.mark.parametrize("name", ["inputs_only", "endless", "arrays"])
def test_calibration_has_a_function_of_its_own_and_needs_no_labels_nor_an_end(load, name):
    evaluation, calibration = load("arrays", name, 30 if name == "endless" else 8)
    assert len(evaluation) == 20
    assert len(calibration) == (30 if name == "endless" else 8)


def test_batches_may_hold_samples_of_different_shapes(load):
    evaluation, calibration = load("ragged", samples=2)
    given, x = evaluation.inputs["x"], calibration.inputs["x"]
    assert [sample.shape for sample in (x[0], given[0], given[-1], given[-2])] == [(2,), (2,), (1,), (2,)]
    assert len(evaluation) == len(evaluation.labels)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "broken raised ValueError: no data today"),
        ("breaks_off", "raised ValueError: no more today"),
        ("other_rank", r"samples of shape \(\) and of \(2,\)"),
        ("words", "array 'x' is of type <U1; numbers are needed"),
        ("nothing", r"returned a NoneType; expected \(x, y\)"),
        ("none_yielded", "holds no samples"),
        ("numbers", "yielded a tuple as a batch"),
        ("calls_it_y", "names an input 'y'"),
        ("missing", "no function 'missing'"),
    ],
)
def test_what_goes_wrong_is_one_line_that_names_the_function_or_the_array(load, name, message):
    with pytest.raises(InputError, match=rf"^data\.target: .*{message}") as caught:
        load(name)
    assert "\n" not in str(caught.value)


class TestLargeArrays:
    @pytest.mark.parametrize(("save", "kind"), [(np.savez, np.memmap), (np.savez_compressed, np.memmap)])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_they_are_mapped_or_unpacked_to_disk_and_the_same(self, tmp_path, monkeypatch, save, kind, order):
        x = np.asarray(np.random.default_rng(0).random((50, 7, 3)), order=order)
        save(tmp_path / "d.npz", x=x, y=np.arange(50))
        monkeypatch.setattr(spool, "LARGE", 1000)
        monkeypatch.setattr(spool, "CHUNK", 100)
        raw = read_npz("data.path", str(tmp_path / "d.npz"))
        assert isinstance(raw.inputs["x"], kind)
        assert not isinstance(raw.labels, np.memmap)
        np.testing.assert_array_equal(raw.inputs["x"], x)
        monkeypatch.undo()
        assert raw.sha256() == read_npz("data.path", str(tmp_path / "d.npz")).sha256()

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_a_truncated_or_damaged_one_is_refused(self, tmp_path, monkeypatch, save):
        save(tmp_path / "d.npz", x=np.random.default_rng(0).random((500, 10)))
        content = (tmp_path / "d.npz").read_bytes()
        monkeypatch.setattr(spool, "LARGE", 1000)
        (tmp_path / "d.npz").write_bytes(content[:2000])
        with pytest.raises(InputError, match=r"cannot be read as \.npz"):
            read_npz("data.path", str(tmp_path / "d.npz"))
        if save is np.savez_compressed:
            (tmp_path / "d.npz").write_bytes(content[:2000] + b"\xff\x00\xff\x00" + content[2004:])
            with pytest.raises(InputError, match=r"cannot be read as \.npz"):
                read_npz("data.path", str(tmp_path / "d.npz"))

    def test_pickled_objects_are_refused(self, tmp_path, monkeypatch):
        np.savez(tmp_path / "d.npz", x=np.array([{"a": "b" * 2000}], object))
        monkeypatch.setattr(spool, "LARGE", 10)
        with pytest.raises(InputError, match="Object arrays cannot be loaded"):
            read_npz("data.path", str(tmp_path / "d.npz"))

    def test_without_room_to_unpack_it_is_an_input_error(self, tmp_path, monkeypatch):
        np.savez_compressed(tmp_path / "d.npz", x=np.zeros((500, 10)))
        monkeypatch.setattr(spool, "LARGE", 1000)
        monkeypatch.setattr(spool.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
        with pytest.raises(InputError, match=r"cannot be unpacked: .* TMPDIR names another folder"):
            npz.read_npz("data.path", str(tmp_path / "d.npz"))


LIMITED = """
import resource, sys
import numpy as np
from nc_strategies.api import (Dataset, ModelInfo, Preprocess, TensorSpec)
from nc_strategies.data import spool
from nc_strategies.data.loaders import read_npz

spool.LARGE = 2**20
spool.CHUNK = 2**20
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[2]), int(sys.argv[2])))
raw = read_npz("data.path", sys.argv[1])
raw.sha256()
x = TensorSpec("x", (None, 1000), np.dtype(np.float32))
data = Dataset(raw, Preprocess(scale=2.0), ModelInfo((x,), ()))
total = sum(float(batch["x"].sum(dtype=np.float64)) for _ in range(2) for batch, _, _ in data.batches(100))
print(total)
"""


def test_data_larger_than_a_process_may_take_is_hashed_preprocessed_and_read(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (50_000, 1000), np.uint8)
    np.savez(tmp_path / "d.npz", x=x, y=np.zeros(len(x)))
    limit = 160 * 2**20
    assert x.nbytes * 5 > 1.4 * limit, "the samples and what is made of them do not fit"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "d.npz"), str(limit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(4 * x.sum(dtype=np.float64))
