"""Intersection over union of segmentations."""

import numpy as np
import pytest

from nc_strategies.errors import EngineError, InputError
from nc_strategies.metrics.segmentation import MeanIoU
from nc_strategies.metrics.settings import MeanIoUSettings
from nc_strategies.testing import MetricSuite

RNG = np.random.default_rng(0)
SCORES = RNG.random((20, 6, 5, 4)).astype(np.float32)
MASKS = RNG.integers(4, size=(20, 6, 5))


def metric(**settings):
    return MeanIoU(MeanIoUSettings(**{"num_classes": 4, **settings}))


class TestSuite(MetricSuite):
    def metric(self):
        return metric()

    def outputs(self):
        return SCORES

    def labels(self):
        return MASKS


def by_definition(found, wanted, classes):
    shares = [((found == c) & (wanted == c)).sum() / max(1, ((found == c) | (wanted == c)).sum()) for c in classes]
    return np.mean(shares)


def test_it_is_the_definition_with_channels_last_and_second_and_as_class_numbers():
    want = by_definition(SCORES.argmax(-1), MASKS, range(4))
    for outputs in (SCORES, np.ascontiguousarray(SCORES.transpose(0, 3, 1, 2)), SCORES.argmax(-1)):
        made = metric()
        assert made.compute(made.keep([outputs]), MASKS) == pytest.approx(want)


def test_it_is_that_of_scikit_learn():
    jaccard = pytest.importorskip("sklearn.metrics").jaccard_score
    made = metric()
    want = jaccard(MASKS.ravel(), SCORES.argmax(-1).ravel(), average="macro")
    assert made.compute(made.keep([SCORES]), MASKS) == pytest.approx(want)


def test_ignored_pixels_do_not_count():
    masks = np.where(RNG.random(MASKS.shape) < 0.3, 255, MASKS)
    made = metric(ignore=255)
    counted = masks != 255
    want = by_definition(SCORES.argmax(-1)[counted], masks[counted], range(4))
    assert made.compute(made.keep([SCORES]), masks) == pytest.approx(want)
    with pytest.raises(InputError, match=r"labels run from 0 to 255; 0 to 3; metrics\.accuracy\.ignore names one"):
        metric().compute(made.keep([SCORES]), masks)


def test_classes_that_nobody_holds_do_not_count():
    masks = np.zeros((2, 3, 3), int)
    assert metric().compute(metric().keep([masks]), masks) == 1.0


def test_a_single_output_is_the_probability_of_the_second_class():
    made, scores = metric(num_classes=2), RNG.random((5, 4, 4, 1))
    np.testing.assert_array_equal(made.keep([scores]), scores[..., 0] > 0.5)


def test_only_a_byte_a_pixel_is_kept():
    assert metric().keep([SCORES]).dtype == np.uint8


@pytest.mark.parametrize(
    ("outputs", "message"),
    [(SCORES[..., :3], "num_classes: is 4, the output has shape"), (SCORES[0, 0], "is mean_iou, the output has shape")],
)
def test_outputs_of_another_form_are_an_input_error(outputs, message):
    with pytest.raises(InputError, match=message):
        metric().keep([outputs])


def test_a_number_of_classes_must_be_given():
    with pytest.raises(InputError, match=r"^metrics\.accuracy\.num_classes: is 0; at least 2$"):
        MeanIoU(MeanIoUSettings())


def test_an_output_that_is_not_finite_is_an_engine_error():
    with pytest.raises(EngineError, match="NaN"):
        metric().keep([np.full((1, 6, 5, 4), np.nan)])
