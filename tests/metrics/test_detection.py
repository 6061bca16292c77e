"""Average precision of detections is pycocotools' own."""

import contextlib
import io
import json

import numpy as np
import pytest

from nc_strategies.data.labels import pack_boxes
from nc_strategies.data.npz import read_npz
from nc_strategies.errors import EngineError, InputError
from nc_strategies.measuring.accuracy import loss_interval
from nc_strategies.metrics.detection import CocoMap
from nc_strategies.metrics.settings import CocoMapSettings
from nc_strategies.testing import MetricSuite

coco = pytest.importorskip("pycocotools.coco", reason="needs nc-strategies[coco]")
cocoeval = pytest.importorskip("pycocotools.cocoeval")
IMAGES, CLASSES, FOUND = 30, 3, 15


def scene(seed=0):
    """Boxes, some of them crowds, and detections that are some of these boxes, moved, and some nonsense."""
    rng = np.random.default_rng(seed)
    owners = rng.integers(IMAGES, size=120)
    corner, size = rng.uniform(0, 60, (120, 2)), rng.uniform(5, 40, (120, 2))
    boxes = np.concatenate([corner, corner + size], 1)
    classes, crowd = rng.integers(CLASSES, size=120), (rng.random(120) < 0.1).astype(int)
    found, scores = np.zeros((IMAGES, FOUND, 4)), np.round(rng.random((IMAGES, FOUND)), 2)
    kinds = rng.integers(CLASSES, size=(IMAGES, FOUND)).astype(np.float32)
    for image in range(IMAGES):
        own = np.flatnonzero(owners == image)
        for place in range(FOUND):
            if len(own) and rng.random() < 0.6:
                chosen = rng.choice(own)
                found[image, place] = boxes[chosen] + rng.normal(0, 1.5, 4)
                kinds[image, place] = classes[chosen]
            else:
                start = rng.uniform(0, 60, 2)
                found[image, place] = [*start, *(start + rng.uniform(5, 40, 2))]
        scores[image, rng.integers(5, FOUND) :] = 0
    return (boxes, classes, owners, crowd), [found, scores, kinds]


TRUTH, OUTPUTS = scene()
LABELS = pack_boxes("data.path", IMAGES, *TRUTH)


