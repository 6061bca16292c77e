"""From stored pictures to what the model takes: the formula, the resize, the layout."""

import numpy as np
import pytest

from nc_strategies.api import Preprocess
from nc_strategies.data.preprocess import resize_bilinear
from nc_strategies.errors import InputError

RNG = np.random.default_rng(0)
NHWC = RNG.integers(0, 256, (2, 5, 7, 3)).astype(np.uint8)
NCHW = np.ascontiguousarray(NHWC.transpose(0, 3, 1, 2))
MEAN, STD = [0.5, 0.4, 0.3], [0.1, 0.2, 0.25]


def resize_one_pixel_at_a_time(x, height, width):
    """Bilinear with half-pixel centres, straight from the definition."""
    out = np.zeros((len(x), height, width, x.shape[3]))
    for i in range(height):
        for j in range(width):
            y, z = (i + 0.5) * x.shape[1] / height - 0.5, (j + 0.5) * x.shape[2] / width - 0.5
            top, left = int(np.floor(y)), int(np.floor(z))
            for row, row_share in ((top, 1 - (y - top)), (top + 1, y - top)):
                for column, column_share in ((left, 1 - (z - left)), (left + 1, z - left)):
                    pixel = x[:, min(max(row, 0), x.shape[1] - 1), min(max(column, 0), x.shape[2] - 1)]
                    out[:, i, j] += row_share * column_share * pixel
    return out


def test_without_settings_values_pass_untouched():
    assert Preprocess()(NHWC) is NHWC


def test_the_formula_is_scale_then_offset_then_mean_then_std():
    got = Preprocess(scale=2.0, offset=-1.0, mean=[3.0], std=[4.0])(NHWC)
    np.testing.assert_allclose(got, ((NHWC.astype(np.float64) * 2 - 1) - 3) / 4, rtol=1e-5, atol=1e-5)
    assert got.dtype == np.float32


def test_integers_are_not_rounded_on_the_way():
    assert Preprocess(scale=1 / 255)(np.array([[255, 51]], np.uint8)).tolist() == [[1.0, pytest.approx(0.2)]]


def test_mean_and_std_are_per_channel_with_channels_last():
    got = Preprocess(scale=1 / 255, mean=MEAN, std=STD)(NHWC)
    for channel in range(3):
        want = (NHWC[..., channel] / 255 - MEAN[channel]) / STD[channel]
        np.testing.assert_allclose(got[..., channel], want, atol=1e-5)


def test_mean_and_std_are_per_channel_with_channels_second():
    got = Preprocess(scale=1 / 255, mean=MEAN, std=STD)(NCHW)
    for channel in range(3):
        want = (NCHW[:, channel] / 255 - MEAN[channel]) / STD[channel]
        np.testing.assert_allclose(got[:, channel], want, atol=1e-5)


def test_one_mean_serves_all_channels_beside_a_std_each():
    got = Preprocess(mean=[10.0], std=STD)(NCHW)
    np.testing.assert_allclose(got[:, 2], (NCHW[:, 2] - 10.0) / STD[2], rtol=1e-5)


def test_rows_of_numbers_are_normalized_by_column():
    rows = RNG.random((4, 2))
    np.testing.assert_allclose(Preprocess(mean=[1.0, 2.0], std=[2.0, 4.0])(rows), (rows - [1, 2]) / [2, 4], rtol=1e-5)


@pytest.mark.parametrize("data", [NHWC, NCHW], ids=["nhwc", "nchw"])
def test_numbers_for_another_count_of_channels_are_refused(data):
    with pytest.raises(InputError, match=r"data\.preprocess\.mean/std: have 2/1 numbers; expected 1 or 3"):
        Preprocess(mean=[1.0, 2.0])(data)


@pytest.mark.parametrize(
    ("layout", "data", "want"), [("nchw", NHWC, NCHW), ("nhwc", NCHW, NHWC), ("nchw", NCHW, NCHW), ("nhwc", NHWC, NHWC)]
)
def test_the_result_has_the_layout_that_was_asked_for(layout, data, want):
    got = Preprocess(layout=layout)(data)
    np.testing.assert_array_equal(got, want)
    assert got.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize(
    ("layout", "shape", "want"), [("nchw", (2, 6, 6, 8), (2, 8, 6, 6)), ("nhwc", (2, 8, 6, 6), (2, 6, 6, 8))]
)
def test_data_with_an_unusual_count_of_channels_is_taken_to_be_in_the_other_layout(layout, shape, want):
    assert Preprocess(layout=layout)(np.zeros(shape)).shape == want


def test_layout_mean_and_resize_work_together():
    together = Preprocess(scale=1 / 255, mean=MEAN, std=STD, resize=[4, 6], layout="nchw")(NHWC)
    step = resize_one_pixel_at_a_time(NHWC, 4, 6) / 255
    np.testing.assert_allclose(together, ((step - MEAN) / STD).transpose(0, 3, 1, 2), atol=1e-4)


def test_resizing_is_the_same_in_both_layouts():
    last, second = Preprocess(resize=[9, 3])(NHWC), Preprocess(resize=[9, 3])(NCHW)
    assert second.shape == (2, 3, 9, 3)
    np.testing.assert_allclose(second.transpose(0, 2, 3, 1), last, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(5, 7), (10, 14), (3, 3), (1, 1), (13, 4)])
def test_resize_is_bilinear_with_half_pixel_centres(height, width):
    x = RNG.random((2, 5, 7, 3)).astype(np.float32)
    np.testing.assert_allclose(
        resize_bilinear(x, height, width), resize_one_pixel_at_a_time(x, height, width), atol=1e-5
    )


def test_resizing_a_ramp_by_hand():
    ramp = np.array([0.0, 10.0], np.float32).reshape(1, 1, 2, 1)
    assert resize_bilinear(ramp, 1, 4).ravel().tolist() == [0.0, 2.5, 7.5, 10.0]


def test_resize_is_that_of_tensorflow():
    tf = pytest.importorskip("tensorflow")
    x = RNG.random((2, 5, 7, 3)).astype(np.float32)
    for size in ([10, 9], [3, 11], [2, 2]):
        np.testing.assert_allclose(resize_bilinear(x, *size), tf.image.resize(x, size).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layout": "hwc"}, r"data\.preprocess\.layout: is 'hwc'; allowed: nhwc, nchw"),
        ({"std": [1.0, 0.0]}, r"data\.preprocess\.std: holds a zero; values are divided by it"),
        ({"resize": [32]}, r"data\.preprocess\.resize: is \[32\]; expected \[height, width\]"),
        ({"resize": [32, 0]}, r"data\.preprocess\.resize: is \[32, 0\]; expected \[height, width\]"),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_once(settings, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        Preprocess(**settings)


@pytest.mark.parametrize(("settings", "key"), [({"resize": [4, 4]}, "resize"), ({"layout": "nchw"}, "layout")])
def test_picture_operations_need_pictures(settings, key):
    with pytest.raises(InputError, match=rf"^data\.preprocess\.{key}: needs pictures of 4 axes.* shape \(4, 2\)$"):
        Preprocess(**settings)(np.zeros((4, 2)))
