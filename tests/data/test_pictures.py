"""Folders of pictures: which are read, how they are cut, what is said of broken ones."""

import numpy as np
import pytest

from nc_strategies.data import spool
from nc_strategies.data.settings import ImageFolderSettings, ImageForm
from nc_strategies.errors import InputError

Image = pytest.importorskip("PIL.Image", reason="needs nc-strategies[images]")
pictures = pytest.importorskip("nc_strategies.data.pictures")
RNG = np.random.default_rng(0)
PLAIN = ImageForm(None, None)


def picture(height=20, width=30, channels=3):
    array = RNG.integers(0, 256, (height, width, channels)).astype(np.uint8)
    return Image.fromarray(array[:, :, 0] if channels == 1 else array)


@pytest.fixture
def folder(tmp_path):
    for name, count in (("zebra", 6), ("ant", 4), ("bee", 10)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(count):
            picture().save(tmp_path / "pictures" / name / f"{number}.png")
    (tmp_path / "pictures" / "ant" / "notes.txt").write_text("not a picture")
    (tmp_path / "pictures" / "readme.png.txt").write_text("neither")
    return tmp_path / "pictures"


def load(folder, **settings):
    settings = {"calibration_samples": 5, "image": PLAIN, **settings}
    return pictures.ImageFolderData(ImageFolderSettings(path=str(folder), **settings)).load()


def test_classes_are_numbered_by_name_and_calibration_is_spread_over_them(folder):
    evaluation, calibration = load(folder)
    assert evaluation.labels.tolist() == [0] * 3 + [1] * 8 + [2] * 4
    assert calibration.labels.tolist() == [0, 1, 1, 2, 2]
    np.testing.assert_array_equal(evaluation.inputs["x"][0], np.asarray(Image.open(folder / "ant" / "0.png")))


def test_a_folder_for_calibration_needs_no_classes_and_leaves_all_to_evaluate(folder, tmp_path):
    (tmp_path / "other").mkdir()
    for number in range(8):
        picture().save(tmp_path / "other" / f"{number}.jpg")
    evaluation, calibration = load(folder, calibration_path=str(tmp_path / "other"))
    assert (len(evaluation), len(calibration)) == (20, 5)
    assert calibration.labels is None


@pytest.mark.parametrize(
    ("size", "form", "shape"),
    [
        ((20, 30), ImageForm([10], None), (10, 15, 3)),
        ((30, 20), ImageForm([10], None), (15, 10, 3)),
        ((20, 30), ImageForm([10, 12], None), (10, 12, 3)),
        ((20, 30), ImageForm([10], [8, 9]), (8, 9, 3)),
        ((20, 30), ImageForm(None, [4, 6], 1), (4, 6, 1)),
        ((300, 400), ImageForm(), (224, 224, 3)),
    ],
)
def test_pictures_are_resized_by_their_shorter_side_and_cut_in_the_middle(size, form, shape):
    assert pictures.fit(picture(*size), form).shape == shape


def test_what_is_cut_out_is_the_middle():
    whole = picture(20, 30)
    np.testing.assert_array_equal(pictures.fit(whole, ImageForm(None, [10, 10])), np.asarray(whole)[5:15, 10:20])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_pictures_of_every_mode_become_rgb_or_grey(mode):
    made = picture().convert(mode)
    assert pictures.fit(made, PLAIN).shape == (20, 30, 3)
    assert pictures.fit(made, ImageForm(None, None, 1)).shape == (20, 30, 1)
    assert pictures.fit(made, ImageForm(None, None, None)).shape[2] == (1 if mode in "L1" else 3)


@pytest.mark.parametrize("content", [b"", b"no picture", None], ids=["empty", "text", "truncated"])
def test_a_broken_picture_is_one_line_that_names_its_file(folder, content):
    broken = folder / "bee" / "3.png"
    broken.write_bytes(broken.read_bytes()[:500] if content is None else content)
    with pytest.raises(InputError, match=rf"^data\.path: {broken} cannot be read as a picture \(.*\)$") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_pictures_of_different_sizes_come_with_the_setting_that_mends_them(folder):
    picture(25, 30).save(folder / "zebra" / "5.png")
    with pytest.raises(InputError, match=r"zebra/5\.png is of shape \(25, 30, 3\), .*data\.image\.crop"):
        load(folder)
    assert len(load(folder, image=ImageForm(None, [20, 20]))[0]) == 15


def test_a_picture_smaller_than_the_crop_is_named(folder):
    with pytest.raises(InputError, match=r"ant/0\.png cannot be read .*smaller than data\.image\.crop=\[40, 10\]"):
        load(folder, image=ImageForm(None, [40, 10]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: f / "none", "no such folder"),
        (lambda f: f / "ant", "holds no folders"),
        (lambda f: (f / "empty").mkdir() or f / "empty", "holds no pictures"),
        (lambda f: f, "empty holds no pictures"),
    ],
)
def test_folders_that_are_not_of_the_form_are_named(folder, make, message):
    place = make(folder)
    if message.startswith("empty"):
        (folder / "empty").mkdir()
    with pytest.raises(InputError, match=rf"^data\.path: .*{message}"):
        load(place)


def test_some_pictures_must_be_left_to_evaluate(folder):
    with pytest.raises(InputError, match=r"^data\.calibration_samples: takes 20 of 20 pictures"):
        load(folder, calibration_samples=20)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"resize": [1, 2, 3]}, "resize"),
        ({"crop": [4]}, "crop"),
        ({"channels": 2}, "channels"),
        ({"interpolation": "best"}, "interpolation"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, key):
    with pytest.raises(InputError, match=rf"^data\.image\.{key}: is "):
        ImageForm(**settings)


def test_many_pictures_are_on_disk_and_not_in_memory(folder, monkeypatch):
    monkeypatch.setattr(spool, "LARGE", 1000)
    evaluation, _ = load(folder)
    assert isinstance(evaluation.inputs["x"], np.memmap)
    monkeypatch.undo()
    np.testing.assert_array_equal(evaluation.inputs["x"], load(folder)[0].inputs["x"])


def test_pictures_without_room_on_disk_are_an_input_error(folder, monkeypatch):
    monkeypatch.setattr(spool, "LARGE", 1000)
    monkeypatch.setattr(spool.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(InputError, match=r"^data\.path: the pictures cannot be stored: .* TMPDIR"):
        load(folder)
