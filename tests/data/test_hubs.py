"""Data sets of collections, made here: nothing is downloaded."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from nc_strategies.data.hubs import HuggingFaceData, TfdsData
from nc_strategies.data.settings import HuggingFaceDataSettings, ImageForm, TfdsSettings
from nc_strategies.errors import InputError
from nc_strategies.testing import DataSuite

COUNT = 20
PICTURES = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 10, 3)).astype(np.uint8)
LABELS = np.arange(COUNT) % 3
STORE = """
import sys
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

pictures = np.random.default_rng(0).integers(0, 256, (20, 8, 10, 3)).astype(np.uint8)
rows = tf.data.Dataset.from_tensor_slices({"image": pictures, "label": np.arange(20) % 3})
features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(8, 10, 3)),
                                       "label": tfds.features.ClassLabel(num_classes=3)})
tfds.dataset_builders.store_as_tfds_dataset(name="tiny", version="1.0.0", data_dir=sys.argv[1],
                                            split_datasets={"test": rows}, features=features)
"""


def installed(*names):
    return all(importlib.util.find_spec(name) for name in names)


needs_datasets = pytest.mark.skipif(not installed("datasets", "PIL"), reason="needs nc-strategies[datasets]")
needs_tfds = pytest.mark.skipif(not installed("tensorflow_datasets"), reason="needs nc-strategies[tfds]")


@pytest.fixture(scope="class")
def saved(request, tmp_path_factory):
    """A data set as ``save_to_disk`` writes it."""
    import datasets
    from PIL import Image

    folder = tmp_path_factory.mktemp("hub") / "tiny"
    rows = {
        "image": [Image.fromarray(picture) for picture in PICTURES],
        "label": LABELS.tolist(),
        "row": PICTURES[:, 0, :, 0].astype(np.float32).tolist(),
    }
    datasets.DatasetDict({"test": datasets.Dataset.from_dict(rows)}).save_to_disk(str(folder))
    request.cls.folder = folder


@needs_datasets
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("saved")
class TestHuggingFace(DataSuite):
    calibration_samples = 4

    def make(self, **settings):
        settings = {"dataset": str(self.folder), "calibration_samples": 4, **settings}
        return HuggingFaceData(HuggingFaceDataSettings(**settings))

    def test_pictures_and_labels_are_those_that_were_saved(self):
        evaluation, calibration = self.make().load()
        np.testing.assert_array_equal(np.concatenate([calibration.inputs["x"], evaluation.inputs["x"]]), PICTURES)
        assert evaluation.labels.tolist() == LABELS[4:].tolist()

    def test_pictures_are_resized_and_columns_of_numbers_go_to_inputs_of_their_names(self):
        assert self.make(image=ImageForm(None, [6, 6], 1)).load()[0].inputs["x"].shape == (16, 6, 6, 1)
        evaluation, _ = self.make(x="image, row", calibration_split="test").load()
        np.testing.assert_array_equal(evaluation.inputs["row"], PICTURES[:, 0, :, 0])

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"x": "picture"}, r"^data\.x: the data set has no 'picture'; it has: image, label, row"),
            ({"split": "train"}, r"^data\.dataset: .* cannot be read \(.*train"),
            ({"image": ImageForm(None, [60, 6])}, r"^data\.dataset: a picture is 8 x 10, smaller than"),
        ],
    )
    def test_what_is_not_there_is_one_line(self, settings, message):
        with pytest.raises(InputError, match=message) as caught:
            self.make(**settings).load()
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="class")
def built(request, tmp_path_factory):
    """A data set as tensorflow_datasets stores it, by a process of its own."""
    folder = tmp_path_factory.mktemp("tfds")
    done = subprocess.run([sys.executable, "-c", STORE, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    request.cls.folder = folder


@needs_tfds
@pytest.mark.slow
@pytest.mark.usefixtures("built")
class TestTfds:
    def make(self, **settings):
        settings = {"dataset": "tiny", "data_dir": str(self.folder), "calibration_samples": 4, **settings}
        return TfdsData(TfdsSettings(**settings))

    def test_pictures_and_labels_are_those_that_were_prepared(self):
        evaluation, calibration = self.make(image=ImageForm(None, None, None)).load()
        found = np.concatenate([calibration.inputs["x"], evaluation.inputs["x"]])
        order = np.lexsort(found.reshape(COUNT, -1).T), np.lexsort(PICTURES.reshape(COUNT, -1).T)
        np.testing.assert_array_equal(found[order[0]], PICTURES[order[1]])
        labels = np.concatenate([calibration.labels, evaluation.labels])
        np.testing.assert_array_equal(labels[order[0]], LABELS[order[1]])

    def test_a_data_set_that_is_not_there_is_one_line(self):
        with pytest.raises(InputError, match=r"^data\.dataset: nothing_like_it cannot be read \(.*\)") as caught:
            self.make(dataset="nothing_like_it").load()
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(installed("tensorflow_datasets"), reason="tensorflow_datasets is installed")
def test_without_tensorflow_datasets_one_line_names_the_extra():
    with pytest.raises(InputError, match=r"^data=tfds: a package is missing .*; pip install 'nc-strategies\[tfds\]'$"):
        TfdsData(TfdsSettings(dataset="mnist")).load()


@pytest.mark.skipif(installed("datasets"), reason="datasets is installed")
def test_without_datasets_one_line_names_the_extra():
    with pytest.raises(InputError, match=r"^data=huggingface: a package is missing .*nc-strategies\[datasets\]'$"):
        HuggingFaceData(HuggingFaceDataSettings(dataset="mnist")).load()