def reference(folder, truth, outputs):
    """The figure of pycocotools, from files in its own format, by its documented steps."""
    boxes, classes, owners, crowd = truth
    annotations = [
        {
            "id": i + 1,
            "image_id": int(o),
            "category_id": int(c),
            "iscrowd": int(w),
            "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]],
            "area": (b[2] - b[0]) * (b[3] - b[1]),
        }
        for i, (b, c, o, w) in enumerate(zip(boxes.tolist(), classes, owners, crowd, strict=True))
    ]
    (folder / "truth.json").write_text(
        json.dumps(
            {
                "info": {},
                "images": [{"id": i} for i in range(IMAGES)],
                "annotations": annotations,
                "categories": [{"id": c} for c in range(CLASSES)],
            }
        )
    )
    found, scores, kinds = outputs
    results = [
        {
            "image_id": i,
            "category_id": int(kinds[i, j]),
            "score": float(scores[i, j]),
            "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]],
        }
        for i in range(IMAGES)
        for j, b in enumerate(found[i].tolist())
        if scores[i, j] > 0
    ]
    (folder / "found.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        annotated = coco.COCO(str(folder / "truth.json"))
        evaluation = cocoeval.COCOeval(annotated, annotated.loadRes(str(folder / "found.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


class TestSuite(MetricSuite):
    def metric(self):
        return CocoMap()

    def outputs(self):
        # Without ties, which pycocotools breaks by order.
        scores = OUTPUTS[1] + np.linspace(0, 1e-6, OUTPUTS[1].size).reshape(OUTPUTS[1].shape) * (OUTPUTS[1] > 0)
        return [OUTPUTS[0], scores, OUTPUTS[2]]

    def labels(self):
        return LABELS


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_is_the_figure_of_pycocotools(tmp_path, seed):
    truth, outputs = scene(seed)
    labels = pack_boxes("data.path", IMAGES, *truth)
    stats = reference(tmp_path, truth, outputs)
    assert 0.1 < stats[0] < 0.9
    for place, iou in ((0, None), (1, 0.5), (2, 0.75)):
        metric = CocoMap(CocoMapSettings(iou=iou))
        assert metric.compute(metric.keep(outputs), labels) == pytest.approx(stats[place], abs=1e-12)


def test_boxes_may_have_sizes_classes_an_offset_and_outputs_any_order_and_axis():
    def sizes(boxes):
        return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], -1)

    want = CocoMap().compute(CocoMap().keep(OUTPUTS), LABELS)
    metric = CocoMap(CocoMapSettings(boxes=2, scores=0, classes=1, box_format="xywh", class_offset=-1))
    outputs = [OUTPUTS[1], OUTPUTS[2] + 1, sizes(OUTPUTS[0])[:, :, None, :]]
    labels = pack_boxes("data.path", IMAGES, sizes(TRUTH[0]), *TRUTH[1:])
    assert metric.compute(metric.keep(outputs), labels) == pytest.approx(want)


def test_equal_detections_have_no_loss_and_worse_ones_a_loss_in_the_interval():
    metric, rng = CocoMap(), np.random.default_rng(0)
    fp32 = metric.keep(OUTPUTS)
    assert loss_interval(metric, fp32, fp32, LABELS, True, rng) == (0.0, 0.0)
    int8 = metric.keep([OUTPUTS[0] + rng.normal(0, 2, OUTPUTS[0].shape), *OUTPUTS[1:]])
    low, high = loss_interval(metric, fp32, int8, LABELS, True, rng)
    assert 0 < low <= metric.compute(fp32, LABELS) - metric.compute(int8, LABELS) <= high


def test_labels_of_an_npz_file_are_packed(tmp_path):
    boxes, classes, owners, crowd = TRUTH
    np.savez(
        tmp_path / "boxes.npz", x=np.zeros((IMAGES, 2)), boxes=boxes, labels=classes, image_ids=owners, iscrowd=crowd
    )
    raw = read_npz("data.path", str(tmp_path / "boxes.npz"))
    assert list(raw.inputs) == ["x"]
    np.testing.assert_array_equal(raw.labels, LABELS)
    for image in range(IMAGES):
        own = raw.labels[image][raw.labels[image][:, 4] >= 0]
        np.testing.assert_array_equal(own[:, :4], boxes[owners == image])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"image_ids": np.full(120, IMAGES)},
            "image_ids' names samples that do not exist; positions in x, from 0 to 29",
        ),
        ({"labels": np.zeros(7)}, "array 'labels' has shape"),
        ({"boxes": np.zeros((120, 3))}, "array 'boxes' has shape"),
        ({"labels": np.full(120, -1)}, "class numbers from 0"),
    ],
)
def test_boxes_that_do_not_fit_are_an_input_error(tmp_path, change, message):
    arrays = {"x": np.zeros((IMAGES, 2)), "boxes": TRUTH[0], "labels": TRUTH[1], "image_ids": TRUTH[2], **change}
    np.savez(tmp_path / "boxes.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_npz("data.path", str(tmp_path / "boxes.npz"))


@pytest.mark.parametrize("labels", [np.zeros(IMAGES), np.full((IMAGES, 1, 6), -1.0)], ids=["classes", "no boxes"])
def test_labels_that_are_no_boxes_are_an_input_error(labels):
    with pytest.raises(InputError, match=r"^data: "):
        CocoMap().compute(CocoMap().keep(OUTPUTS), labels)


def test_a_model_with_too_few_outputs_is_an_input_error():
    with pytest.raises(InputError, match="the model has 1 outputs"):
        CocoMap().keep(OUTPUTS[:1])


def test_an_output_that_is_not_finite_is_an_engine_error():
    with pytest.raises(EngineError, match="NaN"):
        CocoMap().keep([OUTPUTS[0] * np.nan, *OUTPUTS[1:]])


@pytest.mark.parametrize("settings", [{"box_format": "xyz"}, {"iou": 1.5}, {"max_detections": 0}])
def test_settings_out_of_range_are_an_input_error(settings):
    with pytest.raises(InputError, match=rf"^metrics\.accuracy\.{next(iter(settings))}: is "):
        CocoMap(CocoMapSettings(**settings))
